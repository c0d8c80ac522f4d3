"""Memory of frames: written again once whoever received a frame has let go of it, and on large pages.

The first touch of fresh memory costs more than the copy into it. A query that aggregates or filters frame by frame drops each
frame soon, and the next one is written where it lay. A query that keeps its frames gets fresh memory for each: on pages of
2 MiB, where the system has them, touching it costs a fifth.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Any

import numpy as np

from gpuzarr.device.large_pages import PAGE, Region

__all__ = ["FrameMemory"]

SMALLEST = 2**17
"""Bytes below which the allocator is as good."""

CLASSES = 8
"""Size classes per power of two: at most an eighth of a block is unused."""

REGION_NBYTES = 2**26
"""Addresses reserved at a time; memory behind them is taken as it is touched."""

USUAL_NBYTES = 2**22
"""Bytes of the first blocks, which come from the allocator: whoever needs little does not touch large pages."""


class FrameMemory:
    """Hands out uninitialised arrays; blocks come back when the last view of them is gone.

    Safe under threads: arrays may die anywhere, the engine's threads included, so what happens then takes no lock.

    Parameters
    ----------
    keep_bytes
        Bytes of unused blocks that are kept.
    """

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._free: dict[int, deque[_Block]] = {}
        self._lock = threading.Lock()
        self._region: Region | None = None
        self._used = 0  # of the region
        self._usual = USUAL_NBYTES
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
            block = self._new(capacity)
        # Views of an array keep alive what it was made from, not the array itself: so that is the lease.
        leased = np.asarray(_Lease(self, block))
        return leased[:nbytes].view(dtype)

    def _new(self, capacity: int) -> _Block:
        with self._lock:
            if self._usual >= capacity:
                self._usual -= capacity
                return _Block(np.empty(capacity, np.uint8), None, 0)
            self._usual = 0
            try:
                return self._on_large_pages(capacity)
            except OSError:  # too few addresses left for a region: the allocator may find some yet
                return _Block(np.empty(capacity, np.uint8), None, 0)

    def _on_large_pages(self, capacity: int) -> _Block:
        """Raises `OSError` where the system has no addresses for a region."""
        if capacity > REGION_NBYTES // 2:
            region = Region(capacity)
            return _Block(region.bytes[:capacity], region, 0)
        if self._region is None or self._used + capacity > REGION_NBYTES:
            self._region, self._used = Region(REGION_NBYTES), 0
        start, self._used = self._used, self._used + capacity
        return _Block(self._region.bytes[start : self._used], self._region, start)

    def take_back(self, block: _Block) -> None:
        """Nobody looks at a block any more."""
        capacity = block.cells.nbytes
        if not self._closed and self.kept_bytes + capacity <= self._keep_bytes:
            self._free.setdefault(capacity, deque()).append(block)
        else:
            block.forget()

    @property
    def kept_bytes(self) -> int:
        """Bytes of unused blocks."""
        return sum(capacity * len(blocks) for capacity, blocks in list(self._free.items()))

    def close(self) -> None:
        """Keep nothing any more. Arrays that were handed out stay valid. Idempotent."""
        self._closed = True
        kept, self._free = self._free, {}
        for blocks in kept.values():
            with contextlib.suppress(IndexError):  # a worker that has not stopped yet may take the last one
                while True:
                    blocks.popleft().forget()
        self._region = None


class _Block:
    """Bytes, and the region that they are part of; None for memory of the allocator."""

    __slots__ = ("cells", "region", "start")

    def __init__(self, cells: np.ndarray, region: Region | None, start: int) -> None:
        self.cells = cells
        self.region = region
        self.start = start

    def forget(self) -> None:
        """Give the memory back to the system now, though other blocks of the region are in use."""
        if self.region is not None:
            self.region.forget(self.start, self.cells.nbytes)


class _Lease:
    """What arrays over a block are made from: dies with the last of them."""

    __slots__ = ("__array_interface__", "_block", "_memory")

    def __init__(self, memory: FrameMemory, block: _Block) -> None:
        self._memory = memory
        self._block = block
        self.__array_interface__ = block.cells.__array_interface__

    def __del__(self) -> None:
        self._memory.take_back(self._block)


def _capacity(nbytes: int) -> int:
    step = 1 << max(PAGE.bit_length() - 1, (nbytes - 1).bit_length() - CLASSES.bit_length())
    return -(-nbytes // step) * step
