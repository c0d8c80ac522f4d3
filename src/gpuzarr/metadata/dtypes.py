"""Data types of both formats.

Sources: Zarr v2 specification (data type encoding = NumPy typestr), Zarr v3.1 core (data types) and zarr-extensions
(``string``, ``bytes``, ``numpy.datetime64``, ``numpy.timedelta64``, ``struct`` …), zarr-python 3 for the names it writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gpuzarr.errors import Kind
from gpuzarr.metadata.document import (
    Refusal,
    above_limit,
    check_configuration,
    integer,
    invalid,
    named,
    shown,
    text,
    unsupported,
)
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.model import ArrayDType, DTypeKind

__all__ = ["parse_dtype_v2", "parse_dtype_v3"]

TIME_UNITS = frozenset({"Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic"})

OBJECT_CODECS: dict[str, DTypeKind] = {"vlen-utf8": "string", "vlen-bytes": "bytes"}
"""v2 object arrays say in their codecs what the objects are; these two have a column type."""

OTHER_OBJECT_CODECS = frozenset({"vlen-array", "json2", "msgpack2", "pickle"})

_TYPESTR = re.compile(r"([<>|])([biufcmMSUV])(\d{0,10})(?:\[(\d{0,10})(\w+)\])?")
_KINDS: dict[str, DTypeKind] = {
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
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "M": (8,), "m": (8,)}

_NAMES_V3: dict[str, tuple[DTypeKind, str]] = {
    "bool": ("bool", "?"),
    **{f"int{8 * n}": ("int", f"i{n}") for n in (1, 2, 4, 8)},
    **{f"uint{8 * n}": ("uint", f"u{n}") for n in (1, 2, 4, 8)},
    **{f"float{8 * n}": ("float", f"f{n}") for n in (2, 4, 8)},
    **{f"complex{8 * n}": ("complex", f"c{n}") for n in (8, 16)},
    "string": ("string", "O"),
    "variable_length_utf8": ("string", "O"),
    "bytes": ("bytes", "O"),
    "variable_length_bytes": ("bytes", "O"),
}
_PARAMETERS_V3 = {
    "fixed_length_utf32": ("length_bytes",),
    "null_terminated_bytes": ("length_bytes",),
    "raw_bytes": ("length_bytes",),
    "numpy.datetime64": ("unit", "scale_factor"),
    "numpy.timedelta64": ("unit", "scale_factor"),
    "struct": ("fields",),
    "structured": ("fields",),
}
_FIELD_DEPTH = 8


def parse_dtype_v2(value: Any, codecs: Sequence[Mapping[str, Any]], limits: Limits) -> ArrayDType:
    """Data type of a v2 array.

    Parameters
    ----------
    value
        The document's ``dtype``: a typestr, or a list of fields.
    codecs
        Filters and compressor; they say what an object array holds.
    """
    if isinstance(value, list):
        return _checked(_structured_v2(value, 0), limits)
    if text(value, "'dtype'") in ("|O", "O", "<O", ">O", "|O8", "<O8", "|O4"):
        return _object_v2(value, codecs)
    return _checked(_typestr(value), limits)


def parse_dtype_v3(value: Any, limits: Limits) -> ArrayDType:
    """Data type of a v3 array: the document's ``data_type``."""
    return _checked(_named_v3(value, 0), limits)


def _checked(dtype: ArrayDType, limits: Limits) -> ArrayDType:
    if dtype.itemsize > limits.max_itemsize:
        raise above_limit(
            f"bytes of one element of data type {dtype.name}", dtype.itemsize, "max_itemsize", limits.max_itemsize
        )
    return dtype


def _object_v2(value: str, codecs: Sequence[Mapping[str, Any]]) -> ArrayDType:
    for codec in codecs:
        name = codec["id"]
        if name in OBJECT_CODECS:
            return ArrayDType(OBJECT_CODECS[name], np.dtype(object), name=value)
        if name == "pickle":
            raise Refusal(
                "the array holds pickled objects; reading them could run code, so the codec 'pickle' is refused",
                Kind.CODEC_REFUSED,
            )
        if name in OTHER_OBJECT_CODECS:
            raise unsupported(f"objects written by the codec {name!r} have no column type (dtype {value!r})")
    raise unsupported(
        f"dtype {value!r} without a codec that says what the objects are (vlen-utf8 for strings, vlen-bytes for bytes)"
    )


@lru_cache(maxsize=512)
def _typestr(value: str) -> ArrayDType:
    match = _TYPESTR.fullmatch(value) if len(value) < 64 else None
    if match is None:
        raise unsupported(f"the dtype {shown(value)} is not a data type that gpuzarr knows")
    order, code, size_text, count_text, unit = match.groups()
    size = int(size_text) if size_text else 8 if code in "mM" else 0
    if size not in _SIZES.get(code, (size,)) or size == 0 or size >= 2**31:
        raise unsupported(f"the dtype {shown(value)} has a size that gpuzarr does not know")
    if (unit is not None) != (code in "mM" and value[-1] == "]"):
        raise unsupported(f"the dtype {shown(value)} is not a data type that gpuzarr knows")
    if code in "mM":
        numpy = _time_dtype(code, unit or "generic", int(count_text or 1), value)
    elif code == "U" and size >= 2**29:
        raise unsupported(f"the dtype {shown(value)} has a size that gpuzarr does not know")
    else:
        numpy = np.dtype(f"{code}{size}")
    ordered = code == "U" or (code not in "SV" and size > 1)
    if ordered and order == "|":
        raise invalid(f"the dtype {shown(value)} does not say its byte order")
    return ArrayDType(_KINDS[code], numpy, stored_big_endian=ordered and order == ">", name=value)


