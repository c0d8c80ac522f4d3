"""The ceilings: copies on the device, to the device and back."""

from __future__ import annotations

import numpy as np

from benchmarks.gpu.common import Bench, Memory, pinned
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels.tables import copy_items

CEILING = "device to device, copy kernel, 1024 MiB"
TO_DEVICE = "host to device, 1024 MiB"
TO_HOST = "device to host, 1024 MiB"


def main(bench: Bench) -> None:
    """Three sizes, three directions; rates count bytes read and written on the device, bytes moved over the bus."""
    for size in (1 << 20, 1 << 26, 1 << 30):
        _measure(bench, size)


def _measure(bench: Bench, size: int) -> None:
    nbytes = bench.size(size)
    memory = Memory(bench)
    runtime, stream = memory.runtime, memory.stream
    data = np.arange(nbytes // 4, dtype="u4").view(np.uint8)
    source, back = pinned(runtime, data), pinned(runtime, np.zeros(nbytes, np.uint8))
    one, two = memory.room(nbytes), memory.room(nbytes)
    table = copy_items([one], [two], [nbytes])
    copy = launches.copy(memory.put(table), len(table))
    mib = size >> 20

    def to_device() -> None:
        runtime.upload(one, source, stream)
        stream.synchronize()

    def on_device() -> None:
        runtime.launch(copy, stream)
        stream.synchronize()

    def to_host() -> None:
        runtime.download(back, two, stream)
        stream.synchronize()

    bench.measure(f"host to device, {mib} MiB", nbytes, to_device, lambda: _same(memory, one, data))
    bench.measure(f"device to device, copy kernel, {mib} MiB", 2 * nbytes, on_device, lambda: _same(memory, two, data))
    bench.measure(f"device to host, {mib} MiB", nbytes, to_host, lambda: bool((back == data).all()))


def _same(memory: Memory, address: int, data: np.ndarray) -> bool:
    return bool((memory.get(address, "u1", len(data)) == data).all())
