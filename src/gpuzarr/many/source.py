"""The IO source over many stores: each is planned and scanned by itself, in order; excluded ones are never opened."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
import polars as pl

from gpuzarr.device.engine_threads import is_engine_thread
from gpuzarr.errors import RequestError
from gpuzarr.many.stores import Stores, label_of
from gpuzarr.plan.model import ScanPlan
from gpuzarr.predicate import Node, Selection, analyse, conjuncts, residual_expression, select
from gpuzarr.predicate.outcomes import F, T
from gpuzarr.predicate.simplify import conjunction, known
from gpuzarr.progress import ProgressFactory
from gpuzarr.source.dataset import Dataset
from gpuzarr.source.guards import Excess, excess
from gpuzarr.source.polars_source import refuse_fork
from gpuzarr.source.tracing import Trace, current_token, enroll, resolve
from gpuzarr.statistics import ScanStatistics

__all__ = ["ManySource"]

AHEAD = 8
"""Stores that are opened and planned ahead of the one whose rows are handed out."""

SMALL_ROWS = 2**16
"""Stores of which at most this many rows are selected are read ahead as well."""

_STORE = "\x00store"


class ManySource:
    """Callable for `polars.io.plugins.register_io_source`.

    Parameters
    ----------
    stores
        The stores.
    trace
        Where to record plans and statistics; None for ordinary scans.
    progress
        Follows the scan of each store.
    """

    def __init__(self, stores: Stores, trace: Trace | None = None, progress: ProgressFactory | None = None) -> None:
        self.stores = stores
        self.trace = trace
        self.progress = progress

    def __call__(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """Data frames with exactly the columns asked for, filtered exactly; see `gpuzarr.source.polars_source.ZarrSource`."""
        return self._run(_Query.of(self.stores, with_columns, predicate), n_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        token = current_token()
        if token is not None:
            number = enroll(token, lambda trace: ManySource(self.stores, trace, self.progress))
            return resolve, (token, number)
        return ManySource, (self.stores,)

    def __repr__(self) -> str:
        return f"ManySource({len(self.stores)} stores, {len(self.stores.schema)} columns)"

    def _run(self, query: _Query, n_rows: int | None) -> Iterator[pl.DataFrame]:
        dry = self.trace is not None and self.trace.dry
        parts = self._parts(query, n_rows)
        refused: Excess | None = None
        options = self.stores.options
        if options.max_rows is not None or options.max_bytes is not None or options.max_chunks_to_read is not None:
            planned = list(parts)
            refused = _exceeded(planned, self.stores)
            if refused is not None and not dry:
                label = label_of(self.stores.targets[0])
                raise refused.error(store=label, of=f" of {len(planned)} stores")
            parts = iter(planned)
        # Where Polars' own threads wait for this one, nothing that uses Polars may run elsewhere.
        pool = None if is_engine_thread() else ThreadPoolExecutor(AHEAD, thread_name_prefix="gpuzarr-stores")
        waiting: deque[Future[_Part]] = deque()
        try:
            while True:
                while len(waiting) < (AHEAD if pool is not None else 1) and (part := next(parts, None)) is not None:
                    waiting.append(
                        _done(part.prepare(dry=True)) if pool is None else pool.submit(part.prepare, dry=dry)
                    )
                if not waiting:
                    return
                ready = waiting.popleft().result()
                assert ready.dataset is not None
                if self.trace is not None:
                    self.trace.record(ready.dataset, ready.planned, ready.statistics, refused)
                if not dry:
                    yield from ready.frames()
        finally:
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    def _parts(self, query: _Query, n_rows: int | None) -> Iterator[_Part]:
        """What is to be scanned, store by store. Stores are opened here only where a row limit has to count their rows."""
        left = n_rows
        for number in range(len(self.stores)):
            if left is not None and left <= 0:
                return
            limit: int | None = None
            wanted = query.in_store(number)
            if left is not None:
                rows = self.stores.open(number).table.rows
                limit = left if left < rows else None
                left -= rows
            if wanted is not None:
                yield _Part(self.stores, number, query, wanted, limit, self.progress)


@dataclass(frozen=True)
class _Wanted:
    """What remains of a predicate in one store: what its own scan filters by, and what needs columns of the frame as well."""

    inside: pl.Expr | None = None
    after: pl.Expr | None = None


class _Partitions:
    """The columns of the frame of stores, as coordinates along a dimension of stores."""

    def __init__(self, frame: pl.DataFrame, number: int) -> None:
        self._frame = frame
        self.sizes = {_STORE: number}

    def dims_of(self, column: str) -> tuple[str, ...] | None:
        """That dimension; None for columns of the stores themselves."""
        return (_STORE,) if column in self._frame.columns else None

    def values(self, column: str) -> pl.Series:
        """One value per store."""
        return self._frame[column]


@dataclass(frozen=True)
class _Query:
    """A scan's projection and predicate over all stores."""

    stores: Stores
    projection: tuple[str, ...]
    predicate: pl.Expr | None
    node: Node | None
    keep: np.ndarray | None
    impossible: bool

    @classmethod
    def of(cls, stores: Stores, with_columns: Sequence[str] | None, predicate: pl.Expr | None) -> _Query:
        schema = stores.schema
        names = tuple(schema) if with_columns is None else tuple(with_columns)
        unknown = [name for name in names if name not in schema]
        if unknown:
            raise RequestError(f"There is no column {unknown[0]!r}; the table has {', '.join(schema)}.")
        projection = tuple(name for name in schema if name in set(names))
        if predicate is None or not len(stores.partitions.columns):
            return cls(stores, projection, predicate, None, None, impossible=False)
        node = analyse(predicate, schema, _Partitions(stores.partitions, len(stores)))
        selection = select(node, {_STORE: len(stores)})
        return cls(stores, projection, predicate, node, selection.keep.get(_STORE), selection.impossible)

    def in_store(self, number: int) -> _Wanted | None:
        """What remains of the predicate in a store; None if none of its rows passes."""
        if self.impossible or (self.keep is not None and not self.keep[number]):
            return None
        if self.node is None:
            return _Wanted(self.predicate)
        only = np.full(len(self.stores), F, np.uint8)
        only[number] = T
        this = known(only, pl.lit(value=True), (_STORE,), frozenset())
        found: Selection = select(conjunction([self.node, this], (_STORE,)), {_STORE: len(self.stores)})
        if found.impossible:
            return None
        if found.residual is None:
            return _Wanted()
        inside: list[pl.Expr] = []
        after: list[pl.Expr] = []
        for part in conjuncts(found.residual):
            expression, leaves = residual_expression(part, str)
            assert not leaves  # one store: what depends on it alone is certain
            own = set(expression.meta.root_names()).isdisjoint(self.stores.partitions.columns)
            (inside if own else after).append(expression)
        return _Wanted(reduce(and_, inside) if inside else None, reduce(and_, after) if after else None)