def _time_dtype(code: str, unit: str, count: int, shown_as: Any) -> np.dtype[Any]:
    unit = {"\u03bcs": "us", "\u00b5s": "us"}.get(unit, unit)
    if unit not in TIME_UNITS:
        raise unsupported(f"the data type {shown(shown_as)} has the unit {shown(unit)}, which NumPy does not have")
    if not 1 <= count < 2**31:
        raise invalid(f"the data type {shown(shown_as)} has a scale factor outside 1 to 2^31 - 1")
    return np.dtype(f"{code}8" if unit == "generic" else f"{code}8[{count}{unit}]")


def _structured_v2(fields: list[Any], depth: int) -> ArrayDType:
    parsed = []
    for field in fields:
        if not isinstance(field, list) or len(field) not in (2, 3):
            raise invalid(f"a field of a structured dtype has to be [name, dtype], not {shown(field)}")
        if len(field) == 3:
            raise unsupported(f"the field {shown(field[0])} of a structured dtype is itself an array")
        if isinstance(field[1], list):
            _check_field_depth(depth)
            dtype = _structured_v2(field[1], depth + 1)
        else:
            dtype = _typestr(text(field[1], "the dtype of a field"))
        parsed.append((field[0], dtype))
    return _structure(parsed, shown(fields))


def _check_field_depth(depth: int) -> None:
    if depth >= _FIELD_DEPTH:
        raise unsupported(f"a structured data type nested more than {_FIELD_DEPTH} levels deep")


def _structure(fields: list[tuple[Any, ArrayDType]], name: str) -> ArrayDType:
    if not fields:
        raise invalid("a structured data type without fields")
    names = [text(field, "the name of a field") for field, _ in fields]
    if "" in names or len(set(names)) != len(names):
        raise invalid(f"the fields of the structured data type {name} need different, non-empty names")
    if any(dtype.numpy.hasobject for _, dtype in fields):
        raise unsupported(f"the structured data type {name} has fields of variable length")
    if sum(dtype.itemsize for _, dtype in fields) >= 2**31:
        raise invalid(f"the structured data type {name} is larger than 2 GiB")
    orders = {dtype.stored_big_endian for _, dtype in fields if _has_order(dtype.numpy)}
    if len(orders) > 1:
        raise unsupported(f"the structured data type {name} mixes byte orders")
    numpy = np.dtype([(field, dtype.numpy) for field, dtype in zip(names, (d for _, d in fields), strict=True)])
    return ArrayDType("structured", numpy, stored_big_endian=orders == {True}, name=name)


def _has_order(dtype: np.dtype[Any]) -> bool:
    return dtype != dtype.newbyteorder("S")


def _named_v3(value: Any, depth: int) -> ArrayDType:
    name, configuration = named(value, "'data_type'")
    spelled = name if not configuration else f"{name}{shown(configuration)}"
    check_configuration(configuration, _PARAMETERS_V3.get(name, ()), f"the data type {spelled}")
    if name in _NAMES_V3:
        kind, code = _NAMES_V3[name]
        return ArrayDType(kind, np.dtype(code), name=name)
    if re.fullmatch(r"r\d{1,10}", name):
        bits = int(name[1:])
        if bits == 0 or bits % 8 or bits >= 2**34:
            raise invalid(f"the data type {name!r} has to have a positive multiple of 8 bits")
        return ArrayDType("raw", np.dtype(f"V{bits // 8}"), name=name)
    if name in ("fixed_length_utf32", "null_terminated_bytes", "raw_bytes"):
        length = integer(configuration.get("length_bytes"), f"'length_bytes' of the data type {name!r}", minimum=1)
        if length >= 2**31 or (name == "fixed_length_utf32" and length % 4):
            raise invalid(f"the data type {spelled} has an impossible length")
        if name == "fixed_length_utf32":
            return ArrayDType("fixed_string", np.dtype(f"U{length // 4}"), name=spelled)
        if name == "null_terminated_bytes":
            return ArrayDType("fixed_bytes", np.dtype(f"S{length}"), name=spelled)
        return ArrayDType("raw", np.dtype(f"V{length}"), name=spelled)
    if name in ("numpy.datetime64", "numpy.timedelta64"):
        unit = text(configuration.get("unit"), f"'unit' of the data type {name!r}")
        count = integer(configuration.get("scale_factor", 1), f"'scale_factor' of the data type {name!r}", minimum=1)
        is_datetime = name == "numpy.datetime64"
        numpy = _time_dtype("M" if is_datetime else "m", unit, count, spelled)
        return ArrayDType("datetime" if is_datetime else "timedelta", numpy, name=spelled)
    if name in ("struct", "structured"):
        return _structured_v3(configuration.get("fields"), depth, spelled)
    raise unsupported(f"the data type {shown(name)} is not one that gpuzarr knows")


def _structured_v3(fields: Any, depth: int, spelled: str) -> ArrayDType:
    if not isinstance(fields, list):
        raise invalid(f"the data type {spelled} has no list of fields")
    _check_field_depth(depth)
    parsed = []
    for field in fields:
        if isinstance(field, dict):
            field = [field.get("name"), field.get("data_type")]
        if not isinstance(field, list) or len(field) != 2:
            raise invalid(f"a field of a structured data type needs a name and a data type, not {shown(field)}")
        parsed.append((field[0], _named_v3(field[1], depth + 1)))
    return _structure(parsed, spelled)
