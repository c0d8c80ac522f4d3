#!/usr/bin/env bash
# Writes constraints/*.txt anew: the newest versions that resolve on the oldest and the newest Python found here, by name
# and version only. Where the two differ, the line carries a marker, so one file serves every Python.
source "$(dirname "$0")/common.sh"
old=$(python_at oldest | cut -d' ' -f2-) new=$(python_at newest | cut -d' ' -f2-)
# aiobotocore, below s3fs, takes a narrow range of botocore; pip searches very long without this hint.
hint='boto3>=1.43.115,<1.43.118'
compile() { # NAME EXTRAS REQUIREMENT...
  local name=$1 extras=$2 side
  shift 2
  for side in old new; do
    rm -rf "$GPUZARR_ENVS/resolve"
    "${!side}" -m venv "$GPUZARR_ENVS/resolve"
    "$GPUZARR_ENVS/resolve/bin/python" -m pip install -qq --upgrade pip
    "$GPUZARR_ENVS/resolve/bin/python" -m pip install -qq --dry-run --prefer-binary --report "$GPUZARR_ENVS/$side.json" ".[$extras]" "$hint" "$@"
  done
  "$new" ci/merge_constraints.py "$GPUZARR_ENVS/old.json" "$GPUZARR_ENVS/new.json" >"constraints/$name.txt"
  say "constraints/$name.txt: $(grep -c == "constraints/$name.txt") pins"
}
compile polars-1.35 test 'polars==1.35.*'
compile polars-1.44 test,kernels 'polars==1.44.*' 'cudf-polars-cu13==26.10.*'
compile polars-2 test,lint 'polars==2.*'
