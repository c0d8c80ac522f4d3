"""Fill values: every spelling of both formats to one native value.

Sources: Zarr v2 specification (fill value encoding), Zarr v3.1 core (fill value), zarr-extensions; where real writers
differ, what zarr-python 3 makes of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Literal

import numpy as np

from gpuzarr.metadata.document import INT64_MAX, invalid, shown, text
from gpuzarr.metadata.model import ArrayDType, DTypeKind

__all__ = ["parse_fill_value"]

Format = Literal[2, 3]

_SPECIAL_FLOATS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_INTEGER = re.compile(r"[+-]?\d{1,20}")
_SMALL_FLOAT = 2**15  # fits a float of any width
_NUMBER_LENGTH = 400  # digits of the longest float64 written out are fewer


class _NotOfType(Exception):
    pass


def parse_fill_value(value: Any, dtype: ArrayDType, zarr_format: Format) -> Any:
    """The native fill value.

    Parameters
    ----------
    value
        As in the document.
    dtype
        The array's data type.

    Returns
    -------
    object
        NumPy scalar of ``dtype.numpy`` (void for raw and structured types), ``str`` for strings, ``bytes`` for bytes;
        None where a v2 document says null.

    Raises
    ------
    Refusal
        METADATA_INVALID if the value is not one of the data type, or out of its range.
    """
    if value is None:
        if zarr_format == 2:
            return None
        raise invalid("'fill_value' is null, which Zarr v3 does not allow")
    if zarr_format == 2 and dtype.kind in _ZERO and isinstance(value, int) and value == 0:
        value = _ZERO[dtype.kind] * dtype.itemsize  # old writers put 0 for "all bytes zero", whatever the type
    try:
        return _parse(value, dtype, zarr_format)
    except (_NotOfType, OverflowError):
        raise invalid(f"the fill value {shown(value)} is not a value of the data type {dtype.name}") from None


_ZERO: dict[DTypeKind, str | bytes] = {
    "fixed_string": "",
    "fixed_bytes": b"",
    "bytes": b"",
    "raw": b"\0",
    "structured": b"\0",
}


def _parse(value: Any, dtype: ArrayDType, zarr_format: Format) -> Any:
    match dtype.kind:
        case "bool":
            return _bool(value, zarr_format)
        case "int" | "uint":
            return _int(value, dtype.numpy)
        case "float":
            return _float(value, dtype.numpy, zarr_format)
        case "complex":
            return _complex(value, dtype.numpy, zarr_format)
        case "datetime" | "timedelta":
            return _time(value, dtype.numpy)
        case "fixed_string":
            return np.array(text(value, "the fill value"), dtype.numpy)[()]
        case "string":
            # zarr-python wrote 0 for object arrays, and reads numbers so
            return str(value) if isinstance(value, int | float) else text(value, "the fill value")
        case "fixed_bytes":
            return np.array(_binary(value, zarr_format), dtype.numpy)[()]
        case "bytes":
            return _binary(value, zarr_format)
        case "raw":
            return _from_bytes(_binary(value, zarr_format), dtype.numpy)
        case "structured":
            if zarr_format == 3 and isinstance(value, dict):
                return _structure(value, dtype.numpy)
            stored = dtype.numpy.newbyteorder(">" if dtype.stored_big_endian else "<")
            return _from_bytes(_binary(value, zarr_format), stored).astype(dtype.numpy)[()]


def _bool(value: Any, zarr_format: Format) -> np.bool_:
    if isinstance(value, bool) or (zarr_format == 2 and isinstance(value, int | float) and value in (0, 1)):
        return np.bool_(value)
    raise _NotOfType


def _int(value: Any, dtype: np.dtype[Any]) -> Any:
    if (isinstance(value, str) and _INTEGER.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    bounds = np.iinfo(dtype)
    if not isinstance(value, int) or not bounds.min <= value <= bounds.max:
        raise _NotOfType
    return dtype.type(value)


def _float(value: Any, dtype: np.dtype[Any], zarr_format: Format) -> Any:
    if isinstance(value, str):
        if value in _SPECIAL_FLOATS:
            value = _SPECIAL_FLOATS[value]
        elif zarr_format == 3 and value.startswith("0x"):
            return _from_bytes(_hexadecimal(value, dtype.itemsize), dtype.newbyteorder(">")).astype(dtype)[()]
        else:
            value = _decimal(value)
    if not isinstance(value, int | float):
        raise _NotOfType
    if -_SMALL_FLOAT < value < _SMALL_FLOAT:
        return dtype.type(value)
    with np.errstate(over="ignore"):  # a float64 spelled for a float32 array becomes infinite, as everywhere
        return np.array(float(value)).astype(dtype)[()]


def _decimal(value: str) -> float:
    if len(value) > _NUMBER_LENGTH:
        raise _NotOfType
    try:
        return float(value)
    except ValueError:
        raise _NotOfType from None


def _hexadecimal(value: str, nbytes: int) -> bytes:
    """Bits of a float, most significant first: the only spelling of a NaN with payload."""
    if not re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * nbytes}}}", value):
        raise _NotOfType
    return bytes.fromhex(value[2:])


def _complex(value: Any, dtype: np.dtype[Any], zarr_format: Format) -> Any:
    if not isinstance(value, list) or len(value) != 2:
        raise _NotOfType
    part = np.dtype(f"f{dtype.itemsize // 2}")
    scalar = np.empty((), dtype)
    scalar.real, scalar.imag = (_float(v, part, zarr_format) for v in value)
    return scalar[()]


def _time(value: Any, dtype: np.dtype[Any]) -> Any:
    if value == "NaT":
        value = -INT64_MAX - 1
    if not isinstance(value, int) or isinstance(value, bool) or not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise _NotOfType
    return np.array(value, np.int64).view(dtype)[()]


def _binary(value: Any, zarr_format: Format) -> bytes:
    """Base64 text, or in v3 also a list of byte values."""
    if isinstance(value, bytes):
        return value
    if zarr_format == 3 and isinstance(value, list):
        if not all(isinstance(byte, int) and 0 <= byte <= 255 for byte in value):
            raise _NotOfType
        return bytes(value)
    if not isinstance(value, str) or not _BASE64.fullmatch(text(value, "the fill value")):
        raise _NotOfType
    try:
        return base64.b64decode(value)
    except binascii.Error:
        raise _NotOfType from None


def _from_bytes(data: bytes, dtype: np.dtype[Any]) -> Any:
    if len(data) != dtype.itemsize:
        raise _NotOfType
    return np.frombuffer(data, dtype)[0]


def _structure(value: Any, dtype: np.dtype[Any]) -> Any:
    """A v3 structure spelled field by field; what is not mentioned is zero."""
    if not isinstance(value, dict) or not value.keys() <= set(dtype.names or ()):
        raise _NotOfType
    scalar = np.zeros((), dtype)
    for name, spelled in value.items():
        field = dtype[name]
        kind = _FIELD_KINDS[field.kind]
        scalar[name] = _structure(spelled, field) if field.names else _parse(spelled, ArrayDType(kind, field), 3)
    return scalar[()]


_FIELD_KINDS: dict[str, DTypeKind] = {
    "b": "bool",
    "i": "int",
    "u": "uint",
    "f": "float",
    "c": "complex",
    "M": "datetime",
    "m": "timedelta",
    "S": "fixed_bytes",
    "U": "fixed_string",
    "V": "raw",
}
