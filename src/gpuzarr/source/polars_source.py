"""The IO source that Polars calls: maps its arguments to a plan. The only file that knows Polars' plugin contract."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from gpuzarr.errors import EnvironmentLacksError, Kind, StoreError
from gpuzarr.source import gpu_hook
from gpuzarr.source.dataset import Dataset
from gpuzarr.source.sorted_flags import order_of_leading
from gpuzarr.source.tracing import Trace, current_token, resolve
from gpuzarr.statistics import ScanStatistics

__all__ = ["TELLS_ORDER", "ZarrSource", "lazy_frame", "refuse_fork"]

TELLS_ORDER = int(pl.__version__.partition(".")[0]) >= 2
"""Polars 1.35 loses columns where a plan says that one is sorted; the GPU engine, which needs 1.x, does not know such plans."""


class ZarrSource:
    """Callable for `polars.io.plugins.register_io_source`; picklable, and safe to run several times at once.

    Parameters
    ----------
    dataset
        The opened table.
    trace
        Where to record plans and statistics; None for ordinary scans.
    order
        What the query was told of the order of rows, see `order_of_leading`; None for nothing.
    """

    def __init__(self, dataset: Dataset, trace: Trace | None = None, order: tuple[str, bool] | None = None) -> None:
        self.dataset = dataset
        self.trace = trace
        self.order = order

    def __call__(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """Data frames with exactly the columns asked for, in schema order, filtered exactly.

        ``n_rows`` limits before the predicate filters. ``batch_size`` is a hint that is not needed: frames are runs of tiles.
        """
        refuse_fork(self.dataset)
        dataset = self.dataset.for_query()
        self._check_order(dataset)
        dry = self.trace is not None and self.trace.dry  # a bill says what a guard refuses, and does not raise
        plan = dataset.plan(with_columns, predicate, n_rows, guarded=not dry, elementwise=True)
        statistics = ScanStatistics()
        if self.trace is not None:
            self.trace.record(dataset, plan, statistics)
            if self.trace.dry:
                return iter(())
        # An interrupted engine stops the scan when the iterator gives it a turn, so a slow one gives empty frames too.
        return dataset.scan(plan, statistics, heartbeat=True)

    def _check_order(self, dataset: Dataset) -> None:
        """Raise `StoreError` if rows do not come in the order that the query relies on: it was made in another process.

        Also where the coordinate is not asked for: Polars leaves out sorting by it, and then does not read it.
        """
        if self.order is None:
            return
        column = dataset.table.by_name[self.order[0]]
        dataset.guard.check([column])
        if order_of_leading(dataset.table, dataset.coordinates, (self.order[0],)) == self.order:
            return
        raise StoreError(
            f"The store was changed after the query was made: {self.order[0]!r} is not in order any more. "
            "Open it again with scan_zarr.",
            kind=Kind.STORE_CHANGED,
            store=dataset.table.store,
            array=None if column.array is None else column.array.path,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        token = current_token()
        if token is not None:  # explain and profile copy the query, not the store
            return resolve, (token, token_entry(token, self))
        return _restored, (self.dataset, self.order)

    def __repr__(self) -> str:
        table = self.dataset.table
        return f"ZarrSource({table.store!r}, group={table.group!r}, {len(table.columns)} columns, {table.rows} rows)"


def _restored(dataset: Dataset, order: tuple[str, bool] | None = None) -> ZarrSource:
    gpu_hook.install()  # a query that came from another process may run on the GPU engine here
    return ZarrSource(dataset, order=order)


def refuse_fork(dataset: Dataset) -> None:
    """Raise `EnvironmentLacksError` in a process that inherited the dataset by fork."""
    if os.getpid() != dataset.pid:
        message = (
            "This scan was opened in another process and inherited by fork; threads and locks do not survive that. "
        )
        message += "Start workers with the 'spawn' or 'forkserver' method, or call scan_zarr in the child."
        raise EnvironmentLacksError(message, kind=Kind.FORKED, store=dataset.table.store)


def token_entry(token: str, source: ZarrSource) -> int:
    """Number under which a traced copy of a source is made when the query is read back."""
    from gpuzarr.source.tracing import enroll

    return enroll(token, lambda trace: ZarrSource(source.dataset, trace, source.order))


def lazy_frame(dataset: Dataset, *, ordered: bool = False) -> pl.LazyFrame:
    """A plain LazyFrame over a dataset.

    ``ordered``: Polars is told of a coordinate whose values come in order, if that is known: it groups, sorts and joins by it
    without a hash table. Not for a dataset that may look different at every query.
    """
    gpu_hook.install()
    order = dataset.order_at_hand() if ordered and TELLS_ORDER else None
    # Not pure: a shared scan of a self-join would lose its predicates and read everything.
    lf = register_io_source(
        ZarrSource(dataset, order=order), schema=dataset.table.schema, validate_schema=True, is_pure=False
    )
    return lf if order is None else lf.set_sorted(order[0], descending=order[1])
