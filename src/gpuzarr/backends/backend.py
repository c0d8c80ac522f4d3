"""What all backends share: one opened store, its caches, and the tables that were asked for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import polars as pl

from gpuzarr.api import table_and_scan_options
from gpuzarr.backends.aliases import with_aliases
from gpuzarr.backends.byte_cache import ByteCache, Entry, Key
from gpuzarr.backends.cached_dataset import CachedDataset, RawValues
from gpuzarr.backends.caches import Caches, Done, StatisticsReport
from gpuzarr.backends.cancellation import Cancellation
from gpuzarr.backends.chunk_report import chunk_report
from gpuzarr.backends.expressions import columns_of, request_of
from gpuzarr.backends.freshness import Freshness, QueryView
from gpuzarr.backends.options import BackendOptions
from gpuzarr.backends.recording import RecordingStore
from gpuzarr.errors import RequestError, ScanCancelled
from gpuzarr.metadata import GroupMetadata, open_node, walk
from gpuzarr.metadata.limits import DEFAULT_LIMITS, Limits
from gpuzarr.options import ScanOptions
from gpuzarr.plan.model import ScanPlan
from gpuzarr.predicate import is_elementwise
from gpuzarr.progress import progress_factory
from gpuzarr.source.polars_source import lazy_frame
from gpuzarr.source.together import read_together, small_coordinates
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store import OpenedStore, open_store
from gpuzarr.table import TableOptions, build_table

__all__ = ["Backend"]

_METADATA_NBYTES = 1 << 26


class Backend:
    """An opened store whose scans share caches. Safe under threads and tasks; opened by `ZarrBackend.from_url` and others.

    Parameters
    ----------
    store
        What `gpuzarr.store.open_store` accepts: a path, a URL, a store; or what it returned.
    options
        Sizes and rules of the caches.
    group
        Path below that.
    limits
        How much metadata is accepted.
    fixed
        Nothing in the store can change (an Icechunk snapshot).
    table
        Which table and how it is read: ``variables``, ``dims``, ``broadcast``, ``order``, ``decode_cf``, … as in
        `gpuzarr.scan_zarr`; `lazy` can choose another.
    """

    def __init__(
        self,
        store: Any,
        options: BackendOptions | None = None,
        *,
        group: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        fixed: bool = False,
        **table: Any,
    ) -> None:
        opened = open_store(store)
        if not isinstance(options, BackendOptions | None):
            raise RequestError(
                f"options must be BackendOptions, not {options!r}; name the other arguments, like group='a'."
            )
        self.options = options if options is not None else BackendOptions()
        self._store = opened.store
        self._path = "/".join(part for part in (opened.path, (group or "").strip("/")) if part and part != ".")
        self._limits = limits
        self._progress = table.pop("progress", None)
        self._table = table
        self._usual = Key(*self._table_of(table))  # wrong names and values are refused now
        self._freshness = Freshness(self._store, max_age=self.options.max_age, fixed=fixed)
        self._caches = Caches(self._freshness, self.options)
        self._datasets = ByteCache(_METADATA_NBYTES)
        self._running: weakref.WeakSet[Cancellation] = weakref.WeakSet()
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    # -- what there is -------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"{type(self).__name__}(root={self.root()!r}, store={self._store.label!r})"

    def root(self) -> str:
        """Path of the group (or array) in the store, with a leading slash."""
        return f"/{self._path}"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def schema(self, variables: list[str] | None = None) -> pl.Schema:
        """Columns and their types; with ``variables``, those of the table of these variables."""
        changes = {} if variables is None else {"variables": variables}
        return self.dataset(**changes).table.schema

    def lazy(self, **table: Any) -> pl.LazyFrame:
        """The table as a LazyFrame whose scans use the caches.

        Parameters
        ----------
        table
            What to change of the backend's own choice: ``variables=``, ``dims=``, ``progress=``, … as in `gpuzarr.scan_zarr`.
        """
        return lazy_frame(self.dataset(**table))

    def dataset(self, **table: Any) -> CachedDataset:
        """The table behind `lazy`; opened once, and again when its documents change."""
        if self._closed:
            raise ScanCancelled("The backend was closed. Open it again to scan.", store=self._store.label)
        progress = table.pop("progress", self._progress)
        key = Key(*self._table_of({**self._table, **table})) if table else self._usual
        kept = self._datasets.peek(key)
        if kept is not None and not kept.value.is_current:
            self._datasets.drop(key, kept)
        dataset: CachedDataset = self._datasets.load(key, lambda: self._open(*key.parts)).value
        factory = progress_factory(progress)
        if factory is not None:
            dataset = dataset.with_options()
            dataset.progress = factory
        return dataset

    def selected_chunks_debug(self, expr: pl.Expr) -> dict[str, Any]:
        """Which chunks a query over an expression needs, without reading any.

        Parameters
        ----------
        expr
            As for ``scan_zarr_async``.

        Returns
        -------
        dict
            ``grids``, see `gpuzarr.backends.chunk_report.chunk_report`, and ``coord_reads``, how many coordinates had to be
            read to know.
        """
        dataset = self.dataset().for_query()
        before = self._caches.coordinates.statistics().misses
        table = dataset.table
        request = request_of(expr, table.schema)
        if request.kind == "predicate":
            names = tuple(c.name for c in table.columns)
        else:
            names = request.columns or columns_of(expr, table.schema) or tuple(c.name for c in table.columns)
        chosen = [table.by_name[n] for n in names]
        chunked = [c for c in chosen if c.array is not None]
        columns = [c for c in chunked if c.role == "variable"] or chunked
        plan = dataset.plan(names, request.rows)
        grids = chunk_report(plan, sorted(columns, key=lambda c: c.name))
        return {"grids": grids, "coord_reads": self._caches.coordinates.statistics().misses - before}

    # -- caches --------------------------------------------------------------------------------------------------

    def cache_stats(self) -> StatisticsReport:
        """What the caches hold and did. May be awaited.

        Returns
        -------
        dict
            ``coord_entries``, ``var_entries``, ``has_metadata``; and, by cache (``coordinates``, ``variables``,
            ``indexes``, ``device``), the figures of `gpuzarr.backends.byte_cache.CacheStatistics`.
        """
        return self._caches.report(has_metadata=self._datasets.statistics().entries > 0)

    def clear_coord_cache(self) -> Done:
        """Forget coordinates, chunks and shard indexes; keep documents. May be awaited."""
        self._caches.clear_chunks()
        return Done()

    def clear_all_caches(self) -> Done:
        """Forget documents as well. May be awaited."""
        self._caches.clear_chunks()
        self._datasets.clear()
        return Done()

    # -- end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel running scans, forget the caches, end the threads, close the store if the backend opened it. Idempotent."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
            running = list(self._running)
        for cancellation in running:
            cancellation.cancel()
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        self.clear_all_caches()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = {"group": None, "limits": self._limits, "fixed": self._freshness.kind == "fixed", **self._table}
        return _rebuild, (type(self), OpenedStore(self._store, self._path), self.options, arguments)

    # -- scans ---------------------------------------------------------------------------------------------------

    def scan_zarr_sync(
        self,
        predicate: pl.Expr | None = None,
        with_columns: Sequence[str] | None = None,
        max_chunks_to_read: int | None = None,
        n_rows: int | None = None,
    ) -> pl.DataFrame:
        """The rows that pass a condition. Blocks; may be called where an event loop runs.

        Parameters
        ----------
        predicate
            Rows to keep; any Boolean expression, also one that looks at several rows (``x == x.max()``).
        with_columns
            Columns, in this order; None: all.
        max_chunks_to_read
            Refuse the scan before it reads if it needs more chunks.
        n_rows
            Only the first rows of the table, before anything is filtered.

        Raises
        ------
        PlanLimitError
            More chunks than ``max_chunks_to_read`` are needed.
        StoreError, DataError
            Reading or decoding failed.
        """
        dataset = self._limited({"max_chunks_to_read": max_chunks_to_read}, None)
        columns = None if with_columns is None else _known(with_columns, dataset.table.schema)
        return self._filtered(dataset, predicate, columns, n_rows)

    def scan_zarr_streaming_sync(
        self,
        predicate: pl.Expr | None = None,
        with_columns: Sequence[str] | None = None,
        max_chunks_to_read: int | None = None,
        n_rows: int | None = None,
        batch_size: int | None = None,
        max_concurrency: int | None = None,
    ) -> Iterator[pl.DataFrame]:
        """The same, frame by frame; closing the iterator stops the scan.

        Parameters
        ----------
        predicate, with_columns, max_chunks_to_read, n_rows
            As in `scan_zarr_sync`. A condition that looks at several rows is evaluated on the whole table first.
        batch_size
            Rows of a frame at most.
        max_concurrency
            Threads that read and decode.
        """
        limits = {"max_chunks_to_read": max_chunks_to_read, "workers": max_concurrency}
        return self._stream(predicate, with_columns, n_rows, batch_size, limits)

    def _evaluate(
        self,
        expr: pl.Expr,
        *,
        predicate: pl.Expr | None = None,
        with_columns: Sequence[str] | None = None,
        n_rows: int | None = None,
        limits: dict[str, Any] | None = None,
        cancellation: Cancellation | None = None,
    ) -> pl.DataFrame:
        """``select([expr])`` over the rows that it needs."""
        dataset = self._limited(limits, cancellation)
        schema = dataset.table.schema
        if with_columns is not None:
            schema = pl.Schema({name: schema[name] for name in _known(with_columns, schema)})
        request = request_of(expr, schema)
        if predicate is None and request.kind == "columns":
            return self._filtered(dataset, request.rows, request.columns, n_rows)
        if predicate is None and request.kind == "predicate":
            query = dataset.for_query()
            plan = _unfiltered(query.plan(columns_of(expr, schema), request.rows, n_rows))
            return _joined(query.scan(plan), plan).select(expr)
        lf = lazy_frame(dataset)
        if n_rows is not None:
            lf = lf.head(n_rows)
        for condition in (predicate, request.rows if request.kind != "predicate" else None):
            if condition is not None:
                lf = lf.filter(condition)
        if with_columns is not None:
            lf = lf.select(with_columns)
        return _collected(lf.select(expr), dataset)

    def _filtered(
        self, dataset: CachedDataset, predicate: pl.Expr | None, columns: Sequence[str] | None, n_rows: int | None
    ) -> pl.DataFrame:
        """Columns of the rows that pass, in the order asked for."""
        query = dataset.for_query(looked=True)
        plan = query.plan(columns, predicate, n_rows)
        if plan.filter is not None and predicate is not None and not is_elementwise(predicate, plan.table.schema):
            return _collected(_lazily(dataset, predicate, columns, n_rows), dataset)
        frame = _joined(query.scan(plan), plan)
        return frame if columns is None or tuple(columns) == plan.projection else frame.select(columns)

    def _stream(
        self,
        predicate: pl.Expr | None,
        columns: Sequence[str] | None,
        n_rows: int | None,
        batch_size: int | None,
        limits: dict[str, Any] | None,
        cancellation: Cancellation | None = None,
    ) -> Iterator[pl.DataFrame]:
        """The same, frame by frame."""
        if batch_size is not None and batch_size < 1:
            raise RequestError(f"batch_size must be a positive int or None, not {batch_size!r}.")
        dataset = self._limited(limits, cancellation)
        columns = None if columns is None else _known(columns, dataset.table.schema)
        query = dataset.for_query(looked=True)
        plan = query.plan(columns, predicate, n_rows)
        frames: Iterator[pl.DataFrame]
        if plan.filter is not None and predicate is not None and not is_elementwise(predicate, plan.table.schema):
            frames = iter([_collected(_lazily(dataset, predicate, columns, n_rows), dataset)])
        else:
            frames = query.scan(plan)
        return _batches(frames, columns, batch_size)

    def _limited(self, limits: dict[str, Any] | None, cancellation: Cancellation | None) -> CachedDataset:
        changes = {name: value for name, value in (limits or {}).items() if value is not None}
        return self.dataset().for_call(cancellation, **changes)

    def _begin(self) -> Cancellation:
        """A scan that `close` can stop."""
        cancellation = Cancellation()
        with self._lock:
            if self._closed:
                raise ScanCancelled("The backend was closed. Open it again to scan.", store=self._store.label)
            self._running.add(cancellation)
        return cancellation

    def _executor(self) -> ThreadPoolExecutor:
        """Threads of asynchronous scans."""
        with self._lock:
            if self._closed:
                raise ScanCancelled("The backend was closed. Open it again to scan.", store=self._store.label)
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.options.max_scans, thread_name_prefix="gpuzarr-async")
            return self._threads

    # -- opening -------------------------------------------------------------------------------------------------

    @staticmethod
    def _table_of(arguments: dict[str, Any]) -> tuple[TableOptions, ScanOptions]:
        return table_and_scan_options(**arguments)

    def _open(self, table: TableOptions, options: ScanOptions) -> Entry:
        statistics = ScanStatistics()
        recording = RecordingStore(QueryView(self._freshness))
        aliases = self.options.codec_aliases or {}
        node = with_aliases(open_node(recording, self._path, limits=self._limits), aliases)
        below: list[GroupMetadata] = []
        if table.groups is not None and isinstance(node, GroupMetadata):
            groups = walk(recording, node.path, limits=self._limits)
            below = [with_aliases(g, aliases) for g in groups if g.path != node.path]  # type: ignore[misc]
        raw = RawValues(self._caches, options.on_missing, statistics)
        if isinstance(node, GroupMetadata) and not self._store.is_local:
            read_together(small_coordinates(node), raw.early)
        built = build_table(node, store_label=self._store.label, options=table, read_raw=raw.early, descendants=below)
        documents = Entry(None, 0, recording.objects, recording.began)
        dataset = CachedDataset(
            self._store, built, options, statistics, caches=self._caches, documents=documents, raw=raw
        ).until(lambda: self._closed)
        return Entry(dataset, 2000 * (1 + len(built.columns)), documents.objects, documents.read_at)


def _known(columns: Sequence[str], schema: pl.Schema) -> list[str]:
    columns = [columns] if isinstance(columns, str) else list(columns)
    for name in columns:
        if name not in schema:
            raise RequestError(f"There is no column {name!r}; the table has {', '.join(schema)}.")
    return columns


def _unfiltered(plan: ScanPlan) -> ScanPlan:
    """The rows that a plan selects, without asking further."""
    return replace(plan, filter=None, needs_filter=None)


def _lazily(
    dataset: CachedDataset, predicate: pl.Expr, columns: Sequence[str] | None, n_rows: int | None
) -> pl.LazyFrame:
    lf = lazy_frame(dataset)
    if n_rows is not None:
        lf = lf.head(n_rows)
    lf = lf.filter(predicate)
    return lf if columns is None else lf.select(columns)


def _collected(lf: pl.LazyFrame, dataset: CachedDataset) -> pl.DataFrame:
    """The result of a query; errors of ours come out as they are, also where Polars wraps them."""
    try:
        return lf.collect()
    except pl.exceptions.PolarsError as error:
        if dataset.errors:
            raise dataset.errors[0] from error
        raise RequestError(f"The query does not fit the table: {error}") from error


def _joined(frames: Iterator[pl.DataFrame], plan: ScanPlan) -> pl.DataFrame:
    parts = list(frames)
    if not parts:
        return pl.DataFrame(schema={name: plan.table.schema[name] for name in plan.projection})
    return parts[0] if len(parts) == 1 else pl.concat(parts, rechunk=False)


def _batches(
    frames: Iterator[pl.DataFrame], columns: Sequence[str] | None, batch_size: int | None
) -> Iterator[pl.DataFrame]:
    try:
        for frame in frames:
            if columns is not None and frame.columns != list(columns):
                frame = frame.select(columns)
            if batch_size is None or frame.height <= batch_size:
                yield frame
            else:
                yield from frame.iter_slices(batch_size)
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()


def _rebuild(kind: type[Backend], opened: OpenedStore, options: BackendOptions, arguments: dict[str, Any]) -> Backend:
    return kind(opened, options, **arguments)
