"""A dataset whose scans share the caches of a backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from gpuzarr.backends.byte_cache import Entry
from gpuzarr.backends.cached_reader import CachedChunkReader, CachedIndexes, array_token
from gpuzarr.backends.caches import Caches
from gpuzarr.backends.cancellation import Cancellation
from gpuzarr.backends.freshness import QueryView
from gpuzarr.backends.recording import RecordingStore
from gpuzarr.device.small import SmallScan
from gpuzarr.errors import GpuzarrError, Kind, ScanCancelled, StoreError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.options import ScanOptions
from gpuzarr.plan.chunks import chunk_count, touched
from gpuzarr.plan.model import ScanPlan
from gpuzarr.reader import ChunkReader
from gpuzarr.source.dataset import Dataset, chunked_columns, no_rows
from gpuzarr.source.polars_source import refuse_fork
from gpuzarr.source.sorted_flags import flagged
from gpuzarr.source.unchanged import DocumentGuard
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store import ByteStore
from gpuzarr.table import Column, Coordinates, Table
from gpuzarr.table.whole import read_whole

__all__ = ["CachedDataset", "RawValues"]

INLINE_ROWS = 2**16
"""Scans of at most this many rows whose chunks are at hand are done without threads."""

INLINE_CHUNKS = 16

THREADED_BYTES = 2**19
"""Where small scans have to decode this much in several chunks, they do it in several threads."""

SMALL_BYTES = 2**25
"""Scans of a local store that have to decode more than this are no small ones, whatever they give."""


class RawValues:
    """Raw values of coordinates that were read while the table was built, until they are decoded; and how to read others.

    Parameters
    ----------
    caches
        Is told which objects a coordinate was read from.
    """

    def __init__(self, caches: Caches, on_missing: Any, statistics: ScanStatistics) -> None:
        self._caches = caches
        self._on_missing = on_missing
        self._statistics = statistics
        self._kept: dict[str, tuple[np.ndarray, tuple[tuple[str, Any], ...], float]] = {}
        self._lock = threading.Lock()

    def early(self, array: ArrayMetadata) -> np.ndarray:
        """Values that are needed before anything is decoded; kept for `__call__`."""
        with self._lock:
            kept = self._kept.get(array.path)
        if kept is None:
            kept = self._read(array)
            with self._lock:
                self._kept[array.path] = kept
        return kept[0]

    def __call__(self, array: ArrayMetadata) -> np.ndarray:
        """Values to be decoded."""
        with self._lock:
            kept = self._kept.pop(array.path, None)
        if kept is not None and not self._caches.freshness.is_current(Entry(None, 0, kept[1], kept[2])):
            kept = None
        values, objects, read_at = kept if kept is not None else self._read(array)
        self._caches.note_source(array.path, objects, read_at)
        return values

    def _read(self, array: ArrayMetadata) -> tuple[np.ndarray, tuple[tuple[str, Any], ...], float]:
        store = RecordingStore(QueryView(self._caches.freshness))
        values = read_whole(store, array, on_missing=self._on_missing, statistics=self._statistics)
        return values, store.objects, store.began


class CachedDataset(Dataset):
    """One table of a backend.

    Parameters
    ----------
    caches
        Of the backend.
    documents
        The documents that the table was made from.
    raw
        How coordinates are read.

    Attributes
    ----------
    errors
        What scans of this object raised: engines do not always pass an error on as it is.
    """

    def __init__(
        self,
        store: ByteStore,
        table: Table,
        options: ScanOptions,
        statistics: ScanStatistics,
        *,
        caches: Caches,
        documents: Entry,
        raw: RawValues,
    ) -> None:
        super().__init__(store, table, options, statistics)
        self._caches = caches
        # What is current is the backend's to say; a missing chunk is reason to look whatever it believes.
        self.guard = DocumentGuard(store, self.table, seen={}, on_change=caches.freshness.changed)
        self._documents = documents
        self._raw = raw
        self._view: QueryView | None = None
        self._cancellation: Cancellation | None = None
        self.errors: list[GpuzarrError] = []
        self._closed: Callable[[], bool] = lambda: False
        sizes = self.table.sizes
        self._keys = {
            c.name: caches.coordinate_key(c, tuple(d for d in sizes if d in c.dims), options.on_missing)
            for c in self.table.columns
            if c.is_coordinate and c.array is not None
        }
        self._tokens = _Tokens()

        def keep(column: Column, make: Callable[[], Any]) -> Any:
            assert column.array is not None
            return caches.coordinate(self._keys[column.name], column.array, make)

        self.coordinates = Coordinates(self.table, raw, keep)

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self.store, self.table, self.options)

    @property
    def is_current(self) -> bool:
        """Whether the documents are those that are stored now, as far as the backend's rule goes."""
        return self._caches.freshness.is_current(self._documents)

    def until(self, closed: Callable[[], bool]) -> CachedDataset:
        """The same dataset, unusable once ``closed()``."""
        self._closed = closed
        return self

    def for_query(self, cancellation: Cancellation | None = None, *, looked: bool = False) -> CachedDataset:
        """The dataset for one query: it holds on to the coordinates that it plans with until its last frame.

        Parameters
        ----------
        looked
            `is_current` was looked at just now.

        Raises
        ------
        StoreError
            STORE_CHANGED: the documents were changed since the table was made.
        """
        refuse_fork(self)
        if self._closed():
            raise ScanCancelled("The backend was closed. Open it again to scan.", store=self.table.store)
        if not looked and self._caches.freshness.kind != "unknown" and not self.is_current:
            raise StoreError(
                "The store's metadata were changed after this table was made. Call lazy() or scan_zarr() again.",
                kind=Kind.STORE_CHANGED,
                store=self.table.store,
            )
        self._caches.drop_outdated(self._keys)
        chosen = cancellation if cancellation is not None else self._cancellation
        view = QueryView(self._caches.freshness)
        return self._copy(_view=view, _cancellation=chosen, coordinates=self.coordinates.emptied())

    def with_options(self, **changes: Any) -> CachedDataset:
        """The same dataset with other options than the order of rows and what missing chunks mean."""
        assert not changes.keys() & {"order", "on_missing"}
        return self._copy(options=replace(self.options, **changes))

    def for_call(self, cancellation: Cancellation | None, **changes: Any) -> CachedDataset:
        """The same dataset, with an own list of `errors`; its scans end when they are cancelled."""
        options = replace(self.options, **changes) if changes else self.options
        return self._copy(options=options, _cancellation=cancellation, errors=[])

    def plan(
        self,
        with_columns: Sequence[str] | None = None,
        predicate: pl.Expr | None = None,
        n_rows: int | None = None,
        *,
        guarded: bool = True,
        elementwise: bool = False,
    ) -> ScanPlan:
        """Plan a scan; see `Dataset.plan`."""
        try:
            return super().plan(with_columns, predicate, n_rows, guarded=guarded, elementwise=elementwise)
        except GpuzarrError as error:
            self.errors.append(error)
            raise

    def reader(self, statistics: ScanStatistics) -> Callable[[Column], ChunkReader]:
        """Makes the chunk readers of one scan."""
        view = self._view if self._view is not None else QueryView(self._caches.freshness)
        caches, verify = self._caches, self.guard.for_scan()

        def verifier(array: ArrayMetadata) -> Callable[[], None] | None:
            return None if view.freshness.kind == "fixed" else lambda: verify(array)

        def make(column: Column) -> ChunkReader:
            assert column.array is not None
            assert column.chain is not None
            # Without versions, an index could be of another version than the chunks that are read by it.
            indexes = CachedIndexes(view, caches.indexes, caches.gates) if view.freshness.kind != "unknown" else None
            token = self._tokens.of(column.array)
            return CachedChunkReader(
                view,
                column.array,
                column.chain,
                statistics,
                chunks=caches.chunks,
                on_device=caches.on_device,
                indexes=indexes,
                token=token,
                verify=verifier(column.array),
            )

        return make

    def scan(
        self, plan: ScanPlan, statistics: ScanStatistics | None = None, *, heartbeat: bool = False
    ) -> Iterator[pl.DataFrame]:
        """Run a plan on the host; see `Dataset.scan`."""
        statistics = statistics if statistics is not None else ScanStatistics()
        small = self.small(plan, statistics)
        if small is not None:
            yield from self._at_once(plan, small)
            return
        device = self.device(plan, statistics, inline=self.is_inline(plan))
        frames = self.large_frames(plan) if self.options.device == "cuda" else None
        empty = no_rows(plan) if heartbeat else None
        found = self.run(plan, device, statistics, frames=frames, heartbeat=empty)
        found = flagged(plan, self.coordinates, found)
        try:
            if self._cancellation is None:
                yield from found
                return
            cancelled = ScanCancelled("The scan was cancelled.", store=self.table.store)
            with self._cancellation.calling(lambda: device.fail(cancelled)):
                yield from found
        except GpuzarrError as error:
            self.errors.append(error)
            raise

    def _at_once(self, plan: ScanPlan, small: SmallScan) -> Iterator[pl.DataFrame]:
        try:
            frames = list(flagged(plan, self.coordinates, small.frames()))
        except GpuzarrError as error:
            self.errors.append(error)
            raise
        if self._cancellation is not None and self._cancellation.is_raised:
            cancelled = ScanCancelled("The scan was cancelled.", store=self.table.store)
            self.errors.append(cancelled)
            raise cancelled
        yield from frames

    def small(self, plan: ScanPlan, statistics: ScanStatistics) -> SmallScan | None:
        """See `Dataset.small`: a scan whose chunks are at hand, but for one; more in a local store."""
        if plan.selected_rows > INLINE_ROWS or plan.tile_count > INLINE_CHUNKS:
            return None
        if not SmallScan.fits(plan) or self.progress is not None or self.options.device == "cuda":
            return None
        small = SmallScan(plan, self.coordinates, self.reader(statistics), self.options, statistics)
        if small.frame is None:
            return None
        left = nbytes = 0
        for wanted in small.wanted.values():
            reader = wanted.source.reader
            assert isinstance(reader, CachedChunkReader)
            missing = reader.missing(wanted.indices)
            left += missing
            nbytes += missing * wanted.source.chain.chunk_nbytes
        if left > 1 and nbytes >= THREADED_BYTES:
            small.threads = min(left, self.workers)
        return small if left <= 1 or (self.store.is_local and nbytes <= SMALL_BYTES) else None

    def is_inline(self, plan: ScanPlan) -> bool:
        """Whether a scan is so small that it is done in the thread that asks for it."""
        if plan.selected_rows > INLINE_ROWS or plan.tile_count > INLINE_CHUNKS:
            return False
        make = self.reader(ScanStatistics())
        left = 0
        for column in chunked_columns(plan, self.coordinates).values():
            if chunk_count(column, plan) > INLINE_CHUNKS:
                return False
            reader = make(column)
            assert isinstance(reader, CachedChunkReader)
            indices = touched(column, plan)
            left += reader.missing(indices)
        return left <= 1

    def _copy(self, **changes: Any) -> CachedDataset:
        out = object.__new__(type(self))  # copy.copy would go through the pickle, without the caches
        out.__dict__.update(self.__dict__, **changes)
        return out


class _Tokens:
    """`array_token` by path; it takes as long as a small read."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, ...]] = {}

    def of(self, array: ArrayMetadata) -> tuple[Any, ...]:
        token = self._known.get(array.path)
        if token is None:
            token = self._known[array.path] = (array_token(array),)
        return token
