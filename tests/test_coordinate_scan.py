"""Scans that only repeat coordinates are those that a device does: the same rows in the same order, and the same counts."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scan_queries import SHAPES, small_frames
from scan_stores import random_store
from support_stores import MemoryStore

import gpuzarr
from gpuzarr.api import open_dataset
from gpuzarr.device import coordinate_scan
from gpuzarr.device.coordinate_scan import CoordinateScan
from gpuzarr.device.frame_memory import FrameMemory
from gpuzarr.errors import GpuzarrError
from gpuzarr.options import ScanOptions
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table import TableOptions


@given(st.integers(0, 2**63))
@example(14211)  # a table without dimensions
def test_coordinate_scans_equal_those_of_a_device(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with small_frames(rng), mock.patch.object(coordinate_scan, "ROWS", int(rng.choice([1, 7, 60, 2**17]))):
        store = random_store(rng, str(rng.choice(SHAPES)))
        options = ScanOptions(order=str(rng.choice(["tile", "C"])))  # type: ignore[arg-type]
        try:
            dataset = open_dataset(MemoryStore(store.objects), table=TableOptions(broadcast=True), options=options)
        except GpuzarrError:
            return
        names = [c.name for c in dataset.table.columns if c.role in ("dimension", "index", "auxiliary")]
        wanted = [name for name in names if rng.random() < 0.6] or names[:1]
        lead = dataset.table.columns[0].name
        keep = pl.col(lead).is_not_null() if rng.random() < 0.3 else None
        plan = dataset.plan(wanted, keep, None, elementwise=True)
        if not CoordinateScan.fits(plan, dataset.coordinates):
            return
        one, other = ScanStatistics(), ScanStatistics()
        found = list(
            CoordinateScan(plan, dataset.coordinates, one, cache_bytes=int(rng.choice([0, 200, 2**20]))).frames()
        )
        expected = list(dataset.run(plan, dataset.device(plan, other), other))
        assert one.as_dict() == other.as_dict()
        if not expected:
            assert not found
            return
        assert_frame_equal(pl.concat(found), pl.concat(expected))


def test_they_are_used_and_can_be_left_early(monkeypatch: pytest.MonkeyPatch) -> None:
    zarrs: dict[str, np.ndarray] = {"y": np.arange(40.0), "x": np.arange(50.0)}
    group = zarr.create_group(store := zarr.storage.MemoryStore())
    for name, values in zarrs.items():
        group.create_array(name, data=values, dimension_names=(name,))
    group.create_array("v", shape=(40, 50), chunks=(10, 50), dtype="f4", dimension_names=("y", "x"))
    lf = gpuzarr.scan_zarr(store)
    memories: list[FrameMemory] = []
    real = CoordinateScan.frames

    def watched(self: CoordinateScan) -> Iterator[pl.DataFrame]:
        memories.append(self._memory)
        return real(self)

    monkeypatch.setattr(CoordinateScan, "frames", watched)
    monkeypatch.setattr(gpuzarr.source.dataset, "INLINE_ROWS", 0)
    monkeypatch.setattr(coordinate_scan, "ROWS", 500)
    rows = lf.select("y", "x").collect()
    assert rows["y"].to_list() == np.repeat(zarrs["y"], 50).tolist()
    assert rows["x"].to_list() == np.tile(zarrs["x"], 40).tolist()
    assert lf.select("x").head(3).collect()["x"].to_list() == [0, 1, 2]  # a part of a tile is not for them
    assert len(memories) == 1
    dataset = open_dataset(store)
    frames = dataset.scan(dataset.plan(["y"]))
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert len(memories) == 2
    assert all(memory._closed for memory in memories)
