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
  make_environment .venv "$python" constraints.txt seqio,baselines,viz
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  .venv/bin/genret doctor
}

corpus() { [ -d $OUT/corpus ] || genret corpus python-docs --out $OUT/corpus; }

docids() {
  [ -d $OUT/docids ] || genret docids build --corpus $OUT/corpus --out $OUT/docids
  genret docids inspect $OUT/docids --corpus $OUT/corpus --branches 2
}

examples() { genret examples show $OUT/semantic/examples --seqio --count 2; }

train() { genret train --recipe "$1" --corpus $OUT/corpus --run "$OUT/$1" "${@:2}"; }

searches() {
  local queries="wait until the thread terminates
list the most common elements and their counts
send an email message over SMTP"
  genret search --run $OUT/atomic -k 3 --file - <<<"$queries"
}

stage installation install
export PATH="$ROOT/.venv/bin:$PATH"
started=$SECONDS
stage "corpus" corpus
stage "semantic docids" docids
stage "training on semantic docids" train semantic --docids $OUT/docids
stage "its examples, as seqio tasks" examples
stage "training on atomic docids" train atomic
stage "evaluation beside BM25" genret evaluate --run $OUT/semantic --run $OUT/atomic --out $OUT/report
stage "searches" searches
echo "== quickstart after installation: $((SECONDS - started)) s; try: .venv/bin/genret search --run $OUT/atomic"
