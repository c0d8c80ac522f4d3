"""What array documents of both formats have in common: shapes and their bounds."""

from __future__ import annotations

import math
from typing import Any

from gpuzarr.errors import Kind
from gpuzarr.metadata.document import INT64_MAX, Refusal, above_limit, integer, invalid, shown
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.model import ArrayDType

__all__ = ["check_extent", "parse_chunk_shape", "parse_shape"]


def parse_shape(value: Any, limits: Limits) -> tuple[int, ...]:
    """The array's shape; 0 is a length too."""
    if not isinstance(value, list):
        raise invalid(f"'shape' has to be a list of integers, not {shown(value)}")
    if len(value) > limits.max_ndim:
        raise above_limit("dimensions of the array", len(value), "max_ndim", limits.max_ndim)
    return tuple(integer(length, "a length in 'shape'") for length in value)


def parse_chunk_shape(
    value: Any, what: str, shape: tuple[int, ...], units: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Lengths of a chunk (of a shard, if there is a sharding codec).

    Parameters
    ----------
    units
        Inner chunk shape of a sharding codec.

    Notes
    -----
    zarr-python before 3.4 stored 0 (or false) for the chunk length along a dimension of length 0. No chunk can be stored
    there, so it is read as the smallest possible one.
    """
    if not isinstance(value, list):
        raise invalid(f"{what} has to be a list of integers, not {shown(value)}")
    if len(value) != len(shape):
        raise invalid(f"{what} has {len(value)} dimensions, but 'shape' has {len(shape)}")
    if units is None:
        units = (1,) * len(shape)
    return tuple(
        unit
        if length == 0 and size in (0, False) and isinstance(size, int)
        else integer(size, f"a length in {what}", minimum=1)
        for size, length, unit in zip(value, shape, units, strict=True)
    )


def check_extent(shape: tuple[int, ...], chunk_shape: tuple[int, ...], dtype: ArrayDType) -> None:
    """Refuse an array whose elements, or a chunk whose bytes, cannot be counted in an int64.

    One dimension of 10^18 is legal, nobody has to read it all. Every index computed from chunk boundaries stays an int64.
    """
    too_large = None
    if math.prod(length for length in shape if length) > INT64_MAX:
        too_large = f"an array of shape {shown(shape)} has more than 2^63 - 1 elements"
    elif math.prod(chunk_shape) * max(dtype.itemsize, 1) > INT64_MAX:
        too_large = f"a chunk of shape {shown(chunk_shape)} has more than 2^63 - 1 bytes"
    elif any(length + size > INT64_MAX for length, size in zip(shape, chunk_shape, strict=True)):
        too_large = f"the chunk boundaries of shape {shown(shape)} and chunks {shown(chunk_shape)} exceed 2^63 - 1"
    if too_large:
        raise Refusal(f"{too_large}; this cannot be addressed", Kind.METADATA_LIMIT)
