"""Evaluation of predicate leaves on the coordinates they refer to, by Polars itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import polars as pl

from gpuzarr.predicate.outcomes import F, Outcomes, T, outcomes_of
from gpuzarr.predicate.ranges import OrderedProvider, range_of


class CoordinateProvider(OrderedProvider, Protocol):
    """What planning may know about the coordinates of a table."""

    def dims_of(self, column: str) -> tuple[str, ...] | None:
        """Dimensions (in table order) of a coordinate column whose values may be read for planning, else None."""

    def values(self, column: str) -> pl.Series:
        """The values of such a column in C order over its dimensions, with the dtype of the column."""


class CoordinateGrids:
    """Frames of coordinate values, each broadcast to the grid of the dimensions that a leaf varies along."""

    def __init__(self, provider: CoordinateProvider, max_cells: int) -> None:
        self._provider = provider
        self._max_cells = max_cells
        self._values: dict[str, pl.Series] = {}

    def dims(self, columns: Iterable[str]) -> tuple[str, ...] | None:
        """Grid (dimensions in table order) on which an expression of these columns is known, None if on none.

        None for a variable among the columns, and for a grid of more than `max_cells` cells that is no
        coordinate's own.
        """
        union: set[str] = set()
        largest = 1
        for column in columns:
            own = self._provider.dims_of(column)
            if own is None:
                return None
            union.update(own)
            largest = max(largest, self._cells(own))
        dims = tuple(name for name in self._provider.sizes if name in union)
        cells = self._cells(dims)
        return dims if cells <= max(self._max_cells, largest) else None

    def searched(self, expr: pl.Expr) -> tuple[tuple[str, ...], Outcomes] | None:
        """Dimension and outcomes of a comparison that is answered by searching a sorted coordinate."""
        found = range_of(expr, self._provider)
        if found is None:
            return None
        name, (start, stop) = found
        codes = np.full(self._provider.sizes[name], F, np.uint8)
        codes[start:stop] = T
        return (name,), codes

    def evaluate(
        self, exprs: Sequence[pl.Expr], columns: Iterable[str], dims: tuple[str, ...]
    ) -> list[Outcomes | None]:
        """Outcomes of Boolean elementwise expressions on the grid of `dims`; None for one that raises there.

        A leaf may well raise on a coordinate value that no surviving row holds (a strict cast, a Python function).
        """
        frame = pl.DataFrame([self._on_grid(column, dims) for column in columns])
        shape = self._shape(dims)
        if len(exprs) > 1:
            together = _evaluate(frame, exprs, shape)
            if together is not None:
                return list(together)
        results: list[Outcomes | None] = []
        for expr in exprs:
            alone = _evaluate(frame, [expr], shape)
            results.append(None if alone is None else alone[0])
        return results

    def _on_grid(self, column: str, dims: tuple[str, ...]) -> pl.Series:
        if column not in self._values:
            self._values[column] = self._provider.values(column).alias(column)
        values = self._values[column]
        own = self._provider.dims_of(column) or ()
        if own == dims:
            return values
        index = np.arange(self._cells(own), dtype=np.uint32)
        aligned = index.reshape([self._provider.sizes[name] if name in own else 1 for name in dims])
        return values.gather(pl.Series(np.broadcast_to(aligned, self._shape(dims)).ravel()))

    def _shape(self, dims: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self._provider.sizes[name] for name in dims)

    def _cells(self, dims: tuple[str, ...]) -> int:
        return math.prod(self._shape(dims))


def _evaluate(frame: pl.DataFrame, exprs: Sequence[pl.Expr], shape: tuple[int, ...]) -> list[Outcomes] | None:
    named = [expr.alias(str(position)) for position, expr in enumerate(exprs)]
    try:
        masks = frame.lazy().select(named).collect(engine="in-memory")
    except (Exception, pl.exceptions.PanicException):
        return None
    if masks.height != math.prod(shape) or any(dtype != pl.Boolean for dtype in masks.dtypes):
        return None
    return [outcomes_of(mask).reshape(shape) for mask in masks]


def evaluate_constant(expr: pl.Expr) -> int | None:
    """The outcome of an elementwise expression without columns, None if it raises."""
    outcomes = _evaluate(pl.DataFrame(), [expr], ())
    return None if outcomes is None else int(outcomes[0])
