"""The ``cast_value`` codec of zarr-extensions: values change dtype, with stated rounding and treatment of what is out of
range. Follows zarr-python 3.2 and later (cast-value-rs), without its library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gpuzarr.codecs.configuration import Configuration
from gpuzarr.codecs.scale_offset import parse_scalar
from gpuzarr.errors import ChunkError, Kind

__all__ = ["CastValue", "cast_values"]

Rounding = Literal["nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away"]
OutOfRange = Literal["error", "clamp", "wrap"]

_ROUNDINGS = ("nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away")
_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}


@dataclass(frozen=True)
class CastValue:
    """Elements that were written in another dtype.

    Parameters
    ----------
    stored
        Dtype of what is written.
    rounding, out_of_range
        Rules of the cast, in both directions.
    decode_map
        Values of the stored dtype that become certain values whatever the rules say.
    """

    stored: np.dtype[Any]
    rounding: Rounding = "nearest-even"
    out_of_range: OutOfRange = "error"
    decode_map: tuple[tuple[int | float, int | float], ...] = ()
    name: str = "cast_value"

    @classmethod
    def parse(cls, configuration: Configuration, dtype: np.dtype[Any]) -> CastValue:
        """From its configuration, for elements of ``dtype``."""
        if dtype not in _DTYPES.values():
            raise configuration.invalid(f"only integers and floats can be cast, found {dtype}")
        named = configuration.any("data_type")
        if isinstance(named, dict):
            named = named.get("name")
        if not isinstance(named, str):
            raise configuration.invalid("'data_type' must name a data type")
        if named not in _DTYPES:
            raise configuration.unsupported(f"'data_type' = {named!r}")
        stored = _DTYPES[named]
        rounding: Any = configuration.choice("rounding", _ROUNDINGS, "nearest-even")
        out_of_range: Any = configuration.choice("out_of_range", ("error", "clamp", "wrap"), "error")
        if out_of_range == "wrap" and stored.kind == "f":
            raise configuration.invalid("'out_of_range' = 'wrap' needs an integer 'data_type'")
        pairs = _parse_map(configuration, stored, dtype)
        configuration.finish()
        return cls(stored, rounding, out_of_range, pairs)

    def encoded(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The stored dtype."""
        return shape, self.stored

    def decode(self, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """See `ArrayStep.decode`. Raises `ChunkError` for a value that the rules do not let through."""
        return cast_values(array, dtype, self.rounding, self.out_of_range, self.decode_map)


def _parse_map(
    configuration: Configuration, stored: np.dtype[Any], dtype: np.dtype[Any]
) -> tuple[tuple[int | float, int | float], ...]:
    maps = configuration.any("scalar_map", {})
    if not isinstance(maps, dict) or set(maps) - {"encode", "decode"}:
        raise configuration.invalid("'scalar_map' must be an object with 'encode' and 'decode'")
    parsed = {}
    for direction, source, target in (("encode", dtype, stored), ("decode", stored, dtype)):
        listed = maps.get(direction)
        if listed is None:
            listed = []
        if not isinstance(listed, list | tuple) or not all(isinstance(e, list | tuple) and len(e) == 2 for e in listed):
            raise configuration.invalid(f"'scalar_map' must list pairs for {direction!r}")
        name = f"scalar_map {direction}"
        parsed[direction] = tuple(
            (parse_scalar(configuration, name, a, source), parse_scalar(configuration, name, b, target))
            for a, b in listed
        )
    return parsed["decode"]


def cast_values(
    values: np.ndarray,
    dtype: np.dtype[Any],
    rounding: Rounding = "nearest-even",
    out_of_range: OutOfRange = "error",
    mapped: tuple[tuple[int | float, int | float], ...] = (),
) -> np.ndarray:
    """Cast by the rules of the codec.

    Parameters
    ----------
    values
        Integers or floats, native.
    dtype
        Of the result.
    mapped
        Pairs of a value and what becomes of it, before any rule; the first that fits counts.

    Raises
    ------
    ChunkError
        NaN or an infinity to an integer; a value out of range that nothing treats.
    """
    taken = np.zeros(values.shape, np.bool_)
    replaced: list[tuple[np.ndarray, int | float]] = []
    for key, result in mapped:
        here = np.isnan(values) if key != key else values == key  # NaN is the one that differs from itself
        here &= ~taken
        taken |= here
        replaced.append((here, result))
    if taken.any():
        values = np.where(taken, values.dtype.type(0), values)
    with np.errstate(all="ignore"):  # inf on overflow is looked for below
        result_array = _to_int(values, dtype, rounding, out_of_range) if dtype.kind in "iu" else None
        if result_array is None:
            result_array = _to_float(values, dtype, rounding, out_of_range)
    if taken.any():
        result_array = np.array(result_array)
        for here, result in replaced:
            result_array[here] = result
    return result_array


def _refused(what: str, dtype: np.dtype[Any]) -> ChunkError:
    return ChunkError(f"cast_value: {what} cannot become {dtype}; the chunk is damaged", kind=Kind.CHUNK_DECODE)


def _away(x: np.ndarray) -> np.ndarray:
    whole = np.trunc(x)
    step: np.ndarray = whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0)
    return step


