#!/usr/bin/env bash
# CUDA kernels without a GPU: NVRTC compiles every kernel for every architecture (of the
# many instances of gather all for the oldest and the newest, a sample for those between), and the same sources run on the host
# against their numpy twins.
source "$(dirname "$0")/common.sh"
if ! compgen -G 'src/gpuzarr/kernels/*.cu' >/dev/null; then
  say "kernels: this tree has none"
  exit 0
fi
python=$(gpu_engine_environment)
command -v g++ >/dev/null || { echo "kernels.sh needs g++ (Debian: apt-get install g++)" >&2; exit 1; }
say "kernels: compile"
"$python" ci/compile_kernels.py --sample 6
say "kernels: on the host"
"$python" -m pytest -q tests/test_kernels*.py
