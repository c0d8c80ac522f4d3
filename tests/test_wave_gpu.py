"""The wave engine on a GPU gives what it gives on host memory: the same cases, with `CudaRuntime` in place of `HostRuntime`.

Run by ``ci/test_gpu.sh``. Not yet run on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_device_cache
import test_wave
import test_wave_shuffle
from polars.testing import assert_frame_equal
from scan_queries import Outcome, run
from support_wave import scans_on

import gpuzarr

pytestmark = pytest.mark.gpu

folder = test_wave.folder
shuffled = test_wave_shuffle.store


@pytest.fixture
def runtime() -> Any:
    if not gpuzarr.probe().runs("cuda"):
        lacks = next(d.lacks for d in gpuzarr.probe().devices if d.name == "cuda")
        pytest.skip("device='cuda' cannot run here: " + "; ".join(lacks))
    from gpuzarr.device.runtime_cuda import CudaRuntime

    return CudaRuntime()


@pytest.mark.parametrize("query", test_wave.QUERIES)
@pytest.mark.parametrize("budget", [1, 2**26])
def test_equal_to_the_host_path(folder: Path, runtime: Any, query: str, budget: int) -> None:
    dataset = test_wave.opened(folder)
    plan = dataset.plan(**test_wave.QUERIES[query])
    want, counted = test_wave.on_host(dataset, plan)
    got, statistics, device = test_wave.on_waves(dataset, plan, runtime, budget=budget)
    assert_frame_equal(got, want)
    assert test_wave._read(statistics) == test_wave._read(counted)
    assert not device.host_reasons
    assert device.scheduler.retried_chunks == 0


@pytest.mark.parametrize("way", ["preadv", "kvikio", "kvikio to the device"])
@pytest.mark.parametrize("budget", [1, 2**26])
def test_files_arrive_by_every_way(folder: Path, runtime: Any, way: str, budget: int) -> None:
    """Into page-locked memory, and into device memory: kvikio does the latter also without GPUDirect Storage."""
    from gpuzarr.device.file_reads import PreadReader

    if way == "preadv":
        runtime.files = PreadReader()
    else:
        pytest.importorskip("kvikio", exc_type=ImportError)
        from gpuzarr.device.cuda_files import KvikioReader

        runtime.files = KvikioReader()
        runtime.files.not_direct = "" if "device" in way else "for a test"
    dataset = test_wave.opened(folder)
    plan = dataset.plan()
    want, _ = test_wave.on_host(dataset, plan)
    for _ in range(3):  # memory is used again
        got, statistics, _device = test_wave.on_waves(dataset, plan, runtime, budget=budget)
        assert_frame_equal(got, want)
        assert statistics["bytes_copied"] == 0
        assert (statistics["waves_direct"] > 0) == ("device" in way)


@pytest.mark.parametrize("query", test_wave_shuffle.QUERIES)
def test_shuffled_chunks_are_gathered_as_they_are(shuffled: Path, runtime: Any, query: str) -> None:
    dataset = test_wave.opened(shuffled)
    plan = dataset.plan(**test_wave_shuffle.QUERIES[query])
    want, _ = test_wave.on_host(dataset, plan)
    got, statistics, _device = test_wave.on_waves(dataset, plan, runtime)
    assert_frame_equal(got, want)
    assert statistics["chunks_in_place"] > 0


def test_chunks_are_kept_on_the_device(tmp_path: Path, runtime: Any) -> None:
    test_device_cache.check_second_scan(tmp_path, runtime, sharded=False)


@pytest.mark.parametrize("seed", range(250))
def test_random_queries_equal_plain_polars(runtime: Any, seed: int) -> None:
    outcome = Outcome()
    coordinates = bool(np.random.default_rng(seed).random() < 0.5)
    with scans_on(lambda: runtime, budget=2**24, coordinates_on_device=coordinates):
        run(seed, 8, outcome)
    assert not outcome.differences, "\n".join(outcome.differences)


def test_columns_stay_on_the_device(folder: Path, runtime: Any) -> None:
    found = gpuzarr.read_device(folder, broadcast=True, columns=["zstd", "flat", "y"], n_rows=100)
    want = gpuzarr.scan_zarr(folder, broadcast=True, device="cpu").select("zstd", "flat", "y").head(100).collect()
    values, valid = found["flat"]
    assert found["zstd"].get().tolist() == want["zstd"].to_list()
    kept = valid.get()
    assert kept.tolist() == want["flat"].is_not_null().to_list()
    assert values.get()[kept].tolist() == want["flat"].drop_nulls().to_list()
