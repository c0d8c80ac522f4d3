"""Frames on the GPU for others: as a frame of the Polars GPU engine, and as CuPy arrays. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from gpuzarr.device.base import Device
from gpuzarr.device.memory_pool import DirectPool, PinnedPool
from gpuzarr.device.runtime_cuda import CudaRuntime, CudaStream, current_runtime
from gpuzarr.device.wave import WaveDevice
from gpuzarr.device.wave_frame import DeviceColumn, DeviceFrame
from gpuzarr.plan.model import ScanPlan
from gpuzarr.statistics import ScanStatistics

if TYPE_CHECKING:
    from gpuzarr.source.dataset import Dataset

__all__ = ["arrays", "open_device", "open_host_frames", "to_cudf_polars"]

SHARE_OF_FREE = 0.25
"""Of free device memory for waves in flight, where no budget is given."""

_pools: dict[int, PinnedPool] = {}
_direct_pools: dict[int, DirectPool] = {}


def open_device(dataset: Dataset, plan: ScanPlan, statistics: ScanStatistics) -> Device[DeviceFrame]:
    """The device of one scan whose frames stay on the GPU."""
    device = _open(dataset, plan, statistics, lambda frame: frame, coordinates_on_device=True)
    return cast("Device[DeviceFrame]", device)  # what `finish` gives


def open_host_frames(dataset: Dataset, plan: ScanPlan, statistics: ScanStatistics) -> WaveDevice:
    """The device of one scan whose frames come back: survivors of variables from the GPU, coordinates made on the host."""
    return _open(dataset, plan, statistics, DeviceFrame.to_polars, coordinates_on_device=False)


def _open(
    dataset: Dataset,
    plan: ScanPlan,
    statistics: ScanStatistics,
    finish: Callable[[DeviceFrame], Any],
    *,
    coordinates_on_device: bool,
) -> WaveDevice:
    runtime = current_runtime()
    budget = dataset.options.memory_budget
    return WaveDevice(
        plan,
        dataset.coordinates,
        dataset.reader(statistics),
        dataset.options,
        statistics,
        runtime,
        workers=dataset.workers,
        budget=budget if budget is not None else int(SHARE_OF_FREE * runtime.free_nbytes()),
        pinned=_pool(runtime),
        direct=_direct_pool(runtime),
        together=2**20 if dataset.store.is_local else 0,
        cache_bytes=dataset.budget // 4,
        finish=finish,
        coordinates_on_device=coordinates_on_device,
    )


def _pool(runtime: CudaRuntime) -> PinnedPool:
    """Page-locked memory of the process, kept from scan to scan."""
    return _pools.setdefault(id(runtime), PinnedPool(runtime))


def _direct_pool(runtime: CudaRuntime) -> DirectPool:
    """Device memory of the process that files are read into."""
    return _direct_pools.setdefault(id(runtime), DirectPool(runtime))


def to_cudf_polars(frame: DeviceFrame) -> Any:
    """The frame as a ``cudf_polars.containers.DataFrame``; columns in device memory are not copied."""
    from cudf_polars.containers import Column, DataFrame, DataType
    from pylibcudf import Column as PlainColumn
    from rmm.pylibrmm.stream import Stream as RmmStream

    assert isinstance(frame.stream, CudaStream)
    stream = RmmStream(frame.stream.stream)
    columns: dict[str, Any] = {}
    for name, column in frame.device.items():
        kind = DataType(column.dtype)
        buffers = column.buffers
        mask = buffers.valid.owner if column.null_count and buffers.valid is not None else None
        nulls = column.null_count if mask is not None else 0
        plain = PlainColumn(kind.plc_type, frame.rows, buffers.values.owner, mask, nulls, 0, [])
        columns[name] = Column(plain, dtype=kind, name=name)
    if frame.host:
        copied = DataFrame.from_polars(pl.DataFrame(list(frame.host.values())), stream=stream)
        columns.update({column.name: column for column in copied.columns})
    return DataFrame([columns[name] for name in frame.order], stream=stream, num_rows=frame.rows)


def arrays(frames: Iterator[DeviceFrame]) -> dict[str, Any]:
    """Columns as CuPy arrays, those of all frames put together; a masked column as (values, valid).

    Columns that live on the host (text) are left out. The arrays may be used in any stream.
    """
    import cupy

    parts: dict[str, list[tuple[Any, Any]]] = {}
    for frame in frames:
        assert isinstance(frame.stream, CudaStream)
        for name, column in frame.device.items():
            parts.setdefault(name, []).append(_views(column))
        frame.stream.synchronize()
    out: dict[str, Any] = {}
    for name, found in parts.items():
        values = cupy.concatenate([v for v, _ in found])
        if all(valid is None for _, valid in found):
            out[name] = values
            continue
        masks = [cupy.ones(len(v), cupy.bool_) if valid is None else valid for v, valid in found]
        out[name] = (values, cupy.concatenate(masks))
    return out


def _views(column: DeviceColumn) -> tuple[Any, Any]:
    """Values, and validity as booleans, of one column; the values are not copied."""
    import cupy

    buffers = column.buffers
    values = _view(buffers.values, buffers.rows * column.numpy.itemsize).view(column.numpy)
    if not column.null_count or buffers.valid is None:
        return values, None
    bits = cupy.unpackbits(_view(buffers.valid, buffers.valid.nbytes), bitorder="little")
    return values, bits[: buffers.rows].astype(cupy.bool_)


def _view(buffer: Any, nbytes: int) -> Any:
    import cupy

    memory = cupy.cuda.UnownedMemory(buffer.address, buffer.nbytes, buffer)
    return cupy.ndarray((nbytes,), cupy.uint8, cupy.cuda.MemoryPointer(memory, 0))
