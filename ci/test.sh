#!/usr/bin/env bash
# The tests, complete from a fresh clone: makes .venv-test with pinned versions and runs pytest in it.
# Arguments go to pytest. PYTHON chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "gpuzarr needs Python 3.11 or newer; this is $("$python" --version). Choose another with PYTHON=..." >&2; exit 1; }
"$python" -m venv .venv-test
.venv-test/bin/python -m pip install -qq --disable-pip-version-check --prefer-binary -c constraints/polars-2.txt '.[test]'
exec .venv-test/bin/python -m pytest "$@"
