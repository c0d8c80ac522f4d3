"""The scan of one store among many, and several of them at once."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import polars as pl

from gpuzarr.device.columns import constant, without_columns
from gpuzarr.device.engine_threads import is_engine_thread
from gpuzarr.many.constants import with_constants
from gpuzarr.many.query import Query
from gpuzarr.many.stores import label_of
from gpuzarr.plan.model import MAX_FRAME_ROWS, ScanPlan
from gpuzarr.progress import ProgressFactory
from gpuzarr.source.dataset import Dataset
from gpuzarr.source.guards import Excess, excess
from gpuzarr.source.polars_source import refuse_fork
from gpuzarr.statistics import ScanStatistics

__all__ = ["SMALL_ROWS", "Part", "ahead", "check_guards", "refused"]


SMALL_ROWS = 2**16
"""Stores of which at most this many rows are selected are read ahead as well."""

MIN_SCALAR_ROWS = 2**15

Item = TypeVar("Item")
Result = TypeVar("Result")


class Part:
    """The scan of one store: opened and planned when it is made.

    Parameters
    ----------
    number, limit
        As `Query.parts` gives them.

    Attributes
    ----------
    row
        The columns that are constant in the store: one row.
    plan
        Of the stored columns only; its predicate may name all.
    """

    def __init__(self, query: Query, number: int, limit: int | None, progress: ProgressFactory | None = None) -> None:
        stores = query.stores
        opened = stores.open(number)
        refuse_fork(opened)
        self.number = number
        self.row = stores.partitions.slice(number, 1)
        dataset = with_constants(opened, self.row)
        if progress is not None:
            dataset = copy.copy(dataset)
            dataset.progress = progress
        self.query = query
        self.dataset: Dataset = dataset.for_query()
        self.plan: ScanPlan = self.dataset.plan(query.stored, query.predicate, limit, guarded=False)
        self.statistics = ScanStatistics()

    @property
    def is_small(self) -> bool:
        """Whether it may be read ahead of its turn."""
        return self.plan.selected_rows <= SMALL_ROWS

    def frames(self) -> Iterator[pl.DataFrame]:
        """Its rows."""
        if not self.query.is_stored and self.plan.is_exact:  # the plan knows how many rows there are
            rows = self.plan.selected_rows
            self.statistics.add(rows=rows)
            for first in range(0, rows, MAX_FRAME_ROWS):
                numbers = pl.DataFrame({"number": np.zeros(min(MAX_FRAME_ROWS, rows - first), np.uint8)})
                yield self.completed(numbers)
            return
        for frame in self.dataset.scan(self.plan, self.statistics):
            if frame.height:
                yield self.completed(frame)

    def completed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows of stored columns with the constants, in the order of the projection."""
        names = [name for name in self.row.columns if name in self.query.projection]
        if not names and frame.width == len(self.query.projection):
            return frame
        if not self.query.projection:
            return without_columns(frame.height)
        if frame.height >= MIN_SCALAR_ROWS:  # Polars keeps one value then
            return frame.with_columns(constant(self.row[name]) for name in names)[list(self.query.projection)]
        columns = dict(zip(frame.columns, frame, strict=True))
        columns |= {name: self.row[name].new_from_index(0, frame.height) for name in names}
        return pl.DataFrame([columns[name] for name in self.query.projection])


def check_guards(parts: list[Part]) -> Excess | None:
    """The guard that refuses all parts together, if any."""
    if not parts:
        return None
    options = parts[0].query.stores.options
    chunks = (of_array for part in parts for of_array in part.dataset.chunks_to_read(part.plan))
    return excess(options, rows=sum(part.plan.selected_rows for part in parts), chunks=chunks)


def refused(excess: Excess, parts: list[Part]) -> Exception:
    """The error of a query that a guard refuses."""
    return excess.error(store=label_of(parts[0].query.stores.targets[0]), of=f" of {len(parts)} stores")


def ahead(items: Iterator[Item], work: Callable[[Item], Result], at_once: int) -> Iterator[Result]:
    """Results of work on items, in order; some are worked on ``at_once``. Closing the iterator stops it."""
    if is_engine_thread():  # where Polars' own threads wait for this one, nothing that uses Polars may run elsewhere
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="gpuzarr-stores")
    waiting: deque[Any] = deque()
    try:
        while True:
            while len(waiting) < at_once and (item := next(items, None)) is not None:
                waiting.append(pool.submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
