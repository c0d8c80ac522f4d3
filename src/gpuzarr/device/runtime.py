"""What the wave engine asks of a machine: memory, copies, kernels, batches of streams, queues. Host and CUDA implement it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.batch import BatchDecoder
from gpuzarr.codecs.tables import ChecksumKind
from gpuzarr.device.file_reads import RangeReader
from gpuzarr.kernels.launch import Launch

__all__ = ["Bytes", "DeviceBuffer", "DeviceMemoryError", "Event", "PinnedBuffer", "Runtime", "Stream"]

Bytes = npt.NDArray[np.uint8]


class DeviceMemoryError(Exception):
    """An allocation failed; the engine makes do with less or reports it.

    Attributes
    ----------
    needed, free
        Bytes asked for, and bytes that were free (-1 where nobody knows).
    """

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{needed} bytes needed, {free} free")
        self.needed = needed
        self.free = free


class Event(Protocol):
    """A mark in a stream."""


class Stream(Protocol):
    """A queue of work in order. Safe to use from several threads."""

    @property
    def handle(self) -> int:
        """Address that libraries take."""
        ...

    def record(self) -> Event:
        """Mark what has been queued so far."""
        ...

    def wait(self, event: Event) -> None:
        """What is queued from now on runs after the mark."""
        ...

    def synchronize(self) -> None:
        """Wait, on the host, for all that has been queued. Errors of queued work come out here."""
        ...


class DeviceBuffer(Protocol):
    """Device memory. It is given back, in the order of the stream it was allocated on, when nobody refers to it."""

    @property
    def address(self) -> int:
        """Of the first byte, a multiple of 256."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes asked for."""
        ...

    @property
    def owner(self) -> Any:
        """The object of the library that holds the memory."""
        ...


class PinnedBuffer(Protocol):
    """Page-locked host memory."""

    @property
    def data(self) -> Bytes:
        """All of it."""
        ...


class Runtime(Protocol):
    """One device.

    Attributes
    ----------
    name
        For reports.
    decoder
        Decodes batches of streams in device memory.
    verifies
        Checksums that its kernels compute.
    files
        Reads files into its memory, and into page-locked memory.
    """

    @property
    def name(self) -> str: ...

    @property
    def decoder(self) -> BatchDecoder: ...

    @property
    def verifies(self) -> frozenset[ChecksumKind]: ...

    @property
    def files(self) -> RangeReader: ...

    def stream(self) -> Stream:
        """A new stream."""
        ...

    def allocate(self, nbytes: int, stream: Stream) -> DeviceBuffer:
        """Uninitialised device memory, usable in the stream from now on.

        Raises
        ------
        DeviceMemoryError
            There is not so much.
        """
        ...

    def direct(self, nbytes: int) -> DeviceBuffer:
        """Uninitialised device memory that files can be read into, usable at once and without a stream. Slow: keep it.

        It must not be dropped before the device has done with it.

        Raises
        ------
        DeviceMemoryError
            There is not so much.
        """
        ...

    def pinned(self, nbytes: int) -> PinnedBuffer:
        """Uninitialised page-locked memory. Slow: keep it."""
        ...

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        """Copy page-locked memory to the device. It must not change before the stream has done it."""
        ...

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        """Copy from the device to page-locked memory."""
        ...

    def zero(self, address: int, nbytes: int, stream: Stream) -> None:
        """Fill with zeros."""
        ...

    def launch(self, launch: Launch, stream: Stream) -> None:
        """Run a kernel; launches without blocks do nothing."""
        ...

    def decompress(self, *arguments: int, stream: Stream) -> int:
        """`BatchDecoder.decompress` in a stream; all arguments but the last."""
        ...

    def free_nbytes(self) -> int:
        """Device memory that is free now; -1 where nobody knows."""
        ...

    def activate(self) -> None:
        """Make the device current in the calling thread."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Names what the calling thread does, for profilers: fetch, copy, decode, gather, filter, hand over."""
        ...
