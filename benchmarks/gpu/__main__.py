"""All measurements by one command: ``python -m benchmarks.gpu --plots FOLDER``."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks.gpu.common import arguments, write
from gpuzarr.errors import EnvironmentLacksError

PARTS = ("copies", "kernels", "batches", "scans", "cold", "engine")


def main(argv: list[str] | None = None) -> int:
    """Run the parts, write the record even where a part fails, and draw it."""
    bench, given = arguments(argv)
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    try:
        for part in [p for p in PARTS if p in given.parts or not given.parts]:
            with bench.running(part):
                try:
                    import_module(f"benchmarks.gpu.{part}").main(bench)
                except EnvironmentLacksError as error:  # the others can run
                    bench.absent("all of it", str(error))
    finally:
        if given.record is not None:
            write(bench, given.record)
    if given.plots is not None:
        from benchmarks.gpu.plots import plots

        for path in plots(bench.record(), given.record.stem if given.record else "gpu", given.plots):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