_TO_WHOLE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nearest-even": np.rint,
    "towards-zero": np.trunc,
    "towards-positive": np.ceil,
    "towards-negative": np.floor,
    "nearest-away": _away,
}


def _to_int(values: np.ndarray, dtype: np.dtype[Any], rounding: Rounding, out_of_range: OutOfRange) -> np.ndarray:
    info = np.iinfo(dtype)
    if values.dtype.kind in "iu":
        source = np.iinfo(values.dtype)
        if np.can_cast(values.dtype, dtype, "safe") or values.size == 0 or out_of_range == "wrap":
            return values.astype(dtype)  # modulo 2^n where it wraps
        if int(values.min()) >= info.min and int(values.max()) <= info.max:
            return values.astype(dtype)
        if out_of_range == "error":
            raise _refused("a value out of range", dtype)
        return np.asarray(np.clip(values, max(source.min, info.min), min(source.max, info.max)).astype(dtype))
    if not np.isfinite(values).all():
        raise _refused("NaN or an infinity", dtype)
    whole = np.asarray(_TO_WHOLE[rounding](values.astype(np.float64)))
    bits = dtype.itemsize * 8
    end = 2.0 ** (bits if dtype.kind == "u" else bits - 1)  # exact, unlike the largest integer
    low, high = whole < float(info.min), whole >= end
    if not low.any() and not high.any():
        return whole.astype(dtype)
    if out_of_range == "error":
        raise _refused("a value out of range", dtype)
    if out_of_range == "clamp":
        inside = np.where(low | high, 0.0, whole).astype(dtype)
        inside[low], inside[high] = info.min, info.max
        return inside
    rest = np.fmod(whole, 2.0**bits)  # exact, and below 2^64 in size
    size = np.abs(rest).astype(np.uint64)
    return np.asarray(np.where(rest < 0, np.uint64(0) - size, size).astype(dtype))


def _to_float(values: np.ndarray, dtype: np.dtype[Any], rounding: Rounding, out_of_range: OutOfRange) -> np.ndarray:
    if np.can_cast(values.dtype, dtype, "safe") and (values.dtype.kind == "f" or values.dtype.itemsize < 8):
        return values.astype(dtype)
    rounded = values.astype(dtype)  # nearest-even
    if rounding != "nearest-even":
        wide = values.astype(np.float64)
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
            inexact = np.abs(wide) >= 2.0**53
            rounded = np.array(rounded)
            rounded[~inexact] = _directed(wide[~inexact], rounded[~inexact], rounding)
            for where in zip(*np.nonzero(inexact), strict=True):
                rounded[where] = _directed_int(int(values[where]), rounded[where], rounding)
        else:
            rounded = _directed(wide, rounded, rounding)
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.True_
    # no rounding brings a value back that is beyond the next power of two
    limit = 2.0 ** np.finfo(dtype).maxexp if dtype.itemsize < 8 else np.inf
    beyond = finite & (~np.isfinite(rounded) | (np.abs(values.astype(np.float64)) >= limit))
    if beyond.any():
        if out_of_range != "clamp":
            raise _refused("a value out of range", dtype)
        infinite = np.where(values < 0, -np.inf, np.inf).astype(dtype)
        rounded = np.where(beyond, infinite, rounded)
    return rounded


def _directed(wide: np.ndarray, rounded: np.ndarray, rounding: Rounding) -> np.ndarray:
    """Correct nearest-even to another rounding; ``wide`` is exact."""
    dtype = rounded.dtype
    back = rounded.astype(np.float64)
    up, down = dtype.type(np.inf), dtype.type(-np.inf)
    if rounding == "towards-positive":
        return np.where(back < wide, np.nextafter(rounded, up), rounded)
    if rounding == "towards-negative":
        return np.where(back > wide, np.nextafter(rounded, down), rounded)
    if rounding == "towards-zero":
        return np.where(np.abs(back) > np.abs(wide), np.nextafter(rounded, dtype.type(0)), rounded)
    other = np.where(np.abs(back) < np.abs(wide), np.nextafter(rounded, np.where(wide < 0, down, up)), rounded)
    tie = np.abs(wide - back) == np.abs(other.astype(np.float64) - wide)
    return np.where(tie & np.isfinite(back), other, rounded)


def _directed_int(value: int, rounded: Any, rounding: Rounding) -> Any:
    """The same for one large integer, exactly."""
    dtype = rounded.dtype
    if not np.isfinite(rounded):
        return rounded
    back = int(rounded)
    up = np.nextafter(rounded, dtype.type(np.inf))
    down = np.nextafter(rounded, dtype.type(-np.inf))
    if rounding == "towards-zero":
        rounding = "towards-negative" if value > 0 else "towards-positive"
    if rounding == "towards-positive":
        return up if back < value else rounded
    if rounding == "towards-negative":
        return down if back > value else rounded
    other = up if abs(back) < abs(value) and value > 0 else down if abs(back) < abs(value) else rounded
    if other is not rounded and np.isfinite(other) and int(other) - value == value - back:
        return other
    return rounded
