"""Where the stored bytes of a wave arrive: page-locked host memory, or device memory that files are read into."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gpuzarr.codecs.steps import Bytes, as_bytes
from gpuzarr.device.file_reads import FileRead, Pending, RangeReader
from gpuzarr.device.memory_pool import DirectMemory, Lease, PinnedPool
from gpuzarr.errors import GpuzarrError, StoreError
from gpuzarr.reader.requests import Range
from gpuzarr.store.local import LocalByteStore
from gpuzarr.store.ranges import Span, cut

__all__ = ["Arena", "ArenaPayload", "DeviceArena", "HostArena", "device_arena_nbytes"]

ALIGNMENT = 16
PAGE_NBYTES = 4096
"""Reads with GPUDirect Storage begin and end at multiples of it, in the file and in memory."""

MOST_OPEN = 64
"""Files of one wave that are open at a time: a process may have a thousand."""

GAP_NBYTES = 32 << 10


class Arena(Protocol):
    """Bytes of a wave, filled by many threads."""

    @property
    def device(self) -> DirectMemory | None:
        """The memory, where it is on the device: then the arrays below only stand for it, and hold zeros."""
        ...

    def room(self, nbytes: int, start: int) -> tuple[Bytes, int]:
        """Room for bytes of a file from ``start``: an array that stands for it, and its address; 0 where there is none."""
        ...

    def put(self, data: Bytes) -> int:
        """Offset of some bytes, which are copied unless they are in the arena already."""
        ...

    def seal(self) -> Bytes:
        """All bytes, once nobody fills any more."""
        ...

    def release(self) -> None:
        """Give the memory back, once no read writes to it. Idempotent."""
        ...


class _Reads:
    """Reads on their way into an arena, each with what is to be done when it is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Pending, Callable[[], None]]] = []

    def add(self, pending: Pending, then: Callable[[], None]) -> None:
        """One more; the oldest is finished first where there are many."""
        oldest = None
        with self._lock:
            self._waiting.append((pending, then))
            if len(self._waiting) > MOST_OPEN:
                oldest = self._waiting.pop(0)
        if oldest is not None:
            oldest[1]()

    def finish(self) -> None:
        """Wait for all, and do what is to be done."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                _, then = self._waiting.pop(0)
            then()

    def drain(self) -> None:
        """Wait for all, and do nothing."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for pending, _ in waiting:
            with contextlib.suppress(Exception):  # what went wrong does not matter any more
                pending.wait()


class HostArena:
    """Page-locked memory that many threads fill from the front.

    Parameters
    ----------
    nbytes
        Expected; if more comes, the arena grows when it is sealed.

    Attributes
    ----------
    used, copied
        Bytes in it, and those of them that were elsewhere in host memory before.
    """

    device = None

    def __init__(self, pool: PinnedPool, nbytes: int) -> None:
        self.reads = _Reads()
        self._pool = pool
        self._lease: Lease = pool.lend(nbytes)
        self._overflow: list[tuple[int, Bytes]] = []
        self._lock = threading.Lock()
        self.used = self.copied = 0

    def room(self, nbytes: int, start: int) -> tuple[Bytes, int]:
        """See `Arena.room`; ordinary memory where the arena is full."""
        with self._lock:
            at = _after(self.used, ALIGNMENT, start)
            if at + nbytes <= len(self._lease.data):
                self.used = at + nbytes
                view = self._lease.data[at : at + nbytes]
                return view, int(view.ctypes.data)
        view = np.empty(nbytes, np.uint8)
        return view, int(view.ctypes.data)

    def put(self, data: Bytes) -> int:
        """See `Arena.put`."""
        inside = int(data.ctypes.data) - int(self._lease.data.ctypes.data)
        if inside >= 0 and inside + len(data) <= len(self._lease.data):
            return inside
        with self._lock:
            at = _after(self.used, ALIGNMENT, 0)
            self.used = at + len(data)
            self.copied += len(data)
            fits = self.used <= len(self._lease.data)
            if not fits:
                self._overflow.append((at, data))
        if fits:
            self._lease.data[at : at + len(data)] = data
        return at

    def seal(self) -> Bytes:
        """See `Arena.seal`."""
        if self._overflow:
            larger = self._pool.lend(self.used)
            kept = min(self.used, len(self._lease.data), self._overflow[0][0])
            larger.data[:kept] = self._lease.data[:kept]
            for at, data in self._overflow:
                larger.data[at : at + len(data)] = data
            self._lease.release()
            self._lease, self._overflow = larger, []
        return self._lease.data[: self.used]

    def release(self) -> None:
        """See `Arena.release`."""
        self.reads.drain()
        self._lease.release()

    def __del__(self) -> None:
        if hasattr(self, "_lease"):
            self.release()


