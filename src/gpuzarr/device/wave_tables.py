"""Tables of a wave in device memory, copied there at once."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from gpuzarr.device.memory_pool import Lease, PinnedPool
from gpuzarr.device.runtime import DeviceBuffer, Runtime, Stream
from gpuzarr.kernels.tables import TableBuffer

__all__ = ["PackedTables", "TablePack"]


class PackedTables:
    """Tables in device memory, addressed by the offsets that `TablePack` gave.

    Keep it until the stream has done the launches that read them, and release it after a synchronisation.
    """

    def __init__(self, buffer: DeviceBuffer | None, lease: Lease | None) -> None:
        self._buffer = buffer
        self._lease = lease

    def __getitem__(self, offset: int) -> int:
        """Address of a table; 0 for an empty pack."""
        return 0 if self._buffer is None else self._buffer.address + offset

    def release(self) -> None:
        """Give the host's copy back and drop the device's. Idempotent."""
        if self._lease is not None:
            self._lease.release()
        self._lease = self._buffer = None


class TablePack:
    """Collects tables; `upload` copies them."""

    def __init__(self) -> None:
        self._tables = TableBuffer()

    def add(self, table: npt.NDArray[Any]) -> int:
        """One more table; its offset."""
        return self._tables.add(table)

    def reserve(self, nbytes: int) -> int:
        """Room for results that begin as zeros; its offset."""
        return self._tables.reserve(nbytes)

    def upload(self, runtime: Runtime, pool: PinnedPool, stream: Stream) -> PackedTables:
        """Copy all tables to the device.

        Raises
        ------
        DeviceMemoryError
            There is no memory for them.
        """
        nbytes = self._tables.nbytes
        if not nbytes:
            return PackedTables(None, None)
        buffer = runtime.allocate(nbytes, stream)
        lease = pool.lend(nbytes)
        self._tables.write(lease.data)
        runtime.upload(buffer.address, lease.data[:nbytes], stream)
        return PackedTables(buffer, lease)
