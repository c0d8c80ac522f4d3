"""The wave engine on host memory: equal to the host path, whatever the codecs, the size of waves, the memory and the damage."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
import zarr.codecs
from polars.testing import assert_frame_equal
from support_wave import wave_device

from gpuzarr.api import open_dataset
from gpuzarr.codecs.batch_host import HostBatchDecoder
from gpuzarr.device import wave_schedule
from gpuzarr.device.pool import FEWER_THREADS, WorkPool
from gpuzarr.device.runtime_host import HostRuntime
from gpuzarr.device.wave import WaveDevice
from gpuzarr.errors import ChunkError, Kind, ResourceError
from gpuzarr.executor.loop import run
from gpuzarr.options import ScanOptions
from gpuzarr.source.dataset import Dataset
from gpuzarr.statistics import ScanStatistics

SHAPE = (6, 20, 26)
CODECS: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "big": {"compressors": None, "serializer": zarr.codecs.BytesCodec(endian="big")},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(checksum=True)},
    "blosc_lz4": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle", typesize=4)},
    "blosc_zstd": {"compressors": zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=4)},
    "blosc_blosclz": {"compressors": zarr.codecs.BloscCodec(cname="blosclz", shuffle="shuffle", typesize=4)},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "crc": {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    "transposed": {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]},
    "sharded": {"shards": (6, 10, 26), "compressors": zarr.codecs.ZstdCodec()},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wave") / "store.zarr"
    group = zarr.create_group(path)
    rng = np.random.default_rng(7)
    for number, (name, options) in enumerate(CODECS.items()):
        chunks = (4, 10, 13) if number % 3 else (5, 20, 9)
        chunks = (3, 10, 13) if name == "sharded" else chunks
        array = group.create_array(
            name, shape=SHAPE, chunks=chunks, dtype="f4", dimension_names=("t", "y", "x"), fill_value=-1, **options
        )
        array[...] = rng.normal(size=SHAPE).cumsum(-1).round(2)
        (path / name / "c" / "0" / "0" / "0").unlink()  # a chunk, or a whole shard, that is not stored
    flat = group.create_array("flat", shape=SHAPE[1:], chunks=(8, 20), dtype="i2", dimension_names=("y", "x"))
    flat.attrs.update(scale_factor=0.5, add_offset=3, _FillValue=-9)
    flat[...] = rng.integers(-9, 20, SHAPE[1:])
    group.create_array("t", shape=SHAPE[:1], dtype="i4", dimension_names=("t",), fill_value=0)[...] = np.arange(6)
    group["t"].attrs["units"] = "hours since 2001-01-01"
    words = np.array([f"w{i % 7}" for i in range(26)], dtype=object)
    group.create_array("x", shape=(26,), chunks=(20,), dtype=str, dimension_names=("x",))[...] = words
    return path


def opened(folder: Path, **options: Any) -> Dataset:
    from gpuzarr.table import TableOptions

    return open_dataset(folder, table=TableOptions(broadcast=True), options=ScanOptions(**options))


def on_host(dataset: Dataset, plan: Any) -> tuple[pl.DataFrame, dict[str, int]]:
    statistics = ScanStatistics()
    return _concatenated(dataset, plan, list(dataset.scan(plan, statistics))), statistics.as_dict()


def on_waves(
    dataset: Dataset, plan: Any, runtime: Any, **options: Any
) -> tuple[pl.DataFrame, dict[str, int], WaveDevice]:
    statistics = ScanStatistics()
    device = wave_device(dataset, plan, statistics, runtime, **options)
    frames = list(run(plan.frames(), device, budget=dataset.budget))
    return _concatenated(dataset, plan, frames), statistics.as_dict(), device


def _concatenated(dataset: Dataset, plan: Any, frames: list[pl.DataFrame]) -> pl.DataFrame:
    empty = pl.DataFrame(schema={name: dataset.table.schema[name] for name in plan.projection})
    return pl.concat([empty, *frames])


def _read(statistics: dict[str, int]) -> dict[str, int]:
    """What both ways of reading count."""
    of_waves = {
        "waves",
        "waves_direct",
        "bytes_copied",
        "chunks_in_place",
        "streams_batched",
        "chunks_on_host",
        "chunks_retried",
        "columns_on_host",
    }
    return {name: count for name, count in statistics.items() if name not in of_waves}


QUERIES: dict[str, dict[str, Any]] = {
    "all": {},
    "coordinates": {"predicate": (pl.col("y") > 7) & (pl.col("x") == "w3")},
    "few": {"predicate": (pl.col("zstd") > 6) & (pl.col("y") > 3)},
    "most": {"predicate": (pl.col("zstd") < 9) | (pl.col("t").dt.hour() == 4)},
    "text": {"predicate": (pl.col("zstd") > 2) ^ (pl.col("x") == "w1"), "with_columns": ["x", "plain", "t", "flat"]},
    "masked": {"predicate": pl.col("flat").is_null(), "with_columns": ["flat", "gzip", "x"]},
    "host only": {"predicate": (pl.col("plain").sin() > 0.9), "with_columns": ["crc"]},
    "limit": {"n_rows": 534, "predicate": pl.col("plain") > 0},
    "none": {"predicate": pl.col("zstd") > 1e6},
    "constant": {"with_columns": ["y"], "predicate": pl.col("flat") > 3},
}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("budget", [1, 2**26])
def test_equal_to_the_host_path(folder: Path, query: str, budget: int) -> None:
    dataset = opened(folder)
    plan = dataset.plan(**QUERIES[query])
    want, counted = on_host(dataset, plan)
    for deferred in (False, True)[budget > 1 :]:
        runtime = HostRuntime(deferred=deferred)
        got, statistics, device = on_waves(dataset, plan, runtime, budget=budget)
        assert_frame_equal(got, want)
        assert _read(statistics) == _read(counted)
        assert statistics["streams_batched"] == device.scheduler.batched_streams
        assert not device.host_reasons
        if query == "all":
            assert device.scheduler.batched_streams > 50
            assert not device.scheduler.host_chunks
        gc.collect()
        assert device.pinned.used == 0
        assert not runtime.damage


def test_checksums_are_verified_on_the_device_where_the_decoder_does_not(folder: Path) -> None:
    decoder = HostBatchDecoder(verifies=frozenset())
    dataset = opened(folder)
    plan = dataset.plan()
    want, _ = on_host(dataset, plan)
    got, _, device = on_waves(dataset, plan, HostRuntime(decoder=decoder))
    assert_frame_equal(got, want)
    assert not device.scheduler.host_chunks
    got, _, device = on_waves(dataset, plan, HostRuntime(decoder=decoder, verifies=frozenset()))
    assert_frame_equal(got, want)
    assert device.scheduler.host_chunks  # nobody else can verify them


@dataclass
class Flaky:
    """A decoder some of whose streams fail or come out short."""

    inner: HostBatchDecoder = field(default_factory=HostBatchDecoder)
    every: int = 3

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def decompress(self, algorithm: Any, *arguments: int) -> int:
        import ctypes

        code = self.inner.decompress(algorithm, *arguments)
        actual, count, statuses = arguments[3], arguments[4], arguments[8]
        for i in range(0, count, self.every):
            if i % 2:
                ctypes.c_int32.from_address(statuses + 4 * i).value = 12
            else:
                ctypes.c_uint64.from_address(actual + 8 * i).value -= 1
        return code


def test_failed_streams_are_decoded_by_the_host_and_counted(folder: Path) -> None:
    dataset = opened(folder)
    plan = dataset.plan()
    want, _ = on_host(dataset, plan)
    got, _, device = on_waves(dataset, plan, HostRuntime(decoder=Flaky()))  # type: ignore[arg-type]
    assert_frame_equal(got, want)
    assert device.scheduler.retried_chunks > 10


def test_an_allocation_that_fails_once_changes_nothing(folder: Path) -> None:
    dataset = opened(folder)
    plan = dataset.plan(predicate=(pl.col("zstd") > 6) & (pl.col("t").dt.hour() != 2))
    want, _ = on_host(dataset, plan)
    runtime = HostRuntime()
    on_waves(dataset, plan, runtime, budget=2**20)
    assert runtime.allocations > 10
    for k in range(1, runtime.allocations + 1, max(1, runtime.allocations // 12)):
        failing = HostRuntime(fails=lambda number, k=k: number == k)
        got, _, device = on_waves(dataset, plan, failing, budget=2**20)
        assert_frame_equal(got, want)
        assert device.scheduler.halved + device.gate.shortages > 0
        del device
        gc.collect()
        assert failing.used == 0


def test_less_memory_makes_waves_smaller_then_an_error_that_says_how_much(folder: Path) -> None:
    dataset = opened(folder, memory_budget=1)
    plan = dataset.plan(with_columns=["zstd", "gzip", "blosc_lz4"])
    want, _ = on_host(dataset, plan)
    free = HostRuntime()
    on_waves(dataset, plan, free, budget=2**30, in_flight=1)
    enough = HostRuntime(capacity=free.peak * 3 // 4)
    got, _, device = on_waves(dataset, plan, enough, budget=2**30, in_flight=1)
    assert_frame_equal(got, want)
    assert device.scheduler.halved
    assert enough.peak <= free.peak * 3 // 4
    little = HostRuntime(capacity=6_000)
    with pytest.raises(ResourceError) as caught:
        on_waves(dataset, plan, little, budget=2**30)
    assert caught.value.kind == Kind.DEVICE_OOM
    assert "bytes" in str(caught.value)
    assert "free" in str(caught.value)
    little.capacity = None
    del caught
    got, _, device = on_waves(dataset, plan, little)  # the next query works
    assert_frame_equal(got, want)
    del device
    gc.collect()
    assert little.used == 0


def test_memory_in_flight_is_bounded(folder: Path) -> None:
    dataset = opened(folder, memory_budget=1)
    plan = dataset.plan()
    peaks = []
    for budget in (1, 300_000, 2**30):
        runtime = HostRuntime()
        on_waves(dataset, plan, runtime, budget=budget)
        peaks.append(runtime.peak)
    frame = max(f.rows for f in plan.frames()) * 5 * len(dataset.table.columns)
    chunk = 5 * 20 * 9 * 4 * 8
    assert peaks[0] < frame + len(CODECS) * 30 * chunk
    assert peaks[0] <= peaks[1] <= peaks[2]


def test_closing_early_stops_and_frees(folder: Path) -> None:
    dataset = opened(folder)
    plan = dataset.plan()
    runtime = HostRuntime()
    before = threading.active_count()
    device = wave_device(dataset, plan, ScanStatistics(), runtime, budget=1)
    frames = run(plan.frames(rows_wanted=200, rows_most=200), device, budget=1)
    next(frames)
    frames.close()
    gc.collect()
    assert device.pinned.used == 0
    del frames, device
    gc.collect()
    assert runtime.used == 0
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize("name", ["zstd", "blosc_lz4", "gzip", "crc", "sharded"])
def test_damage_is_the_error_of_the_host_path(folder: Path, tmp_path: Path, name: str) -> None:
    import shutil

    shutil.copytree(folder / name, tmp_path / "s.zarr" / name)
    for other in ("zarr.json", "t", "x"):
        source = folder / other
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "s.zarr" / other)
    chunk = next(p for p in sorted((tmp_path / "s.zarr" / name / "c").rglob("*")) if p.is_file())
    data = bytearray(chunk.read_bytes())
    for damage in ("cut", "token", "empty"):
        hurt = {"cut": bytes(data[: len(data) // 2]), "empty": b"", "token": bytes(_flipped(data))}[damage]
        chunk.write_bytes(hurt)
        dataset = opened(tmp_path / "s.zarr")
        plan = dataset.plan(with_columns=[name])
        outcomes: list[Any] = []
        for scan in (on_host, lambda d, p: on_waves(d, p, HostRuntime())[:2]):
            try:
                outcomes.append(scan(dataset, plan)[0])
            except ChunkError as error:
                outcomes.append((error.kind, error.array, error.key))
        if isinstance(outcomes[0], pl.DataFrame):
            assert_frame_equal(outcomes[1], outcomes[0])
        else:
            assert outcomes[0][1:] == outcomes[1][1:], outcomes
            assert outcomes[1][1] == name


def _flipped(data: bytearray) -> bytearray:
    out = bytearray(data)
    for at in range(len(out) // 3, len(out), max(1, len(out) // 5)):
        out[at] ^= 0xFF
    return out


def test_scans_note_that_waves_had_fewer_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(WorkPool):
        """As if the system had started fewer threads than were wanted."""

        def submit(self, priority: int, task: Callable[[], None]) -> None:
            super().submit(priority, task)
            self.refused = True

    monkeypatch.setattr(wave_schedule, "WorkPool", Refused)
    dataset = opened(folder)
    plan = dataset.plan(["zstd"], None, None, elementwise=True)
    statistics = ScanStatistics()
    list(run(plan.frames(), wave_device(dataset, plan, statistics, HostRuntime()), budget=dataset.budget))
    assert FEWER_THREADS in statistics.notes
