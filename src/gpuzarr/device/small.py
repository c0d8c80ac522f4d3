"""A scan of few rows and chunks with nothing to filter, done at once by the thread that asks, with others where that pays.

It hands out the same rows, makes the same requests and counts the same as `HostDevice`. What it leaves out is what pays only
where there are many frames: a pool, phases, buffers that frames share.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from gpuzarr.device.columns import CellBuffer, axis_map, expand, series_of, take, without_columns
from gpuzarr.device.loading import TASK_BYTES, ChunkedColumn, Scratch, Task, chunk_tasks
from gpuzarr.device.pool import FEWER_THREADS
from gpuzarr.device.scan_errors import scan_errors
from gpuzarr.options import ScanOptions
from gpuzarr.plan.axis import AxisPart, Picks, parts
from gpuzarr.plan.chunks import ChunkPart
from gpuzarr.plan.model import Frame, Piece, ScanPlan
from gpuzarr.reader import ChunkReader, Joined
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.coordinates import Coordinates
from gpuzarr.table.model import Column

__all__ = ["ChunksWanted", "SmallScan"]

SLOW_SECONDS = 2e-3
"""Time for one task, on average, from which more threads are worth their start."""


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

    @cached_property
    def boxes(self) -> np.ndarray | None:
        """The cells that are taken from each, (start, stop) per array axis; None where that saves no reading."""
        if self.source.chain.decodes_whole or all(part.whole for _, _, part in self.takes):
            return None
        if not self.source.is_direct:  # as the bill counts them
            return np.stack([self.source.shared_box(tuple(index)) for index in self.indices.tolist()])
        boxes = np.array([part.box() for _, _, part in self.takes], np.int64)  # each chunk is taken from once
        return boxes.reshape(*self.indices.shape, 2)

    @property
    def nbytes(self) -> int:
        """Bytes to decode: of whole chunks, unless any bytes of them can be read alone."""
        chain = self.source.chain
        if not chain.is_plain or self.boxes is None:
            return len(self.indices) * chain.chunk_nbytes
        cells = np.prod(self.boxes[..., 1] - self.boxes[..., 0], axis=1, dtype=np.int64).sum()
        return int(cells) * chain.dtype.itemsize

    @property
    def calls(self) -> int:
        """About how often a decoder is called."""
        chain = self.source.chain
        chunks = len(self.indices)
        return -(-chunks * chain.chunk_nbytes // TASK_BYTES) if chain.joins_in_one_call else chunks


class SmallScan:
    """One scan. `fits` says whether a plan may be scanned like this at all; whether it pays is the caller's to say.

    Parameters
    ----------
    readers
        Makes the chunk reader of a column.

    Attributes
    ----------
    threads
        In which chunks are read and decoded, that of the caller among them.
    spare
        Threads that are started besides where a chunk takes longer than expected: a disk or a network may be slow.
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
        self.spare = 0
        self._columns = [plan.table.by_name[name] for name in plan.projection]

    @staticmethod
    def fits(plan: ScanPlan) -> bool:
        """Whether a plan only repeats and copies numbers."""
        if plan.filter is not None or plan.n_rows == 0:
            return False
        columns = (plan.table.by_name[name] for name in plan.projection)
        return all(c.role == "index" or (c.decoding is not None and c.decoding.is_fixed_width) for c in columns)

    @cached_property
    def frame(self) -> Frame | None:
        """The only frame; None if there are no rows, or too many for one, or if a row limit takes more than a box of a tile."""
        found = list(itertools.islice(self.plan.frames(), 2))
        return found[0] if len(found) == 1 and not found[0].filtered else None

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
        places = [(self._dims[name], c) for name, c in zip(column.dims, source.chain.chunk_shape, strict=True)]
        in_order = [d for d, _ in places] == list(range(len(self._dims)))
        split = _Split()
        for number, piece in enumerate(frame.pieces):
            everywhere = [slice(0, n) for n in piece.shape]
            per_axis = [split.of(d, piece.picks[d], c) for d, c in places]
            for combination in itertools.product(*per_axis):
                if in_order:
                    at = tuple([part.at for part in combination])
                else:
                    there = everywhere.copy()
                    for (d, _), part in zip(places, combination, strict=True):
                        there[d] = part.at
                    at = tuple(there)
                index = tuple([part.chunk for part in combination])
                chunk = numbers.setdefault(index, len(numbers))
                inside = tuple([part.inside for part in combination])
                takes.append((number, chunk, ChunkPart(inside, at, all(part.whole for part in combination))))
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
        with scan_errors(self.plan.table.store, "a frame was read"):
            self._statistics.add(tiles=len({piece.tile for piece in frame.pieces}))
            read = self._read(frame)
            columns = [self._series(column, read.get(column.name)) for column in self._columns]
        self._statistics.add(rows=frame.rows)
        yield pl.DataFrame(columns) if columns else without_columns(frame.rows)

    def _series(self, column: Column, read: CellBuffer | None) -> pl.Series:
        if read is not None:
            return series_of(column, read.values, read.valid)
        _, axes = axis_map(column, self._dims)
        if column.role == "index":
            return series_of(column, _spread(None, axes, self._runs), None)
        values, valid = self._coordinates.numpy(column.name)
        validity = None if valid is None else _spread(valid, axes, self._runs)
        return series_of(column, _spread(values, axes, self._runs), validity)

    @cached_property
    def _runs(self) -> list[Piece]:
        """The pieces of the frame, those joined that follow each other along the leading dimension."""
        assert self.frame is not None
        return _joined(self.frame.pieces)

    def _read(self, frame: Frame) -> dict[str, CellBuffer]:
        """Cells of the columns whose chunks have to be read, over the rows of the frame."""
        scratch, tasks = Scratch(), []
        targets = {name: _Target(wanted, frame, scratch) for name, wanted in self.wanted.items()}
        for target in targets.values():
            tasks += target.tasks()
        if not _run(tasks, self.threads, self.spare):
            self._statistics.note(FEWER_THREADS)
        return {name: target.cells() for name, target in targets.items()}


