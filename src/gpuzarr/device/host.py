"""The host device: threads read and decode, numpy assembles, Polars filters."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import lru_cache, partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from gpuzarr.device.columns import Places, positions, without_columns
from gpuzarr.device.coordinate_columns import CoordinateColumns
from gpuzarr.device.engine_threads import is_engine_thread
from gpuzarr.device.frame_memory import FrameMemory
from gpuzarr.device.loading import (
    TASK_BYTES,
    ChunkedColumn,
    FrameChunks,
    FullLoad,
    Load,
    RowLoad,
    Scratch,
    Task,
    begin_full,
    begin_rows,
)
from gpuzarr.device.pool import FEWER_THREADS, InlinePool, WorkPool
from gpuzarr.device.scan_errors import scan_errors
from gpuzarr.device.shared_chunks import SharedChunks
from gpuzarr.device.tabulated import TabulatedFilter, decoded, tabulated
from gpuzarr.errors import ScanCancelled
from gpuzarr.options import ScanOptions
from gpuzarr.plan.axis import chunks_touched
from gpuzarr.plan.model import FRAME_ROWS, Frame, ScanPlan
from gpuzarr.reader import ChunkReader
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.coordinates import Coordinates
from gpuzarr.table.model import Column
from gpuzarr.table.row_bytes import nbytes_of

__all__ = ["FrameJob", "HostDevice", "data_frame", "limit_mask"]

GATHER_BELOW = 0.3
"""Share of surviving rows below which cells are gathered one by one; above, whole frames are assembled and filtered."""

EAGER_AFTER = 4
"""Filtered frames after which a scan whose survivors touch nearly all chunks stops reading in two phases."""

EAGER_SHARE = 0.8


class HostDevice:
    """Turns frames into `polars.DataFrame` on the host. One object per scan.

    Parameters
    ----------
    readers
        A chunk reader for every array of the plan that is not a planner-readable coordinate, by array path.
    workers
        Threads that read and decode.
    inline
        All work is done in the calling thread: for scans so small that starting threads would cost more.
    """

    may_tabulate = True  # filters may be asked of stored values

    def __init__(
        self,
        plan: ScanPlan,
        coordinates: Coordinates,
        readers: Callable[[Column], ChunkReader],
        options: ScanOptions,
        statistics: ScanStatistics,
        *,
        workers: int,
        together: int = TASK_BYTES,
        cache_bytes: int = 2**26,
        inline: bool = False,
    ) -> None:
        self.plan = plan
        self.statistics = statistics
        self.together = together
        self.pool: WorkPool | InlinePool = InlinePool() if inline else WorkPool(workers)
        self.shared = SharedChunks()
        self.scratch = Scratch()
        self.memory = FrameMemory(cache_bytes)
        self.coordinates = CoordinateColumns(plan, coordinates, cache_bytes=cache_bytes, memory=self.memory)
        self._steps: SimpleQueue[Task] | None = None
        self._jobs: dict[int, FrameJob] = {}
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._late_frames = self._late_chunks = self._all_chunks = 0

        self.sources: dict[str, ChunkedColumn] = {}

        def chunked(names: Sequence[str]) -> dict[str, ChunkedColumn]:
            out = {}
            for name in names:
                for leaf in plan.table.by_name[name].leaves:
                    if leaf.array is None or coordinates.holds(leaf):
                        continue
                    path = leaf.array.path
                    if path not in self.sources:
                        self.sources[path] = ChunkedColumn(leaf, plan, readers(leaf), options.on_missing, self.memory)
                    out[path] = self.sources[path]
            return out

        self.filter_columns = chunked(plan.filter.columns) if plan.filter is not None else {}
        self.output_columns = chunked(plan.projection)
        self.tabulated = tabulated(plan, self.filter_columns) if self.may_tabulate else None
        if self.tabulated is not None:
            self.filter_columns = {self.tabulated.path: self.tabulated.raw}

    # -- the executor's side -------------------------------------------------------------------------------------

    def submit(self, frame: Frame) -> Future[list[pl.DataFrame]]:
        """Begin a frame, see `gpuzarr.device.base.Device`."""
        inline = isinstance(self.pool, InlinePool)
        if self._steps is None and frame.number == 0 and not inline and is_engine_thread():
            self._steps = SimpleQueue()
        job = self.make_job(frame)
        with self._lock:
            self._jobs[frame.number] = job
            error = self._error
        if error is not None:  # the scan was ended from elsewhere
            job.reject(error)
        job.guard(job.start)()  # here, in the order of frames: it settles which frame reads a chunk that several need
        return job.future

    def make_job(self, frame: Frame) -> FrameJob:
        """The work on one frame."""
        return FrameJob(self, frame)

    def wait(self, future: Future[list[pl.DataFrame]], seconds: float) -> bool:
        """Wait for a frame, and do meanwhile what only this thread may do; whether it is there.

        Never without a time limit: Polars lets the system restart waits, so that Ctrl-C would not end an unlimited one.
        """
        steps = self._steps
        if steps is None:
            return bool(wait([future], seconds).done)
        if not future.done():
            with contextlib.suppress(Empty):
                steps.get(timeout=seconds)()
        return future.done()

    def compute(self, frame: Frame, step: Task) -> None:
        """Run a step that evaluates with Polars: on a worker, or in the thread that pulls where workers must not."""
        if self._steps is not None:
            self._steps.put(step)
        else:
            self.pool.submit(frame.number, step)

    def nbytes(self, frame: Frame) -> int:
        """Bytes of the frame's columns and of the chunks that it alone decodes."""
        wanted = self.plan.filter.columns if self.plan.filter is not None else ()
        names = {*self.plan.projection, *wanted}
        row = nbytes_of(self.plan.table.schema[name] for name in names)
        scratch = sum(s.chain.chunk_nbytes for s in self.sources.values() if s.fixed and not s.in_place)
        return frame.rows * row + scratch

    def retire(self, frame: Frame) -> None:
        """Free what only frames up to this one needed."""
        with self._lock:
            self._jobs.pop(frame.number, None)
        self.shared.done_before(frame.done)

    def close(self) -> None:
        """Stop all work. Idempotent."""
        error = self._error or ScanCancelled("The scan was closed.")
        self.pool.close()
        if self.pool.refused:
            self.statistics.note(FEWER_THREADS)
        self.memory.close()
        self._fail_all(error)

    # -- the jobs' side ------------------------------------------------------------------------------------------

    def guard(self, step: Task) -> Task:
        """The step as a task that never raises: an error ends the scan."""
        store = self.plan.table.store

        def run() -> None:
            if self.pool.closed:
                return
            try:
                with scan_errors(store, "a frame was read", remedy="set memory_budget or select less"):
                    step()
            except BaseException as error:
                self.fail(error)

        return run

    def fail(self, error: BaseException) -> None:
        """One task failed: nobody waits any longer."""
        with self._lock:
            if self._error is None:
                self._error = error
        self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.reject(error)
        self.shared.fail(error)

    @property
    def reads_ahead(self) -> bool:
        """Whether two phases have not been worth it: survivors touched nearly all chunks so far."""
        return self._late_frames >= EAGER_AFTER and self._late_chunks >= EAGER_SHARE * self._all_chunks

    def count_late(self, chunks: int, of: int) -> None:
        """Chunks that phase two read for a frame, of those under the frame."""
        with self._lock:
            self._late_frames += 1
            self._late_chunks += chunks
            self._all_chunks += of


