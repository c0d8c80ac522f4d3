# Sourced by the other scripts: finds Pythons, makes virtual environments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

# Environments live in one folder per run; scripts of the same run share them. Alone, a script makes its own and removes it.
if [ -z "${GPUZARR_ENVS:-}" ]; then
  GPUZARR_ENVS=$(mktemp -d "${TMPDIR:-/tmp}/gpuzarr-envs.XXXXXX")
  trap 'rm -rf "$GPUZARR_ENVS"' EXIT
fi
export GPUZARR_ENVS

say() { printf '\n== %s\n' "$*"; }

# Every usable Python >= 3.11 of this machine, one per minor version: lines "3.12 PATH", oldest first.
pythons() {
  local candidate
  for candidate in python3 python3.{11..20} "$HOME"/.pyenv/versions/*/bin/python3; do
    "$candidate" - 2>/dev/null <<'PY' || true
import ensurepip, sys, venv
if sys.version_info >= (3, 11) and sys.implementation.name == "cpython" and sys.version_info.releaselevel == "final":
    print("%d.%d" % sys.version_info[:2], getattr(sys, "_base_executable", sys.executable))
PY
  done | sort -t. -k1,1n -k2,2n -s | awk '!seen[$1]++'
}

# python_at oldest|middle|newest -> "3.12 PATH"
python_at() {
  pythons | awk -v at="$1" '{ line[NR] = $0 }
    END { if (!NR) exit 1; n = at == "oldest" ? 1 : at == "newest" ? NR : int((NR + 2) / 2); print line[n] }' ||
    { echo "no Python >= 3.11 with venv found on this machine" >&2; return 1; }
}

# environment NAME PYTHON CONSTRAINTS EXTRAS [REQUIREMENT...] -> path of its python; made once per run.
environment() {
  local name=$1 python=$2 constraints=$3 extras=$4 folder=$GPUZARR_ENVS/$1
  shift 4
  if [ ! -e "$folder/ready" ]; then
    "$python" -m venv "$folder" >&2
    "$folder/bin/python" -m pip install -qq --prefer-binary -c "constraints/$constraints.txt" ".[$extras]" "$@" >&2
    touch "$folder/ready"
  fi
  echo "$folder/bin/python"
}

# The three environments of the matrix.
oldest_environment() { environment oldest "$(python_at oldest | cut -d' ' -f2-)" polars-1.35 test; }
gpu_engine_environment() { environment gpu-engine "$(python_at middle | cut -d' ' -f2-)" polars-1.44 test,kernels 'cudf-polars-cu13==26.10.*'; }
newest_environment() { environment newest "$(python_at newest | cut -d' ' -f2-)" polars-2 test,lint; }

describe() { "$1" -c 'import sys, polars, zarr, numpy; print("Python %d.%d.%d," % sys.version_info[:3], "polars", polars.__version__ + ",", "zarr", zarr.__version__ + ",", "numpy", numpy.__version__)'; }
