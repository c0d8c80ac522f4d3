#!/usr/bin/env bash
# README and docs: every Python block runs, and prints what the page says; the README's first command runs as it stands.
source "$(dirname "$0")/common.sh"
python=$(newest_environment)
say "readme: snippets"
"$python" ci/run_snippets.py README.md docs/*.md
say "readme: the example's command, in a fresh clone"
clone=$(mktemp -d)
git clone -q . "$clone/gpuzarr"
(cd "$clone/gpuzarr" && "$OLDPWD/ci/readme_command.sh" 1)
rm -rf "$clone"
