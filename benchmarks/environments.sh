#!/usr/bin/env bash
# Makes the virtual environments of the peers: one per set of requirements that fit together.
#   benchmarks/environments.sh [FOLDER]      (default: .bench-environments; PYTHON chooses the interpreter, 3.12 or newer)
# then: python -m benchmarks --environments FOLDER
set -euo pipefail
folder="${1:-.bench-environments}"
python="${PYTHON:-python3}"

make() {
  local name="$1"
  shift
  [ -x "$folder/$name/bin/python" ] || "$python" -m venv "$folder/$name"
  "$folder/$name/bin/python" -m pip install --quiet --upgrade "$@"
  echo "$folder/$name: $*"
}

# The same Polars, numpy and zarr everywhere, as far as the peers allow.
common=(polars numpy zarr pyarrow psutil)
make main "${common[@]}" numcodecs cloudpickle "xarray>=2026.9" matplotlib pytest pytest-benchmark
make peers "${common[@]}" "xarray>=2026.9" pandas zarrs tensorstore "rainbear==3.1.1"
make sql "${common[@]}" "xarray-sql==0.6.0"  # pins datafusion
