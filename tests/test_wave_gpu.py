"""The wave engine on a GPU gives what it gives on host memory: the same cases, with `CudaRuntime` in place of `HostRuntime`.

Run by ``ci/test_gpu.sh``. Not yet run on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_wave
from polars.testing import assert_frame_equal
from scan_queries import Outcome, run
from support_wave import scans_on

import gpuzarr

pytestmark = pytest.mark.gpu

folder = test_wave.folder


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
