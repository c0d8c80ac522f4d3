"""Decoded values to Polars, through Arrow and without a copy of fixed-width values."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from gpuzarr.errors import DataError, Kind

__all__ = ["arrow_type", "to_arrow", "to_series"]


def arrow_type(dtype: pl.DataType) -> pa.DataType:
    """Arrow type that Polars takes over as exactly `dtype`."""
    if isinstance(dtype, pl.Datetime):
        return pa.timestamp(dtype.time_unit)
    if isinstance(dtype, pl.Duration):
        return pa.duration(dtype.time_unit)
    if isinstance(dtype, pl.Struct):
        return pa.struct([(field.name, arrow_type(_field_type(field))) for field in dtype.fields])
    return _ARROW[type(dtype)]


def to_arrow(values: NDArray[Any], valid: NDArray[np.bool_] | None, dtype: pl.DataType) -> pa.Array:
    """Arrow array of decoded values.

    Parameters
    ----------
    values
        1-D and C-contiguous; fixed-width values are not copied and must not change afterwards.
    valid
        True where there is a value, None if everywhere.
    """
    wanted = arrow_type(dtype)
    if valid is not None and bool(valid.all()):
        valid = None
    if values.dtype.kind == "O":
        mask = None if valid is None else ~valid
        try:
            return pa.array(values, type=wanted, mask=mask)
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError) as error:
            raise DataError(f"a value is no {dtype}: {error}", kind=Kind.CHUNK_DECODE) from error
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if isinstance(dtype, pl.Struct):
        parts = [np.ascontiguousarray(values.real), np.ascontiguousarray(values.imag)]
        children = [to_arrow(part, None, _field_type(field)) for part, field in zip(parts, dtype.fields, strict=True)]
        return pa.Array.from_buffers(wanted, len(values), [bitmap], children=children)
    if isinstance(dtype, pl.Boolean):
        bits = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(wanted, len(values), [bitmap, pa.py_buffer(bits)])
    return pa.Array.from_buffers(wanted, len(values), [bitmap, pa.py_buffer(values)])


def to_series(name: str, values: NDArray[Any], valid: NDArray[np.bool_] | None, dtype: pl.DataType) -> pl.Series:
    """Column of decoded values; see `to_arrow`."""
    return pl.Series(name, to_arrow(values, valid, dtype))


def _field_type(field: pl.Field) -> pl.DataType:
    return field.dtype if isinstance(field.dtype, pl.DataType) else field.dtype()


_ARROW: dict[type[pl.DataType], pa.DataType] = {
    pl.Boolean: pa.bool_(),
    pl.Int8: pa.int8(),
    pl.Int16: pa.int16(),
    pl.Int32: pa.int32(),
    pl.Int64: pa.int64(),
    pl.UInt8: pa.uint8(),
    pl.UInt16: pa.uint16(),
    pl.UInt32: pa.uint32(),
    pl.UInt64: pa.uint64(),
    pl.Float32: pa.float32(),
    pl.Float64: pa.float64(),
    pl.String: pa.large_string(),
    pl.Binary: pa.large_binary(),
}
