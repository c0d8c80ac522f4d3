"""A scan of few rows and chunks with nothing to filter, done at once in the thread that asks.

It hands out the same rows, makes the same requests and counts the same as `HostDevice`. What it leaves out is what pays only
where there are many frames: tasks, phases, buffers that frames share.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from gpuzarr.device.columns import CellBuffer, axis_map, expand, series_of, take, without_columns
from gpuzarr.device.loading import ChunkedColumn, Task, chunk_tasks
from gpuzarr.errors import GpuzarrError, ResourceError
from gpuzarr.options import ScanOptions
from gpuzarr.plan.axis import parts
from gpuzarr.plan.chunks import ChunkPart
from gpuzarr.plan.model import Frame, ScanPlan
from gpuzarr.reader import ChunkReader, Together
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.coordinates import Coordinates
from gpuzarr.table.model import Column

__all__ = ["ChunksWanted", "SmallScan"]

_TOGETHER = 2**62


@dataclass(frozen=True)
class ChunksWanted:
    """The chunks of one column, each once, and what the pieces of the frame take from them.

    Parameters
    ----------
    indices
        Grid indices, int64, shape ``(n, array ndim)``.
    takes
        (number of the piece, number of the chunk, what is taken).
    """

    source: ChunkedColumn
    indices: np.ndarray
    takes: list[tuple[int, int, ChunkPart]]


class SmallScan:
    """One scan. `fits` says whether a plan may be scanned like this at all; whether it pays is the caller's to say.

    Parameters
    ----------
    readers
        Makes the chunk reader of a column.

    Attributes
    ----------
    threads
        In which the chunks of a column are read and decoded, that of the caller among them.
    """

    def __init__(
        self,
        plan: ScanPlan,
        coordinates: Coordinates,
        readers: Callable[[Column], ChunkReader],
        options: ScanOptions,
        statistics: ScanStatistics,
    ) -> None:
        self.plan = plan
        self._coordinates = coordinates
        self._readers = readers
        self._on_missing = options.on_missing
        self._statistics = statistics
        self._dims = {d.name: i for i, d in enumerate(plan.table.dims)}
        self.threads = 1
        self._columns = [plan.table.by_name[name] for name in plan.projection]

    @staticmethod
    def fits(plan: ScanPlan) -> bool:
        """Whether a plan only repeats and copies numbers."""
        if plan.filter is not None or plan.boundary is not None or plan.n_rows == 0:
            return False
        columns = (plan.table.by_name[name] for name in plan.projection)
        return all(c.role == "index" or (c.decoding is not None and c.decoding.is_fixed_width) for c in columns)

    @cached_property
    def frame(self) -> Frame | None:
        """The only frame; None if there are no rows, or too many for one."""
        found = list(itertools.islice(self.plan.frames(), 2))
        return found[0] if len(found) == 1 else None

    @cached_property
    def wanted(self) -> dict[str, ChunksWanted]:
        """Chunks to read, by name of the column."""
        assert self.frame is not None
        held = self._coordinates.holds
        return {c.name: self._wanted(c, self.frame) for c in self._columns if c.array is not None and not held(c)}

    def _wanted(self, column: Column, frame: Frame) -> ChunksWanted:
        source = ChunkedColumn(column, self.plan, self._readers(column), self._on_missing)
        numbers: dict[tuple[int, ...], int] = {}
        takes = []
        places = [self._dims[name] for name in column.dims]
        for number, piece in enumerate(frame.pieces):
            everywhere = [slice(0, n) for n in piece.shape]
            per_axis = [parts(piece.picks[d], c) for d, c in zip(places, source.chain.chunk_shape, strict=True)]
            for combination in itertools.product(*per_axis):
                at = everywhere.copy()
                for d, part in zip(places, combination, strict=True):
                    at[d] = part.at
                index = tuple([part.chunk for part in combination])
                chunk = numbers.setdefault(index, len(numbers))
                inside = tuple([part.inside for part in combination])
                takes.append((number, chunk, ChunkPart(inside, tuple(at), all(part.whole for part in combination))))
        return ChunksWanted(source, np.array(list(numbers), np.int64).reshape(len(numbers), len(places)), takes)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows, as the one data frame that they fit in.

        Raises
        ------
        ResourceError
            Memory ran out.
        GpuzarrError
            Reading or decoding failed.
        """
        frame = self.frame
        if frame is None:
            return
        try:
            wanted = self.wanted
            self._statistics.add(tiles=len({piece.tile for piece in frame.pieces}))
            columns = [self._series(column, wanted.get(column.name), frame) for column in self._columns]
        except MemoryError as error:
            if isinstance(error, GpuzarrError):
                raise
            raise ResourceError(f"Memory ran out while a frame was read; select less. {error}") from error
        except GpuzarrError as error:
            if error.store is not None:
                raise
            raise error.located(store=self.plan.table.store) from error
        self._statistics.add(rows=frame.rows)
        yield pl.DataFrame(columns) if columns else without_columns(frame.rows)

    def _series(self, column: Column, wanted: ChunksWanted | None, frame: Frame) -> pl.Series:
        if wanted is not None:
            out = self._read(wanted, frame)
            return series_of(column, out.values, out.valid)
        _, axes = axis_map(column, self._dims)
        if column.role == "index":
            return series_of(column, _spread(None, axes, frame), None)
        values, valid = self._coordinates.numpy(column.name)
        return series_of(column, _spread(values, axes, frame), None if valid is None else _spread(valid, axes, frame))

    def _read(self, wanted: ChunksWanted, frame: Frame) -> CellBuffer:
        """Cells of a column whose chunks have to be read, over the rows of the frame."""
        source = wanted.source
        raws: list[np.ndarray | None] = [None] * len(wanted.indices)
        boxes = None
        if not source.chain.decodes_whole and not all(part.whole for _, _, part in wanted.takes):
            boxes = np.stack([source.shared_box(tuple(index)) for index in wanted.indices.tolist()])
        together = 0 if self.threads > 1 else _TOGETHER
        stored, shape = source.array.dtype.numpy, source.chain.chunk_shape
        joined = Together(lambda n: np.empty((n, *shape), stored), raws.__setitem__)
        tasks = chunk_tasks(source, wanted.indices, boxes, raws.__setitem__, None, together=together, joined=joined)
        _run(tasks, self.threads)
        out = source.buffer(frame.rows)
        if source.is_full:
            windows = [out.window(piece.first_row, piece.shape) for piece in frame.pieces]
        else:
            shapes = [tuple([piece.shape[d] for d in source.axes]) for piece in frame.pieces]
            windows = [source.buffer(math.prod(shape)).window(0, shape) for shape in shapes]
        for number, chunk, part in wanted.takes:
            source.put(raws[chunk], tuple(wanted.indices[chunk].tolist()), part, windows[number])
        if not source.is_full:
            for piece, window in zip(frame.pieces, windows, strict=True):
                expand(window, source.axes, piece, out)
        return out


