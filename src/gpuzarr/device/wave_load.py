"""A column of a frame in device memory: gathered piece by piece as its chunks arrive."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from gpuzarr.device.memory_pool import PinnedPool
from gpuzarr.device.runtime import DeviceBuffer, Runtime, Stream
from gpuzarr.device.wave_decode import ChunkMemory
from gpuzarr.device.wave_fetch import Slot
from gpuzarr.device.wave_source import WaveSource
from gpuzarr.device.wave_tables import PackedTables, TablePack
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels.cf_program import value_bits
from gpuzarr.kernels.descriptors import ChunkSource, dtype_of
from gpuzarr.kernels.gather_tables import PieceBox, gather_tables
from gpuzarr.plan.model import Piece

__all__ = ["ColumnBuffers", "DeviceRows", "WaveLoad"]

COUNTERS_NBYTES = 16


@dataclass(eq=False)
class ColumnBuffers:
    """Values of a column in device memory.

    Parameters
    ----------
    rows
        How many.
    values
        In the type of the column in memory; Boolean takes a byte.
    valid
        Validity bitmap, None where nothing can be missing.
    counters
        uint64 number of missing rows, uint32 status of the gather.
    """

    rows: int
    values: DeviceBuffer
    valid: DeviceBuffer | None
    counters: DeviceBuffer

    @classmethod
    def allocate(cls, rows: int, itemsize: int, nullable: bool, runtime: Runtime, stream: Stream) -> ColumnBuffers:
        """Uninitialised values, bitmap and counters of zeros.

        Raises
        ------
        DeviceMemoryError
            There is no memory for them.
        """
        values = runtime.allocate(max(1, rows * itemsize), stream)
        nbytes = launches.bitmap_nbytes(rows)
        valid = runtime.allocate(max(64, nbytes), stream) if nullable else None
        counters = runtime.allocate(COUNTERS_NBYTES, stream)
        runtime.zero(counters.address, COUNTERS_NBYTES, stream)
        if valid is not None:
            runtime.zero(valid.address, valid.nbytes, stream)
        return cls(rows, values, valid, counters)

    @property
    def nbytes(self) -> int:
        """Device memory in all."""
        return self.values.nbytes + self.counters.nbytes + (0 if self.valid is None else self.valid.nbytes)


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """Surviving rows of a frame: ascending int32 numbers on the device and on the host."""

    numbers: np.ndarray
    buffer: DeviceBuffer


@dataclass(eq=False)
class _Unit:
    """A piece and the chunks under it; ``rows`` are positions among the survivors."""

    piece: Piece
    rows: slice | None
    slots: dict[tuple[int, ...], Future[Slot]] = field(default_factory=dict)
    left: int = 0


class WaveLoad:
    """Loads one column of a frame: all rows, or survivors.

    Parameters
    ----------
    units
        Pieces in row order, for survivors with the slice of them that lies in each.
    rows
        The survivors; None for all rows.
    stream
        Of the frame.
    ready
        Called when `gather` has something to do.

    Attributes
    ----------
    done
        Set once everything has been queued in the stream.
    """

    def __init__(
        self,
        column: WaveSource,
        units: list[tuple[Piece, slice | None]],
        total: int,
        rows: DeviceRows | None,
        stream: Stream,
        runtime: Runtime,
        pool: PinnedPool,
        ready: Callable[[WaveLoad], None],
    ) -> None:
        self.column = column
        self.total = total
        self.rows = rows
        self.stream = stream
        self.runtime = runtime
        self.pool = pool
        self.done: Future[None] = Future()
        self.tables: list[PackedTables] = []
        self._units = [_Unit(piece, at) for piece, at in units]
        self._ready: list[int] = []
        self._left = len(self._units)
        self._notify = ready
        self._lock = threading.Lock()
        self._gathering = threading.Lock()
        self._buffers: ColumnBuffers | None = None

    @property
    def buffers(self) -> ColumnBuffers:
        """The column."""
        if self._buffers is None:
            column = self.column
            self._buffers = ColumnBuffers.allocate(
                self.total, column.program.out.itemsize, column.nullable, self.runtime, self.stream
            )
        return self._buffers

    def needs(self, unit: int, index: tuple[int, ...], slot: Future[Slot]) -> None:
        """A chunk that a unit takes cells from."""
        self._units[unit].slots[index] = slot

    def start(self) -> None:
        """All chunks have been named: begin to watch them."""
        for number, unit in enumerate(self._units):
            unit.left = len(unit.slots)
            for slot in list(unit.slots.values()):
                slot.add_done_callback(partial(self._arrived, number))
            if not unit.slots:
                self._add_ready(number)
        if not self._units:
            self.done.set_result(None)

    def _arrived(self, number: int, slot: Future[Slot]) -> None:
        if slot.cancelled() or slot.exception() is not None:
            return  # the scan has failed
        with self._lock:
            unit = self._units[number]
            unit.left -= 1
            complete = unit.left == 0
        if complete:
            self._add_ready(number)

    def _add_ready(self, number: int) -> None:
        with self._lock:
            self._ready.append(number)
        self._notify(self)

    def gather(self) -> None:
        """Queue the gathering of all units whose chunks are there.

        Raises
        ------
        DeviceMemoryError
            There is no memory for the column; call again later.
        """
        with self._gathering:
            buffers = self.buffers
            with self._lock:
                numbers, self._ready = sorted(self._ready), []
            try:
                for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
                    units = [number for _, number in run]
                    self._gather_run([self._units[n] for n in units], buffers)
                    numbers = [n for n in numbers if n not in set(units)]
                    self._left -= len(units)
            except BaseException:
                with self._lock:
                    self._ready += numbers
                raise
            if self._left == 0 and not self.done.done():
                self.done.set_result(None)

    def _gather_run(self, units: list[_Unit], buffers: ColumnBuffers) -> None:
        column = self.column
        boxes = [PieceBox(unit.piece.first_row, unit.piece.picks) for unit in units]
        if self.rows is not None:
            boxes = boxes[:1]  # pieces between may have no survivor: one launch for each
            for unit in units[1:]:
                self._gather_run([unit], buffers)
            units = units[:1]
        tables = gather_tables(column.axes, boxes)
        sources = np.zeros(max(1, len(tables.chunk_indices)), dtype_of(ChunkSource))
        memories: dict[int, ChunkMemory] = {}
        bounds = tables.chunk_starts.tolist()
        indices = [tuple(row) for row in tables.chunk_indices.tolist()]
        for unit, low, high in zip(units, bounds[:-1], bounds[1:], strict=True):
            for number in range(low, high):
                found = unit.slots.get(indices[number])
                if found is None:
                    continue  # no survivor in it
                slot = found.result()
                sources["address"][number] = slot.address
                if slot.block:
                    sources["block"][number], sources["total"][number] = slot.block, column.elements
                if isinstance(slot.memory, ChunkMemory):
                    memories[id(slot.memory)] = slot.memory
        pack = TablePack()
        pieces, entries = pack.add(tables.pieces), pack.add(tables.entries if len(tables.entries) else np.zeros(1))
        chunks, tiles = pack.add(sources), pack.add(tables.tile_piece)
        packed = pack.upload(self.runtime, self.pool, self.stream)
        self.tables.append(packed)
        for memory in memories.values():
            self.stream.wait(memory.stream.record())
        fill = self._fill()
        valid = 0 if buffers.valid is None else buffers.valid.address
        counters = buffers.counters.address
        if self.rows is None:
            launch = launches.gather(
                column.program,
                tables,
                pieces=packed[pieces],
                entries=packed[entries],
                chunks=packed[chunks],
                tile_piece=packed[tiles],
                values=buffers.values.address,
                valid=valid,
                null_count=counters,
                status=counters + 8,
                fill=fill,
            )
        else:
            at = units[0].rows
            assert at is not None
            launch = launches.gather_rows(
                column.program,
                tables,
                pieces=packed[pieces],
                entries=packed[entries],
                chunks=packed[chunks],
                rows=self.rows.buffer.address,
                first=at.start,
                count=at.stop,
                values=buffers.values.address,
                valid=valid,
                null_count=counters,
                status=counters + 8,
                fill=fill,
            )
        self.runtime.launch(launch, self.stream)
        behind = self.stream.record()
        for memory in memories.values():
            memory.stream.wait(behind)
        for unit in units:
            unit.slots.clear()

    def _fill(self) -> tuple[int, bool]:
        source = self.column.source
        if source.on_missing == "raise":
            return 0, True
        value, valid = source.fill(())
        return (value_bits(value, source.decoding.numpy), True) if valid else (0, False)

    def release(self) -> None:
        """Give back tables; the stream is done."""
        for table in self.tables:
            table.release()
        self.tables.clear()
