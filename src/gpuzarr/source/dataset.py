"""An opened table: store, coordinates and readers behind a plan. Free of any engine's call conventions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import polars as pl

from gpuzarr.device.base import Device
from gpuzarr.device.coordinate_scan import CoordinateScan
from gpuzarr.device.host import HostDevice
from gpuzarr.device.small import SmallScan
from gpuzarr.errors import GpuzarrError
from gpuzarr.executor.loop import DEFAULT_BUDGET, run
from gpuzarr.metadata.limits import DEFAULT_LIMITS, Limits
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.options import ScanOptions
from gpuzarr.plan.chunks import chunk_count
from gpuzarr.plan.model import FRAME_ROWS, Frame, ScanPlan
from gpuzarr.plan.planner import in_order, make_plan
from gpuzarr.progress import ProgressFactory, watch
from gpuzarr.reader import ChunkReader
from gpuzarr.source.guards import Excess, excess
from gpuzarr.source.sorted_flags import flagged, leading_column, order_of_leading
from gpuzarr.source.together import read_together
from gpuzarr.source.unchanged import DocumentGuard, same_values
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store import ByteStore, for_scan
from gpuzarr.table import Column, Coordinates, Table
from gpuzarr.table.whole import read_whole

__all__ = ["Dataset", "RawReader", "chunked_columns", "no_rows"]

REMOTE_WORKERS = 64
"""Threads of a scan of a remote store: as many as it takes requests at a time by default."""

INLINE_CHUNKS = 4

INLINE_ROWS = 2**16

INLINE_BYTES = 2**20
"""A scan of a local store that decodes at most this much is done in the thread that asks for it."""

CALL_COST = 2**16
"""Bytes that are decoded while a call of a decoder is prepared and its chunks are placed, which threads take turns at."""

MAX_ORDER_CELLS = 2**17
"""Of a coordinate of a local store that is read to see whether its values come in order."""

SMALL_TILES = 64

SMALL_CHUNKS = 256

SMALL_BYTES = 2**25
"""A scan of a local store that decodes at most this much, and fills one frame, is done without tasks, phases and shared buffers."""

Result = TypeVar("Result")


def chunked_columns(plan: ScanPlan, coordinates: Coordinates) -> dict[str, Column]:
    """Columns whose chunks a plan reads, by array path: of the projection and of the filter, struct fields one by one."""
    out: dict[str, Column] = {}
    for name in (*plan.projection, *(plan.filter.columns if plan.filter is not None else ())):
        for leaf in plan.table.by_name[name].leaves:
            if leaf.array is not None and not coordinates.holds(leaf):
                out[leaf.array.path] = leaf
    return out


def used_columns(plan: ScanPlan) -> list[Column]:
    """Columns that a plan hands out or filters by, coordinates among them: they may be read while it runs."""
    names = dict.fromkeys((*plan.projection, *(plan.filter.columns if plan.filter is not None else ())))
    return [plan.table.by_name[name] for name in names]


def no_rows(plan: ScanPlan) -> pl.DataFrame:
    """The columns of a plan without rows."""
    return pl.DataFrame(schema={name: plan.table.schema[name] for name in plan.projection})


@dataclass(frozen=True)
class RawReader:
    """Reads whole arrays for the table and for its `Coordinates`; picklable.

    What the table needed to see (times, to choose their unit) is kept for the coordinates, which ask once; where it needs
    to see anything, those `beside` are read in the same round trip. `verify` is called where a chunk is not there, or is
    damaged.
    """

    store: ByteStore
    on_missing: Any
    statistics: ScanStatistics
    seen: dict[Any, Any] = field(default_factory=dict, compare=False)
    verify: Callable[[ArrayMetadata], None] | None = field(default=None, compare=False)
    beside: tuple[ArrayMetadata, ...] = field(default=(), compare=False)

    def early(self, array: ArrayMetadata) -> Any:
        """Raw values of an array, kept until they are asked for again."""
        if self.beside and not self.seen:
            others = [other for other in self.beside if other.path != array.path]
            read_together([array, *others], self._keep)
        return self._keep(array)

    def _keep(self, array: ArrayMetadata) -> Any:
        values = self.seen[self.key(array)] = self(array)
        return values

    @staticmethod
    def key(array: ArrayMetadata) -> Any:
        """Under which values are in `seen`."""
        return array.path, array.shape, array.dtype

    def __call__(self, array: ArrayMetadata) -> Any:
        """Raw values of an array."""
        kept = self.seen.pop(self.key(array), None)
        if kept is not None:
            return kept
        verify = self.verify
        return read_whole(
            self.store,
            array,
            on_missing=self.on_missing,
            statistics=self.statistics,
            verify=None if verify is None else lambda: verify(array),
        )


class Dataset:
    """One table of an opened store, ready to be scanned any number of times, also at once.

    Parameters
    ----------
    store
        Opened store.
    table
        The table.
    options
        Of every scan.
    statistics
        Counts what opening and planning read.
    read_raw
        Reads coordinates; has read those that the table needed to see.
    limits
        How much metadata was accepted.
    documents
        What the guard of a dataset of the same table saw; None if the table was made just now.

    Attributes
    ----------
    coordinates
        Values of the table's coordinates, read once.
    statistics
        What opening and planning read: documents and coordinates.
    guard
        Notices that the store is not what the table was made from.
    progress
        Makes the progress of every scan, see `gpuzarr.progress`; None for none. Not part of a pickled copy.
    """

    def __init__(
        self,
        store: ByteStore,
        table: Table,
        options: ScanOptions,
        statistics: ScanStatistics | None = None,
        *,
        read_raw: RawReader | None = None,
        limits: Limits = DEFAULT_LIMITS,
        documents: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = store
        self.table = in_order(table, options.order)
        self.options = options
        self.statistics = statistics if statistics is not None else ScanStatistics()
        self.limits = limits
        self.guard = DocumentGuard(
            store, self.table, limits=limits, seen=documents, coordinates_differ=self._other_coordinate
        )
        read_raw = read_raw if read_raw is not None else RawReader(store, options.on_missing, self.statistics)
        self._raw_seen = read_raw.seen
        self.coordinates = Coordinates(self.table, replace(read_raw, verify=self.guard.for_scan()))
        self.progress: ProgressFactory | None = None
        self._pid = os.getpid()

    def __getstate__(self) -> Mapping[str, Any]:
        return {
            "store": self.store,
            "table": self.table,
            "options": self.options,
            "limits": self.limits,
            "documents": self.guard.seen,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def pid(self) -> int:
        """Process in which the dataset was opened."""
        return self._pid

    def for_query(self) -> Dataset:
        """The dataset as one query should see it, from its plan to its last frame."""
        return self

    def order_at_hand(self) -> tuple[str, bool] | None:
        """`order_of_leading` of the table, where that takes no request that has a price; None where nobody looked yet."""
        column = leading_column(self.table)
        if column is None:
            return None
        seen = column.array is None or RawReader.key(column.array) in self._raw_seen
        if not seen and (not self.store.is_local or self.table.dims[0].size > MAX_ORDER_CELLS):
            return None
        try:
            return order_of_leading(self.table, self.coordinates, (column.name,))
        except GpuzarrError:  # for queries to raise
            return None

    def plan(
        self,
        with_columns: Sequence[str] | None = None,
        predicate: pl.Expr | None = None,
        n_rows: int | None = None,
        *,
        guarded: bool = True,
        elementwise: bool = False,
    ) -> ScanPlan:
        """Plan a scan; reads coordinates at most, and looks whether the arrays that the query names are what they were.

        ``elementwise``: the predicate was pushed down by Polars, and so is known to look at one row at a time.

        Raises
        ------
        PlanLimitError
            A guard refuses it (unless not ``guarded``), or it selects more than one scan can hold.
        StoreError
            ``STORE_CHANGED``: an array was deleted or written anew since the table was made.
        """
        self.guard.check(self._named(with_columns, predicate))
        self._read_coordinates(with_columns, predicate)
        plan = make_plan(
            self.table,
            self.coordinates,
            with_columns=with_columns,
            predicate=predicate,
            n_rows=n_rows,
            elementwise=elementwise,
        )
        refused = self.excess(plan) if guarded else None
        if refused is not None:
            raise refused.error(store=self.table.store, group=self.table.group)
        return plan

    def _named(self, with_columns: Sequence[str] | None, predicate: pl.Expr | None) -> list[Column]:
        """Columns that a query names."""
        names = set(self.table.by_name if with_columns is None else with_columns)
        if predicate is not None:
            names |= set(predicate.meta.root_names())
        return [c for c in self.table.columns if c.name in names]

    def _read_coordinates(self, with_columns: Sequence[str] | None, predicate: pl.Expr | None) -> None:
        """Read the coordinates that a query names all at once, where each would be a round trip."""
        if self.store.is_local:
            return
        wanted = [c.name for c in self._named(with_columns, predicate) if c.array is not None]
        wanted = [name for name in wanted if self.coordinates.dims_of(name) is not None]
        if len(wanted) > 1:
            with ThreadPoolExecutor(len(wanted), thread_name_prefix="gpuzarr-coordinate") as pool:
                list(pool.map(self.coordinates.numpy, wanted))

    def _other_coordinate(self) -> str | None:
        """The first coordinate that was read and whose stored values are other ones now."""
        self._raw_seen.clear()
        stored = Coordinates(self.table, RawReader(self.store, self.options.on_missing, ScanStatistics()))
        names = (name for name in self.coordinates.loaded if self.table.by_name[name].array is not None)
        return next((n for n in names if not same_values(self.coordinates.numpy(n), stored.numpy(n))), None)

    def excess(self, plan: ScanPlan) -> Excess | None:
        """The guard that refuses a plan; None if it may run."""
        return excess(self.options, rows=plan.selected_rows, chunks=self.chunks_to_read(plan))

    def chunks_to_read(self, plan: ScanPlan) -> Iterator[tuple[int, int]]:
        """Chunks that a plan reads, and their decoded bytes, array by array."""
        for column in chunked_columns(plan, self.coordinates).values():
            assert column.chain is not None
            number = chunk_count(column, plan)
            yield number, number * column.chain.chunk_nbytes

    def reader(self, statistics: ScanStatistics) -> Callable[[Column], ChunkReader]:
        """Makes the chunk readers of one scan; they notice an object that changes while it runs."""
        store, verify = for_scan(self.store), self.guard.for_scan()

        def make(column: Column) -> ChunkReader:
            array = column.array
            assert array is not None
            assert column.chain is not None
            return ChunkReader(store, array, column.chain, statistics, verify=lambda: verify(array))

        return make

    def scan(
        self, plan: ScanPlan, statistics: ScanStatistics | None = None, *, heartbeat: bool = False
    ) -> Iterator[pl.DataFrame]:
        """Run a plan: data frames in row order. Closing the iterator stops the work.

        ``heartbeat``: a scan that takes long gives empty data frames meanwhile.
        """
        statistics = statistics if statistics is not None else ScanStatistics()
        small = self.small(plan, statistics)
        if small is not None:
            return flagged(plan, self.coordinates, self._unchanged(plan, small.frames()))
        if self.progress is None and self.options.device != "cuda" and CoordinateScan.fits(plan, self.coordinates):
            scan = CoordinateScan(plan, self.coordinates, statistics, cache_bytes=self.budget // 4)
            return flagged(plan, self.coordinates, self._unchanged(plan, scan.frames(), reads="first"))
        device = self.device(plan, statistics, inline=self.is_inline(plan))
        frames = self.large_frames(plan) if self.options.device == "cuda" else None
        empty = no_rows(plan) if heartbeat else None
        found = self.run(plan, device, statistics, frames=frames, heartbeat=empty)
        return flagged(plan, self.coordinates, found)

    def _unchanged(
        self, plan: ScanPlan, frames: Iterator[pl.DataFrame], *, reads: Literal["first", "each"] = "each"
    ) -> Iterator[pl.DataFrame]:
        """Frames, each handed out once it is known that no array was written anew before it was read; else `StoreError`.

        ``reads``: which frames read anything.
        """
        for number, frame in enumerate(frames):
            if number == 0 or reads == "each":
                self.guard.check(used_columns(plan))
            yield frame

    def small(self, plan: ScanPlan, statistics: ScanStatistics) -> SmallScan | None:
        """The scan without phases and shared buffers, if it is small enough for that."""
        if not SmallScan.fits(plan) or self.progress is not None or self.options.device == "cuda":
            return None
        if not self.is_small(plan):
            return None
        scan = SmallScan(plan, self.coordinates, self.reader(statistics), self.options, statistics)
        if scan.frame is None:
            return None
        wanted = scan.wanted.values()
        calls, nbytes = sum(w.calls for w in wanted), sum(w.nbytes for w in wanted)
        if calls > 1 and nbytes > INLINE_BYTES + calls * CALL_COST:
            scan.threads = self.workers
        scan.spare = self.workers - scan.threads
        return scan

    def is_small(self, plan: ScanPlan) -> bool:
        """Whether a scan reads nothing, or little of a local store, and gives rows for one frame."""
        if plan.tile_count > SMALL_TILES:
            return False
        if not chunked_columns(plan, self.coordinates):
            return plan.selected_rows <= INLINE_ROWS
        if not self.store.is_local or plan.selected_rows > FRAME_ROWS:
            return False
        wanted = list(self.chunks_to_read(plan))
        return sum(n for n, _ in wanted) <= SMALL_CHUNKS and sum(nbytes for _, nbytes in wanted) <= SMALL_BYTES

    def large_frames(self, plan: ScanPlan) -> Iterator[Frame]:
        """Frames of about a quarter of the budget: a GPU wants many streams at a time."""
        from gpuzarr.source.gpu_source import row_nbytes

        rows = max(FRAME_ROWS, self.budget // 4 // row_nbytes(plan))
        return plan.frames(rows_wanted=rows, rows_most=rows)

    def is_inline(self, plan: ScanPlan) -> bool:
        """Whether a scan is so small that starting threads would cost more than they save."""
        if not chunked_columns(plan, self.coordinates):
            return plan.selected_rows <= INLINE_ROWS
        if not self.store.is_local or plan.tile_count > INLINE_CHUNKS or plan.selected_rows > INLINE_ROWS:
            return False
        return sum(nbytes for _, nbytes in self.chunks_to_read(plan)) <= INLINE_BYTES

    def run(
        self,
        plan: ScanPlan,
        device: Device[Result],
        statistics: ScanStatistics,
        *,
        frames: Iterator[Frame] | None = None,
        budget: int | None = None,
        ahead: int | None = None,
        heartbeat: Result | None = None,
    ) -> Iterator[Result]:
        """Run a plan, or some of its frames, on a device; for the rest see `gpuzarr.executor.loop.run`.

        Raises
        ------
        StoreError
            After the last frame, ``STORE_CHANGED``: an array was written anew meanwhile, so frames may hold its new values.
        """
        finished = watch(self.progress, statistics, self, plan) if self.progress is not None else None
        yield from run(
            plan.frames() if frames is None else frames,
            device,
            budget=self.budget if budget is None else budget,
            ahead=4 * self.workers if ahead is None else ahead,
            finished=finished,
            heartbeat=heartbeat,
        )
        self.guard.check(used_columns(plan))

    def device(self, plan: ScanPlan, statistics: ScanStatistics, *, inline: bool = False) -> HostDevice:
        """The device of one scan."""
        if self.options.device == "cuda":
            from gpuzarr.device.cuda_frames import open_host_frames

            return open_host_frames(self, plan, statistics)
        return HostDevice(
            plan,
            self.coordinates,
            self.reader(statistics),
            self.options,
            statistics,
            workers=self.workers,
            together=2**20 if self.store.is_local else 0,
            cache_bytes=self.budget // 4,
            inline=inline,
        )

    @property
    def budget(self) -> int:
        """Bytes of frames in flight."""
        return self.options.memory_budget if self.options.memory_budget is not None else DEFAULT_BUDGET

    @property
    def workers(self) -> int:
        """Threads of a scan."""
        if self.options.workers is not None:
            return self.options.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cores if self.store.is_local else max(cores, REMOTE_WORKERS)

    def with_options(self, **changes: Any) -> Dataset:
        """The same dataset with other options; coordinates are read again."""
        options = replace(self.options, **changes)
        out = Dataset(self.store, self.table, options, limits=self.limits, documents=self.guard.seen)
        out.progress = self.progress
        return out
