"""Stores for tests of plans on the Polars GPU engine."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

import gpuzarr

# Where cudf-polars is not installed these tests are not there; CI demands them where it is.
if find_spec("cudf_polars") is None and "GPUZARR_NEEDS_CUDF_POLARS" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
else:
    import cudf_polars  # noqa: F401

SHAPE = (24, 12, 10)


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variables on (time, lat, lon) in 24 tiles' worth of chunks; some cells of one are missing, some NaN."""
    path = tmp_path_factory.mktemp("gpu-plan") / "grid.zarr"
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(path)
        dims = ("time", "lat", "lon")
        t2m = rng.normal(280, 15, SHAPE).astype("f4")
        t2m[rng.random(SHAPE) < 0.1] = -999
        t2m[rng.random(SHAPE) < 0.1] = np.nan
        for name, data, attributes in (
            ("t2m", t2m, {"_FillValue": -999.0}),
            ("rain", rng.random(SHAPE), {}),
        ):
            array = group.create_array(
                name, shape=SHAPE, chunks=(4, 6, 10), dtype=data.dtype, dimension_names=dims, attributes=attributes
            )
            array[...] = data
        units = {"units": "hours since 2020-01-01"}
        for name, data, attributes in (
            ("time", np.arange(24) * 6, units),
            ("lat", np.arange(12) * 2.5, {}),
            ("lon", np.arange(10) * 2.5, {}),
        ):
            array = group.create_array(
                name,
                shape=data.shape,
                chunks=data.shape,
                dtype=data.dtype,
                dimension_names=(name,),
                attributes=attributes,
            )
            array[...] = data
    return path


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile per chunk; with the smallest partitions a frame per tile, so that the small grid has 12 of each."""
    import functools

    import gpuzarr.plan.model
    import gpuzarr.source.gpu_source
    import gpuzarr.table.build

    tile_shape = functools.partial(gpuzarr.table.build.tile_shape, tile_rows=240)
    monkeypatch.setattr(gpuzarr.table.build, "tile_shape", tile_shape)
    monkeypatch.setattr(gpuzarr.source.gpu_source, "FRAME_ROWS", 240)


@pytest.fixture
def lf(grid: Path, small_tiles: None) -> pl.LazyFrame:
    return gpuzarr.scan_zarr(grid)
