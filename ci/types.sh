#!/usr/bin/env bash
# Types: mypy, strict.
source "$(dirname "$0")/common.sh"
python=$(newest_environment)
say "types: $("$python" -m mypy --version)"
"$python" -m mypy
