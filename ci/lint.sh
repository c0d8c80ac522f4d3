#!/usr/bin/env bash
# Style: ruff's rules and its formatter.
source "$(dirname "$0")/common.sh"
python=$(newest_environment)
say "lint: $("$python" -m ruff --version)"
"$python" -m ruff check .
"$python" -m ruff format --check .