class _Split:
    """`parts` of the pieces of a frame, of which neighbours have much in common."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], list[AxisPart]] = {}

    def of(self, dimension: int, picks: Picks, chunk: int) -> list[AxisPart]:
        if not isinstance(picks, slice):
            return parts(picks, chunk)
        key = dimension, picks.start, picks.stop
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = parts(picks, chunk)
        return found


class _Target:
    """The cells of one column over the rows of a frame, and what puts chunks there, from any thread."""

    def __init__(self, wanted: ChunksWanted, frame: Frame, scratch: Scratch) -> None:
        self._wanted = wanted
        self._frame = frame
        self._scratch = scratch
        self._source = source = wanted.source
        self._takes: list[list[tuple[int, ChunkPart]]] = [[] for _ in wanted.indices]
        for number, chunk, part in wanted.takes:
            self._takes[chunk].append((number, part))
        if source.is_full:
            self._out = source.buffer(frame.rows)
            self._windows = [self._out.window(piece.first_row, piece.shape) for piece in frame.pieces]
        else:
            shapes = [tuple([piece.shape[d] for d in source.axes]) for piece in frame.pieces]
            self._windows = [source.buffer(math.prod(shape)).window(0, shape) for shape in shapes]
        self._stored = source.array.dtype.numpy
        self._may_straight = source.in_place and not source.nullable and source.decoding.numpy == self._stored
        self._needs_room = source.fixed and (wanted.boxes is not None or source.reader.decodes_into)

    def tasks(self) -> list[Task]:
        """What reads the chunks: a task for each object, or for about `TASK_BYTES` of small ones."""
        wanted, source = self._wanted, self._source
        joined = Joined(self._room, self._put_joined, self._scratch.give_back)
        together = TASK_BYTES if source.reader.joins_objects else 0
        return chunk_tasks(
            source, wanted.indices, wanted.boxes, self._put, self._offer, together=together, joined=joined
        )

    def _room(self, chunks: int) -> np.ndarray:
        return self._scratch.array((chunks, *self._source.chain.chunk_shape), self._stored)

    def _put_joined(self, position: int, raw: np.ndarray | None) -> None:
        index = tuple(self._wanted.indices[position].tolist())
        for number, part in self._takes[position]:
            self._source.put(raw, index, part, self._windows[number])

    def _straight(self, position: int) -> np.ndarray | None:
        """Where in the frame a whole chunk can be decoded to."""
        takes = self._takes[position]
        if not self._may_straight or len(takes) != 1 or not takes[0][1].whole:
            return None
        number, part = takes[0]
        at: Any = (*(part.at[d] for d in self._source.axes), ...)
        cells: np.ndarray = self._windows[number].values[at]
        return cells if cells.flags.c_contiguous else None

    def _offer(self, position: int) -> np.ndarray | None:
        cells = self._straight(position)
        if cells is None and self._needs_room:
            return self._scratch.array(self._source.chain.chunk_shape, self._stored)
        return cells

    def _put(self, position: int, raw: np.ndarray | None) -> None:
        cells = None if raw is None else self._straight(position)
        if raw is None or cells is None or raw.ctypes.data != cells.ctypes.data:
            self._put_joined(position, raw)
        self._scratch.give_back()

    def cells(self) -> CellBuffer:
        """All cells, once the tasks are done."""
        source = self._source
        if not source.is_full:
            self._out = source.buffer(self._frame.rows)
            for piece, window in zip(self._frame.pieces, self._windows, strict=True):
                expand(window, source.axes, piece, self._out)
        return self._out


def _run(tasks: list[Task], threads: int, spare: int = 0) -> bool:
    """Run tasks in several threads, and in ``spare`` more once they turn out to be slow; the first error ends it.

    Returns whether all threads that were wanted could be started.
    """
    waiting = deque(tasks)
    errors: list[BaseException] = []
    helpers: list[threading.Thread] = []
    refused = False

    def work(after: Callable[[], None] | None = None) -> None:
        while not errors:
            try:
                task = waiting.popleft()
            except IndexError:
                return
            try:
                task()
                if after is not None:
                    after()
            except BaseException as error:
                errors.append(error)

    def help_out(number: int) -> None:
        nonlocal refused
        for _ in range(min(number, len(waiting) - 1)):
            helper = threading.Thread(target=work, name=f"gpuzarr-worker-{len(helpers)}", daemon=True)
            try:
                helper.start()
            except RuntimeError:  # no more threads may be started: those that run do the work
                refused = True
                return
            helpers.append(helper)

    began = time.perf_counter()
    done = 0

    def look() -> None:
        nonlocal done, spare
        done += 1
        if spare and time.perf_counter() - began > done * SLOW_SECONDS:
            more, spare = spare, 0
            help_out(more)

    try:
        help_out(threads - 1)
        work(look if spare else None)
        for helper in helpers:
            helper.join()
    finally:
        waiting.clear()  # nobody waits any more
    if errors:
        raise errors[0]
    return not refused


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same rows in as few pieces as the leading dimension allows."""
    runs: list[list[Piece]] = []
    stop: int | None = None  # where the run ends along the leading dimension
    rest: tuple[Picks, ...] | None = None  # its other picks
    for piece in pieces:
        if not piece.picks or not all(type(pick) is slice for pick in piece.picks):
            runs.append([piece])
            stop, rest = None, None
            continue
        lead: Any = piece.picks[0]
        others = piece.picks[1:]
        if rest == others and stop == lead.start:
            runs[-1].append(piece)
        else:
            runs.append([piece])
        stop, rest = lead.stop, others
    return [run[0] if len(run) == 1 else _one(run) for run in runs]


def _one(run: list[Piece]) -> Piece:
    """Pieces that follow each other along the leading dimension as one."""
    first = run[0]
    rows = sum([piece.shape[0] for piece in run])
    start: int = first.picks[0].start  # type: ignore[union-attr]  # the picks of a run are slices
    picks = (slice(start, start + rows), *first.picks[1:])
    return replace(first, picks=picks, shape=(rows, *first.shape[1:]), whole=False)


def _spread(values: np.ndarray | None, axes: tuple[int, ...], pieces: Sequence[Piece]) -> np.ndarray:
    """Cells of an array over the rows of the pieces of a frame; the array lies over the dimensions ``axes`` of the table.

    None stands for the index of a dimension, of any length: only what is selected is made.
    """
    rows = pieces[-1].first_row + pieces[-1].rows
    out = np.empty(rows, np.int64 if values is None else values.dtype)
    for piece in pieces:
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
