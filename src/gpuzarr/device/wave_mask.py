"""The residual predicate on the device: a program over columns and outcome codes, to the numbers of the rows that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuzarr.device.host import limit_mask
from gpuzarr.device.runtime import DeviceBuffer
from gpuzarr.device.wave_load import DeviceRows
from gpuzarr.device.wave_source import WaveSource
from gpuzarr.device.wave_tables import PackedTables, TablePack
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels.cf_program import column_program_plain
from gpuzarr.kernels.compiler import compile_predicate
from gpuzarr.kernels.descriptors import MAX_DIMS, ChunkSource, dtype_of
from gpuzarr.kernels.gather_tables import ArrayAxis, PieceBox, gather_tables
from gpuzarr.kernels.program import Program
from gpuzarr.plan.model import Piece, ScanPlan
from gpuzarr.predicate import Node, codes_on

if TYPE_CHECKING:
    from gpuzarr.device.wave_job import WaveJob

__all__ = ["DeviceFilter", "device_filter"]

_CODES = column_program_plain(np.uint8)


@dataclass(frozen=True, eq=False)
class DeviceFilter:
    """A predicate that the device evaluates.

    Parameters
    ----------
    program
        For the predicate kernel.
    paths
        Array of each column of the program; None for a column of outcome codes.
    leaves
        Coordinate-only parts by the name of their column.
    """

    program: Program
    paths: tuple[str | None, ...]
    leaves: Mapping[str, Node]

    @property
    def columns(self) -> tuple[str, ...]:
        """Paths of the variables that must be in device memory."""
        return tuple(path for path in self.paths if path is not None)

    def rows(self, job: WaveJob) -> DeviceRows:
        """Evaluate the predicate on a frame whose variables are in device memory.

        Raises
        ------
        DeviceMemoryError
            There is no memory for masks and codes.
        """
        device, frame = job.device, job.frame
        runtime, stream = device.runtime, job.stream
        buffers: list[DeviceBuffer] = []
        tables: list[PackedTables] = []
        columns: list[tuple[int, int]] = []
        try:
            for name, path in zip(self.program.columns, self.paths, strict=True):
                if path is None:
                    codes = runtime.allocate(max(1, frame.rows), stream)
                    buffers.append(codes)
                    for piece in frame.pieces:
                        tables += _gather_codes(self.leaves[name], piece, codes, job)
                    columns.append((codes.address, 0))
                else:
                    found = job.on_device[path].buffers
                    valid = found.valid.address if found.valid is not None and job.null_counts[path] else 0
                    columns.append((found.values.address, valid))
            mask = runtime.allocate(max(1, frame.rows), stream)
            runtime.launch(launches.predicate(self.program, columns, mask.address, 0, frame.rows), stream)
            limit = limit_mask(frame)
            if limit is not None:
                return job.upload_rows(np.flatnonzero(_mask_on_host(mask, job) & limit).astype(np.int32))
            return _survivors(mask, job)
        finally:
            stream.synchronize()
            for table in tables:
                table.release()


def device_filter(plan: ScanPlan, columns: Mapping[str, WaveSource]) -> DeviceFilter | None:
    """The filter of a plan for the device; None where Polars evaluates it on the host."""
    if plan.filter is None or len(plan.table.dims) > MAX_DIMS:
        return None
    program = compile_predicate(plan.filter.expression, plan.table.schema, codes=tuple(plan.filter.leaves))
    if program is None:
        return None
    paths: list[str | None] = []
    for name in program.columns:
        if name in plan.filter.leaves:
            paths.append(None)
            continue
        column = plan.table.by_name[name]
        if column.array is None or column.array.path not in columns:
            return None
        paths.append(column.array.path)
    return DeviceFilter(program, tuple(paths), plan.filter.leaves)


def _gather_codes(leaf: Node, piece: Piece, out: DeviceBuffer, job: WaveJob) -> list[PackedTables]:
    """Outcome codes of one coordinate-only part over the rows of a piece."""
    device, stream = job.device, job.stream
    at = {d.name: i for i, d in enumerate(device.plan.table.dims)}
    codes = np.ascontiguousarray(codes_on(leaf, {d: piece.picks[at[d]] for d in leaf.dims}), np.uint8)
    own = TablePack()
    first = own.add(codes.reshape(-1))
    values = own.upload(device.runtime, device.pinned, stream)
    axes = [
        ArrayAxis(at[name], max(1, size), math.prod(codes.shape[i + 1 :]))
        for i, (name, size) in enumerate(zip(leaf.dims, codes.shape, strict=True))
    ]
    tables = gather_tables(axes, [PieceBox(piece.first_row, tuple(slice(0, n) for n in piece.shape))])
    sources = np.zeros(1, dtype_of(ChunkSource))
    sources["address"] = values[first]
    pack = TablePack()
    numbers = [pack.add(table) for table in (tables.pieces, _some(tables.entries), sources, tables.tile_piece)]
    packed = pack.upload(device.runtime, device.pinned, stream)
    launch = launches.gather(
        _CODES,
        tables,
        pieces=packed[numbers[0]],
        entries=packed[numbers[1]],
        chunks=packed[numbers[2]],
        tile_piece=packed[numbers[3]],
        values=out.address,
    )
    device.runtime.launch(launch, stream)
    return [values, packed]


def _some(table: np.ndarray) -> np.ndarray:
    return table if len(table) else np.zeros(1, table.dtype)


def _mask_on_host(mask: DeviceBuffer, job: WaveJob) -> np.ndarray:
    device, rows = job.device, job.frame.rows
    lease = device.pinned.lend(rows)
    try:
        device.runtime.download(lease.data[:rows], mask.address, job.stream)
        job.stream.synchronize()
        kept: np.ndarray = lease.data[:rows] != 0
        return kept
    finally:
        lease.release()


def _survivors(mask: DeviceBuffer, job: WaveJob) -> DeviceRows:
    """Numbers of the rows whose byte is set, on the device and on the host."""
    device, stream, rows = job.device, job.stream, job.frame.rows
    runtime = device.runtime
    tiles = launches.tiles(rows)
    counts, offsets = runtime.allocate(4 * tiles, stream), runtime.allocate(4 * tiles, stream)
    total = runtime.allocate(8, stream)
    runtime.launch(launches.mask_counts(mask.address, rows, counts.address), stream)
    runtime.launch(launches.scan_counts(counts.address, offsets.address, total.address, rows), stream)
    lease = device.pinned.lend(8)
    try:
        runtime.download(lease.data[:8], total.address, stream)
        stream.synchronize()
        kept = int(lease.data[:8].view(np.uint64)[0])
    finally:
        lease.release()
    numbers = runtime.allocate(max(4, 4 * kept), stream)
    if not kept:
        return DeviceRows(np.empty(0, np.int32), numbers)
    runtime.launch(launches.survivors(mask.address, rows, offsets.address, numbers.address), stream)
    lease = device.pinned.lend(4 * kept)
    try:
        runtime.download(lease.data[: 4 * kept], numbers.address, stream)
        stream.synchronize()
        return DeviceRows(lease.data[: 4 * kept].copy().view(np.int32), numbers)
    finally:
        lease.release()
