"""How a plan is cut into frames: large tiles into runs, and fewer and larger frames where a filter is asked."""

from __future__ import annotations

import functools
import math
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import gpuzarr
from gpuzarr.api import open_dataset
from gpuzarr.plan import model
from gpuzarr.plan.model import Tile, split
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.options import TableOptions


def indices(picks: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """Cells that are picked, in C order."""
    axes = [np.arange(p.start, p.stop) if isinstance(p, slice) else p for p in picks]
    return [tuple(map(int, row)) for row in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 60), st.integers(0, 200), st.randoms())
def test_runs_of_a_large_tile(shape: list[int], wanted: int, more: int, random: Any) -> None:
    picks = tuple(
        slice(3, 3 + n) if random.random() < 0.5 else np.cumsum([random.randint(1, 3) for _ in range(n)]) for n in shape
    )
    most = wanted + more
    runs = list(split(Tile(0, picks, True, None), wanted, most))
    assert [cell for run in runs for cell in indices(run)] == indices(picks)
    sizes = [len(indices(run)) for run in runs]
    assert max(sizes) <= most
    inner = next(i for i in (math.prod(shape[axis + 1 :]) for axis in range(len(shape))) if i <= wanted)
    if most >= 2 * wanted + inner and math.prod(shape) > most:
        assert min(sizes) >= wanted


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """16 tiles, each of them a chunk of 120 rows."""
    small = functools.partial(gpuzarr.table.build.tile_shape, tile_rows=1)
    monkeypatch.setattr(gpuzarr.table.build, "tile_shape", small)
    rng = np.random.default_rng(3)
    store = zarr.storage.MemoryStore()
    group = zarr.create_group(store)
    for name, n in (("t", 16), ("y", 12), ("x", 10)):
        group.create_array(name, data=np.arange(float(n)), dimension_names=(name,))
    for name in ("v", "w"):
        values = rng.normal(size=(16, 12, 10)).astype("f4")
        group.create_array(name, data=values, chunks=(2, 6, 10), dimension_names=("t", "y", "x"))
    return store


def test_frames_of_filtered_scans(store: Any) -> None:
    dataset = open_dataset(store)

    def sizes(columns: list[str], condition: pl.Expr | None, **constants: int) -> list[int]:
        limits = {"FRAME_ROWS": 60, "MAX_FRAME_ROWS": 960, "FILTERED_FRAMES": 4, "FILTERED_CELLS": 10**6} | constants
        with mock.patch.multiple(model, **limits):
            return [frame.rows for frame in dataset.plan(columns, condition, None, elementwise=True).frames()]

    passing = pl.col("v") > 0
    assert sizes(["v"], None) == [120] * 16
    assert sizes(["v"], passing) == [480] * 4
    assert sizes(["v"], passing, FILTERED_FRAMES=1) == [960] * 2
    assert sizes(["v"], passing, FILTERED_FRAMES=100) == [120] * 16
    assert sizes(["t", "v"], passing, FILTERED_CELLS=480) == [240] * 8
    assert sizes(["w"], passing, FILTERED_CELLS=480) == [240] * 8  # the filter's cells are held as well
    assert sizes(["v"], passing & (pl.col("t") < 8)) == [240] * 4  # of what is left


def test_fields_of_a_struct_count_for_frames_of_filtered_scans(store: Any) -> None:
    inner = zarr.open_group(store).create_group("g")
    for name in ("a", "b", "c"):
        inner.create_array(name, shape=(16, 12, 10), chunks=(2, 6, 10), dtype="f8", dimension_names=("t", "y", "x"))
    dataset = open_dataset(store, table=TableOptions(groups="struct"))
    with mock.patch.multiple(model, FRAME_ROWS=60, MAX_FRAME_ROWS=960, FILTERED_FRAMES=1, FILTERED_CELLS=960):
        plan = dataset.plan(["g"], pl.col("v") > 0, None, elementwise=True)
        frames = list(plan.frames())
    assert [frame.rows for frame in frames] == [240] * 8
    device = dataset.device(plan, ScanStatistics())
    chunks = 4 * 120 * 8  # at most, beside the cells: of each column, where it is decoded apart
    assert 240 * (3 * 8 + 4) <= device.nbytes(frames[0]) <= 240 * (3 * 8 + 4) + chunks  # what the memory budget is for
    device.close()


@pytest.mark.parametrize(
    "condition", [pl.col("v") > 0, pl.col("v") > -100, pl.col("v").is_not_nan() & (pl.col("w") > 1)]
)
def test_rows_do_not_depend_on_them(store: Any, condition: pl.Expr, monkeypatch: pytest.MonkeyPatch) -> None:
    lf = gpuzarr.scan_zarr(store)
    expected = lf.collect().filter(condition)
    monkeypatch.setattr(model, "FRAME_ROWS", 60)
    monkeypatch.setattr(gpuzarr.device.host, "FRAME_ROWS", 60)
    for frames in (1, 3, 100):
        monkeypatch.setattr(model, "FILTERED_FRAMES", frames)
        assert_frame_equal(lf.filter(condition).collect(), expected)
        dataset = open_dataset(store)
        heights = [f.height for f in dataset.scan(dataset.plan(["t", "v"], condition, None, elementwise=True))]
        assert sum(heights) == expected.height
        assert max(heights) <= 120  # what passes is handed out a little at a time
