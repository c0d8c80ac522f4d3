"""The IO source that Polars calls: maps its arguments to a plan. The only file that knows Polars' plugin contract."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from gpuzarr.errors import EnvironmentLacksError, Kind
from gpuzarr.source import gpu_hook
from gpuzarr.source.dataset import Dataset
from gpuzarr.source.tracing import Trace, current_token, resolve
from gpuzarr.statistics import ScanStatistics

__all__ = ["ZarrSource", "lazy_frame", "refuse_fork"]


class ZarrSource:
    """Callable for `polars.io.plugins.register_io_source`; picklable, and safe to run several times at once.

    Parameters
    ----------
    dataset
        The opened table.
    trace
        Where to record plans and statistics; None for ordinary scans.
    """

    def __init__(self, dataset: Dataset, trace: Trace | None = None) -> None:
        self.dataset = dataset
        self.trace = trace

    def __call__(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """Data frames with exactly the columns asked for, in schema order, filtered exactly.

        ``n_rows`` limits before the predicate filters. ``batch_size`` is a hint that is not needed: frames are runs of tiles.
        """
        refuse_fork(self.dataset)
        dataset = self.dataset.for_query()
        dry = self.trace is not None and self.trace.dry  # a bill says what a guard refuses, and does not raise
        plan = dataset.plan(with_columns, predicate, n_rows, guarded=not dry, elementwise=True)
        statistics = ScanStatistics()
        if self.trace is not None:
            self.trace.record(dataset, plan, statistics)
            if self.trace.dry:
                return iter(())
        # An interrupted engine stops the scan when the iterator gives it a turn, so a slow one gives empty frames too.
        return dataset.scan(plan, statistics, heartbeat=True)

    def __reduce__(self) -> tuple[Any, ...]:
        token = current_token()
        if token is not None:  # explain and profile copy the query, not the store
            return resolve, (token, token_entry(token, self))
        return _restored, (self.dataset,)

    def __repr__(self) -> str:
        table = self.dataset.table
        return f"ZarrSource({table.store!r}, group={table.group!r}, {len(table.columns)} columns, {table.rows} rows)"


def _restored(dataset: Dataset) -> ZarrSource:
    gpu_hook.install()  # a query that came from another process may run on the GPU engine here
    return ZarrSource(dataset)


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

    return enroll(token, lambda trace: ZarrSource(source.dataset, trace))


def lazy_frame(dataset: Dataset) -> pl.LazyFrame:
    """A plain LazyFrame over a dataset."""
    gpu_hook.install()
    # Not pure: a shared scan of a self-join would lose its predicates and read everything.
    return register_io_source(ZarrSource(dataset), schema=dataset.table.schema, validate_schema=True, is_pure=False)
