"""Page-locked memory of a process, kept for the next wave: allocating it is slow, and too much of it hurts the machine."""

from __future__ import annotations

import threading

from gpuzarr.device.runtime import Bytes, PinnedBuffer, Runtime

__all__ = ["Lease", "PinnedPool"]

IDLE_NBYTES = 1 << 30
"""Bytes kept while nobody uses them."""

LEAST_NBYTES = 1 << 16


class Lease:
    """Page-locked memory for a while; give it back with `release`.

    Attributes
    ----------
    data
        At least the bytes asked for.
    """

    def __init__(self, pool: PinnedPool, buffer: PinnedBuffer) -> None:
        self._pool = pool
        self._buffer: PinnedBuffer | None = buffer
        self.data: Bytes = buffer.data

    def release(self) -> None:
        """Give it back; the device must have done what it does with it. Idempotent."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self.data = buffer.data[:0]
            self._pool.take_back(buffer)

    def __del__(self) -> None:
        self.release()


class PinnedPool:
    """Buffers by size, in powers of two.

    Parameters
    ----------
    runtime
        Allocates them.
    idle_nbytes
        Most bytes kept while nobody uses them; more are freed.

    Attributes
    ----------
    used, idle
        Bytes lent now, and kept.
    """

    def __init__(self, runtime: Runtime, idle_nbytes: int = IDLE_NBYTES) -> None:
        self._runtime = runtime
        self._most = idle_nbytes
        self._kept: dict[int, list[PinnedBuffer]] = {}
        self._lock = threading.Lock()
        self.used = self.idle = 0

    def lend(self, nbytes: int) -> Lease:
        """A buffer of at least ``nbytes`` bytes."""
        size = max(LEAST_NBYTES, 1 << max(nbytes - 1, 1).bit_length())
        with self._lock:
            kept = self._kept.get(size)
            found = kept.pop() if kept else None
            if found is not None:
                self.idle -= size
            self.used += size
        if found is None:
            try:
                found = self._runtime.pinned(size)
            except BaseException:
                with self._lock:
                    self.used -= size
                raise
        return Lease(self, found)

    def take_back(self, buffer: PinnedBuffer) -> None:
        """Keep or free a buffer that was lent."""
        size = len(buffer.data)
        with self._lock:
            self.used -= size
            if self.idle + size <= self._most:
                self.idle += size
                self._kept.setdefault(size, []).append(buffer)

    def clear(self) -> None:
        """Free what is kept."""
        with self._lock:
            self._kept.clear()
            self.idle = 0
