"""Which decoding an array gets: a pure function of its document (and of the raw values of a dimension coordinate)."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpuzarr.cf.calendars import CALENDARS, NUMERIC_CALENDARS
from gpuzarr.cf.decoding import Decoding
from gpuzarr.cf.missing import Missing, matching_value, missing_values
from gpuzarr.cf.times import TICK_NS, TimeCode, TimeUnit
from gpuzarr.cf.units import DURATION_UNITS, is_date_units, parse_units
from gpuzarr.errors import DataError, Kind, MetadataError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.notices import GpuzarrWarning, level_of_caller

__all__ = ["check_type", "decoding_for", "decoding_of_values"]

_NOTHING = Missing(False, (), False)
_NUMBERS = ("bool", "int", "uint", "float", "complex")
_INT64 = np.dtype(np.int64)
_FLOAT64 = np.dtype(np.float64)
_OBJECT = np.dtype(object)

_COLUMNS: dict[np.dtype[Any], pl.DataType] = {
    np.dtype(numpy): polars()
    for numpy, polars in (
        (np.bool_, pl.Boolean),
        (np.int8, pl.Int8),
        (np.int16, pl.Int16),
        (np.int32, pl.Int32),
        (np.int64, pl.Int64),
        (np.uint8, pl.UInt8),
        (np.uint16, pl.UInt16),
        (np.uint32, pl.UInt32),
        (np.uint64, pl.UInt64),
        (np.float32, pl.Float32),
        (np.float64, pl.Float64),
    )
}

_DATETIME_UNITS: dict[str, int | Fraction] = {
    "W": 7 * 86_400 * 10**9,
    "D": 86_400 * 10**9,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
    "ps": Fraction(1, 10**3),
    "fs": Fraction(1, 10**6),
    "as": Fraction(1, 10**9),
}


def decoding_for(
    array: ArrayMetadata,
    *,
    decode_cf: bool,
    time_unit: TimeUnit,
    nan_to_null: bool,
    values: NDArray[Any] | None = None,
) -> Decoding:
    """Decide how an array is decoded, as ``xarray.open_zarr`` (2026.9) would, with null where xarray has NaN or NaT.

    Parameters
    ----------
    array
        Its document, with the attributes that bounds inherit (`with_inherited_attributes`).
    decode_cf
        False: only the data type is mapped, attributes and fill values say nothing.
    time_unit
        Ticks of Datetime and Duration columns.
    nan_to_null
        Whether a NaN that nothing declares missing becomes null too.
    values
        Raw values of a dimension coordinate: if one of them does not fit nanoseconds, the column has microseconds.

    Raises
    ------
    MetadataError
        The data type has no column, or an attribute that scales values is no number.

    Warns
    -----
    GpuzarrWarning
        A time axis stays numeric: its calendar has dates that Datetime cannot hold, or its units are not understood.
    """
    decoding = _decide(array, decode_cf, time_unit, nan_to_null)
    if values is None or time_unit != "ns":
        return decoding
    return decoding_of_values(array, decoding, values, decode_cf=decode_cf, nan_to_null=nan_to_null)


def decoding_of_values(
    array: ArrayMetadata, decoding: Decoding, values: NDArray[Any], *, decode_cf: bool, nan_to_null: bool
) -> Decoding:
    """The decoding of a dimension coordinate with these raw values, of which ``decoding`` is the one in nanoseconds."""
    if decoding.time is None:
        return decoding
    try:
        decoding.apply(values, np.empty(values.shape, dtype=_INT64), np.empty(values.shape, dtype=np.bool_))
    except DataError:
        return _decide(array, decode_cf, "us", nan_to_null)
    return decoding


def check_type(array: ArrayMetadata, *, time_unit: TimeUnit) -> None:
    """Raise `MetadataError` if no column can hold an array's data type, whatever its attributes say."""
    if array.dtype.kind not in _NUMBERS:  # these always have a column
        _decide(array, False, time_unit, False)


def _decide(array: ArrayMetadata, decode_cf: bool, time_unit: TimeUnit, nan_to_null: bool) -> Decoding:
    kind = array.dtype.kind
    if kind in _NUMBERS:
        return _numbers(array, decode_cf, time_unit, nan_to_null)
    if kind in ("datetime", "timedelta"):
        return _datetimes(array, time_unit)
    if kind in ("fixed_string", "fixed_bytes", "string", "bytes"):
        return _texts(array, decode_cf)
    message = f"no column can hold values of type {array.dtype.name or kind!r}; leave the array out"
    raise MetadataError(message, kind=Kind.METADATA_UNSUPPORTED, array=array.path)


