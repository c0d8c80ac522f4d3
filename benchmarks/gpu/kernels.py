"""Each kernel against its floor: bytes in and bytes out over the bandwidth of `benchmarks.gpu.copies`."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from benchmarks.gpu.common import Bench, arguments, pinned
from gpuzarr.codecs.tables import FilterKind
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels.cf_program import column_program_plain
from gpuzarr.kernels.compiler import compile_predicate
from gpuzarr.kernels.descriptors import ChunkSource, dtype_of
from gpuzarr.kernels.gather_tables import ArrayAxis, PieceBox, gather_tables
from gpuzarr.kernels.tables import filter_items


class Device:
    """Arrays and tables on the device."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.runtime = bench.runtime()
        self.stream = self.runtime.stream()
        self.keep: list[Any] = []

    def put(self, data: np.ndarray) -> int:
        """Address of a copy."""
        host = pinned(self.runtime, data)
        buffer = self.runtime.allocate(max(1, host.nbytes), self.stream)
        self.runtime.upload(buffer.address, host, self.stream)
        self.keep += [host, buffer]
        return int(buffer.address)

    def room(self, nbytes: int) -> int:
        """Address of zeros."""
        buffer = self.runtime.allocate(max(64, nbytes), self.stream)
        self.runtime.zero(buffer.address, buffer.nbytes, self.stream)
        self.keep.append(buffer)
        return int(buffer.address)

    def time(self, case: str, nbytes: int, *work: launches.Launch) -> None:
        """Measure launches together; ``nbytes`` must be read and written at least."""

        def run() -> None:
            for launch in work:
                self.runtime.launch(launch, self.stream)
            self.stream.synchronize()

        first, times = self.bench.seconds(run)
        self.bench.add(case, nbytes, first, times)


def gather(device: Device, itemsize: int, *, repeated: bool) -> None:
    side = 128 if device.bench.dry else 8192
    rows, chunk = side * side, side // 8
    own = 1 if repeated else 2
    axes = [ArrayAxis(d, chunk, chunk ** (own - 1 - d)) for d in range(own)]
    tables = gather_tables(axes, [PieceBox(0, (slice(0, side), slice(0, side)))])
    values = device.put(np.zeros(side**own, f"u{itemsize}"))
    sources = np.zeros(len(tables.chunk_indices), dtype_of(ChunkSource))
    sources["address"] = values + np.arange(len(sources)) * (chunk**own * itemsize)
    entries, pieces = device.put(tables.entries), device.put(tables.pieces)
    launch = launches.gather(
        column_program_plain(f"u{itemsize}"), tables, pieces=pieces, entries=entries, chunks=device.put(sources),
        tile_piece=device.put(tables.tile_piece), values=device.room(rows * itemsize),
    )  # fmt: skip
    what = "expand over the last dimension" if repeated else "gather of square chunks"
    device.time(f"{what}, {itemsize} bytes", (side**own + rows) * itemsize, launch)


def filter_rows(device: Device, share: float) -> None:
    rows = 1 << (12 if device.bench.dry else 27)
    data = np.random.default_rng(0).random(rows, np.float32)
    values, mask = device.put(data), device.room(rows)
    program = compile_predicate(pl.col("v") < share, {"v": pl.Float32()})
    assert program is not None
    kept = int((data < np.float32(share)).sum())
    tiles = launches.tiles(rows)
    counts, offsets, total = device.room(4 * tiles), device.room(4 * tiles), device.room(8)
    numbers, out = device.room(4 * kept), device.room(4 * kept)
    work = (
        launches.predicate(program, [(values, 0)], mask, 0, rows),
        launches.mask_counts(mask, rows, counts),
        launches.scan_counts(counts, offsets, total, rows),
        launches.survivors(mask, rows, offsets, numbers),
        launches.take(4, rows=numbers, count=kept, values=values, out_values=out),
    )
    device.time(f"predicate and compaction, {share:.0%} survive", 4 * rows + 8 * kept, *work)


def unshuffle(device: Device, kind: FilterKind, itemsize: int) -> None:
    block, count = 1 << 18, 4 if device.bench.dry else 4096
    source, target = device.put(np.zeros(block * count, np.uint8)), device.room(block * count)
    starts = np.arange(count) * block
    items = filter_items(kind, itemsize, source + starts, target + starts, np.full(count, block))
    launch = launches.byte_filter(kind, itemsize, device.put(items), len(items))
    device.time(f"{kind.name.lower()}, {itemsize} bytes", 2 * block * count, launch)


def main(bench: Bench) -> None:
    for itemsize in (1, 2, 4, 8):
        gather(Device(bench), itemsize, repeated=False)
        gather(Device(bench), itemsize, repeated=True)
    for share in (1.0, 0.5, 0.01):
        filter_rows(Device(bench), share)
    for kind in (FilterKind.BYTE_UNSHUFFLE, FilterKind.BIT_UNSHUFFLE):
        for itemsize in (2, 4, 8):
            unshuffle(Device(bench), kind, itemsize)


if __name__ == "__main__":
    bench = arguments("kernels")
    main(bench)
    bench.write()
