"""Scans that only repeat coordinates are those that a device does: the same rows in the same order, and the same counts."""

from __future__ import annotations

from unittest import mock

import numpy as np
import polars as pl
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
        low = dataset.table.schema[lead]
        keep = pl.col(lead).is_not_null() if rng.random() < 0.3 and low is not None else None
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


def test_they_are_used_and_can_be_left_early() -> None:
    store = random_store(np.random.default_rng(5), "spanned")
    lf = gpuzarr.scan_zarr(MemoryStore(store.objects, is_local=True), broadcast=True)  # type: ignore[arg-type]
    names = [name for name in lf.collect_schema() if name in store.coordinates] if hasattr(store, "coordinates") else []
    used = 0
    real = CoordinateScan.frames

    def counted(self: CoordinateScan):  # type: ignore[no-untyped-def]
        nonlocal used
        used += 1
        return real(self)

    with (
        mock.patch.object(CoordinateScan, "frames", counted),
        mock.patch.object(gpuzarr.source.dataset, "INLINE_ROWS", 0),
    ):
        columns = names or lf.collect_schema().names()[:1]
        assert lf.select(columns).collect().height == lf.collect().height
        for frame in lf.select(columns).collect_batches(chunk_size=1):
            assert frame.height >= 0
            break
    assert used >= 1
