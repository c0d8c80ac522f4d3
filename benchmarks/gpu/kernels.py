"""Each kernel against its floor: the bytes it must read and write, over the copy bandwidth of the same run."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from benchmarks.gpu.common import Bench, Memory
from benchmarks.gpu.copies import CEILING
from gpuzarr.codecs.tables import FilterKind
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels.cf_program import column_program_plain
from gpuzarr.kernels.compiler import compile_predicate
from gpuzarr.kernels.descriptors import ChunkSource, dtype_of
from gpuzarr.kernels.gather_tables import ArrayAxis, PieceBox, gather_tables
from gpuzarr.kernels.tables import filter_items


def _time(memory: Memory, case: str, nbytes: int, check: Any, *work: launches.Launch) -> None:
    """Measure launches together; ``nbytes`` must be read and written at least."""

    def run() -> None:
        for launch in work:
            memory.runtime.launch(launch, memory.stream)
        memory.stream.synchronize()

    entry = memory.bench.measure(case, nbytes, run, check)
    ceiling = memory.bench.rate("copies", CEILING)
    if ceiling is not None:
        entry["share_of_floor"] = entry["gb_per_s"] / ceiling


def _shuffled(chunk: np.ndarray, block: int) -> np.ndarray:
    size = chunk.dtype.itemsize
    flat = chunk.reshape(-1).view(np.uint8).reshape(-1, block, size)
    return np.ascontiguousarray(flat.transpose(0, 2, 1)).reshape(-1)


def _gather(bench: Bench, itemsize: int, *, repeated: bool = False, block: int = 0) -> None:
    """Square chunks to rows; or a column of one dimension repeated along the last; or byte-shuffled chunks in place."""
    memory = Memory(bench)
    side = 128 if bench.host else 8192
    rows, chunk = side * side, side // 8
    own = 1 if repeated else 2
    axes = [ArrayAxis(d, chunk, chunk ** (own - 1 - d)) for d in range(own)]
    tables = gather_tables(axes, [PieceBox(0, (slice(0, side), slice(0, side)))])
    want = np.random.default_rng(1).integers(0, 255, (side**own, itemsize), np.uint8).view(f"u{itemsize}")
    want = want.reshape((side,) * own)
    parts = [
        np.ascontiguousarray(want[tuple(slice(i * chunk, (i + 1) * chunk) for i in index)])
        for index in tables.chunk_indices.tolist()
    ]
    stored = [_shuffled(part, block) if block else part.reshape(-1).view(np.uint8) for part in parts]
    sources = np.zeros(len(parts), dtype_of(ChunkSource))
    sources["address"] = memory.put(np.concatenate(stored)) + np.arange(len(parts)) * (chunk**own * itemsize)
    sources["block"], sources["total"] = block, chunk**own
    values = memory.room(rows * itemsize)
    launch = launches.gather(
        column_program_plain(f"u{itemsize}"), tables, pieces=memory.put(tables.pieces), entries=memory.put(tables.entries),
        chunks=memory.put(sources), tile_piece=memory.put(tables.tile_piece), values=values,
    )  # fmt: skip
    what = "expand over the last dimension" if repeated else "gather of square chunks"
    what += ", byte-shuffled" if block else ""
    full = np.broadcast_to(want[:, None], (side, side)) if repeated else want

    def check() -> bool:
        return bool((memory.get(values, f"u{itemsize}", rows) == full.reshape(-1)).all())

    _time(memory, f"{what}, {itemsize} bytes", (side**own + rows) * itemsize, check, launch)


def _filter_rows(bench: Bench, share: float) -> None:
    memory = Memory(bench)
    rows = 1 << (12 if bench.host else 27)
    data = np.random.default_rng(0).random(rows, np.float32)
    values, mask = memory.put(data), memory.room(rows)
    program = compile_predicate(pl.col("v") < share, {"v": pl.Float32()})
    assert program is not None
    kept = data[data < np.float32(share)]
    tiles = launches.tiles(rows)
    counts, offsets, total = memory.room(4 * tiles), memory.room(4 * tiles), memory.room(8)
    numbers, out = memory.room(4 * len(kept)), memory.room(4 * len(kept))
    work = (
        launches.predicate(program, [(values, 0)], mask, 0, rows),
        launches.mask_counts(mask, rows, counts),
        launches.scan_counts(counts, offsets, total, rows),
        launches.survivors(mask, rows, offsets, numbers),
        launches.take(4, rows=numbers, count=len(kept), values=values, out_values=out),
    )

    def check() -> bool:
        return bool((memory.get(out, "f4", len(kept)) == kept).all())

    _time(memory, f"predicate and compaction, {share:.0%} survive", 4 * rows + 8 * len(kept), check, *work)


def _unshuffle(bench: Bench, kind: FilterKind, itemsize: int) -> None:
    memory = Memory(bench)
    block, count = 1 << 18, 4 if bench.host else 4096
    data = np.random.default_rng(2).integers(0, 255, block * min(count, 8), np.uint8)
    want = data.reshape(-1, block)
    n = block // itemsize
    if kind == FilterKind.BYTE_UNSHUFFLE:
        stored = want.reshape(-1, n, itemsize).transpose(0, 2, 1)
    else:
        bits = np.unpackbits(want.reshape(-1, n, itemsize), axis=2, bitorder="little")
        stored = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little")
    whole = np.concatenate([np.ascontiguousarray(stored).reshape(-1)] * (count // min(count, 8)))
    source, target = memory.put(whole), memory.room(block * count)
    starts = np.arange(count) * block
    items = filter_items(kind, itemsize, source + starts, target + starts, np.full(count, block))
    launch = launches.byte_filter(kind, itemsize, memory.put(items), len(items))

    def check() -> bool:
        found = memory.get(target, "u1", block * count).reshape(-1, len(data))
        return bool((found == data).all())

    _time(memory, f"{kind.name.lower()}, {itemsize} bytes", 2 * block * count, check, launch)


def main(bench: Bench) -> None:
    """Gather and expand, byte-shuffled gather, predicate with compaction, the filters' own passes."""
    for itemsize in (1, 2, 4, 8):
        _gather(bench, itemsize)
        _gather(bench, itemsize, repeated=True)
    for itemsize in (2, 4, 8):
        _gather(bench, itemsize, block=64 if bench.host else 1 << 16)
    for share in (1.0, 0.5, 0.01):
        _filter_rows(bench, share)
    for kind in (FilterKind.BYTE_UNSHUFFLE, FilterKind.BIT_UNSHUFFLE):
        for itemsize in (2, 4, 8):
            _unshuffle(bench, kind, itemsize)
