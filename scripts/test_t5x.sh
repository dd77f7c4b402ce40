#!/usr/bin/env bash
# The tests that need t5x, in an environment of their own (TensorFlow comes along: some 3 GB).
#
#   bash scripts/test_t5x.sh                  t5x, airio and jestimator from GitHub, as requirements-t5x.txt pins them
#   bash scripts/test_t5x.sh --sources DIR    from checkouts of the same commits, DIR/t5x, DIR/airio and DIR/jestimator;
#                                             the same as $GENRET_T5X_SOURCES
#   bash scripts/test_t5x.sh --install-only   no tests; prints the environment's python
#   bash scripts/test_t5x.sh -- -k gin        arguments after -- go to pytest
#
# --python NAME chooses another Python.
#
# The environment is kept in .venv-test until setup.py, the constraints or requirements-t5x.txt change.
set -euo pipefail
unset PYTHONPATH # a clone on the path would hide what the wheel lacks
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$ROOT/scripts/environment.sh"

# The requirements with their git references replaced by checkouts, which must be of the same commits.
requirements() {
  local line name wanted found
  while IFS= read -r line; do
    case $line in
      *" @ git+"*)
        name=${line%% @*} wanted=${line##*@}
        found=$(git -C "$sources/$name" rev-parse HEAD) || fail "no checkout of $name in $sources"
        [ "$found" = "$wanted" ] || fail "$sources/$name is at $found; expected $wanted"
        line="$name @ file://$(cd "$sources/$name" && pwd)"
        ;;
    esac
    echo "$line"
  done <"$ROOT/requirements-t5x.txt"
}

install_t5x() {
  local stamp
  stamp=$(cat "$environment/.stamp" "$ROOT/requirements-t5x.txt" | cksum)
  if [ -f "$environment/.stamp-t5x" ] && [ "$(cat "$environment/.stamp-t5x")" = "$stamp" ]; then
    echo "using $environment"
    return
  fi
  if [ -n "$sources" ]; then requirements >"$workspace/requirements.txt"; else
    cp "$ROOT/requirements-t5x.txt" "$workspace/requirements.txt"
  fi
  "$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$workspace/requirements.txt"
  "$bin/python" -c 'import t5x.train'
  echo "$stamp" >"$environment/.stamp-t5x"
}

install_wheel() {
  build_wheel "$bin/python" "$workspace/wheel"
  "$bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$workspace"/wheel/*.whl
}

# From an empty folder, kept off the path by -P: what is tested is the installed wheel, and conftest.py makes sure of it.
tests() {
  mkdir "$workspace/empty"
  cd "$workspace/empty"
  GENRET_TEST_INSTALLED=1 "$bin/python" -P -m pytest -c "$ROOT/pyproject.toml" --rootdir "$ROOT" \
    -p no:cacheprovider --durations 15 -m t5x "$@" "$ROOT/tests"
}

main() {
  local python=${GENRET_PYTHON:-} only_install=
  sources=${GENRET_T5X_SOURCES:-}
  while [ $# -gt 0 ]; do
    case $1 in
      --python) python=${2:?--python needs a name}; shift 2 ;;
      --sources) sources=${2:?--sources needs a folder}; shift 2 ;;
      --install-only) only_install=yes; shift ;;
      -h | --help) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}"; exit ;;
      --) shift; break ;;
      *) fail "no option $1; see --help" ;;
    esac
  done
  [ -z "$sources" ] || [ -d "$sources" ] || fail "no folder $sources"
  python=$(find_python "$python")

  workspace=$(mktemp -d)
  trap 'rm -rf "$workspace"' EXIT
  parent=${GENRET_TEST_ENVIRONMENTS:-$ROOT/.venv-test}
  mkdir -p "$parent"
  environment=$parent/$("$python" -c 'import sys; print("py%d.%d" % sys.version_info[:2])')-t5x
  bin=$environment/bin

  stage "environment ($("$python" -V))" \
    make_environment "$environment" "$python" "$ROOT/constraints.txt" seqio,baselines,test
  stage t5x install_t5x
  stage wheel install_wheel
  if [ -n "$only_install" ]; then
    echo "$bin/python"
    return
  fi
  stage tests tests "$@"
  echo "== all passed in $SECONDS s"
}

main "$@"
