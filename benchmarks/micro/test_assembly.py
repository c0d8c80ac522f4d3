"""Assembly: rows of one store of uncompressed chunks in memory, beside what numpy needs for the same columns."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import zarr

import gpuzarr

SHAPE, CHUNK = (32, 181, 360), (16, 91, 180)


@pytest.fixture(scope="module")
def group():
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w", zarr_format=3)
    dims = ("time", "lat", "lon")
    for name, size in zip(dims, SHAPE, strict=True):
        group.create_array(name, data=np.arange(size, dtype=np.float32), compressors=None, dimension_names=(name,))
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    group.create_array("v", data=values, chunks=CHUNK, compressors=None, dimension_names=dims)
    return group


def test_all_columns(benchmark, group):
    lf = gpuzarr.scan_zarr(group)
    benchmark.group = "all columns"
    assert benchmark(lf.collect).height == np.prod(SHAPE)


def test_all_columns_numpy(benchmark, group):
    values, axes = group["v"][...], [np.arange(n, dtype=np.float32) for n in SHAPE]
    benchmark.group = "all columns"

    def assemble():
        grids = np.meshgrid(*axes, indexing="ij", copy=False)
        return pl.DataFrame({**{f"d{i}": g.ravel() for i, g in enumerate(grids)}, "v": values.ravel()})

    assert benchmark(assemble).height == np.prod(SHAPE)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5])
def test_filter(benchmark, group, share):
    lf = gpuzarr.scan_zarr(group).filter(pl.col("v") > float(np.quantile(group["v"][...], 1 - share)))
    benchmark.group = f"filter {share:.2%}"
    assert benchmark(lf.collect).height > 0


def test_grouped_mean(benchmark, group):
    lf = gpuzarr.scan_zarr(group).group_by("time").agg(pl.col("v").mean())
    benchmark.group = "grouped mean"
    assert benchmark(lf.collect).height == SHAPE[0]
