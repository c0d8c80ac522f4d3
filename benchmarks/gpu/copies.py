"""The ceilings: copies on the device, to the device and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.common import Bench, arguments, pinned
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels.tables import copy_items


def main(bench: Bench) -> None:
    runtime = bench.runtime()
    stream = runtime.stream()
    for size in (1 << 20, 1 << 26, 1 << 30):
        measure(bench, runtime, stream, size)


def measure(bench: Bench, runtime: Any, stream: Any, size: int) -> None:
    nbytes = bench.size(size)
    host = pinned(runtime, np.zeros(nbytes, np.uint8))
    one, two = runtime.allocate(nbytes, stream), runtime.allocate(nbytes, stream)
    table = copy_items([one.address], [two.address], [nbytes])
    items = runtime.allocate(table.nbytes, stream)
    keep = pinned(runtime, table)
    runtime.upload(items.address, keep, stream)

    def case(name: str, moved: int, work: Callable[[], None]) -> None:
        first, times = bench.seconds(lambda: (work(), stream.synchronize()))
        bench.add(f"{name}, {size >> 20} MiB", moved, first, times, copied=nbytes)

    copy = launches.copy(items.address, len(table))
    case("device to device, copy kernel", 2 * nbytes, lambda: runtime.launch(copy, stream))
    case("host to device", nbytes, lambda: runtime.upload(one.address, host, stream))
    case("device to host", nbytes, lambda: runtime.download(host, one.address, stream))


if __name__ == "__main__":
    bench = arguments("copies")
    main(bench)
    bench.write()
