"""A frame in device memory, and how its columns come back to the host."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from gpuzarr.cf.series import arrow_type
from gpuzarr.device.columns import without_columns
from gpuzarr.device.memory_pool import PinnedPool
from gpuzarr.device.runtime import Bytes, Runtime, Stream
from gpuzarr.device.wave_load import ColumnBuffers
from gpuzarr.kernels.launch import bitmap_nbytes

__all__ = ["DeviceColumn", "DeviceFrame", "download", "series"]


@dataclass(frozen=True, eq=False)
class DeviceColumn:
    """A column in device memory.

    Parameters
    ----------
    dtype
        Of the column.
    numpy
        Of the values in memory: int64 ticks for Datetime and Duration, bool (one byte) for Boolean.
    buffers
        Values, validity bitmap (LSB first, padded to 64 bytes) and counters.
    null_count
        Missing rows; the bitmap is of no interest where it is 0.
    """

    dtype: pl.DataType
    numpy: np.dtype
    buffers: ColumnBuffers
    null_count: int


@dataclass(frozen=True, eq=False)
class DeviceFrame:
    """Columns of one frame in the order of the projection; everything has been queued in `stream`.

    Parameters
    ----------
    rows
        Of every column.
    device
        Columns in device memory, by name.
    host
        Columns that live on the host: coordinates, text, what only the host decodes.
    order
        Names in order.
    """

    rows: int
    device: dict[str, DeviceColumn]
    host: dict[str, pl.Series]
    order: tuple[str, ...]
    stream: Stream
    runtime: Runtime = field(repr=False)
    pool: PinnedPool = field(repr=False)

    @property
    def height(self) -> int:
        """Rows, as a `polars.DataFrame` has it."""
        return self.rows

    def to_polars(self) -> pl.DataFrame:
        """The frame in host memory."""
        columns = dict(self.host)
        arrays = download(
            [c.buffers for c in self.device.values()],
            [c.numpy for c in self.device.values()],
            [c.null_count for c in self.device.values()],
            self.runtime,
            self.pool,
            self.stream,
        )
        for (name, column), (values, valid) in zip(self.device.items(), arrays, strict=True):
            columns[name] = series(name, column.dtype, values, valid, column.null_count)
        return pl.DataFrame([columns[name] for name in self.order]) if self.order else without_columns(self.rows)


def download(
    columns: list[ColumnBuffers],
    dtypes: list[np.dtype],
    null_counts: list[int],
    runtime: Runtime,
    pool: PinnedPool,
    stream: Stream,
) -> list[tuple[np.ndarray, Bytes | None]]:
    """Values and validity bitmaps (None without missing rows) in ordinary host memory; one wait for all."""
    total = 0
    spans: list[tuple[int, int, int, int]] = []
    for column, dtype, nulls in zip(columns, dtypes, null_counts, strict=True):
        values = column.rows * dtype.itemsize
        valid = bitmap_nbytes(column.rows) if nulls and column.valid is not None else 0
        start, middle = total, total + -(-values // 64) * 64
        spans.append((start, values, middle, valid))
        total = middle + valid
    if not total:
        return [(np.empty(0, dtype), None) for dtype in dtypes]
    lease = pool.lend(total)
    try:
        for column, (start, values, middle, valid) in zip(columns, spans, strict=True):
            if values:
                runtime.download(lease.data[start : start + values], column.values.address, stream)
            if valid and column.valid is not None:
                runtime.download(lease.data[middle : middle + valid], column.valid.address, stream)
        stream.synchronize()
        out: list[tuple[np.ndarray, Bytes | None]] = []
        for dtype, (start, values, middle, valid) in zip(dtypes, spans, strict=True):
            bitmap = lease.data[middle : middle + valid].copy() if valid else None
            out.append((lease.data[start : start + values].copy().view(dtype), bitmap))
        return out
    finally:
        lease.release()


def series(name: str, dtype: pl.DataType, values: np.ndarray, valid: Bytes | None, null_count: int) -> pl.Series:
    """Values and validity bitmap as a Polars column; values are not copied, except Boolean ones."""
    kind = arrow_type(dtype)
    bitmap = None if valid is None or not null_count else pa.py_buffer(valid)
    data = np.packbits(values.view(np.uint8) != 0, bitorder="little") if isinstance(dtype, pl.Boolean) else values
    return pl.Series(name, pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(data)], null_count))
