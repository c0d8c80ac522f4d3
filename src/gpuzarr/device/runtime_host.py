"""The runtime on host memory: the wave engine without a GPU.

"Device" memory is numpy memory behind canaries, poisoned when it is allocated and when it is freed; kernels are their numpy
twins, batches the strict twin of the batch decoder. Streams are queues that really wait: with ``deferred=True`` nothing
runs before somebody waits for it, so a missing synchronisation shows as poison in the result.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuzarr.codecs.batch import BatchDecoder, Status
from gpuzarr.codecs.batch_host import HostBatchDecoder
from gpuzarr.codecs.tables import ChecksumKind
from gpuzarr.device.file_reads import PreadReader, RangeReader
from gpuzarr.device.runtime import Bytes, DeviceMemoryError, Stream
from gpuzarr.kernels import twins
from gpuzarr.kernels.launch import Launch

__all__ = ["HostBuffer", "HostRuntime", "HostStream"]

ALIGNMENT = 256
GUARD = 256
CANARY, POISON, FREED = 0xCD, 0xA5, 0xDB


class HostEvent:
    """Position in the queue of a stream."""

    def __init__(self, stream: HostStream, position: int) -> None:
        self.stream = stream
        self.position = position


class HostStream:
    """A queue of functions; run when somebody waits, or at once.

    Parameters
    ----------
    lock
        Of all deferred streams of a runtime: one may have to run what is queued in another. None to run at once.
    """

    def __init__(self, lock: Any) -> None:
        self._deferred = lock is not None
        self._queue: deque[Callable[[], None]] = deque()
        self._queued = self._done = 0
        self._lock = threading.RLock() if lock is None else lock
        self._error: BaseException | None = None

    @property
    def handle(self) -> int:
        """No queue of a driver."""
        return 0

    def put(self, work: Callable[[], None]) -> None:
        """Queue some work."""
        with self._lock:
            self._queue.append(work)
            self._queued += 1
            if not self._deferred:
                self._drain(self._queued)

    def record(self) -> HostEvent:
        """See `Stream.record`."""
        with self._lock:
            return HostEvent(self, self._queued)

    def wait(self, event: Any) -> None:
        """See `Stream.wait`."""
        if event.stream is not self and self._deferred:
            self.put(lambda: event.stream.drain(event.position))

    def drain(self, position: int) -> None:
        """Run what was queued before a position."""
        with self._lock:
            self._drain(position)

    def _drain(self, position: int) -> None:
        while self._done < position and self._queue:
            work = self._queue.popleft()
            self._done += 1
            try:
                work()
            except Exception as error:  # as on a device: it comes out when somebody waits
                self._error = self._error or error

    def synchronize(self) -> None:
        """See `Stream.synchronize`."""
        with self._lock:
            self._drain(self._queued)
            error, self._error = self._error, None
        if error is not None:
            raise error


class HostBuffer:
    """Numpy memory between canaries."""

    def __init__(self, memory: Bytes, start: int, nbytes: int) -> None:
        self._memory = memory
        self._start = start
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        """Of the first byte."""
        return int(self._memory.ctypes.data) + self._start

    @property
    def owner(self) -> Bytes:
        """The bytes."""
        return self._memory[self._start : self._start + self.nbytes]


class HostPinned:
    """Ordinary memory that poses as page-locked."""

    def __init__(self, nbytes: int) -> None:
        self.data: Bytes = np.full(nbytes, POISON, np.uint8)


class HostRuntime:
    """`gpuzarr.device.runtime.Runtime` on host memory.

    Parameters
    ----------
    capacity
        Bytes of "device" memory; None for as much as there is.
    fails
        Asked with the number of each allocation, from 1 on: True makes it fail.
    deferred
        Whether queued work waits until somebody waits for it.
    decoder
        Of batches.
    files
        Reads files.

    Attributes
    ----------
    allocations, used, peak
        Allocations so far; bytes in use now and at most.
    damage
        Writes outside of buffers that were noticed when they were freed.
    stages
        How often each stage ran.
    """

    name = "host memory"

    def __init__(
        self,
        *,
        capacity: int | None = None,
        fails: Callable[[int], bool] | None = None,
        deferred: bool = False,
        decoder: BatchDecoder | None = None,
        verifies: frozenset[ChecksumKind] | None = None,
        files: RangeReader | None = None,
    ) -> None:
        self.capacity = capacity
        self.fails = fails
        self.deferred = deferred
        self.decoder: BatchDecoder = decoder if decoder is not None else HostBatchDecoder()
        self.verifies = verifies if verifies is not None else frozenset(ChecksumKind)
        self.files: RangeReader = files if files is not None else PreadReader()
        self.stages: Counter[str] = Counter()
        self.allocations = self.used = self.peak = self.live = 0
        self.uploads = self.downloads = 0
        self.damage: list[str] = []
        self._lock = threading.RLock()
        self._queues = threading.RLock() if deferred else None

    def stream(self) -> HostStream:
        """See `Runtime.stream`."""
        return HostStream(self._queues)

    def allocate(self, nbytes: int, stream: Stream) -> HostBuffer:
        """See `Runtime.allocate`."""
        with self._lock:
            self.allocations += 1
            free = self.free_nbytes()
            if (self.fails is not None and self.fails(self.allocations)) or 0 <= free < nbytes:
                raise DeviceMemoryError(nbytes, free)
            self.used += nbytes
            self.live += 1
            self.peak = max(self.peak, self.used)
        memory = np.full(nbytes + 2 * GUARD + ALIGNMENT, CANARY, np.uint8)
        start = GUARD + -(memory.ctypes.data + GUARD) % ALIGNMENT
        memory[start : start + nbytes] = POISON
        buffer = HostBuffer(memory, start, nbytes)
        assert isinstance(stream, HostStream)
        weakref.finalize(buffer, self._release, stream, memory, start, nbytes).atexit = False
        return buffer

    def _release(self, stream: HostStream, memory: Bytes, start: int, nbytes: int) -> None:
        """Queue the freeing of a buffer behind what its stream has to do."""

        def free() -> None:
            outside = np.concatenate([memory[:start], memory[start + nbytes :]])
            with self._lock:
                if (outside != CANARY).any():
                    self.damage.append(f"bytes outside of a buffer of {nbytes} bytes were written")
                self.used -= nbytes
                self.live -= 1
            memory[start : start + nbytes] = FREED

        stream.put(free)

    def direct(self, nbytes: int) -> HostBuffer:
        """See `Runtime.direct`."""
        return self.allocate(nbytes, HostStream(None))

    def pinned(self, nbytes: int) -> HostPinned:
        """See `Runtime.pinned`."""
        return HostPinned(nbytes)

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        """See `Runtime.upload`."""
        with self._lock:
            self.uploads += 1
        self._put(stream, lambda: _copy(address, int(source.ctypes.data), source.nbytes, source))

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        """See `Runtime.download`."""
        with self._lock:
            self.downloads += 1
        self._put(stream, lambda: _copy(int(target.ctypes.data), address, target.nbytes, target))

    def zero(self, address: int, nbytes: int, stream: Stream) -> None:
        """See `Runtime.zero`."""
        self._put(stream, lambda: _at(address, nbytes).fill(0))

    def launch(self, launch: Launch, stream: Stream) -> None:
        """See `Runtime.launch`."""
        if launch.blocks:
            self._put(stream, lambda: twins.run(launch))

    def decompress(self, *arguments: int, stream: Stream) -> int:
        """See `Runtime.decompress`."""
        algorithm, *rest = arguments

        def work() -> None:
            code = self.decoder.decompress(algorithm, *rest, 0)  # type: ignore[arg-type, call-arg]
            if code != Status.SUCCESS:
                raise RuntimeError(f"the batch was refused with status {code}")

        self._put(stream, work)
        return Status.SUCCESS

    def free_nbytes(self) -> int:
        """See `Runtime.free_nbytes`."""
        return -1 if self.capacity is None else self.capacity - self.used

    def activate(self) -> None:
        """Nothing to do."""

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Counts it."""
        with self._lock:
            self.stages[name] += 1
        return contextlib.nullcontext()

    @staticmethod
    def _put(stream: Stream, work: Callable[[], None]) -> None:
        assert isinstance(stream, HostStream)
        stream.put(work)


def _at(address: int, nbytes: int) -> Bytes:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)) if nbytes else np.empty(0, np.uint8)


def _copy(to: int, source: int, nbytes: int, _keep: Any) -> None:
    _at(to, nbytes)[...] = _at(source, nbytes)
