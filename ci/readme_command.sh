#!/usr/bin/env bash
# readme_command.sh N: runs the Nth of the README's two set-up commands (its blocks marked sh), word for word, in the
# current folder: 1 = the example, 2 = the tests.
set -euo pipefail
[ "$(grep -c '^```sh$' README.md)" = 2 ] || { echo "README.md must hold exactly two sh blocks" >&2; exit 1; }
command=$(awk -v want="$1" '/^```sh$/ { n++; on = 1; next } /^```/ { on = 0 } on && n == want' README.md)
printf '$ %s\n' "$command"
exec bash -euo pipefail -c "$command"
