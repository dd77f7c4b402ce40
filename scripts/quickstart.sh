#!/usr/bin/env bash
# From a clone to searches you can read: installs what is needed into .venv, then runs the whole thing on real text.
#
#   bash scripts/quickstart.sh
#
# GENRET_PYTHON names the Python (3.11 to 3.13) that makes .venv.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$ROOT/scripts/environment.sh"
cd "$ROOT"

install() {
  local python
  python=$(find_python "${GENRET_PYTHON:-}")
  make_environment .venv "$python" constraints.txt seqio,baselines,viz
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
}

stage installation install
export PATH="$ROOT/.venv/bin:$PATH"

genret doctor
