"""``python -m gpuzarr.example``: writes the example store and runs the tour on it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gpuzarr.example.dataset import ExampleSize, write_example
from gpuzarr.example.tour import tour

STORE = "gpuzarr-example.zarr"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, show, check, and remove what was written; 1 if a check does not hold."""
    parser = argparse.ArgumentParser(prog="python -m gpuzarr.example", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="where to write (default: a temporary folder)"
    )
    parser.add_argument("--size", choices=[size.value for size in ExampleSize], default=ExampleSize.SMALL.value)
    parser.add_argument("--keep", action="store_true", help="keep the store; its path is printed")
    choice = parser.parse_args(arguments)
    if choice.folder is None:
        folder = Path(tempfile.mkdtemp(prefix="gpuzarr-"))
        remove = folder
    else:
        folder = choice.folder
        remove = folder / STORE
    store = folder / STORE
    if store.exists():
        parser.error(f"{store} exists; remove it, or choose another folder")
    try:
        return _show(store, ExampleSize(choice.size))
    finally:
        if choice.keep:
            print(f"\nThe store is kept: {store}")
        else:
            shutil.rmtree(remove, ignore_errors=True)


def _show(store: Path, size: ExampleSize) -> int:
    print(f"Writing an ERA5-like store ({size.value}) ...", flush=True)
    start = time.perf_counter()
    write_example(store, size=size)
    stored = [file.stat().st_size for file in store.rglob("*") if file.is_file()]
    print(f"{sum(stored) / 1e6:.0f} MB in {len(stored)} files, {time.perf_counter() - start:.1f} s")
    findings = tour(store, lambda line: print(line, flush=True))
    return 0 if all(finding.holds for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
