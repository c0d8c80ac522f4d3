"""Reading the chunks of columns for a frame: whole selections, or only the rows that survived a filter."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuzarr.cf import Decoding
from gpuzarr.codecs import CodecChain
from gpuzarr.device.columns import CellBuffer, axis_map, place, take
from gpuzarr.device.frame_memory import FrameMemory
from gpuzarr.device.shared_chunks import SharedChunks
from gpuzarr.errors import ChunkError, GpuzarrError, Kind
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.options import MissingPolicy
from gpuzarr.plan.axis import Picks
from gpuzarr.plan.chunks import ChunkPart, is_direct, last_tile, piece_chunks
from gpuzarr.plan.model import Frame, Piece, ScanPlan
from gpuzarr.reader import ChunkGroup, ChunkReader, Joined, foreign_error
from gpuzarr.table.model import Column

__all__ = ["ChunkedColumn", "FullLoad", "Load", "RowLoad", "Scratch", "Task", "chunk_tasks"]

Task = Callable[[], None]

TASK_BYTES = 2**20
"""Small chunks of a local store are put together until a task decodes about this much."""


class Scratch:
    """Buffers for chunks that are decoded only to be copied out of: as many as there are decoded at a time.

    A buffer belongs to a thread until it is given back, so that threads that wait for a store hold none.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._free: list[np.ndarray] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Uninitialised array; the next call in the same thread overwrites it."""
        nbytes = math.prod(shape) * dtype.itemsize
        buffer: np.ndarray | None = getattr(self._own, "buffer", None)
        if buffer is None:
            try:
                buffer = self._free.pop()  # the one that was used last
            except IndexError:
                buffer = np.empty(nbytes, np.uint8)
        if buffer.nbytes < nbytes:
            buffer = np.empty(nbytes, np.uint8)
        self._own.buffer = buffer
        return buffer[:nbytes].view(dtype).reshape(shape)

    def give_back(self) -> None:
        """Nothing of this thread's array is needed any more."""
        buffer = getattr(self._own, "buffer", None)
        if buffer is not None:
            self._own.buffer = None
            self._free.append(buffer)


class ChunkedColumn:
    """A column whose values live in chunks, with all that is the same for every frame of a scan.

    Parameters
    ----------
    on_missing
        What a chunk that is not stored means, see `gpuzarr.options.ScanOptions`.
    memory
        Where frames lie.
    """

    def __init__(
        self,
        column: Column,
        plan: ScanPlan,
        reader: ChunkReader,
        on_missing: MissingPolicy,
        memory: FrameMemory | None = None,
    ) -> None:
        assert column.array is not None
        assert column.chain is not None
        assert column.decoding is not None
        self.column = column
        self.array: ArrayMetadata = column.array
        self.chain: CodecChain = column.chain
        self.decoding: Decoding = column.decoding
        self.reader = reader
        self.plan = plan
        self.on_missing = on_missing
        self.memory = memory
        self.dims = {d.name: i for i, d in enumerate(plan.table.dims)}
        self.order, self.axes = axis_map(column, self.dims)
        self.is_full = len(self.axes) == len(plan.table.dims)
        self.is_direct = is_direct(column, plan)
        self.nullable = self.decoding.nullable or on_missing == "null"
        self.in_place = self.decoding.identity and self.order == tuple(range(len(self.order)))
        self.fixed = self.array.dtype.numpy != np.dtype(object)
        self._fill: tuple[Any, bool] | None = None

    def buffer(self, size: int) -> CellBuffer:
        """Buffer for ``size`` decoded cells."""
        out = CellBuffer.empty(size, self.decoding.numpy, self.nullable, self.memory)
        if out.valid is not None and not self.decoding.nullable:
            out.valid[...] = True
        return out

    def fill(self, index: tuple[int, ...]) -> tuple[Any, bool]:
        """Value and validity of the cells of a chunk that is not stored."""
        if self.on_missing == "raise":
            message = "The chunk is not stored, and on_missing='raise'. Use on_missing='fill' for the fill value."
            key = self.array.key(index) if not self.chain.is_sharded else None
            raise ChunkError(message, kind=Kind.CHUNK_MISSING, array=self.array.path, key=key)
        if self._fill is None:
            value, valid = self.decoding.scalar(self.array.fill_value)
            self._fill = (value, bool(valid) and self.on_missing != "null")
        return self._fill

    def put(self, raw: np.ndarray | None, index: tuple[int, ...], part: ChunkPart, window: CellBuffer) -> None:
        """Decode a piece's cells of a chunk into their place."""
        if raw is not None:
            place(self.decoding, raw, part, self.order, window, self.axes)
            return
        value, valid = self.fill(index)
        at: Any = (*(part.at[d] for d in self.axes), ...)
        window.values[at] = value
        if window.valid is not None:
            window.valid[at] = valid

    def shared_box(self, index: tuple[int, ...]) -> np.ndarray:
        """Cells of a chunk that the whole plan can need, (start, stop) per array axis."""
        out = np.empty((len(index), 2), np.int64)
        for axis, (name, number, cells) in enumerate(zip(self.column.dims, index, self.chain.chunk_shape, strict=True)):
            picked: Picks = self.plan.axes[self.dims[name]].picked
            low, high = number * cells, (number + 1) * cells
            if isinstance(picked, slice):
                first, last = max(low, picked.start), min(high, picked.stop)
            else:
                at = np.searchsorted(picked, [low, high])
                first, last = int(picked[at[0]]), int(picked[at[1] - 1]) + 1
            out[axis] = first - low, last - low
        return out


