"""Files read by kvikio: into page-locked memory by its threads, and with GPUDirect Storage into device memory.

Thin on purpose: what is read is decided elsewhere. Reading into host memory runs in the tests, by kvikio itself; into device
memory: not yet run on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuzarr.device.file_reads import Done, FileRead, Pending

__all__ = ["KvikioReader", "gds_problem"]

THREADS = 16
"""Of kvikio while a scan runs, where nobody chose a number: its own default of one reads a file at a time."""


def gds_problem() -> str:
    """Why GPUDirect Storage is not in use; empty where it is."""
    try:
        import kvikio.cufile_driver
        import kvikio.defaults
    except Exception as error:  # missing, or broken in whatever way
        return f"kvikio cannot be imported ({type(error).__name__})"
    try:
        if kvikio.defaults.is_compat_mode_preferred():
            return "kvikio is in compatibility mode (no cuFile, no /run/udev, or KVIKIO_COMPAT_MODE)"
        if not kvikio.cufile_driver.get("is_gds_available"):
            return "cuFile has no GPUDirect Storage here (no nvidia-fs, or a file system without it)"
    except Exception as error:  # whatever cuFile makes of this machine
        return f"cuFile does not answer ({type(error).__name__})"
    return ""


class DeviceView:
    """Device memory as kvikio takes it."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


class KvikioPending:
    """Futures of one file, which stays open until they are done."""

    is_done = False

    def __init__(self, file: Any, futures: list[Any]) -> None:
        self._file = file
        self._futures = futures

    def wait(self) -> list[int]:
        """See `Pending.wait`. All futures are waited for, also where one fails: their memory is in use until then."""
        counts, failed = [], None
        for future in self._futures:
            try:
                counts.append(int(future.get()))
            except RuntimeError as error:
                failed = error
        self._futures = []
        self._file.close()
        if failed is not None:
            raise OSError(0, f"kvikio: {failed}") from failed
        return counts


class KvikioReader:
    """`gpuzarr.device.file_reads.RangeReader` by kvikio.

    Raises
    ------
    ImportError
        It is not installed, or broken.
    """

    name = "kvikio"

    def __init__(self) -> None:
        import kvikio

        self._open = kvikio.CuFile
        self.not_direct = gds_problem()

    def submit(self, descriptor: int, reads: Sequence[FileRead], *, on_device: bool) -> Pending:
        """See `RangeReader.submit`. kvikio opens the file again by its descriptor: the one that was checked."""
        if not reads:
            return Done([])
        file = self._open(f"/proc/self/fd/{descriptor}", "r")
        pending = KvikioPending(file, [])
        try:
            for read in reads:
                target = DeviceView(read.address, read.nbytes) if on_device else _host(read)
                pending._futures.append(file.pread(target, read.nbytes, read.start))  # noqa: SLF001
        except BaseException:
            with contextlib.suppress(OSError):
                pending.wait()
            raise
        return pending

    @contextlib.contextmanager
    def scanning(self) -> Iterator[None]:
        """See `RangeReader.scanning`. The number of threads belongs to the process: the last scan gives it back."""
        _threads.enter()
        try:
            yield
        finally:
            _threads.leave()


def _host(read: FileRead) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * read.nbytes).from_address(read.address))


class _Threads:
    """kvikio's threads while at least one scan runs; a number that somebody chose is left as it is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scans = 0
        self._setting: Any = None

    def enter(self) -> None:
        import kvikio.defaults

        with self._lock:
            self._scans += 1
            if self._scans == 1 and kvikio.defaults.get("num_threads") == 1:
                self._setting = kvikio.defaults.set({"num_threads": THREADS})
                self._setting.__enter__()

    def leave(self) -> None:
        import kvikio.defaults

        with self._lock:
            self._scans -= 1
            if self._scans == 0 and self._setting is not None:
                setting, self._setting = self._setting, None
                if kvikio.defaults.get("num_threads") == THREADS:  # else somebody has chosen meanwhile
                    setting.__exit__(None, None, None)


_threads = _Threads()
