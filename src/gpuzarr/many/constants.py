"""Columns that have one value in a whole store, for filters: coordinates without dimensions."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import polars as pl

from gpuzarr.cf import Decoding
from gpuzarr.source.dataset import Dataset
from gpuzarr.table import Column, Coordinates, Table
from gpuzarr.table.coordinates import Decoded

__all__ = ["with_constants"]


def with_constants(dataset: Dataset, row: pl.DataFrame) -> Dataset:
    """The dataset with further columns in front that predicates may name.

    Parameters
    ----------
    row
        One row: their values.
    """
    if not row.columns:
        return dataset
    out = copy.copy(dataset)
    columns = tuple(_column(name, dtype) for name, dtype in row.schema.items())
    out.table = replace(dataset.table, columns=(*columns, *dataset.table.columns))
    out.coordinates = _WithConstants(out.table, dataset.coordinates, row)
    return out


def _column(name: str, dtype: pl.DataType) -> Column:
    """A coordinate of no array, whose values are at hand as a Series only."""
    anything = np.dtype(object)
    decoding = Decoding(
        dtype, anything, nullable=True, identity=False, raw=anything, stored=anything, computed=anything
    )
    return Column(name, "auxiliary", (), dtype, decoding=decoding)


class _WithConstants(Coordinates):
    """Coordinates of a store, which are read once for all who share them, and its constants."""

    def __init__(self, table: Table, stored: Coordinates, row: pl.DataFrame) -> None:
        super().__init__(table, stored._read_raw, stored._keep)  # noqa: SLF001  # one thing in two tables
        self._cells |= stored._cells  # noqa: SLF001
        self._row = row

    def dims_of(self, column: str) -> tuple[str, ...] | None:
        """See `Coordinates.dims_of`."""
        return () if column in self._row.columns else super().dims_of(column)

    def values(self, column: str) -> pl.Series:
        """See `Coordinates.values`."""
        return self._row[column] if column in self._row.columns else super().values(column)

    def numpy(self, column: str) -> Decoded:
        """See `Coordinates.numpy`."""
        if column not in self._row.columns:
            return super().numpy(column)
        value = np.empty((), object)
        value[()] = self._row[column][0]
        return value, None if self._row[column].null_count() == 0 else np.zeros((), np.bool_)
