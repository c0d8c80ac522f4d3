"""Ranges of files read to given addresses, in host or device memory: what reads for a wave, and how it does so without kvikio."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Done", "FileRead", "Pending", "PreadReader", "RangeReader"]

_ONE_READ = 1 << 30  # Linux cuts a read at 2 GiB - 4 KiB


@dataclass(frozen=True, slots=True)
class FileRead:
    """``nbytes`` bytes of a file from ``start``, to ``address``."""

    start: int
    nbytes: int
    address: int


class Pending(Protocol):
    """Reads on their way. The memory must stay until `wait` has returned or raised."""

    @property
    def is_done(self) -> bool:
        """Whether `wait` will not wait, because the reads were made when they were submitted."""
        ...

    def wait(self) -> list[int]:
        """Bytes read of each, fewer than asked for where the file has ended; raises what went wrong."""
        ...


class RangeReader(Protocol):
    """Reads files.

    Attributes
    ----------
    name
        For reports.
    not_direct
        Why files cannot be read into device memory without passing through host memory; empty where they are.
    """

    @property
    def name(self) -> str: ...

    @property
    def not_direct(self) -> str: ...

    def submit(self, descriptor: int, reads: Sequence[FileRead], *, on_device: bool) -> Pending:
        """Begin reads of a file; its descriptor may be closed when this returns.

        Parameters
        ----------
        on_device
            Whether the addresses are in device memory, of which nothing may be in use by the device.
        """
        ...

    def scanning(self) -> AbstractContextManager[None]:
        """While a scan uses it: threads are there."""
        ...


class Done:
    """Reads that have been made."""

    is_done = True

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts

    def wait(self) -> list[int]:
        """See `Pending.wait`."""
        return self._counts


class PreadReader:
    """Reads with system calls in the calling thread, straight to where the bytes belong.

    Parameters
    ----------
    direct
        Whether "device" memory is host memory, as it is in `gpuzarr.device.runtime_host`.
    """

    name = "preadv"

    def __init__(self, *, direct: bool = False) -> None:
        self.not_direct = "" if direct else "kvikio is not installed"

    def submit(self, descriptor: int, reads: Sequence[FileRead], *, on_device: bool) -> Done:
        """See `RangeReader.submit`."""
        assert not (on_device and self.not_direct)
        return Done([_read(descriptor, read) for read in reads])

    def scanning(self) -> AbstractContextManager[None]:
        """See `RangeReader.scanning`."""
        return contextlib.nullcontext()


def _read(descriptor: int, read: FileRead) -> int:
    if not read.nbytes:
        return 0
    target = np.ctypeslib.as_array((ctypes.c_uint8 * read.nbytes).from_address(read.address))
    done = 0
    while done < read.nbytes:
        stop = min(read.nbytes, done + _ONE_READ)
        got = _into(descriptor, target[done:stop], read.start + done)
        if not got:
            break
        done += got
    return done


def _into(descriptor: int, target: np.ndarray, start: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [target], start)
    os.lseek(descriptor, start, os.SEEK_SET)  # the descriptor is this thread's own
    data = os.read(descriptor, target.size)
    target[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)
