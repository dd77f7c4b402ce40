# Sourced by quickstart.sh and test.sh: finds a Python, and makes an environment that is whole or absent.
# shellcheck shell=bash

fail() {
  echo "$(basename "$0"): error: $*" >&2
  exit 2
}

# stage NAME COMMAND...: runs the command and says how long it took.
stage() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "== $name: $((SECONDS - start)) s"
}

# find_python [PREFERRED]: prints a Python 3.11 to 3.13 that can make environments.
find_python() {
  local candidate candidates=(python3.11 python3.12 python3.13 python3)
  [ -z "${1:-}" ] || candidates=("$1")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "no usable ${1:-Python}; expected Python 3.11 to 3.13 with venv and pip" \
    "(Debian and Ubuntu: apt install python3-venv); name one with --python or \$GENRET_PYTHON"
}

# make_environment FOLDER PYTHON CONSTRAINTS EXTRAS: installs what the extras need, not genret_jax itself. The stamp is
# written last and holds everything that decides the content, so an interrupted or outdated environment is made anew.
make_environment() {
  local folder=$1 python=$2 constraints=$3 extras=$4 stamp
  stamp=$({ "$python" -VV; echo "$extras"; cat "$constraints" "$ROOT/setup.py"; } | cksum)
  if [ -f "$folder/.stamp" ] && [ "$(cat "$folder/.stamp")" = "$stamp" ]; then
    echo "using $folder"
    return
  fi
  rm -rf "$folder"
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24' 'setuptools>=77.0.3' wheel \
    --constraint "$constraints"
  build_wheel "$folder/bin/python" "$folder/wheel"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    "$(echo "$folder"/wheel/*.whl)[$extras]" --constraint "$constraints"
  "$folder/bin/python" -m pip check
  echo "$stamp" >"$folder/.stamp"
}

# build_wheel PYTHON FOLDER: from a copy of the sources, so that nothing is left behind in the clone and nothing left
# behind by an earlier build gets in.
build_wheel() {
  local python=$1 folder=$2 copy
  copy=$(mktemp -d)
  cp -R "$ROOT"/{setup.py,pyproject.toml,README.md,LICENSE,MANIFEST.in,genret_jax,tasks,gin_configs} "$copy"
  rm -rf "$folder"
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$folder" "$copy"
  rm -rf "$copy"
}
