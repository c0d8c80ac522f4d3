"""Sorted values of a dimension, in which a comparison with a constant is a search instead of a pass over all of them."""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl

__all__ = ["Ordered", "OrderedValues", "Range"]

Range: TypeAlias = tuple[int, int]
"""Indices from the first to the one before the second."""

_TIMES = (10**9, 10**6, 10**3)


@dataclass(frozen=True, slots=True)
class Ordered:
    """Values of a coordinate along one dimension, ascending or descending, with nothing missing and no NaN.

    Parameters
    ----------
    dtype
        Of the column: an integer, a float, Datetime without zone, or Duration.
    cells
        The values from the lowest to the highest, as Python numbers: they compare exactly, whatever their types. Times are
        ticks of the column's unit.
    is_ascending
        Whether that is their order in the table.
    whole
        Of times: the largest of 1, 10^3, 10^6 and 10^9 that divides every tick.
    """

    dtype: pl.DataType
    cells: Sequence[Any]
    is_ascending: bool
    whole: int = 1

    @property
    def low(self) -> Any:
        """The lowest value."""
        return self.cells[0]

    @property
    def high(self) -> Any:
        """The highest value."""
        return self.cells[-1]

    def between(self, low: Any, high: Any, *, with_low: bool = True, with_high: bool = True) -> Range:
        """Indices of the values between two numbers, either of which may be None; an empty range if there are none."""
        cells = self.cells
        start = 0 if low is None else bisect_left(cells, low) if with_low else bisect_right(cells, low)
        stop = len(cells) if high is None else bisect_right(cells, high) if with_high else bisect_left(cells, high)
        if start >= stop:
            return 0, 0
        return (start, stop) if self.is_ascending else (len(cells) - stop, len(cells) - start)


class OrderedValues:
    """`Ordered` of arrays, found out once for each; holds none of them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[weakref.ref[np.ndarray], bool, bool, int]] = {}

    @staticmethod
    def counting(size: int) -> Ordered | None:
        """0 … size-1."""
        return Ordered(pl.Int64(), range(size), is_ascending=True) if size else None

    def of(self, name: str, values: np.ndarray, valid: np.ndarray | None, dtype: pl.DataType) -> Ordered | None:
        """The values of a column, None if they are in no order, or of a type that is not looked at.

        Parameters
        ----------
        values, valid
            As decoded, 1-D and unchanging; None where all are valid.
        """
        known = self._known.get(name)
        if known is None or known[0]() is not values:
            found = None if valid is not None else _order(values, dtype)
            known = weakref.ref(values), found is not None, *(found or (True, 1))
            self._known[name] = known
        _, is_ordered, is_ascending, whole = known
        if not is_ordered:
            return None
        cells: Any = memoryview(_numbers(values))
        return Ordered(dtype, cells if is_ascending else cells[::-1], is_ascending, whole)


def _numbers(values: np.ndarray) -> np.ndarray:
    return values.view(np.int64) if values.dtype.kind in "mM" else values


def _order(values: np.ndarray, dtype: pl.DataType) -> tuple[bool, int] | None:
    """(ascending, `Ordered.whole`) of values that have an order."""
    is_time = isinstance(dtype, pl.Duration) or (isinstance(dtype, pl.Datetime) and dtype.time_zone is None)
    if values.ndim != 1 or len(values) == 0 or not (dtype.is_numeric() or is_time):
        return None
    numbers = _numbers(values)
    if (
        numbers.dtype.kind not in "iuf"
        or not numbers.dtype.isnative
        or numbers.dtype.itemsize < (4 if numbers.dtype.kind == "f" else 1)
    ):
        return None
    one, two = numbers[:-1], numbers[1:]
    is_ascending = bool((one <= two).all())  # NaN is in no order
    if not is_ascending and not (one >= two).all():
        return None
    if len(numbers) == 1 and numbers[0] != numbers[0]:
        return None
    whole = next((step for step in _TIMES if not (numbers % step).any()), 1) if is_time else 1
    return is_ascending, whole
