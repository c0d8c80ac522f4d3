"""Bytes of a row of columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

__all__ = ["nbytes_of"]

_SIZES = (
    (1, (pl.Boolean, pl.Int8, pl.UInt8)),
    (2, (pl.Int16, pl.UInt16)),
    (4, (pl.Int32, pl.UInt32, pl.Float32, pl.Date)),
)


def nbytes_of(dtypes: Iterable[Any]) -> int:
    """Bytes of a row of columns of some types, at least 1; an estimate for strings."""
    return max(1, sum(map(_nbytes, dtypes)))


def _nbytes(dtype: Any) -> int:
    if isinstance(dtype, pl.Struct):
        return sum(_nbytes(field.dtype) for field in dtype.fields)
    if dtype in (pl.String, pl.Binary):
        return 32
    return next((size for size, group in _SIZES if dtype in group), 8)
