"""Chunks that outlive a scan in device memory: taken instead of being fetched, and copied out of the waves that decode them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from gpuzarr.device.memory_pool import PinnedPool
from gpuzarr.device.runtime import DeviceMemoryError, Runtime, Stream
from gpuzarr.device.wave_decode import ChunkMemory
from gpuzarr.device.wave_fetch import FetchedChunk, Slot
from gpuzarr.device.wave_tables import PackedTables, TablePack
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels import tables as kernel_tables
from gpuzarr.reader.groups import ChunkGroup
from gpuzarr.reader.kept import KeptChunks

__all__ = ["KeptCopies", "keep_copies", "without_kept"]


def without_kept(
    kept: KeptChunks, place: Hashable, group: ChunkGroup, indices: np.ndarray, slots: list[Future[Any]]
) -> ChunkGroup:
    """The group without chunks that are kept in a place, which are announced."""
    left = []
    for position in group.positions.tolist():
        slot = kept.get(place, tuple(indices[position].tolist()))
        if slot is None:
            left.append(position)
        else:
            slots[position].set_result(slot)
    if len(left) == len(group.positions):
        return group
    kept.check()
    return replace(group, positions=np.array(left, np.int64))


class KeptCopies:
    """Copies of chunks in memory of their own, queued in a stream.

    A chunk lies in the memory of its wave, all of which it would hold on to: what is kept has its own, so that the bytes
    that are counted are those that are held.
    """

    def __init__(self, slots: dict[int, Slot], tables: PackedTables | None) -> None:
        self.slots = slots
        self._tables = tables

    def release(self) -> None:
        """Give back what the stream has done with."""
        if self._tables is not None:
            self._tables.release()


def keep_copies(
    chunks: Sequence[FetchedChunk], slots: Sequence[Slot], runtime: Runtime, pool: PinnedPool, stream: Stream
) -> KeptCopies:
    """Queue copies of the chunks that somebody keeps, by position; none where memory is short."""
    wanted = [i for i, chunk in enumerate(chunks) if chunk.keep is not None and slots[i].address]
    if not wanted:
        return KeptCopies({}, None)
    sizes = [chunks[i].column.nbytes for i in wanted]
    try:
        buffers = [runtime.allocate(size, stream) for size in sizes]
        items = kernel_tables.copy_items(
            np.array([slots[i].address for i in wanted]), np.array([b.address for b in buffers]), np.array(sizes)
        )
        pack = TablePack()
        table = pack.add(items)
        packed = pack.upload(runtime, pool, stream)
    except DeviceMemoryError:
        return KeptCopies({}, None)
    runtime.launch(launches.copy(packed[table], len(items)), stream)
    made = zip(wanted, buffers, strict=True)
    return KeptCopies({i: Slot(b.address, ChunkMemory(b, stream), slots[i].block) for i, b in made}, packed)
