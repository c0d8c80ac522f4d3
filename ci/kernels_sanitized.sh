#!/usr/bin/env bash
# The kernels on the host under AddressSanitizer and UndefinedBehaviorSanitizer: every access inside of its buffer, none
# misaligned, no undefined arithmetic. GPUZARR_PYTHON chooses an interpreter that has the test libraries.
source "$(dirname "$0")/common.sh"
python=${GPUZARR_PYTHON:-$(gpu_engine_environment)}
compiler=${CXX:-g++}
command -v "$compiler" >/dev/null || { echo "kernels_sanitized.sh needs g++ (Debian: apt-get install g++)" >&2; exit 1; }
say "kernels: on the host, sanitized"
LD_PRELOAD="$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libubsan.so):$("$compiler" -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
  GPUZARR_SANITIZE=1 PYTHONPATH=src "$python" -m pytest -q tests/test_kernels*.py "$@"