class DeviceArena:
    """Device memory that files are read into.

    Parameters
    ----------
    memory
        All of it.
    """

    def __init__(self, memory: DirectMemory) -> None:
        self.reads = _Reads()
        self.device: DirectMemory | None = memory
        self._shadow = _shadow(memory.nbytes)
        self._lock = threading.Lock()
        self._capacity = memory.nbytes
        self._address = memory.address
        self.used = self.copied = 0

    def room(self, nbytes: int, start: int) -> tuple[Bytes, int]:
        """See `Arena.room`."""
        with self._lock:
            at = _after(self.used, PAGE_NBYTES, start)
            if at + nbytes <= self._capacity:
                self.used = at + nbytes
                return self._shadow[at : at + nbytes], self._address + at
        return _shadow(nbytes), 0

    def put(self, data: Bytes) -> int:
        """See `Arena.put`; nothing is copied."""
        inside = int(data.ctypes.data) - int(self._shadow.ctypes.data)
        if not 0 <= inside <= inside + len(data) <= self._capacity:
            raise AssertionError("bytes that were not read into the arena")
        return inside

    def seal(self) -> Bytes:
        """See `Arena.seal`."""
        return self._shadow[: self.used]

    def release(self) -> None:
        """See `Arena.release`; chunks that are gathered from the memory keep it."""
        self.reads.drain()
        self.device = None

    def __del__(self) -> None:
        if hasattr(self, "_shadow"):
            self.release()


def device_arena_nbytes(nbytes: int, chunks: int) -> int:
    """Room that takes all reads of some chunks of ``nbytes`` stored bytes, rounded to pages and with the gaps between.

    Two reads of a chunk are further apart than a gap, which is more than their rounding takes; a read that reached its
    most bytes is followed by another one without a gap, hence the share.
    """
    return nbytes + nbytes // 32 + chunks * (GAP_NBYTES + 6 * PAGE_NBYTES)


def fits_device_arena(store: LocalByteStore) -> bool:
    """Whether reads of a store are joined as `device_arena_nbytes` takes for granted."""
    gap, most = store.options.coalesce_gap, store.options.coalesce_max
    return (gap is None or 3 * PAGE_NBYTES <= gap <= GAP_NBYTES) and most >= 1 << 20


def _after(used: int, alignment: int, start: int) -> int:
    """The next place that lies to a page in memory as ``start`` does in its file."""
    return -(-used // alignment) * alignment + start % alignment


def _shadow(nbytes: int) -> Bytes:
    """Zeros that take no memory."""
    if not nbytes:
        return np.empty(0, np.uint8)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    return np.frombuffer(pages, np.uint8)


@dataclass(frozen=True, eq=False)
class _Read:
    pending: Pending
    reads: list[FileRead]
    pieces: list[Bytes]


class ArenaPayload:
    """`gpuzarr.reader.requests.Payload` of files: their ranges are read to where the wave wants them.

    Parameters
    ----------
    store
        Checks keys, links and versions, and says which ranges are read together.
    arena
        Where the bytes go.
    files
        Reads them.
    array
        Path of the array, for messages.
    """

    def __init__(
        self, store: LocalByteStore, arena: HostArena | DeviceArena, files: RangeReader, array: str | None = None
    ) -> None:
        self._array = array
        self._store = store
        self._arena = arena
        self._files = files

    @property
    def in_host_memory(self) -> bool:
        """See `Payload.in_host_memory`."""
        return self._arena.device is None

    def whole(self, key: str) -> Bytes | None:
        """See `Payload.whole`."""
        found = self._submit(key, None)
        return None if found is None else self._pieces(key, found)[0]

    def later(self, key: str, ranges: Sequence[Range] | None, then: Callable[[list[Bytes] | None], None]) -> None:
        """See `Payload.later`."""
        found = self._submit(key, ranges)
        if found is None:
            then(None)
        elif found.pending.is_done:
            then(self._pieces(key, found))
        else:
            self._arena.reads.add(found.pending, lambda: then(self._pieces(key, found)))

    def _submit(self, key: str, ranges: Sequence[Range] | None) -> _Read | None:
        """Begin to read; None if there is no file."""
        unit = 1 if self.in_host_memory else PAGE_NBYTES

        def begin(descriptor: int, status: object) -> _Read:
            size: int = status.st_size  # type: ignore[attr-defined]
            wanted = [(0, size)] if ranges is None else ranges
            spans = [Span(0, size, (0,))] if ranges is None and size else self._store.spans(wanted)
            reads, views = [], []
            for span in spans:
                start = span.start // unit * unit
                stop = min(size, -(-(span.start + span.length) // unit) * unit)
                view, address = self._arena.room(max(0, stop - start), start)
                views.append(as_bytes(view)[span.start - start : span.start - start + span.length])
                if address and len(view):
                    reads.append(FileRead(start, len(view), address))
            pieces = [as_bytes(piece) for piece in cut(wanted, spans, views)]
            return _Read(self._files.submit(descriptor, reads, on_device=not self.in_host_memory), reads, pieces)

        try:
            return self._store.with_file(key, begin, whole=ranges is None)
        except RuntimeError as error:  # of kvikio
            raise self._failed(key, error) from error

    def _pieces(self, key: str, found: _Read) -> list[Bytes]:
        """The bytes, once they are there."""
        try:
            counts = found.pending.wait()
        except OSError as error:
            size = self._store.size(key)
            if size is None or any(read.start + read.nbytes > size for read in found.reads):
                raise self._shrunk(key) from error
            raise self._failed(key, error) from error
        if counts != [read.nbytes for read in found.reads]:
            raise self._shrunk(key)
        return found.pieces

    def _shrunk(self, key: str) -> GpuzarrError:
        return self._store.shrunk(key).located(array=self._array)

    def _failed(self, key: str, error: Exception) -> StoreError:
        return StoreError(f"Reading the file failed: {error}.", store=self._store.label, array=self._array, key=key)
