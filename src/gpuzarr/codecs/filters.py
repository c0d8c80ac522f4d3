"""Filters on values: numcodecs' (which see a flat run of elements) and ``transpose``.

numcodecs filters work on the chunk flattened. In a v2 chain the run is the chunk in its memory order and comes as bytes
(`FlatBytes`); in a v3 chain it is C order of the shape at that point (`FlatArray`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpuzarr.codecs.steps import Bytes, as_bytes, size_mismatch
from gpuzarr.errors import ChunkError, Kind

__all__ = [
    "AsType",
    "BitRound",
    "Delta",
    "FixedScaleOffset",
    "FlatArray",
    "FlatBytes",
    "FlatFilter",
    "PackBits",
    "Quantize",
    "Transpose",
]

_BOOL, _BYTE = np.dtype(np.bool_), np.dtype(np.uint8)


class FlatFilter(Protocol):
    """A filter on a flat run of elements."""

    @property
    def name(self) -> str:
        """The field's name."""
        ...

    @property
    def decoded_dtype(self) -> np.dtype[Any] | None:
        """Of the elements before they are written; None for whatever comes."""
        ...

    @property
    def encoded_dtype(self) -> np.dtype[Any] | None:
        """Of the elements as they are written; None for whatever comes."""
        ...

    def encoded_count(self, count: int) -> int:
        """Elements that ``count`` elements become."""
        ...

    def decode(self, values: np.ndarray, count: int) -> np.ndarray:
        """Undo the filter on a 1-D array of ``encoded_dtype``; ``count`` elements come out."""
        ...


@dataclass(frozen=True)
class Delta:
    """Differences of neighbours, the first value as it is; undone by a running sum in the decoded dtype."""

    decoded_dtype: np.dtype[Any]
    encoded_dtype: np.dtype[Any]
    name: str = "delta"

    def encoded_count(self, count: int) -> int:
        """Unchanged."""
        return count

    def decode(self, values: np.ndarray, count: int) -> np.ndarray:
        """See `FlatFilter.decode`."""
        out = np.empty(values.shape, self.decoded_dtype)
        np.cumsum(values, out=out)
        return out


@dataclass(frozen=True)
class FixedScaleOffset:
    """``(x - offset) * scale`` rounded when written; numpy's promotion rules decide the dtype of the way back."""

    offset: int | float
    scale: int | float
    decoded_dtype: np.dtype[Any]
    encoded_dtype: np.dtype[Any]
    name: str = "fixedscaleoffset"

    def encoded_count(self, count: int) -> int:
        """Unchanged."""
        return count

    def decode(self, values: np.ndarray, count: int) -> np.ndarray:
        """See `FlatFilter.decode`."""
        with np.errstate(all="ignore"):  # inf, nan and casts of them come from the data, not from a fault
            return ((values / self.scale) + self.offset).astype(self.decoded_dtype, copy=False)


@dataclass(frozen=True)
class AsType:
    """A cast by numpy's rules."""

    decoded_dtype: np.dtype[Any]
    encoded_dtype: np.dtype[Any]
    name: str = "astype"

    def encoded_count(self, count: int) -> int:
        """Unchanged."""
        return count

    def decode(self, values: np.ndarray, count: int) -> np.ndarray:
        """See `FlatFilter.decode`."""
        with np.errstate(all="ignore"):
            return values.astype(self.decoded_dtype, copy=False)


@dataclass(frozen=True)
class Quantize(AsType):
    """Rounding when written; only the cast, if any, is undone."""

    name: str = "quantize"


@dataclass(frozen=True)
class BitRound:
    """Rounding of mantissa bits when written; nothing to undo."""

    decoded_dtype: None = None
    encoded_dtype: None = None
    name: str = "bitround"

    def encoded_count(self, count: int) -> int:
        """Unchanged."""
        return count

    def decode(self, values: np.ndarray, count: int) -> np.ndarray:
        """See `FlatFilter.decode`."""
        return values


@dataclass(frozen=True)
class PackBits:
    """Booleans as bits, most significant first, after one byte that says how many bits of the last byte are padding."""

    decoded_dtype: np.dtype[Any] = _BOOL
    encoded_dtype: np.dtype[Any] = _BYTE
    name: str = "packbits"

    def encoded_count(self, count: int) -> int:
        """One byte and one bit each."""
        return 1 + -(-count // 8)

    def decode(self, values: np.ndarray, count: int) -> np.ndarray:
        """See `FlatFilter.decode`."""
        padding = -count % 8
        if int(values[0]) != padding:
            raise ChunkError(
                f"packbits: {int(values[0])} padding bits, {padding} are right for {count} values; the chunk is damaged",
                kind=Kind.CHUNK_DECODE,
            )
        return np.unpackbits(values[1:], count=count).view(np.bool_)


@dataclass(frozen=True)
class FlatBytes:
    """A flat filter as a step between bytes (v2)."""

    filter: FlatFilter
    is_verified: bool = False

    @property
    def name(self) -> str:
        """Of the filter."""
        return self.filter.name

    def encoded_size(self, size: int) -> int:
        """Elements counted in the decoded dtype become elements of the encoded one."""
        decoded, encoded = self.filter.decoded_dtype, self.filter.encoded_dtype
        count = size // (decoded.itemsize if decoded is not None else 1)
        return self.filter.encoded_count(count) * (encoded.itemsize if encoded is not None else 1)

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """See `ByteStep.decode`."""
        if size is None:
            raise ChunkError(f"{self.name}: the size of the values is not known", kind=Kind.CHUNK_DECODE)
        expected = self.encoded_size(size)
        if len(data) != expected:
            raise size_mismatch(self.name, expected, len(data))
        decoded, encoded = self.filter.decoded_dtype, self.filter.encoded_dtype
        values = data if encoded is None else data.view(encoded)
        return as_bytes(self.filter.decode(values, size // (decoded.itemsize if decoded is not None else 1)))


@dataclass(frozen=True)
class FlatArray:
    """A flat filter as a step between arrays (v3), over C order."""

    filter: FlatFilter

    @property
    def name(self) -> str:
        """Of the filter."""
        return self.filter.name

    def encoded(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """See `ArrayStep.encoded`."""
        count = 1
        for n in shape:
            count *= n
        encoded = dtype if self.filter.encoded_dtype is None else self.filter.encoded_dtype.newbyteorder("=")
        changed = self.filter.encoded_count(count)
        return (shape if changed == count and self.name != "packbits" else (changed,)), encoded

    def decode(self, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """See `ArrayStep.decode`."""
        count = 1
        for n in shape:
            count *= n
        values = self.filter.decode(np.ascontiguousarray(array).reshape(-1), count)
        return values.astype(dtype, copy=False).reshape(shape)


@dataclass(frozen=True)
class Transpose:
    """A permutation of dimensions: dimension ``i`` of what is written is dimension ``order[i]`` of the array."""

    order: tuple[int, ...]
    name: str = "transpose"

    @property
    def inverse(self) -> tuple[int, ...]:
        """The permutation that undoes it."""
        return tuple(int(i) for i in np.argsort(self.order))

    def encoded(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """See `ArrayStep.encoded`."""
        return tuple(shape[i] for i in self.order), dtype

    def decode(self, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """See `ArrayStep.decode`; a view."""
        return array.transpose(self.inverse)
