"""Which stored values of an array mean "missing", as xarray's ``CFMaskCoder`` and Zarr backend decide."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuzarr.metadata.model import ArrayMetadata

__all__ = ["Missing", "fill_value_attribute", "matching_value", "missing_values"]


@dataclass(frozen=True)
class Missing:
    """What the document of an array declares missing.

    Parameters
    ----------
    declared
        Whether ``_FillValue`` or ``missing_value`` counts at all; it affects the width of packed values even if only NaN is declared.
    values
        Declared values other than NaN, as the document has them, after ``_Unsigned``.
    nan
        Whether NaN is declared.
    """

    declared: bool
    values: tuple[Any, ...]
    nan: bool


def missing_values(array: ArrayMetadata, stored: np.dtype[Any]) -> Missing:
    """Collect ``_FillValue``, ``missing_value`` and, for Zarr v2, the array's ``fill_value``.

    A v2 ``fill_value`` masks like ``_FillValue`` (and replaces it); a v3 one is no statement about missing data, and ``_FillValue`` of a v3
    array is encoded in the attributes as xarray does it.

    Parameters
    ----------
    stored
        Type of the values after ``_Unsigned``.
    """
    raw: dict[str, Any] = {}
    if (value := array.attributes.get("missing_value")) is not None:
        raw["missing_value"] = value
    if (value := _fill_value(array)) is not None:
        raw["_FillValue"] = value
    values: list[Any] = []
    nan = False
    for name in list(raw):
        cells = list(_flat(raw[name]))
        present = [cell for cell in cells if not _is_null(cell)]
        if not present and stored.kind in "iu":
            del raw[name]
            continue
        nan = nan or len(present) < len(cells)
        if name == "_FillValue" and stored != array.dtype.numpy:
            present = [_reinterpreted(cell, array.dtype.numpy, stored) for cell in present]
        values.extend(present)
    return Missing(bool(raw), tuple(dict.fromkeys(values)), nan and bool(raw))


def matching_value(value: Any, dtype: np.dtype[Any]) -> Any:
    """The one value of `dtype` that equals `value` exactly, as a Python scalar; None where there is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if dtype.kind in "biu":
        if isinstance(value, complex) or not isinstance(value, (bool, int, float)):
            return None
        if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
            return None
        limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        number = int(value)
        return number if limits[0] <= number <= limits[1] else None
    if dtype.kind == "f":
        if isinstance(value, complex) or not isinstance(value, (bool, int, float)):
            return None
        try:
            with np.errstate(over="ignore"):
                converted = dtype.type(value).item()
        except OverflowError:
            return None
        return converted if converted == value else None
    if dtype.kind == "c":
        if not isinstance(value, (bool, int, float, complex)):
            return None
        try:
            with np.errstate(over="ignore"):
                converted = dtype.type(value).item()
        except OverflowError:
            return None
        return converted if converted == value else None
    return value


def _fill_value(array: ArrayMetadata) -> Any:
    if array.zarr_format == 2 and array.fill_value is not None:
        return array.fill_value
    return fill_value_attribute(array)


def fill_value_attribute(array: ArrayMetadata) -> Any:
    """The attribute ``_FillValue`` as a value: xarray encodes it in Zarr v3; None where there is none."""
    value = array.attributes.get("_FillValue")
    return value if array.zarr_format == 2 or value is None else _decoded(value, array)


def _decoded(value: Any, array: ArrayMetadata) -> Any:
    """``_FillValue`` of a v3 array: floats are base64 of eight little-endian bytes. Plain numbers, which xarray refuses, are taken as they are."""
    kind = array.dtype.kind
    if kind == "float" and isinstance(value, str):
        return _decoded_float(value)
    if kind == "complex" and isinstance(value, (list, tuple)) and len(value) == 2:
        real, imaginary = (_decoded_float(v) if isinstance(v, str) else v for v in value)
        if isinstance(real, (int, float)) and isinstance(imaginary, (int, float)):
            return complex(real, imaginary)
    if kind in ("fixed_bytes", "bytes") and isinstance(value, str):
        try:
            return base64.standard_b64decode(value)
        except binascii.Error:
            return value.encode()
    if kind in ("int", "uint") and isinstance(value, float) and math.isfinite(value):
        return int(value)
    if kind == "bool" and isinstance(value, (bool, int, float)):
        return bool(value)
    return value


def _decoded_float(text: str) -> Any:
    try:
        return struct.unpack("<d", base64.b64decode(text, validate=True))[0]
    except (binascii.Error, struct.error, ValueError):
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)):
        return [value]
    try:
        cells = np.ravel(value).tolist()
    except (ValueError, RecursionError):  # a ragged or endless list
        return []
    return [cell for cell in cells if cell is None or isinstance(cell, (str, bytes, int, float, complex))]


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, (float, complex)) and value != value)


def _reinterpreted(value: Any, stored: np.dtype[Any], as_dtype: np.dtype[Any]) -> Any:
    """A ``_FillValue`` in the type of the file, read with the other signedness (``_Unsigned``)."""
    number = matching_value(value, stored)
    return value if number is None else np.array(number, dtype=stored).view(as_dtype).item()