@dataclass
class Load:
    """Columns of one frame on their way; `shared` are placed once all chunks are there."""

    source: ChunkedColumn
    shared: list[tuple[tuple[int, ...], Any, Future[np.ndarray | None]]] = field(default_factory=list)

    def place_shared(self) -> None:
        """Take the cells from shared chunks; all of them have been read."""
        raise NotImplementedError


@dataclass
class FullLoad(Load):
    """All selected cells of a column: flat over the frame, or per piece where dimensions are missing.

    Attributes
    ----------
    flat
        Values over all rows of the frame; None where the column lacks dimensions of the table.
    windows
        One N-d view per piece over the column's own dimensions in table order.
    """

    flat: CellBuffer | None = None
    windows: list[CellBuffer] = field(default_factory=list)
    where: list[tuple[int, ChunkPart]] = field(default_factory=list)

    @classmethod
    def begin(cls, source: ChunkedColumn, frame: Frame) -> FullLoad:
        """Allocate for a frame."""
        load = cls(source)
        if source.is_full:
            load.flat = source.buffer(frame.rows)
            load.windows = [load.flat.window(p.first_row, p.shape) for p in frame.pieces]
        else:
            for piece in frame.pieces:
                shape = tuple(piece.shape[d] for d in source.axes)
                load.windows.append(source.buffer(math.prod(shape)).window(0, shape))
        return load

    def place_shared(self) -> None:
        if self._adopt():
            return
        for index, (number, part), future in self.shared:
            self.source.put(future.result(), index, part, self.windows[number])

    def _adopt(self) -> bool:
        """Show the cells of the one chunk under the frame where they are, if they need no change and lie together."""
        if len(self.shared) != 1 or len(self.windows) != 1 or self.flat is None:
            return False
        if not self.source.in_place or self.source.nullable:
            return False
        _, (_, part), future = self.shared[0]
        raw = future.result()
        if raw is None:
            return False
        cells = take(raw, part.inside)
        if cells.shape != self.windows[0].values.shape or not cells.flags.c_contiguous:
            return False
        self.flat = CellBuffer(cells.reshape(-1), None)
        return True


@dataclass
class RowLoad(Load):
    """Cells of surviving rows only.

    Attributes
    ----------
    out
        Values over the survivors.
    """

    out: CellBuffer | None = None

    def put(self, raw: np.ndarray | None, index: tuple[int, ...], cells: tuple[np.ndarray, np.ndarray]) -> None:
        """Take single cells of a chunk: their C-order numbers inside it, and the survivors they belong to."""
        assert self.out is not None
        inside, rows = cells
        if raw is None:
            value, is_valid = self.source.fill(index)
            self.out.values[rows] = value
            if self.out.valid is not None:
                self.out.valid[rows] = is_valid
            return
        picked = self.source.buffer(len(rows))
        self.source.decoding.apply(raw.reshape(-1).take(inside), picked.values, picked.valid)
        self.out.values[rows] = picked.values
        if self.out.valid is not None and picked.valid is not None:
            self.out.valid[rows] = picked.valid

    def place_shared(self) -> None:
        for index, cells, future in self.shared:
            self.put(future.result(), index, cells)