def _numbers(array: ArrayMetadata, decode_cf: bool, time_unit: TimeUnit, nan_to_null: bool) -> Decoding:
    raw = array.dtype.numpy
    attributes = array.attributes if decode_cf else {}
    stored = _signedness(raw, attributes.get("_Unsigned"))
    missing = missing_values(array, stored) if decode_cf else _NOTHING
    scale = _factor(array, "scale_factor") if decode_cf else None
    offset = _factor(array, "add_offset") if decode_cf else None
    packed = "scale_factor" in attributes or "add_offset" in attributes
    if packed and raw.kind == "c":
        message = "complex values cannot be scaled; pass decode_cf=False to get them as they are stored"
        raise MetadataError(message, kind=Kind.METADATA_UNSUPPORTED, array=array.path)

    units = attributes.get("units")
    time_like = is_date_units(units) or units in DURATION_UNITS if isinstance(units, str) else False
    computed = stored
    if missing.values:
        computed = _float_width(stored, scale, offset) if packed else _promoted(stored, time_like)
    if packed and (time_like or not missing.declared):
        computed = _float_width(computed, scale, offset)

    fills_computed = stored.kind in "iu" and stored.itemsize == 8 and computed.kind == "f"
    compared = computed if fills_computed else stored
    matches = [matching_value(_rounded(value) if fills_computed else value, compared) for value in missing.values]
    fills = tuple(dict.fromkeys(match for match in matches if match is not None))

    nan = missing.nan and stored.kind in "fc"
    time = _time_code(array, attributes, time_unit) if computed.kind in "iuf" else None
    truth = time is None and attributes.get("dtype") == "bool" and computed.kind != "c"
    nan_computed = nan_to_null and time is None and not truth and computed.kind in "fc"
    if nan_computed and scale is None and offset is None and stored.kind in "fc":
        nan, nan_computed = True, False  # the same cells, found before the conversion

    dtype: pl.DataType
    numpy: np.dtype[Any]
    if time is not None:
        numpy, dtype = _INT64, pl.Datetime(time_unit) if is_date_units(units) else pl.Duration(time_unit)
    elif computed.kind == "c":
        part = pl.Float32() if computed.itemsize == 8 else pl.Float64()
        numpy, dtype = computed, pl.Struct({"real": part, "imag": part})
    else:
        numpy = np.dtype(np.bool_) if truth else np.dtype(np.float32) if computed == np.float16 else computed
        dtype = _COLUMNS[numpy]
    nat = time is not None and (computed.kind == "f" or computed == _INT64)
    nullable = bool(fills) or nan or nan_computed or nat
    changed = packed or time is not None or truth or computed != stored
    return Decoding(
        dtype=dtype,
        numpy=numpy,
        nullable=nullable,
        identity=not nullable and not changed and numpy == raw,
        raw=raw,
        stored=stored,
        computed=computed,
        fills=fills,
        fills_computed=fills_computed and bool(fills),
        nan=nan,
        nan_computed=nan_computed,
        scale=scale,
        offset=offset,
        time=time,
        truth=truth,
        path=array.path,
    )


def _rounded(value: Any) -> Any:
    """An integer as the float64 that it is compared as."""
    try:
        return float(value) if isinstance(value, int) else value
    except OverflowError:
        return value


def _signedness(raw: np.dtype[Any], unsigned: Any) -> np.dtype[Any]:
    if raw.kind == "i" and unsigned == "true":
        return np.dtype(f"u{raw.itemsize}")
    if raw.kind == "u" and unsigned == "false":
        return np.dtype(f"i{raw.itemsize}")
    return raw


def _factor(array: ArrayMetadata, name: str) -> float | None:
    """``scale_factor`` or ``add_offset``: a number, or a list of one."""
    value = array.attributes.get(name)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = _rounded(value)
    if value is None or isinstance(value, float) or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    message = f"the attribute {name} is {str(value)[:40]!r}, not a number; pass decode_cf=False to get stored values"
    raise MetadataError(message, kind=Kind.METADATA_INVALID, array=array.path)


def _float_width(dtype: np.dtype[Any], scale: float | None, offset: float | None) -> np.dtype[Any]:
    """Type of unpacked values: ``xarray.coding.variables._choose_float_dtype`` for attributes that come from JSON.

    It differs for an integer ``scale_factor`` alone on floats, where xarray would cut the fractions off.
    """
    if offset is not None or (scale is not None and not isinstance(scale, int)):
        return _FLOAT64
    if scale is not None and dtype.kind != "f":
        return _INT64
    if (dtype.kind == "f" and dtype.itemsize <= 4) or (dtype.kind in "iu" and dtype.itemsize <= 2):
        return np.dtype(np.float32)
    return _FLOAT64