@dataclass
class _Part:
    """The scan of one store."""

    stores: Stores
    number: int
    query: _Query
    wanted: _Wanted
    limit: int | None
    progress: ProgressFactory | None
    dataset: Dataset | None = None
    plan: ScanPlan | None = None
    read: list[pl.DataFrame] | None = None

    def __post_init__(self) -> None:
        self.statistics = ScanStatistics()

    @property
    def planned(self) -> ScanPlan:
        """The plan of a prepared part."""
        assert self.plan is not None
        return self.plan

    def prepare(self, *, dry: bool) -> _Part:
        """Open and plan; read what is small, unless ``dry``."""
        if self.plan is None:
            dataset = self.stores.open(self.number)
            refuse_fork(dataset)
            if self.progress is not None:
                dataset = dataset.with_options()
                dataset.progress = self.progress
            self.dataset = dataset.for_query()
            self.plan = self.dataset.plan(self._inner_columns(), self.wanted.inside, self.limit)
        if not dry and self.read is None and self.plan.selected_rows <= SMALL_ROWS:
            self.read = list(self._scan())
        return self

    def frames(self) -> Iterator[pl.DataFrame]:
        """Its rows."""
        return iter(self.read) if self.read is not None else self._scan()

    def _inner_columns(self) -> list[str]:
        """Columns to read: of the projection and of what is filtered afterwards; one at least, to count rows."""
        names = set(self.query.projection)
        if self.wanted.after is not None:
            names |= set(self.wanted.after.meta.root_names())
        return [n for n in self.stores.inner if n in names] or [next(iter(self.stores.inner))]

    def _scan(self) -> Iterator[pl.DataFrame]:
        assert self.dataset is not None
        row = self.stores.partitions
        constants = [row[name].slice(self.number, 1) for name in row.columns]
        for frame in self.dataset.scan(self.planned, self.statistics):
            columns = [constant.new_from_index(0, frame.height) for constant in constants]
            whole = frame.with_columns(columns) if columns else frame
            if self.wanted.after is not None:
                whole = whole.filter(self.wanted.after)
            if whole.height:
                yield whole.select(self.query.projection)


def _exceeded(parts: list[_Part], stores: Stores) -> Excess | None:
    """The guard that refuses all parts together, which are planned for that."""
    rows = 0
    chunks: list[tuple[int, int]] = []
    for part in parts:
        part.prepare(dry=True)
        assert part.dataset is not None
        rows += part.planned.selected_rows
        chunks += part.dataset.chunks_to_read(part.planned)
    return excess(stores.options, rows=rows, chunks=chunks)


def _done(part: _Part) -> Future[_Part]:
    future: Future[_Part] = Future()
    future.set_result(part)
    return future
