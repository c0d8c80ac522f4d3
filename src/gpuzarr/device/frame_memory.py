"""Memory of frames, used again once whoever received a frame has let go of it.

The first touch of fresh memory costs more than the copy into it. A query that aggregates or filters frame by frame drops each
frame soon, and the next one is written where it lay; a query that keeps its frames gets fresh memory for each.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["FrameMemory"]

SMALLEST = 2**17
"""Bytes below which the allocator is as good."""

CLASSES = 8
"""Size classes per power of two: at most an eighth of a block is unused."""


class FrameMemory:
    """Hands out uninitialised arrays; blocks come back when the last view of them is gone.

    Safe under threads: arrays may die anywhere, the engine's threads included, so nothing here takes a lock.

    Parameters
    ----------
    keep_bytes
        Bytes of unused blocks that are kept.
    """

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._free: dict[int, deque[np.ndarray]] = {}
        self._lent: dict[int, weakref.ref[Any]] = {}
        self._closed = False

    def array(self, size: int, dtype: np.dtype[Any]) -> np.ndarray:
        """1-D array of ``size`` cells."""
        nbytes = size * dtype.itemsize
        if nbytes < SMALLEST or self._closed or dtype.hasobject:
            return np.empty(size, dtype)
        capacity = _capacity(nbytes)
        try:
            block = self._free[capacity].popleft()
        except (KeyError, IndexError):
            block = np.empty(capacity, np.uint8)
        # Views of an ndarray keep its owner alive, not the view that they were made from; so the owner is the lease.
        lease = _lease_type(capacity).from_buffer(block)
        key = id(lease)

        def give_back(_: object) -> None:
            self._lent.pop(key, None)
            if not self._closed and self.kept_bytes + capacity <= self._keep_bytes:
                self._free.setdefault(capacity, deque()).append(block)

        self._lent[key] = weakref.ref(lease, give_back)
        return np.frombuffer(lease, dtype, size)

    @property
    def kept_bytes(self) -> int:
        """Bytes of unused blocks."""
        return sum(capacity * len(blocks) for capacity, blocks in list(self._free.items()))

    def close(self) -> None:
        """Keep nothing any more. Arrays that were handed out stay valid. Idempotent."""
        self._closed = True
        self._free.clear()


def _capacity(nbytes: int) -> int:
    step = 1 << max(12, (nbytes - 1).bit_length() - CLASSES.bit_length())
    return -(-nbytes // step) * step


@lru_cache(maxsize=256)
def _lease_type(capacity: int) -> Any:
    # A subclass made in Python can be referred to weakly, unlike ctypes' own types.
    return type("Lease", (ctypes.c_char * capacity,), {})
