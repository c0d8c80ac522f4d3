"""What the rest of gpuzarr asks of a store: keys and byte ranges. Blocking and thread-safe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Buffer", "ByteStore", "Listing", "ReadsInto"]

Buffer = bytes | bytearray | memoryview | np.ndarray
"""Contiguous bytes as the readers return them."""

Listing = tuple[tuple[str, ...], tuple[str, ...]]
"""Names directly below a prefix: (keys, sub-prefixes)."""


@runtime_checkable
class ByteStore(Protocol):
    """A store of immutable objects by key.

    All methods block, may be called from any thread, and raise `gpuzarr.errors.StoreError` when reading fails, after
    bounded retries. A key that is not there is None, never an error and never confused with a failure. Keys are checked:
    no key leaves the root (`Kind.KEY_UNSAFE`).
    """

    @property
    def label(self) -> str:
        """URL or path for messages, without secrets."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether a read costs a system call rather than a round trip; decides on concurrency and partial reads."""
        ...

    def get(self, key: str) -> Buffer | None:
        """The whole object, None if there is none."""
        ...

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        """``length`` bytes from ``start``; fewer if the object ends before; None if there is no object."""
        ...

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        """The last ``length`` bytes (all of them if the object is shorter); None if there is no object."""
        ...

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """Several ``(start, length)`` ranges of one object, coalesced where near; None if there is no object."""
        ...

    def size(self, key: str) -> int | None:
        """Size of the object in bytes without reading it; None if there is none."""
        ...

    def list_dir(self, prefix: str) -> Listing:
        """Keys and sub-prefixes directly below ``prefix`` ("" = root). Raises `StoreError` if the store cannot list."""
        ...

    def close(self) -> None:
        """Release handles that the store opened itself; a store given by the user stays open."""
        ...


@runtime_checkable
class ReadsInto(Protocol):
    """What a `ByteStore` may do besides: read into memory of the caller, so that nothing is allocated and copied."""

    def get_into(self, key: str, out: np.ndarray) -> int | None:
        """Read an object of exactly ``out.nbytes`` bytes.

        Returns
        -------
        int or None
            Size of the object, None if there is none. One of another size is not read, and ``out`` undefined.
        """
        ...

    def get_ranges_into(self, key: str, ranges: Sequence[tuple[int, int]], out: Sequence[np.ndarray]) -> int | None:
        """Read ``(start, length)`` ranges of one object, each by itself, into contiguous memory of that many bytes.

        Returns
        -------
        int or None
            Size of the object, None if there is none. Memory for what lies behind its end is left as it is.
        """
        ...
