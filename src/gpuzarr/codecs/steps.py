"""The two kinds of steps a chain is made of, and the buffers that go between them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuzarr.errors import ChunkError, Kind

__all__ = ["ArrayStep", "ByteStep", "Bytes", "as_bytes", "limit_for", "size_mismatch", "too_large", "truncated"]

Bytes = npt.NDArray[np.uint8]
"""A one-dimensional contiguous view of bytes."""

VARIABLE_LIMIT = 1 << 30
"""Most bytes that a chunk of a variable-length type may decode to: its metadata fix no size."""


class ByteStep(Protocol):
    """A codec that turns bytes into bytes."""

    @property
    def name(self) -> str:
        """The field's name: ``zstd``, ``blosc``, ``crc32c``."""
        ...

    @property
    def is_verified(self) -> bool:
        """Whether damage to its payload is always noticed (a checksum over it)."""
        ...

    def encoded_size(self, size: int) -> int | None:
        """Bytes that ``size`` bytes become when written; None where that depends on the data."""
        ...

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """Undo the codec.

        Parameters
        ----------
        data
            What is stored.
        size
            Bytes that must come out; None where only the data tell.
        limit
            Most bytes that may come out (``size`` where that is known): nothing larger is allocated.
        out
            Where they go, exactly ``size`` bytes; None to allocate.

        Returns
        -------
        Bytes
            ``out`` where it was used, else a new buffer or a view of ``data``.

        Raises
        ------
        ChunkError
            Damaged, cut short, or of another size.
        """
        ...


class ArrayStep(Protocol):
    """A codec that turns an array into an array."""

    @property
    def name(self) -> str:
        """The field's name: ``transpose``, ``delta``."""
        ...

    def encoded(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and native dtype of what it writes for an array of this shape and dtype."""
        ...

    def decode(self, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Undo the codec: from what `encoded` says to an array of ``shape`` and ``dtype`` (any strides)."""
        ...


def as_bytes(data: Any) -> Bytes:
    """View a contiguous buffer as bytes, without a copy."""
    if isinstance(data, np.ndarray):
        if data.dtype == np.uint8 and data.ndim == 1 and data.flags.c_contiguous:
            return data
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


def limit_for(size: int) -> int:
    """Most bytes that ``size`` bytes may have become in an inner compressor: twice and 1 MiB, at most 16 MiB more."""
    return size + min(size + (1 << 20), 16 << 20)


def truncated(codec: str, what: str = "the data end early") -> ChunkError:
    """The stored bytes end before the codec's stream does."""
    return ChunkError(f"{codec}: {what}; the object was cut short, write it again", kind=Kind.CHUNK_TRUNCATED)


def too_large(codec: str, limit: int) -> ChunkError:
    """More comes out than a chunk may have whose size its metadata do not fix."""
    return ChunkError(
        f"{codec}: more than {limit} bytes come out, which is the limit for this chunk; store smaller chunks",
        kind=Kind.CHUNK_LIMIT,
    )


def size_mismatch(codec: str, expected: int | str, found: int | str) -> ChunkError:
    """The bytes do not amount to what metadata or codec require."""
    return ChunkError(
        f"{codec}: expected {expected} bytes, found {found}; the chunk does not fit the array's document",
        kind=Kind.CHUNK_SIZE_MISMATCH,
    )