def chunk_tasks(
    source: ChunkedColumn,
    indices: np.ndarray,
    boxes: np.ndarray | None,
    put: Callable[[int, np.ndarray | None], None],
    offer: Callable[[int], np.ndarray | None] | None,
    *,
    together: int,
    joined: Joined | None = None,
) -> list[Task]:
    """Tasks that read chunks and hand each to ``put`` by position; ``together`` decoded bytes per task.

    ``joined`` receives chunks instead where several are decoded in one call.
    """
    reader = source.reader
    groups = reader.groups(indices)
    tasks: list[Task] = []
    for run in _runs(groups, together // max(1, source.chain.chunk_nbytes)):

        def task(run: list[ChunkGroup] = run) -> None:
            if joined is not None and len(run) > 1 and reader.joins_objects:
                reader.read_joined(run, joined)
                return
            for group in run:
                try:
                    reader.read(group, indices, put, out_for=offer, boxes=boxes, joined=joined)
                except (GpuzarrError, MemoryError):
                    raise
                except Exception as error:
                    raise foreign_error(error, source.array.path, group.key) from error

        tasks.append(task)
    return tasks


def _runs(groups: list[ChunkGroup], chunks: int) -> Iterator[list[ChunkGroup]]:
    """Runs of objects that hold about so many chunks together, at least one object each."""
    run: list[ChunkGroup] = []
    held = 0
    for group in groups:
        run.append(group)
        held += len(group.positions)
        if held >= chunks:
            yield run
            run, held = [], 0
    if run:
        yield run


@dataclass
class Requests:
    """Chunks of one column that a load needs.

    Parameters
    ----------
    own
        Grid indices of chunks that only this load needs, int64 ``(n, array ndim)``.
    boxes
        Needed cells of each, see `ChunkReader.read`; None: all.
    places
        What the load takes from each: (number of the piece, `ChunkPart`), or cells of surviving rows.
    shared
        Other chunks: grid index, what the load takes, and the future that will hold the chunk.
    claims
        Those of them that this load has to read.
    """

    own: np.ndarray
    boxes: np.ndarray | None
    places: list[Any]
    shared: list[tuple[tuple[int, ...], Any, Future[Any]]] = field(default_factory=list)
    claims: list[tuple[tuple[int, ...], Future[Any]]] = field(default_factory=list)

    def add_shared(self, source: ChunkedColumn, shared: SharedChunks, index: tuple[int, ...], place: Any) -> None:
        """One more chunk that other loads need as well; the first to ask reads it."""
        future, mine = _claim(source, shared, index)
        self.shared.append((index, place, future))
        if mine:
            self.claims.append((index, future))


@dataclass(frozen=True)
class FrameChunks:
    """Chunks under a frame: the same for all columns of one chunk grid.

    Parameters
    ----------
    own, boxes, places
        Those that no other frame needs, see `Requests`.
    others
        The others: grid index and what the frame takes.
    """

    own: np.ndarray
    boxes: np.ndarray | None
    places: list[tuple[int, ChunkPart]]
    others: list[tuple[tuple[int, ...], tuple[int, ChunkPart]]]


def frame_chunks(source: ChunkedColumn, frame: Frame) -> FrameChunks:
    """The chunks of a column that all rows of a frame need."""
    indices = [np.empty((0, len(source.column.dims)), np.int64)]
    places: list[tuple[int, ChunkPart]] = []
    others: list[tuple[tuple[int, ...], tuple[int, ChunkPart]]] = []
    for number, piece in enumerate(frame.pieces):
        chunks = piece_chunks(source.column, source.dims, piece)
        if source.is_direct and piece.whole:
            indices.append(chunks.indices)
            places += [(number, part) for part in chunks.parts]
        else:
            rows = zip(chunks.indices.tolist(), chunks.parts, strict=True)
            others += [(tuple(row), (number, part)) for row, part in rows]
    boxes = None
    if not all(part.whole for _, part in places):
        boxes = np.array([part.box() for _, part in places], np.int64)
        boxes = boxes.reshape(len(places), len(source.chain.chunk_shape), 2)
    return FrameChunks(np.concatenate(indices), boxes, places, others)


def full_requests(
    source: ChunkedColumn, frame: Frame, shared: SharedChunks, known: dict[Any, FrameChunks] | None = None
) -> Requests:
    """What all rows of a frame need of a column; ``known`` keeps what other columns of the frame have in common with it."""
    key = (source.column.dims, source.chain.chunk_shape, source.is_direct)
    found = None if known is None else known.get(key)
    if found is None:
        found = frame_chunks(source, frame)
        if known is not None:
            known[key] = found
    out = Requests(found.own, found.boxes, found.places)
    for index, taken in found.others:
        out.add_shared(source, shared, index, taken)
    return out


def row_requests(
    source: ChunkedColumn, places: list[tuple[Piece, slice, tuple[np.ndarray, ...]]], shared: SharedChunks
) -> Requests:
    """What surviving rows need of a column; ``places`` as `gpuzarr.device.columns.positions` gives them."""
    own: list[tuple[int, ...]] = []
    boxes: list[list[tuple[int, int]]] = []
    ndim = len(source.column.dims)
    out = Requests(np.empty((0, ndim), np.int64), None, [])
    for piece, rows, absolute in places:
        for index, cells, box in rows_by_chunk(source, rows, absolute):
            if source.is_direct and piece.whole:
                own.append(index)
                boxes.append(box)
                out.places.append(cells)
            else:
                out.add_shared(source, shared, index, cells)
    out.own = np.array(own, np.int64).reshape(len(own), ndim)
    out.boxes = np.array(boxes, np.int64).reshape(len(own), ndim, 2)
    return out


def begin_full(
    source: ChunkedColumn,
    frame: Frame,
    shared: SharedChunks,
    scratch: Scratch,
    *,
    together: int,
    known: dict[Any, FrameChunks] | None = None,
) -> tuple[FullLoad, list[Task], list[Future[Any]]]:
    """Start loading a column for all rows of a frame: what to run, and which shared chunks of others to wait for."""
    load = FullLoad.begin(source, frame)
    requests = full_requests(source, frame, shared, known)
    load.shared = requests.shared
    waits = [future for _, _, future in requests.shared]
    tasks = shared_tasks(source, requests.claims, together=together)
    wanted, at, boxes = requests.places, requests.own, requests.boxes
    if not wanted:
        return load, tasks, waits
    shape = source.chain.chunk_shape

    stored = source.array.dtype.numpy
    straight: dict[int, np.ndarray] = {}  # cells of the frame that were offered to the decoder
    may = source.in_place and source.decoding.numpy == stored
    needs_room = source.fixed and (boxes is not None or source.reader.decodes_into)

    def offer(position: int) -> np.ndarray | None:
        number, part = wanted[position]
        if may and part.whole:
            cells: np.ndarray = load.windows[number].values[(*(part.at[d] for d in source.axes), ...)]
            if cells.flags.c_contiguous:
                straight[position] = cells
                return cells
        return scratch.array(shape, stored) if needs_room else None

    def put(position: int, raw: np.ndarray | None) -> None:
        number, part = wanted[position]
        cells = straight.pop(position, None)
        if raw is not None and cells is not None and not source.nullable and raw.ctypes.data == cells.ctypes.data:
            return  # decoded in place
        source.put(raw, tuple(at[position].tolist()), part, load.windows[number])
        scratch.give_back()

    copies = may and not source.nullable

    def put_joined(position: int, raw: np.ndarray | None) -> None:
        number, part = wanted[position]
        if copies and part.whole and raw is not None:
            load.windows[number].values[part.at] = raw
        else:
            source.put(raw, tuple(at[position].tolist()), part, load.windows[number])

    joined = Joined(lambda n: scratch.array((n, *shape), stored), put_joined, scratch.give_back)
    return load, tasks + chunk_tasks(source, at, boxes, put, offer, together=together, joined=joined), waits


def claimed_boxes(
    source: ChunkedColumn, claims: list[tuple[tuple[int, ...], Future[Any]]]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Indices of chunks that several tiles share, and the cells of each that the whole plan can need; None: all."""
    indices = np.array([index for index, _ in claims], np.int64).reshape(len(claims), len(source.column.dims))
    boxes = np.stack([source.shared_box(index) for index, _ in claims])
    whole = np.array([(0, c) for c in source.chain.chunk_shape], np.int64).reshape(-1, 2)
    return indices, None if (boxes == whole).all() else boxes


def shared_tasks(
    source: ChunkedColumn, claims: list[tuple[tuple[int, ...], Future[Any]]], *, together: int
) -> list[Task]:
    """Tasks that read chunks which several tiles share into arrays of their own."""
    if not claims:
        return []
    indices, boxes = claimed_boxes(source, claims)

    memory, shape, stored = source.memory, source.chain.chunk_shape, source.array.dtype.numpy
    offers = memory is not None and source.fixed and (boxes is not None or source.reader.decodes_into)

    def offer(_: int) -> np.ndarray | None:  # frames may show these cells as they are
        return None if memory is None else memory.array(math.prod(shape), stored).reshape(shape)

    def put(position: int, raw: np.ndarray | None) -> None:
        claims[position][1].set_result(raw)

    return chunk_tasks(source, indices, boxes, put, offer if offers else None, together=together)


def begin_rows(
    source: ChunkedColumn,
    places: list[tuple[Piece, slice, tuple[np.ndarray, ...]]],
    survivors: int,
    shared: SharedChunks,
    scratch: Scratch,
    *,
    together: int,
) -> tuple[RowLoad, list[Task], list[Future[Any]], int]:
    """Start loading a column for surviving rows only; the last item is the number of chunks that takes."""
    load = RowLoad(source, out=source.buffer(survivors))
    shape = source.chain.chunk_shape
    requests = row_requests(source, places, shared)
    load.shared = requests.shared
    waits = [future for _, _, future in requests.shared]
    tasks = shared_tasks(source, requests.claims, together=together)
    wanted, at = requests.places, requests.own
    if wanted:

        def put(position: int, raw: np.ndarray | None) -> None:
            load.put(raw, tuple(at[position].tolist()), wanted[position])
            scratch.give_back()

        def offer(_: int) -> np.ndarray | None:
            return scratch.array(shape, source.array.dtype.numpy) if source.fixed else None

        def put_joined(position: int, raw: np.ndarray | None) -> None:
            load.put(raw, tuple(at[position].tolist()), wanted[position])

        stored = source.array.dtype.numpy
        joined = Joined(lambda n: scratch.array((n, *shape), stored), put_joined, scratch.give_back)
        tasks += chunk_tasks(source, at, requests.boxes, put, offer, together=together, joined=joined)
    return load, tasks, waits, len(wanted) + len(requests.shared)


def rows_by_chunk(
    source: ChunkedColumn, rows: slice, absolute: tuple[np.ndarray, ...]
) -> list[tuple[tuple[int, ...], tuple[np.ndarray, np.ndarray], list[tuple[int, int]]]]:
    """Surviving rows of a piece by chunk: (chunk index, (cell numbers inside, positions among survivors), box)."""
    n = rows.stop - rows.start
    chunk = np.zeros(n, np.int64)
    numbers, inside = [], []
    for name, cells, size in zip(source.column.dims, source.chain.chunk_shape, source.array.shape, strict=True):
        number, local = np.divmod(absolute[source.dims[name]], cells)
        numbers.append(number)
        inside.append(local)
        chunk = chunk * -(-size // cells) + number
    order = np.argsort(chunk, kind="stable")
    cuts = [0, *(np.flatnonzero(np.diff(chunk[order])) + 1).tolist(), n]
    strides = [math.prod(source.chain.chunk_shape[a + 1 :]) for a in range(len(inside))]
    out = []
    for low, high in itertools.pairwise(cuts):
        here = order[low:high]
        cell = np.zeros(len(here), np.int64)
        box = []
        for local, stride in zip(inside, strides, strict=True):
            part = local[here]
            cell += part * stride
            box.append((int(part.min()), int(part.max()) + 1))
        index = tuple(int(number[here[0]]) for number in numbers)
        out.append((index, (cell, here + rows.start), box))
    return out


def _claim(
    source: ChunkedColumn, shared: SharedChunks, index: tuple[int, ...]
) -> tuple[Future[np.ndarray | None], bool]:
    return shared.claim((source.array.path, index), lambda: last_tile(source.column, source.plan, index))
