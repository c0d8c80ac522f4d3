"""Queries that the GPU engine really runs, against a CPU engine. Needs a GPU; not yet run on one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from expressions import ColumnSpec, random_predicate
from polars.testing import assert_frame_equal
from support_gpu_plans import translate

import gpuzarr

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpuzarr.probe().gpu.names, reason=f"no GPU: {gpuzarr.probe().gpu.problem}"),
]

KEYS = ["time", "lat", "lon"]
ENGINES = {
    "in-memory": functools.partial(pl.GPUEngine, executor="in-memory", raise_on_fail=True),
    "streaming": functools.partial(pl.GPUEngine, executor="streaming", raise_on_fail=True),
    "small partitions": functools.partial(
        pl.GPUEngine, executor="streaming", raise_on_fail=True, executor_options={"target_partition_size": 1}
    ),
}


@pytest.fixture(params=["auto", "cpu", "cuda"])
def on(request: pytest.FixtureRequest, grid: Path, small_tiles: None) -> pl.LazyFrame:
    if request.param == "cuda" and not gpuzarr.probe().runs("cuda"):
        pytest.skip("device='cuda' cannot run here")
    return gpuzarr.scan_zarr(grid, device=request.param)


@pytest.mark.parametrize("engine", ENGINES)
def test_random_filters(on: pl.LazyFrame, grid: Path, engine: str) -> None:
    frame = gpuzarr.scan_zarr(grid, device="cpu").collect()
    specs = [ColumnSpec(name, frame[name], name in KEYS) for name in frame.columns]
    compared = 0
    for seed in range(60):
        predicate = random_predicate(np.random.default_rng(seed), specs, depth=seed % 4, python_functions=False)
        try:
            want = frame.filter(predicate).select("rain", *KEYS)
        except pl.exceptions.PolarsError:
            continue
        query = on.filter(predicate).select("rain", *KEYS)
        root, translator = translate(query)
        above = root.children[0] if type(root).__name__ == "Projection" else root
        if translator.errors or type(above).__name__ != "PythonScan":
            continue  # a part of the filter stays above the scan, where cudf has its own rules for NaN
        assert_frame_equal(query.collect(engine=ENGINES[engine]()), want, check_exact=True)
        compared += 1
    assert compared >= 30


@pytest.mark.parametrize("engine", ENGINES)
def test_queries(on: pl.LazyFrame, grid: Path, engine: str) -> None:
    cpu = gpuzarr.scan_zarr(grid, device="cpu")
    hot, box = pl.col("t2m") > 290, pl.col("lat").is_between(5, 20)

    def queries(lf: pl.LazyFrame) -> dict[str, pl.LazyFrame]:
        daily = lf.filter(hot).group_by("time").agg(pl.len(), pl.col("rain").mean())
        return {
            "all": lf,
            "head": lf.head(333),
            "head before filter": lf.head(700).filter(hot),
            "no row": lf.filter(pl.col("t2m") > 10_000),
            "no chunk": lf.filter(pl.col("lat") > 1000).select("rain"),
            "group by": daily.sort("time"),
            "join": lf.filter(box).join(lf.filter(hot).select(*KEYS, again="rain"), on=KEYS).sort(KEYS),
            "union": pl.concat([lf.filter(box), lf.head(9)]).sort(*KEYS, "rain"),
            "number": lf.filter(hot).select(pl.len()),
        }

    wanted: dict[str, Any] = {name: query.collect() for name, query in queries(cpu).items()}
    for name, query in queries(on).items():
        got = query.collect(engine=ENGINES[engine]())
        assert_frame_equal(got, wanted[name], check_exact=name != "group by")