def _run(tasks: list[Task], threads: int) -> None:
    """Run tasks in several threads; the first error ends it."""
    waiting = deque(tasks)
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                task = waiting.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException as error:
                errors.append(error)

    helpers = [
        threading.Thread(target=work, name=f"gpuzarr-worker-{number}", daemon=True)
        for number in range(min(threads, len(tasks)) - 1)
    ]
    for helper in helpers:
        helper.start()
    work()
    try:
        for helper in helpers:
            helper.join()
    finally:
        waiting.clear()  # nobody waits any more
    if errors:
        raise errors[0]


def _spread(values: np.ndarray | None, axes: tuple[int, ...], frame: Frame) -> np.ndarray:
    """Cells of an array over the rows of a frame; the array lies over the dimensions ``axes`` of the table.

    None stands for the index of a dimension, of any length: only what is selected is made.
    """
    out = np.empty(frame.rows, np.int64 if values is None else values.dtype)
    for piece in frame.pieces:
        pick = piece.picks[axes[0]] if axes else slice(0, 1)
        if values is None:
            cells = np.arange(pick.start, pick.stop) if isinstance(pick, slice) else pick
        elif len(axes) == 1:
            cells = values[pick]
        else:
            cells = take(values, tuple([piece.picks[d] for d in axes]))
        shape = [1] * len(piece.shape)
        for d in axes:
            shape[d] = piece.shape[d]
        out[piece.first_row : piece.first_row + piece.rows].reshape(piece.shape)[...] = cells.reshape(shape)
    return out
