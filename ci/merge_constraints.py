"""Merge pip's resolution reports of an old and a new Python into one constraints file with markers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def read(path: str) -> tuple[str, dict[str, str]]:
    """Version of Python and pinned versions by normalised name, without gpuzarr itself."""
    report = json.loads(Path(path).read_text())
    found = [item["metadata"] for item in report["install"]]
    pins = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in found}
    pins.pop("gpuzarr", None)
    return report["environment"]["python_version"], pins


def next_minor(version: str) -> str:
    """The minor version after ``version``."""
    major, minor = map(int, version.split("."))
    return f"{major}.{minor + 1}"


def merge(old: tuple[str, dict[str, str]], new: tuple[str, dict[str, str]]) -> list[str]:
    """Lines of the constraints file. What only one Python needs is harmless on the other."""
    (old_python, old_pins), (_, new_pins) = old, new
    border = next_minor(old_python)
    lines = []
    for name in sorted(old_pins.keys() | new_pins.keys()):
        before, after = old_pins.get(name), new_pins.get(name)
        if before is None or after is None or before == after:
            lines.append(f"{name}=={after or before}")
        else:
            lines.append(f'{name}=={before}; python_version < "{border}"')
            lines.append(f'{name}=={after}; python_version >= "{border}"')
    return lines


if __name__ == "__main__":
    print("# Written by ci/compile_constraints.sh; do not edit.")
    print("\n".join(merge(read(sys.argv[1]), read(sys.argv[2]))))
