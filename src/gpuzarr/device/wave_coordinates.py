"""Coordinates in device memory, repeated over the rows of a frame by the gather kernel."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuzarr.device.columns import axis_map
from gpuzarr.device.runtime import DeviceBuffer
from gpuzarr.device.wave_frame import DeviceColumn
from gpuzarr.device.wave_load import ColumnBuffers, DeviceRows
from gpuzarr.device.wave_tables import TablePack
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels.cf_program import column_program_plain
from gpuzarr.kernels.descriptors import MAX_DIMS, ChunkSource, dtype_of
from gpuzarr.kernels.gather_tables import ArrayAxis, PieceBox, gather_tables
from gpuzarr.table.coordinates import Coordinates
from gpuzarr.table.model import Column

if TYPE_CHECKING:
    from gpuzarr.device.wave_job import WaveJob

__all__ = ["DeviceCoordinates"]


@dataclass(frozen=True, eq=False)
class _Uploaded:
    """Values of a coordinate, and one byte per value that says whether it is there (None: all are)."""

    dtype: np.dtype
    values: DeviceBuffer
    valid: DeviceBuffer | None


class DeviceCoordinates:
    """Coordinates of a scan, each copied to the device once."""

    def __init__(self, coordinates: Coordinates, dims: dict[str, int], sizes: dict[str, int]) -> None:
        self._coordinates = coordinates
        self._dims = dims
        self._sizes = sizes
        self._uploaded: dict[str, _Uploaded] = {}
        self._lock = threading.Lock()

    def holds(self, column: Column) -> bool:
        """Whether the column is a coordinate whose values have a fixed width."""
        fixed = column.decoding is None or column.decoding.is_fixed_width
        return column.role != "struct" and fixed and len(self._dims) <= MAX_DIMS and self._coordinates.holds(column)

    def column(self, column: Column, job: WaveJob, rows: DeviceRows | None) -> DeviceColumn:
        """A coordinate over all rows of a frame, or over its survivors; missing values are still to be counted.

        Raises
        ------
        DeviceMemoryError
            There is no memory for it.
        """
        source = self._upload(column, job)
        _, own = axis_map(column, self._dims)
        names = [name for name, at in self._dims.items() if at in own]
        sizes = [max(1, self._sizes[name]) for name in names]
        axes = [
            ArrayAxis(at, size, math.prod(sizes[i + 1 :])) for i, (at, size) in enumerate(zip(own, sizes, strict=True))
        ]
        tables = gather_tables(axes, [PieceBox(piece.first_row, piece.picks) for piece in job.frame.pieces])
        chunks = np.zeros(max(1, len(tables.chunk_indices)), dtype_of(ChunkSource))
        chunks["address"] = source.values.address
        chunks["mask"] = 0 if source.valid is None else source.valid.address
        runtime, stream = job.device.runtime, job.stream
        total = job.frame.rows if rows is None else len(rows.numbers)
        out = ColumnBuffers.allocate(total, source.dtype.itemsize, source.valid is not None, runtime, stream)
        pack = TablePack()
        entries = tables.entries if len(tables.entries) else np.zeros(1, tables.entries.dtype)
        at = [pack.add(table) for table in (tables.pieces, entries, chunks, tables.tile_piece)]
        packed = pack.upload(runtime, job.device.pinned, stream)
        job.keep.append(packed)
        program = column_program_plain(source.dtype)
        valid = 0 if out.valid is None else out.valid.address
        if rows is None:
            launch = launches.gather(
                program, tables, pieces=packed[at[0]], entries=packed[at[1]], chunks=packed[at[2]],
                tile_piece=packed[at[3]], values=out.values.address, valid=valid, null_count=out.counters.address,
            )  # fmt: skip
        else:
            launch = launches.gather_rows(
                program, tables, pieces=packed[at[0]], entries=packed[at[1]], chunks=packed[at[2]],
                rows=rows.buffer.address, count=total, values=out.values.address, valid=valid,
                null_count=out.counters.address,
            )  # fmt: skip
        runtime.launch(launch, stream)
        return DeviceColumn(column.dtype, source.dtype, out, 0 if source.valid is None else -1)

    def _upload(self, column: Column, job: WaveJob) -> _Uploaded:
        with self._lock:
            found = self._uploaded.get(column.name)
            if found is None:
                values, valid = self._coordinates.numpy(column.name)
                kept = None if valid is None or bool(valid.all()) else _to_device(valid.view(np.uint8), job)
                found = _Uploaded(values.dtype, _to_device(values, job), kept)
                self._uploaded[column.name] = found
            return found


def _to_device(values: np.ndarray, job: WaveJob) -> DeviceBuffer:
    device = job.device
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    buffer = device.runtime.allocate(max(1, flat.nbytes), job.stream)
    lease = device.pinned.lend(max(1, flat.nbytes))
    try:
        lease.data[: flat.nbytes] = flat
        device.runtime.upload(buffer.address, lease.data[: flat.nbytes], job.stream)
        job.stream.synchronize()
    finally:
        lease.release()
    return buffer
