"""The thin CUDA files where there is no GPU: they import, say what is missing, and have the shape that the engine asks for."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from support_wave import wave_device

import gpuzarr
from gpuzarr.api import open_dataset
from gpuzarr.device.runtime import Runtime
from gpuzarr.device.runtime_cuda import CudaRuntime, CudaStream
from gpuzarr.device.runtime_host import HostRuntime, HostStream
from gpuzarr.device.wave_frame import DeviceFrame
from gpuzarr.errors import EnvironmentLacksError
from gpuzarr.executor.loop import run
from gpuzarr.statistics import ScanStatistics

WITHOUT = not gpuzarr.probe().runs("cuda")


@pytest.mark.parametrize("method", [n for n in vars(Runtime) if not n.startswith("_") and callable(vars(Runtime)[n])])
def test_both_runtimes_have_the_methods_of_the_protocol(method: str) -> None:
    wanted = list(inspect.signature(getattr(Runtime, method)).parameters)
    for runtime in (CudaRuntime, HostRuntime):
        assert list(inspect.signature(getattr(runtime, method)).parameters) == wanted


def test_both_streams_have_the_same_methods() -> None:
    for method in ("record", "wait", "synchronize"):
        ours, host = (inspect.signature(getattr(kind, method)) for kind in (CudaStream, HostStream))
        assert list(ours.parameters) == list(host.parameters)


@pytest.mark.skipif(not WITHOUT, reason="this machine can run CUDA")
def test_without_a_gpu_the_calls_say_what_is_missing(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.arange(4.0))
    with pytest.raises(EnvironmentLacksError, match="device='cuda' cannot run here"):
        gpuzarr.scan_zarr(tmp_path / "a.zarr", device="cuda")
    with pytest.raises(EnvironmentLacksError, match="device='cuda' cannot run here"):
        gpuzarr.read_device(tmp_path / "a.zarr")
    with pytest.raises(EnvironmentLacksError, match="cannot run here"):
        CudaRuntime()
    lf = gpuzarr.scan_zarr(tmp_path / "a.zarr", device="auto")
    assert lf.collect().height == 4


def test_device_frames_hold_what_the_gpu_engine_takes(tmp_path: Path) -> None:
    """Widths, bitmaps and null counts of buffers, in the layout that libcudf wants."""
    group = zarr.create_group(tmp_path / "g.zarr")
    values = np.arange(1200, dtype="i2").reshape(30, 40)
    a = group.create_array("a", data=values, chunks=(7, 40), dimension_names=("y", "x"))
    a.attrs.update(_FillValue=5, scale_factor=0.5)
    group.create_array("b", data=values % 3 == 0, chunks=(30, 9), dimension_names=("y", "x"))
    group.create_array("y", data=np.arange(30) * 2.0, dimension_names=("y",))
    dataset = open_dataset(tmp_path / "g.zarr")
    plan = dataset.plan(predicate=pl.col("a") != 7.5)
    runtime = HostRuntime()
    device = wave_device(
        dataset, plan, ScanStatistics(), runtime, finish=lambda frame: frame, coordinates_on_device=True
    )
    frames: list[DeviceFrame] = list(run(plan.frames(), device))  # type: ignore[arg-type]
    (frame,) = frames
    assert not frame.host
    assert list(frame.device) == list(plan.projection) == list(frame.order)
    want = gpuzarr.scan_zarr(tmp_path / "g.zarr", device="cpu").filter(pl.col("a") != 7.5).collect()
    assert frame.rows == want.height
    for name, column in frame.device.items():
        assert column.null_count == want[name].null_count()
        assert column.buffers.values.nbytes >= frame.rows * column.numpy.itemsize
        assert column.buffers.values.address % 256 == 0
        if column.null_count:
            assert column.buffers.valid is not None
            assert column.buffers.valid.nbytes >= -(-frame.rows // 512) * 64
            bits = np.unpackbits(column.buffers.valid.owner, bitorder="little")[: frame.rows]
            assert bits.sum() == frame.rows - column.null_count
    assert frame.to_polars().equals(want)


def test_frames_for_the_gpu_engine_hold_our_buffers() -> None:
    """The engine's frame is built on the host, with addresses that nobody follows."""
    pytest.importorskip("cudf_polars", exc_type=ImportError)
    import pylibcudf as plc

    from gpuzarr.device.cuda_frames import to_cudf_polars
    from gpuzarr.device.memory_pool import PinnedPool
    from gpuzarr.device.runtime_cuda import CudaBuffer
    from gpuzarr.device.wave_frame import DeviceColumn
    from gpuzarr.device.wave_load import ColumnBuffers

    class Queue:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 0

    class Memory:
        def __init__(self, nbytes: int) -> None:
            self.__cuda_array_interface__ = {
                "shape": (nbytes,), "typestr": "|u1", "data": (0x10000, False), "version": 3, "strides": None,
            }  # fmt: skip

    stream = object.__new__(CudaStream)
    stream.stream = Queue()

    def buffer(nbytes: int) -> CudaBuffer:
        return CudaBuffer(plc.gpumemoryview(Memory(nbytes)), 0x10000, nbytes, stream)

    types = {"t": pl.Datetime("ns"), "v": pl.Float32(), "n": pl.UInt16(), "flag": pl.Boolean()}
    columns = {}
    for name, dtype in types.items():
        kind = {"t": "i8", "v": "f4", "n": "u2", "flag": "?"}[name]
        nulls = 3 if name == "v" else 0
        memory = ColumnBuffers(10, buffer(80), buffer(64) if nulls else None, buffer(16))
        columns[name] = DeviceColumn(dtype, np.dtype(kind), memory, nulls)
    runtime = HostRuntime()
    frame = DeviceFrame(10, columns, {}, tuple(types), stream, runtime, PinnedPool(runtime))  # type: ignore[arg-type]
    chunk = to_cudf_polars(frame)
    assert chunk.num_rows == 10
    assert [c.name for c in chunk.columns] == list(types)
    assert {c.name: c.dtype.polars_type for c in chunk.columns} == types
    assert [c.obj.null_count() for c in chunk.columns] == [0, 3, 0, 0]
    assert all(c.obj.data().ptr == 0x10000 for c in chunk.columns)
