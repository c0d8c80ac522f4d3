#!/usr/bin/env bash
# The tests on Polars 1.35 with the oldest and on 1.44 with a middle Python found here; Polars 2 with the newest is the run of
# ci/test.sh, which has the slow tests too (they depend on neither). Alone, `matrix.sh all` runs that as well. All are run, side by
# side where there is more than one core, whatever fails. Kernels and plans of the GPU engine have scripts of their own.
source "$(dirname "$0")/common.sh"
say "matrix: Pythons found here: $(pythons | cut -d' ' -f1 | xargs)"
names=(oldest gpu_engine)
[ "${1:-}" != all ] || { names+=(newest); shift; }
logs=$GPUZARR_ENVS/matrix
mkdir -p "$logs"
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
runs=()
for name in "${names[@]}"; do
  python=$("${name}_environment")
  describe "$python" > "$logs/$name.what"
  "$python" -m pytest -q -m 'not slow' --ignore-glob='*/test_kernels*' --ignore=tests/gpu_plan -p no:cacheprovider "$@" \
    > "$logs/$name" 2>&1 &
  runs+=($!)
  [ "$cores" -gt 1 ] || wait $! || true
done
failed=()
for i in "${!names[@]}"; do
  result=0
  wait "${runs[i]}" || result=$?
  say "matrix ${names[i]//_/ }: $(cat "$logs/${names[i]}.what")"
  cat "$logs/${names[i]}"
  [ "$result" = 0 ] || failed+=("${names[i]//_/ }")
done
[ "${#failed[@]}" = 0 ] || { printf 'matrix: failed on %s\n' "${failed[@]}" >&2; exit 1; }
