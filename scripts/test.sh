#!/usr/bin/env bash
# The gate, the same for a person and for CI: lint, format, types, a wheel installed into a clean environment, the tests.
#
#   bash scripts/test.sh                                     everything, with the pinned versions
#   bash scripts/test.sh --constraints oldest                the oldest versions that setup.py allows
#   bash scripts/test.sh --python python3.13 --constraints newest
#   bash scripts/test.sh -- -k decoding                      arguments after -- go to pytest
#
# The environment is kept in .venv-test until setup.py or the constraints change.
set -euo pipefail
unset PYTHONPATH # a clone on the path would hide what the wheel lacks
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$ROOT/scripts/environment.sh"

lint() { (cd "$ROOT" && "$bin/ruff" check . && "$bin/ruff" format --check .); }

types() { (cd "$ROOT" && "$bin/mypy" --cache-dir "$environment/mypy"); }

install_wheel() {
  build_wheel "$bin/python" "$workspace/wheel"
  "$bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$workspace"/wheel/*.whl
  "$bin/genret" doctor
}

# From an empty folder, kept off the path by -P: what is tested is the installed wheel, and conftest.py makes sure of it.
tests() {
  mkdir "$workspace/empty"
  cd "$workspace/empty"
  GENRET_TEST_INSTALLED=1 GENRET_TEST_WHEEL="$(echo "$workspace"/wheel/*.whl)" "$bin/python" -P -m pytest \
    -c "$ROOT/pyproject.toml" --rootdir "$ROOT" -p no:cacheprovider \
    --numprocesses "${GENRET_TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder \
    --durations 10 -m "not slow and not t5x" "$@" "$ROOT/tests"
}

main() {
  local python=${GENRET_PYTHON:-} which=pinned constraints=$ROOT/constraints.txt parent
  while [ $# -gt 0 ]; do
    case $1 in
      --python) python=${2:?--python needs a name}; shift 2 ;;
      --constraints) which=${2:?--constraints needs oldest, pinned or newest}; shift 2 ;;
      -h | --help) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}"; exit ;;
      --) shift; break ;;
      *) fail "no option $1; see --help" ;;
    esac
  done
  case $which in
    pinned) ;;
    oldest) constraints=$ROOT/constraints-oldest.txt ;;
    newest) constraints=$ROOT/constraints-newest.txt python=${python:-python3.12} ;;
    *) fail "no constraints '$which'; expected oldest, pinned or newest" ;;
  esac
  python=$(find_python "$python")

  workspace=$(mktemp -d)
  trap 'rm -rf "$workspace"' EXIT
  parent=${GENRET_TEST_ENVIRONMENTS:-$ROOT/.venv-test}
  mkdir -p "$parent" 2>/dev/null || parent=${TMPDIR:-/tmp}/genret-test-$UID
  environment=$parent/$("$python" -c 'import sys; print("py%d.%d" % sys.version_info[:2])')-$which
  bin=$environment/bin

  stage "environment ($which versions, $("$python" -V))" \
    make_environment "$environment" "$python" "$constraints" seqio,baselines,viz,test
  if [ "$which" = pinned ]; then # lint rules and type stubs differ from version to version; the tests do not
    stage lint lint
    stage types types
  fi
  stage wheel install_wheel
  stage tests tests "$@"
  echo "== all passed in $SECONDS s"
}

main "$@"