class FrameJob:
    """The work on one frame: phase one reads what the filter needs, phase two the rest where a row survived."""

    def __init__(self, device: HostDevice, frame: Frame) -> None:
        self.device = device
        self.frame = frame
        self.future: Future[list[pl.DataFrame]] = Future()
        self.loads: dict[str, Load] = {}
        self.places: Places | None = None  # of the surviving rows
        self._left = 0
        self._lock = threading.Lock()
        self._next: Callable[[], None] | None = None
        self._chunks: dict[Any, FrameChunks] = {}

    # -- running -------------------------------------------------------------------------------------------------

    def guard(self, step: Task) -> Task:
        """The step as a task that never raises: an error ends the scan. Does nothing once the job has ended."""
        guarded = self.device.guard(step)

        def run() -> None:
            if not self.future.done():
                guarded()

        return run

    def reject(self, error: BaseException) -> None:
        """End the job with an error, unless it has ended."""
        try:
            self.future.set_exception(error)
        except Exception:  # already done: the result stands
            pass

    def run(self, tasks: list[Task], waits: list[Future[Any]], then: Callable[[], None]) -> None:
        """Run tasks on the pool, wait for futures of others, then go on."""
        with self._lock:
            self._left = len(tasks) + len(waits) + 1
            self._next = then
        for task in tasks:
            self.device.pool.submit(self.frame.number, self.guard(partial(self._do, task)))
        for future in waits:
            future.add_done_callback(self._on_wait)
        self._one_done()

    def _do(self, task: Task) -> None:
        task()
        self._one_done()

    def _on_wait(self, future: Future[Any]) -> None:
        if future.exception() is None:
            self._one_done()

    def _one_done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
            then, self._next = self._next, None
        assert then is not None
        self.device.compute(self.frame, self.guard(then))

    # -- the phases ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Phase one: the variables of the filter, or all columns where nothing is filtered."""
        device = self.device
        self.device.statistics.add(tiles=len({p.tile for p in self.frame.pieces if p.tile <= self.frame.done}))
        if self.frame.filtered and not device.reads_ahead:
            self._load_full(device.filter_columns, self._choose)
        else:
            self._load_full(device.sources, self._choose)

    def _load_full(self, sources: dict[str, ChunkedColumn], then: Callable[[], None]) -> None:
        device, tasks, waits = self.device, [], []
        for path, source in sources.items():
            load, more, others = begin_full(
                source, self.frame, device.shared, device.scratch, together=device.together, known=self._chunks
            )
            self.loads[path] = load
            tasks += more
            waits += others
        self.run(tasks, waits, then)

    def _choose(self) -> None:
        """Evaluate the filter and decide how the rest is read."""
        for load in self.loads.values():
            load.place_shared()
        mask = self._mask() if self.frame.filtered else None
        survivors = self.frame.rows if mask is None else int(mask.sum() or 0)
        if survivors == 0:
            self.device.statistics.add(tiles_skipped_late=sum(p.whole for p in self.frame.pieces))
            self._finish([])
            return
        if survivors == self.frame.rows:
            mask = None
        rest = {path: s for path, s in self.device.output_columns.items() if path not in self.loads}
        dense = mask is None or survivors >= GATHER_BELOW * self.frame.rows
        if dense and mask is None:
            self._load_full_rest(rest, None)
            return
        assert mask is not None
        rows = self.device.coordinates.row_numbers(self.frame.rows).filter(mask).to_numpy()
        if not rest:
            self._hand_out(mask, rows, dense)
            return
        self.places = places = positions(rows, self.frame)
        tasks: list[Task] = []
        waits: list[Future[Any]] = []
        counts = 0
        for path, source in rest.items():
            load, more, others, chunks = begin_rows(
                source, places, survivors, self.device.shared, self.device.scratch, together=self.device.together
            )
            self.loads[path] = load
            tasks += more
            waits += others
            counts += chunks
        self.device.count_late(counts, self._chunks_under(rest))

        def after() -> None:
            for path in rest:
                self.loads[path].place_shared()
            self._hand_out(mask, rows, dense)

        self.run(tasks, waits, after)

    def _chunks_under(self, sources: dict[str, ChunkedColumn]) -> int:
        """Chunks of some columns under the frame."""
        return sum(sum(_chunks_under(s, p) for p in self.frame.pieces) for s in sources.values())

    def _load_full_rest(self, rest: dict[str, ChunkedColumn], mask: pl.Series | None) -> None:
        def after() -> None:
            for path in rest:
                self.loads[path].place_shared()
            self._hand_out(mask, None, True)

        if rest:
            self._load_full(rest, after)
        else:
            self._hand_out(mask, None, True)

    def _mask(self) -> pl.Series:
        """Which rows of the frame to keep, without nulls."""
        plan = self.device.plan
        mask: pl.Series | None = None
        stored = self._stored()
        if stored is not None and any(p.filtered for p in self.frame.pieces):
            mask = _boolean("keep", stored[0].mask(stored[1]))
        elif plan.filter is not None and any(p.filtered for p in self.frame.pieces):
            columns = [self._whole(plan.table.by_name[name]) for name in plan.filter.columns]
            columns += [
                self.device.coordinates.leaf(name, node, self.frame) for name, node in plan.filter.leaves.items()
            ]
            data = (
                pl.DataFrame(columns)
                if columns
                else pl.DataFrame({"row": self.device.coordinates.row_numbers(self.frame.rows)})
            )
            result = data.select(keep=plan.filter.expression)["keep"]
            mask = result.fill_null(False) if result.null_count() else result
            if len(mask) != self.frame.rows:  # an expression without columns
                mask = mask.new_from_index(0, self.frame.rows)
        wanted = limit_mask(self.frame)
        if wanted is not None:
            limit = _boolean("keep", wanted)
            mask = limit if mask is None else mask & limit
        assert mask is not None
        return mask

    def _stored(self) -> tuple[TabulatedFilter, np.ndarray] | None:
        """The filter on stored values, and these; None where the frame was loaded otherwise."""
        wanted = self.device.tabulated
        load = None if wanted is None else self.loads.get(wanted.path)
        if wanted is None or not isinstance(load, FullLoad) or load.source is not wanted.raw or load.flat is None:
            return None
        return wanted, load.flat.values

    def _decode_stored(self) -> None:
        """Make an ordinary load of stored values that were loaded for the filter alone."""
        found = self._stored()
        if found is None:
            return
        source = self.device.sources[found[0].path]
        flat = source.buffer(self.frame.rows)
        source.decoding.apply(found[1], flat.values, flat.valid)
        self.loads[found[0].path] = FullLoad(source, flat=flat)

    def _whole(self, column: Column) -> pl.Series:
        """A column over all rows of the frame."""
        if column.role == "struct":
            return pl.DataFrame([self._whole(f) for f in column.fields]).to_struct(column.name)
        wanted = self.device.tabulated
        if wanted is not None and column.array is not None and column.array.path == wanted.path:
            self._decode_stored()
        load = self.loads.get(column.array.path) if column.array is not None else None
        if isinstance(load, FullLoad):
            return self.device.coordinates.whole_load(column, load, self.frame)
        return self.device.coordinates.whole(column, self.frame)

    def _rows(self, column: Column, mask: pl.Series, rows: np.ndarray) -> pl.Series:
        """A column over the surviving rows."""
        if column.role == "struct":
            return pl.DataFrame([self._rows(f, mask, rows) for f in column.fields]).to_struct(column.name)
        load = self.loads.get(column.array.path) if column.array is not None else None
        if isinstance(load, RowLoad):
            assert load.out is not None
            assert column.decoding is not None
            return column.decoding.to_series(column.name, load.out.values, load.out.valid)
        stored = self._stored()
        if stored is not None and column.array is not None and column.array.path == stored[0].path:
            assert column.decoding is not None
            return decoded(column.decoding, column.name, stored[1].take(rows))
        if isinstance(load, FullLoad):
            return self._whole(column).filter(mask)
        if self.places is None:
            self.places = positions(rows, self.frame)
        return self.device.coordinates.at_rows(column, rows, self.frame, self.places)

    def _hand_out(self, mask: pl.Series | None, rows: np.ndarray | None, dense: bool) -> None:
        """Make the data frames of the projection."""
        plan = self.device.plan
        columns: list[pl.Series] = []
        constants: list[pl.Expr] = []
        for name in plan.projection:
            column = plan.table.by_name[name]
            load = self.loads.get(column.array.path) if column.array is not None else None
            if mask is None:
                scalar = self.device.coordinates.scalar(
                    column, load if isinstance(load, FullLoad) else None, self.frame
                )
                if scalar is None:
                    columns.append(self._whole(column))
                else:
                    constants.append(scalar)
            elif dense and not isinstance(load, RowLoad) and column.role != "struct":
                columns.append(self._whole(column).filter(mask))
            else:
                assert rows is not None
                columns.append(self._rows(column, mask, rows))
        height = self.frame.rows if mask is None else (len(rows) if rows is not None else int(mask.sum()))
        rows_out = data_frame(columns, constants, plan.projection, height)
        # what groups or joins them is faster with less at a time
        self._finish([rows_out] if height <= 2 * FRAME_ROWS else list(rows_out.iter_slices(FRAME_ROWS)))

    def _finish(self, frames: list[pl.DataFrame]) -> None:
        self.loads.clear()
        self._chunks.clear()
        self.places = None
        if frames:
            self.device.statistics.add(rows=sum(f.height for f in frames))
        try:
            self.future.set_result(frames)
        except Exception:  # rejected meanwhile
            pass


