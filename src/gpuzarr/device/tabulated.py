"""Filters on one packed variable, asked of its stored integers.

An array of 8 or 16 bits has at most 65,536 values, many fewer than a large scan has rows. So its filter is asked of every
possible value once, decoded as its cells are: rows are then kept by comparing stored integers, and only survivors are decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from gpuzarr.cf import Decoding
from gpuzarr.device.loading import ChunkedColumn
from gpuzarr.plan.model import Filter, ScanPlan

__all__ = ["TabulatedFilter", "tabulated"]

MOST_RUNS = 4
"""Runs of values that pass; beyond, comparing costs as much as decoding."""

ROWS_PER_VALUE = 4
"""A scan of fewer rows than this times the possible values does not earn the table back."""


@dataclass(frozen=True)
class TabulatedFilter:
    """A filter on the stored values of one column.

    Parameters
    ----------
    path
        Of the column's array.
    raw
        The column without its decoding: how stored values are loaded.
    runs
        (first, last) of the stored values that pass, ascending.
    """

    path: str
    raw: ChunkedColumn
    runs: tuple[tuple[int, int], ...]

    def mask(self, stored: np.ndarray) -> np.ndarray:
        """Which stored values pass: bool, same shape."""
        limits = np.iinfo(stored.dtype)
        keep: np.ndarray | None = None
        for first, last in self.runs:
            if first == limits.min:
                inside = stored <= last
            elif last == limits.max:
                inside = stored >= first
            else:
                inside = stored >= first
                inside &= stored <= last
            keep = inside if keep is None else np.logical_or(keep, inside, out=keep)
        return np.zeros(stored.shape, np.bool_) if keep is None else keep


def tabulated(plan: ScanPlan, sources: Mapping[str, ChunkedColumn]) -> TabulatedFilter | None:
    """The filter of a plan on stored values; None where it has to be asked of the rows.

    Parameters
    ----------
    sources
        The columns with chunks of their own that the filter names, by path of the array.
    """
    if plan.filter is None or plan.filter.leaves or len(plan.filter.columns) != 1 or len(sources) != 1:
        return None
    (path, source), (name,) = next(iter(sources.items())), plan.filter.columns
    decoding = source.decoding
    if plan.table.by_name[name] is not source.column:  # a struct, of which it is the only field to be read
        return None
    if not source.is_full or source.on_missing == "null":
        return None
    if decoding.raw.kind not in "iu" or decoding.raw.itemsize > 2 or decoding.time is not None:
        return None
    values = 1 << 8 * decoding.raw.itemsize
    if plan.selected_rows < ROWS_PER_VALUE * values:
        return None
    runs = _passing(plan.filter, decoding, name)
    if runs is None:
        return None
    raw = ChunkedColumn(
        replace(source.column, decoding=_as_stored(decoding)), plan, source.reader, source.on_missing, source.memory
    )
    return TabulatedFilter(path, raw, runs)


def _passing(wanted: Filter, decoding: Decoding, name: str) -> tuple[tuple[int, int], ...] | None:
    """Runs of stored values that pass; None if they are too many, or if the filter cannot be asked of all values."""
    limits = np.iinfo(decoding.raw)
    stored = np.arange(limits.min, limits.max + 1).astype(decoding.raw)
    try:
        keep = pl.DataFrame([decoded(decoding, name, stored)]).select(keep=wanted.expression)["keep"]
    except (Exception, pl.exceptions.PanicException):  # of some value, which may be in no row
        return None
    if len(keep) != len(stored) or keep.dtype != pl.Boolean:
        return None
    passes = np.concatenate([[False], keep.fill_null(False).to_numpy(), [False]])
    edges = np.flatnonzero(passes[1:] != passes[:-1]).reshape(-1, 2)
    if len(edges) > MOST_RUNS:
        return None
    return tuple((first + int(limits.min), last - 1 + int(limits.min)) for first, last in edges.tolist())


def _as_stored(decoding: Decoding) -> Decoding:
    """Of the same array: values as they are."""
    raw = decoding.raw
    dtype = pl.Series(np.empty(0, raw)).dtype
    return Decoding(dtype, raw, nullable=False, identity=True, raw=raw, stored=raw, computed=raw, path=decoding.path)


def decoded(decoding: Decoding, name: str, stored: np.ndarray) -> pl.Series:
    """Stored values as a column."""
    values = np.empty(len(stored), decoding.numpy)
    valid = np.empty(len(stored), np.bool_) if decoding.nullable else None
    decoding.apply(stored, values, valid)
    return decoding.to_series(name, values, valid)
