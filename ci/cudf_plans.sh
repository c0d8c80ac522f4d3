#!/usr/bin/env bash
# What cudf-polars makes of a scan: translation and plans, which need no GPU. Beside the CUDA packages, whose presence
# must change nothing on the CPU.
source "$(dirname "$0")/common.sh"
python=$(gpu_engine_environment)
say "cudf plans: $("$python" -c 'import cudf_polars, polars; print("cudf-polars", cudf_polars.__version__ + ", polars", polars.__version__)')"
# Every folder or file of plan tests, by name: one that is listed and absent fails.
plans=(tests/gpu_plan)
found=$(find tests -maxdepth 1 \( -name 'gpu_plan*' -o -name 'test_gpu_plan*' \) | sort | xargs)
if [ "$found" != "${plans[*]:-}" ]; then
  echo "ci/cudf_plans.sh lists the plan tests '${plans[*]:-}', but tests/ holds '$found': make them agree" >&2
  exit 1
fi
if [ "${#plans[@]}" -gt 0 ]; then
  GPUZARR_NEEDS_CUDF_POLARS=1 "$python" -m pytest -q "${plans[@]}"
fi
"$python" -m pytest -q tests/test_probe.py tests/test_package.py
