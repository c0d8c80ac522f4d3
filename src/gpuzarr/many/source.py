"""The IO source over many stores: each is planned and scanned by itself, in order; excluded ones are never opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from gpuzarr.many.parts import Part, ahead, check_guards, refused
from gpuzarr.many.query import Query
from gpuzarr.many.stores import Stores
from gpuzarr.progress import ProgressFactory
from gpuzarr.source import gpu_hook
from gpuzarr.source.tracing import Trace, current_token, enroll, resolve

__all__ = ["ManySource"]


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
        return self._run(Query.of(self.stores, with_columns, predicate), n_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        token = current_token()
        if token is not None:
            number = enroll(token, lambda trace: ManySource(self.stores, trace, self.progress))
            return resolve, (token, number)
        return _restored, (self.stores,)

    def __repr__(self) -> str:
        return f"ManySource({len(self.stores)} stores, {len(self.stores.schema)} columns)"

    def _run(self, query: Query, n_rows: int | None) -> Iterator[pl.DataFrame]:
        dry = self.trace is not None and self.trace.dry
        excess = None

        def plan(wanted: tuple[int, int | None]) -> Part:
            return Part(query, *wanted, self.progress)

        def read(part: Part) -> tuple[Part, Iterator[pl.DataFrame]]:
            return part, iter(list(part.frames())) if part.is_small and not dry else part.frames()

        wanted, at_once = query.parts(n_rows), self.stores.at_once
        if self.stores.is_guarded:
            parts = list(ahead(wanted, plan, at_once))
            excess = check_guards(parts)
            if excess is not None and not dry:
                raise refused(excess, parts)
            ready = ahead(iter(parts), read, at_once)
        else:
            ready = ahead(wanted, lambda item: read(plan(item)), at_once)
        for part, frames in ready:
            if self.trace is not None:
                self.trace.record(part.dataset, part.plan, part.statistics, excess)
            if not dry:
                yield from frames


def _restored(stores: Stores) -> ManySource:
    gpu_hook.install()  # a query that came from another process may run on the GPU engine here
    return ManySource(stores)
