#!/usr/bin/env bash
# The tests on Polars 1.35 with the oldest and on 1.44 with a middle Python found here; Polars 2 with the newest is the run of
# ci/test.sh, which has the slow tests too (they depend on neither). Alone, `matrix.sh all` runs that as well. All are run,
# whatever fails. Kernels and plans of the GPU engine have scripts of their own.
source "$(dirname "$0")/common.sh"
say "matrix: Pythons found here: $(pythons | cut -d' ' -f1 | xargs)"
failed=()
names=(oldest gpu_engine)
[ "${1:-}" != all ] || { names+=(newest); shift; }
for name in "${names[@]}"; do
  python=$("${name}_environment")
  say "matrix ${name//_/ }: $(describe "$python")"
  elsewhere=(--ignore-glob='*/test_kernels*' --ignore=tests/gpu_plan)
  "$python" -m pytest -q -m 'not slow' "${elsewhere[@]}" "$@" || failed+=("${name//_/ }")
done
[ "${#failed[@]}" = 0 ] || { printf 'matrix: failed on %s\n' "${failed[@]}" >&2; exit 1; }
