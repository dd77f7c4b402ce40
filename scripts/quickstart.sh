#!/usr/bin/env bash
# From a clone to searches you can read: installs what is needed into .venv, then runs the whole thing on real text, the
# documentation of the Python that runs it.
#
#   bash scripts/quickstart.sh            results in quickstart/; run again, it goes on where it was stopped
#
# GENRET_PYTHON names the Python (3.11 to 3.13) that makes .venv.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$ROOT/scripts/environment.sh"
cd "$ROOT"
OUT=quickstart
# On a CPU, XLA takes and returns large buffers at every call; in huge pages (glibc 2.35) a step is a sixth quicker.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

install() {
  local python
  python=$(find_python "${GENRET_PYTHON:-}")
  make_environment .venv "$python" constraints.txt baselines,viz
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  .venv/bin/genret doctor
}

encoder() { genret encoder get all-MiniLM-L6-v2 || echo "going on from scratch: no pretrained encoder could be fetched"; }

# Bodies of docstrings, which their summaries ask for; and whole docstrings, for people to search.
corpora() {
  [ -d $OUT/corpus ] || genret corpus python-docs --out $OUT/corpus
  [ -d $OUT/whole ] || genret corpus python-docs --whole --out $OUT/whole
}

train() {
  genret train --corpus $OUT/corpus --run $OUT/run
  genret docids inspect $OUT/run/docids --corpus $OUT/corpus --branches 2
}

searches() {
  local queries="read rows of a csv file
join two paths
join a thread"
  genret search --run $OUT/search -k 3 --file - <<<"$queries"
}

stage installation install
export PATH="$ROOT/.venv/bin:$PATH"
started=$SECONDS
stage "pretrained encoder" encoder
stage "corpora" corpora
stage "training" train
stage "evaluation" genret evaluate --run $OUT/run --out $OUT/report
stage "an index of whole docstrings" genret train --corpus $OUT/whole --run $OUT/search
stage "searches" searches
echo "== quickstart after installation: $((SECONDS - started)) s; try: .venv/bin/genret search --run $OUT/search"
