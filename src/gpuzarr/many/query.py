"""A query on many stores: which of them it needs, and what it asks each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gpuzarr.errors import RequestError
from gpuzarr.many.stores import Stores
from gpuzarr.predicate import analyse, select

__all__ = ["Query"]

_STORE = "\x00store"


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

    def ordered(self, column: str) -> None:
        """Not looked into: stores are few."""


@dataclass(frozen=True)
class Query:
    """A scan's projection and predicate over all stores.

    Parameters
    ----------
    projection
        Columns to hand out, in the order of the table.
    wanted
        Per store, whether a row of it can pass.
    """

    stores: Stores
    projection: tuple[str, ...]
    predicate: pl.Expr | None
    wanted: np.ndarray

    @classmethod
    def of(cls, stores: Stores, with_columns: Sequence[str] | None, predicate: pl.Expr | None) -> Query:
        """Look at the columns of the frame of stores; opens none of them.

        Raises
        ------
        RequestError
            A column that the table does not have.
        """
        schema = stores.schema
        names = tuple(schema) if with_columns is None else tuple(with_columns)
        unknown = [name for name in names if name not in schema]
        if unknown:
            raise RequestError(f"There is no column {unknown[0]!r}; the table has {', '.join(schema)}.")
        projection = tuple(name for name in schema if name in set(names))
        return cls(stores, projection, predicate, _wanted(stores, predicate))

    @property
    def stored(self) -> tuple[str, ...]:
        """Columns of the projection that the stores have; one at least, to count rows."""
        return tuple(n for n in self.projection if n in self.stores.inner) or (next(iter(self.stores.inner)),)

    @property
    def is_stored(self) -> bool:
        """Whether the projection has a column of the stores."""
        return any(name in self.stores.inner for name in self.projection)

    def parts(self, n_rows: int | None) -> Iterator[tuple[int, int | None]]:
        """Numbers of the stores to scan, in order, each with the row limit that is left to it, counted before the filter.

        Stores are opened here only where a row limit has to count their rows.
        """
        if n_rows is None:
            yield from ((int(number), None) for number in np.flatnonzero(self.wanted))
            return
        for number in range(len(self.stores)):
            if n_rows <= 0:
                return
            rows = self.stores.open(number).table.rows
            if self.wanted[number]:
                yield number, n_rows if n_rows < rows else None
            n_rows -= rows


def _wanted(stores: Stores, predicate: pl.Expr | None) -> np.ndarray:
    number = len(stores)
    everything = np.ones(number, np.bool_)
    if predicate is None or not set(predicate.meta.root_names()) & set(stores.partitions.columns):
        return everything
    selection = select(analyse(predicate, stores.schema, _Partitions(stores.partitions, number)), {_STORE: number})
    return ~everything if selection.impossible else np.asarray(selection.keep.get(_STORE, everything))