def _boolean(name: str, values: np.ndarray) -> pl.Series:
    """Column of truth values; faster than Polars' own way from numpy."""
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pl.Series(name, pa.Array.from_buffers(pa.bool_(), len(values), [None, bits]))


def limit_mask(frame: Frame) -> np.ndarray | None:
    """Which rows of a frame the row limit keeps; None if it keeps all."""
    if all(p.limit is None for p in frame.pieces):
        return None
    wanted = [np.ones(p.rows, np.bool_) if p.limit is None else p.limit.mask(p.picks).reshape(-1) for p in frame.pieces]
    return np.concatenate(wanted)


def data_frame(columns: list[pl.Series], constants: list[pl.Expr], order: tuple[str, ...], height: int) -> pl.DataFrame:
    """Columns and constants in the order of a projection, over ``height`` rows."""
    if not constants:
        return pl.DataFrame(columns) if columns else without_columns(height)
    rows = pl.DataFrame(columns) if columns else _rows_of(height)
    return rows.with_columns(constants)[list(order)]  # the index, unlike select(), starts no query


@lru_cache(maxsize=8)
def _rows_of(height: int) -> pl.DataFrame:
    """A data frame to put constants beside: one byte per row, the same one for every frame of a height."""
    return pl.DataFrame({"__gpuzarr_row": np.zeros(height, np.uint8)})


def _chunks_under(source: ChunkedColumn, piece: Any) -> int:
    return math.prod(
        chunks_touched(piece.picks[source.dims[n]], c)
        for n, c in zip(source.column.dims, source.chain.chunk_shape, strict=True)
    )
