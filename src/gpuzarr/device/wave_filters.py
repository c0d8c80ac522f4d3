"""Undoing filters in device memory: passes from one arena to another, and byte shuffles that the gather kernel reads as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.stream_plan import StreamPlan
from gpuzarr.codecs.tables import FilterKind, FilterTable
from gpuzarr.device.memory_pool import PinnedPool
from gpuzarr.device.runtime import DeviceBuffer, Runtime, Stream
from gpuzarr.device.wave_tables import PackedTables, TablePack
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels import tables as kernel_tables
from gpuzarr.kernels.launch import Launch

__all__ = ["Layout", "Queued", "launcher", "shuffled_blocks", "undo_filters"]

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Queued = Callable[[PackedTables], None]
"""Work that can be queued once the tables are on the device."""

MOST_ELEMENTS = (1 << 32) - 1  # the gather kernel counts them in 32 bits


@dataclass(frozen=True, eq=False)
class Layout:
    """Chunks as entries of a stream plan: a whole chunk is one, a chunk in parts several.

    `owner` gives the chunk of each entry, `dst` the entry's place in the output arena, `start` that of each chunk.
    """

    owner: Int64Array
    dst: Int64Array
    start: Int64Array
    nbytes: int


def launcher(runtime: Runtime, stream: Stream, make: Callable[[int], Launch], table: int) -> Queued:
    """Launches what ``make`` makes of the address of a table."""
    return lambda tables: runtime.launch(make(tables[table]), stream)


def shuffled_blocks(plan: StreamPlan, layout: Layout, itemsizes: Int64Array) -> Int64Array:
    """Elements per block of the chunks whose filters are one byte shuffle that a gather can read in place; 0 for the others.

    The blocks must follow each other from the first byte of the chunk on; those that nobody needs may be left out.

    Parameters
    ----------
    itemsizes
        By chunk, bytes of the elements that will be gathered; 0 for chunks to unshuffle in any case.
    """
    out = np.zeros(len(layout.start), np.int64)
    table = plan.filters
    if not len(table):
        return out
    owner = layout.owner[table.chunk]
    size = itemsizes[owner]
    block = np.zeros(len(out), np.int64)
    np.maximum.at(block, owner, table.dst_nbytes)
    total = np.zeros(len(out), np.int64)
    total[layout.owner] = plan.dst_nbytes
    inside = table.dst - layout.start[owner]
    good = (table.kind == FilterKind.BYTE_UNSHUFFLE) & (size > 0) & (table.itemsize == size)
    good &= table.dst_nbytes % np.maximum(size, 1) == 0
    good &= (inside % block[owner] == 0) & (table.dst_nbytes == np.minimum(block[owner], total[owner] - inside))
    first = np.full(len(out), 255, np.uint8)
    np.minimum.at(first, owner, table.stage)
    good &= table.stage == first[owner]
    fits = np.bincount(owner, minlength=len(out)) > 0
    fits[owner[~good]] = False
    fits &= np.bincount(layout.owner, minlength=len(out)) == 1  # a chunk in parts is made of containers of their own
    fits &= total // np.maximum(itemsizes, 1) <= MOST_ELEMENTS
    out[fits] = (block // np.maximum(itemsizes, 1))[fits]
    return out


def undo_filters(
    plan: StreamPlan,
    layout: Layout,
    keep: BoolArray,
    out: DeviceBuffer,
    runtime: Runtime,
    pool: PinnedPool,
    stream: Stream,
    uploaded: list[PackedTables],
) -> tuple[DeviceBuffer, BoolArray] | None:
    """Undo the filters, from one arena to another and back; the other arena, and which chunks end there.

    Parameters
    ----------
    keep
        Entries whose filters are undone.
    uploaded
        Takes the tables, to be released when the stream is done.
    """
    table = plan.filters.take(keep[plan.filters.chunk])
    if not len(table):
        return None
    other = runtime.allocate(layout.nbytes, stream)
    sizes = np.diff(layout.start, append=layout.nbytes)
    moved = np.zeros(len(layout.start), np.bool_)
    pack = TablePack()
    queue: list[Queued] = []
    for stage in np.unique(table.stage).tolist():
        rows = table.take(table.stage == stage)
        swaps = rows.take(rows.kind == FilterKind.BYTE_SWAP)
        base = np.where(moved, other.address, out.address)
        for part in (rows.take(rows.kind == kind) for kind in (FilterKind.BYTE_UNSHUFFLE, FilterKind.BIT_UNSHUFFLE)):
            _queue_filters(part, base, other.address + out.address, layout, runtime, pack, queue, stream)
        shuffled = rows.take(rows.kind != FilterKind.BYTE_SWAP)
        if len(shuffled):
            _queue_gaps(shuffled, base, other.address + out.address, layout, sizes, runtime, pack, queue, stream)
            moved = moved.copy()
            moved[np.unique(layout.owner[shuffled.chunk])] ^= True
        if len(swaps):
            base = np.where(moved, other.address, out.address)
            _queue_filters(swaps, base, 0, layout, runtime, pack, queue, stream)
    packed = pack.upload(runtime, pool, stream)
    uploaded.append(packed)
    for work in queue:
        work(packed)
    return other, moved


def _queue_filters(
    rows: FilterTable,
    base: Int64Array,
    both: int,
    layout: Layout,
    runtime: Runtime,
    pack: TablePack,
    queue: list[Queued],
    stream: Stream,
) -> None:
    """Queue filters of one kind; ``both`` is the sum of the arenas' addresses, 0 for filters in place."""
    for itemsize in np.unique(rows.itemsize).tolist():
        these = rows.take(rows.itemsize == itemsize)
        begin = base[layout.owner[these.chunk]]
        target = begin if both == 0 else both - begin
        kind = FilterKind(int(these.kind[0]))
        items = kernel_tables.filter_items(kind, itemsize, begin + these.dst, target + these.dst, these.dst_nbytes)
        at, count = pack.add(items), len(items)
        queue.append(launcher(runtime, stream, partial(launches.byte_filter, kind, itemsize, count=count), at))


def _queue_gaps(
    rows: FilterTable,
    base: Int64Array,
    both: int,
    layout: Layout,
    sizes: Int64Array,
    runtime: Runtime,
    pack: TablePack,
    queue: list[Queued],
    stream: Stream,
) -> None:
    """Queue copies of the bytes between the blocks that a stage unshuffles: they go to the other arena as they are."""
    order = np.argsort(rows.dst, kind="stable")
    low, high = rows.dst[order], rows.dst[order] + rows.dst_nbytes[order]
    chunks = np.unique(layout.owner[rows.chunk])
    starts = np.concatenate([layout.start[chunks], high])
    stops = np.concatenate([low, layout.start[chunks] + sizes[chunks]])
    starts, stops = np.sort(starts), np.sort(stops)
    gaps = stops > starts
    if not gaps.any():
        return
    at = starts[gaps]
    begin = base[np.searchsorted(layout.start, at, side="right") - 1]
    items = kernel_tables.copy_items(begin + at, both - begin + at, (stops - starts)[gaps])
    number, count = pack.add(items), len(items)
    queue.append(launcher(runtime, stream, partial(launches.copy, count=count), number))