def _promoted(dtype: np.dtype[Any], time_like: bool) -> np.dtype[Any]:
    """Type of values of which some are missing: as xarray promotes, though null does not need it."""
    if dtype.kind not in "iu":
        return dtype
    if time_like:
        return dtype if dtype == np.uint64 else _INT64
    return np.dtype(np.float32) if dtype.itemsize <= 2 else _FLOAT64


def _time_code(array: ArrayMetadata, attributes: Mapping[str, Any], time_unit: TimeUnit) -> TimeCode | None:
    units = attributes.get("units")
    if not isinstance(units, str):
        return None
    if units in DURATION_UNITS:
        declared = attributes.get("dtype")
        if not (isinstance(declared, str) and declared.startswith("timedelta64")):
            return None
        return TimeCode(DURATION_UNITS[units], 1, 0, "gregorian", time_unit, "steps" if time_unit == "ns" else "round")
    if "since" not in units:
        return None
    name = str(attributes.get("calendar") or "standard").lower()
    if name in NUMERIC_CALENDARS:
        _stays_numeric(array, f"the calendar {name!r} has dates that Datetime cannot hold")
        return None
    if name not in CALENDARS:
        _stays_numeric(array, f"the calendar {name[:40]!r} is unknown")
        return None
    calendar = CALENDARS[name]
    try:
        reference = parse_units(units, calendar)
    except ValueError as error:
        _stays_numeric(array, f"{units[:80]!r} are no time units that can be decoded: {error}")
        return None
    in_nanoseconds = abs(reference.epoch_ns) < 2**63
    if calendar == "mixed" and (in_nanoseconds and time_unit == "ns"):
        calendar = "gregorian"  # nanoseconds do not reach back to the reform of 1582
    exact = calendar == "gregorian" and in_nanoseconds and time_unit == "ns" and not reference.abbreviated
    return TimeCode(reference.unit_ns, 1, reference.epoch_ns, calendar, time_unit, "truncate" if exact else "round")


def _stays_numeric(array: ArrayMetadata, reason: str) -> None:
    warnings.warn(f"array {array.path or '/'!r} stays numeric: {reason}", GpuzarrWarning, stacklevel=level_of_caller())


def _datetimes(array: ArrayMetadata, time_unit: TimeUnit) -> Decoding:
    """``datetime64`` and ``timedelta64``, which carry their unit in the type; attributes say nothing."""
    raw = array.dtype.numpy
    unit, count = np.datetime_data(raw)
    is_date = raw.kind == "M"
    per_number = Fraction(_DATETIME_UNITS.get(unit, 0)) * count
    per_tick = per_number / TICK_NS[time_unit]
    if not per_tick or 1 not in (per_tick.numerator, per_tick.denominator):
        message = f"no column can hold values of type {array.dtype.name or raw.name!r}; leave the array out"
        raise MetadataError(message, kind=Kind.METADATA_UNSUPPORTED, array=array.path)
    time = TimeCode(per_number.numerator, per_number.denominator, 0, "gregorian", time_unit, "round")
    return Decoding(
        dtype=pl.Datetime(time_unit) if is_date else pl.Duration(time_unit),
        numpy=_INT64,
        nullable=True,
        identity=False,
        raw=raw,
        stored=_INT64,
        computed=_INT64,
        time=time,
        path=array.path,
    )


def _texts(array: ArrayMetadata, decode_cf: bool) -> Decoding:
    raw = array.dtype.numpy
    is_bytes = array.dtype.kind in ("fixed_bytes", "bytes")
    text = array.attributes.get("_Encoding") if decode_cf and is_bytes else None
    if text is not None:
        try:
            codecs.lookup(text)
        except (LookupError, TypeError, ValueError) as error:
            message = (
                f"the attribute _Encoding is {str(text)[:40]!r}, not the name of an encoding; pass decode_cf=False"
            )
            raise MetadataError(message, kind=Kind.METADATA_INVALID, array=array.path) from error
    wanted = bytes if is_bytes and text is None else str
    missing = missing_values(array, raw) if decode_cf else _NOTHING
    fills = tuple(value for value in missing.values if isinstance(value, wanted))
    return Decoding(
        dtype=pl.Binary() if wanted is bytes else pl.String(),
        numpy=_OBJECT,
        nullable=bool(fills),
        identity=False,
        raw=raw,
        stored=raw,
        computed=raw,
        fills=fills,
        text=text,
        path=array.path,
    )
