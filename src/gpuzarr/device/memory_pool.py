"""Memory of a process that is slow to allocate, kept for the next wave: page-locked, and device memory that files go to.

Too much page-locked memory hurts the machine, and device memory that is kept is missing elsewhere: both are bounded.
"""

from __future__ import annotations

import threading
import weakref

from gpuzarr.device.runtime import Bytes, DeviceBuffer, DeviceMemoryError, PinnedBuffer, Runtime, Stream

__all__ = ["DirectMemory", "DirectPool", "Lease", "PinnedPool"]

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


class DirectMemory:
    """Device memory that files are read into, for a while: it goes back when nobody refers to it.

    Parameters
    ----------
    buffer
        The memory.
    streams
        What the device does with it is queued in these; noted by whoever queues.
    """

    def __init__(self, buffer: DeviceBuffer, streams: list[Stream]) -> None:
        self.address = buffer.address
        self.nbytes = buffer.nbytes
        self.owner = buffer.owner
        self._streams = streams

    def used_in(self, stream: Stream) -> None:
        """Work that is queued in a stream reads it."""
        if not any(known is stream for known in self._streams):
            self._streams.append(stream)


class DirectPool:
    """Device memory for files, by size, in powers of two.

    Parameters
    ----------
    runtime
        Allocates it.
    idle_nbytes
        Most bytes kept while nobody uses them.

    Attributes
    ----------
    idle
        Bytes kept now.
    """

    def __init__(self, runtime: Runtime, idle_nbytes: int = IDLE_NBYTES) -> None:
        self._runtime = runtime
        self._most = idle_nbytes
        self._kept: dict[int, list[tuple[DeviceBuffer, list[Stream]]]] = {}
        self._lock = threading.RLock()  # memory may go back while it is held, when garbage is collected
        self.idle = 0

    def lend(self, nbytes: int) -> DirectMemory:
        """At least ``nbytes`` bytes that the device has done with.

        Raises
        ------
        DeviceMemoryError
            There is not so much.
        """
        size = max(LEAST_NBYTES, 1 << max(nbytes - 1, 1).bit_length())
        with self._lock:
            kept = self._kept.get(size)
            found = kept.pop() if kept else None
            if found is not None:
                self.idle -= size
        if found is None:
            try:
                buffer = self._runtime.direct(size)
            except DeviceMemoryError:
                self.clear()
                buffer = self._runtime.direct(size)
        else:
            buffer, streams = found
            last = self._runtime.stream()
            for stream in streams:
                last.wait(stream.record())
            last.synchronize()
        noted: list[Stream] = []
        memory = DirectMemory(buffer, noted)
        weakref.finalize(memory, self._take_back, buffer, noted).atexit = False
        return memory

    def _take_back(self, buffer: DeviceBuffer, streams: list[Stream]) -> None:
        with self._lock:
            if self.idle + buffer.nbytes <= self._most:
                self.idle += buffer.nbytes
                self._kept.setdefault(buffer.nbytes, []).append((buffer, streams))

    def clear(self) -> None:
        """Free what is kept."""
        with self._lock:
            self._kept.clear()
            self.idle = 0
