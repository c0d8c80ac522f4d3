"""Run the Python blocks of Markdown pages, and check what they print.

The blocks of a page share one namespace and run in a temporary folder that holds a tiny example store ``era5.zarr``, unless
the page itself writes one. A ``text`` block directly after a Python block is what it prints; ``...`` in it stands for anything. Warnings are errors.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from gpuzarr.example import write_example

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<expected>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)


def matches(expected: str, printed: str) -> bool:
    """Whether ``printed`` is ``expected``, where ``...`` stands for anything and trailing blanks do not count."""
    lines = "\n".join(line.rstrip() for line in expected.strip().splitlines())
    shown = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return re.fullmatch(".*?".join(map(re.escape, lines.split("..."))), shown, re.DOTALL) is not None


def run_page(page: Path) -> tuple[int, list[str]]:
    """Run one page; the number of blocks and what went wrong."""
    text = page.read_text()
    names: dict[str, object] = {"__name__": "__main__"}
    problems, count = [], 0
    for block in BLOCK.finditer(text):
        count += 1
        place = f"{page}:{text.count(chr(10), 0, block.start()) + 1}"
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(block["code"], place, "exec"), names)
        except Exception:
            problems.append(f"{place}: {traceback.format_exc()}")
            break
        if block["expected"] is not None and not matches(block["expected"], printed.getvalue()):
            problems.append(f"{place}: prints\n{printed.getvalue()}\nand not\n{block['expected']}")
    return count, problems


def main(pages: list[Path]) -> int:
    """Run every page; 1 if something went wrong."""
    warnings.simplefilter("error")
    failed = False
    for page in pages:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            if "write_example" not in page.read_text():
                write_example("era5.zarr", size="tiny")
            count, problems = run_page(page)
        print(f"{os.path.relpath(page)}: {count} blocks, {len(problems)} problems")
        for problem in problems:
            print(problem, file=sys.stderr)
        failed |= bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main([Path(name).resolve() for name in sys.argv[1:]]))
