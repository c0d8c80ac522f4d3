"""The ``scale_offset`` codec of zarr-extensions: ``in / scale + offset``, in the dtype of the array, nothing wraps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuzarr.codecs.configuration import Configuration
from gpuzarr.errors import ChunkError, Kind

__all__ = ["ScaleOffset", "parse_scalar"]


@dataclass(frozen=True)
class ScaleOffset:
    """Values that were written as ``(x - offset) * scale``.

    Parameters
    ----------
    offset, scale
        Python numbers that the dtype represents exactly (integers), or as its JSON form says (floats).
    """

    offset: int | float
    scale: int | float
    name: str = "scale_offset"

    @classmethod
    def parse(cls, configuration: Configuration, dtype: np.dtype[Any]) -> ScaleOffset:
        """From its configuration, for elements of ``dtype``."""
        if dtype.kind not in "iuf":
            raise configuration.invalid(f"only integers and floats can be scaled, found {dtype}")
        offset = parse_scalar(configuration, "offset", configuration.any("offset", 0), dtype)
        scale = parse_scalar(configuration, "scale", configuration.any("scale", 1), dtype)
        configuration.finish()
        if scale == 0:
            raise configuration.invalid("'scale' must not be 0")
        return cls(offset, scale)

    def encoded(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Unchanged."""
        return shape, dtype

    def decode(self, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """See `ArrayStep.decode`. Raises `ChunkError` for integers that do not divide or leave the range."""
        if dtype.kind == "f":
            with np.errstate(all="ignore"):  # inf and nan are results like others
                return np.asarray((array / dtype.type(self.scale)) + dtype.type(self.offset), dtype)
        if array.size == 0:
            return array
        scale, offset = int(self.scale), int(self.offset)
        low, high = int(array.min()), int(array.max())
        if np.any(array % dtype.type(scale)):
            raise self._error(f"a value is no multiple of the scale {scale}")
        ends = (low // scale + offset, high // scale + offset)
        info = np.iinfo(dtype)
        if min(ends) < info.min or max(ends) > info.max:
            raise self._error(f"a value leaves the range of {dtype}")
        # both ends fit, and so does every quotient (|x // scale| <= |x|, min // -1 aside, where the ends tell); the sum
        # is taken modulo 2^n, which is exact for results in range
        if scale == -1 and low == info.min:
            return np.array([int(x) // scale + offset for x in array.reshape(-1)], dtype).reshape(shape)
        return np.asarray(array // dtype.type(scale) + dtype.type(offset), dtype)

    def _error(self, what: str) -> ChunkError:
        return ChunkError(f"scale_offset: {what}; the chunk is damaged", kind=Kind.CHUNK_DECODE)


def parse_scalar(configuration: Configuration, name: str, value: object, dtype: np.dtype[Any]) -> int | float:
    """A scalar in Zarr v3's JSON form for ``dtype``: integers exactly, floats also as "NaN", "Infinity" or hex bits."""
    wrong = configuration.invalid(f"{name!r} = {value!r} is no value of {dtype}")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    try:
        if dtype.kind in "iu":
            if isinstance(value, float) and not value.is_integer():
                raise wrong
            number = int(value)
            info = np.iinfo(dtype)
            if not info.min <= number <= info.max:
                raise wrong
            return number
        if isinstance(value, str) and value.lower().startswith("0x"):
            raw = bytes.fromhex(value[2:])
            if len(raw) != dtype.itemsize:
                raise wrong
            return float(np.frombuffer(raw, dtype.newbyteorder(">"))[0])
        if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
            float(value)  # zarr-python takes decimal strings
        return float(value)
    except (ValueError, OverflowError) as error:
        raise wrong from error
