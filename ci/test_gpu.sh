#!/usr/bin/env bash
# All tests that need an NVIDIA GPU, on a machine that has one. Works in a tree without .git.
# PYTHON chooses the interpreter (3.11 or newer); GPUZARR_CUDA=12 or 13 the libraries (default: what the driver supports).
# Arguments go to pytest. What is skipped is printed with its reason; without a GPU the script fails.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L | grep -q GPU; then
  echo "test_gpu.sh needs an NVIDIA GPU and its driver: nvidia-smi shows none" >&2
  exit 1
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
if [ -n "${GPUZARR_GPU_PYTHON:-}" ]; then
  run=$GPUZARR_GPU_PYTHON # an environment with the cuda extra that is there already
  export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH}
else
  cuda=${GPUZARR_CUDA:-$(nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p' | head -1)}
  [ "$cuda" -ge 13 ] && cuda=13 || cuda=12
  "$python" -m venv .venv-gpu
  # A tree without .git has no version of its own.
  export SETUPTOOLS_SCM_PRETEND_VERSION=${SETUPTOOLS_SCM_PRETEND_VERSION:-0.1.0.dev0}
  .venv-gpu/bin/python -m pip install -qq --disable-pip-version-check --prefer-binary ".[test,cuda$cuda]"
  run=.venv-gpu/bin/python
fi
"$run" -c 'import gpuzarr; print(gpuzarr.probe())'
# -rs lists every skip with its reason.
exec "$run" -m pytest -m gpu -rs "$@"
