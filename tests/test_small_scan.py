"""Small scans, done at once, are the scans that a device does: the same rows, requests and errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
import support_backends as small_store
from hypothesis import given
from hypothesis import strategies as st
from scan_queries import SHAPES, small_frames
from scan_stores import random_store
from support_stores import MemoryStore

import gpuzarr
from gpuzarr.api import open_dataset
from gpuzarr.backends import cached_dataset
from gpuzarr.device.small import SmallScan
from gpuzarr.errors import GpuzarrError
from gpuzarr.options import ScanOptions
from gpuzarr.plan.model import ScanPlan
from gpuzarr.source.dataset import Dataset
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table import TableOptions

Answer = tuple[pl.DataFrame | None, dict[str, int] | None, tuple[object, ...] | None]


def answer(frames: Iterator[pl.DataFrame], statistics: ScanStatistics) -> Answer:
    """The rows and the counts, or what the error says."""
    try:
        found = list(frames)
    except GpuzarrError as error:
        return None, None, (type(error),)  # which of several comes first is anybody's guess
    counts = {f.name: getattr(statistics, f.name) for f in fields(statistics) if not f.name.startswith("_")}
    return (pl.concat(found) if found else None), counts, None


def both(dataset: Dataset, plan: ScanPlan, threads: int = 1) -> tuple[Answer, Answer]:
    one, other = ScanStatistics(), ScanStatistics()
    scan = SmallScan(plan, dataset.coordinates, dataset.reader(one), dataset.options, one)
    assert scan.frame is not None
    scan.threads = threads
    device = dataset.device(plan, other, inline=True)
    return answer(scan.frames(), one), answer(dataset.run(plan, device, other), other)


@given(st.integers(0, 2**63))
def test_small_scans_equal_those_of_a_device(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with small_frames(rng):
        store = random_store(rng, str(rng.choice(SHAPES)))
        options = ScanOptions(
            on_missing=str(rng.choice(["fill", "null", "raise"])), order=str(rng.choice(["tile", "C"]))
        )  # type: ignore[arg-type]
        groups = "struct" if store.fields else None
        objects = dict(store.objects)
        if rng.random() < 0.2:  # a damaged chunk, perhaps
            chunks = sorted(
                key for key in objects if not key.endswith((".json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"))
            )
            if chunks:
                objects[str(rng.choice(chunks))] = b"\x00damaged"
        try:
            dataset = open_dataset(
                MemoryStore(objects), table=TableOptions(broadcast=True, groups=groups), options=options
            )  # type: ignore[arg-type]
        except GpuzarrError:  # a damaged coordinate that the table depends on
            return
        table = dataset.table
        for _ in range(4):
            projection = [c.name for c in table.columns if rng.random() < 0.6] or [table.columns[0].name]
            kept = [pl.col(d.name) for d in table.dims if d.name in table.by_name and rng.random() < 0.5]
            predicate = None
            try:
                if kept:
                    values = [dataset.coordinates.values(c.meta.output_name()) for c in kept]
                    chosen = [v.filter(pl.Series(rng.random(len(v)) < 0.7)) for v in values]
                    predicate = pl.all_horizontal([c.is_in(v.implode()) for c, v in zip(kept, chosen, strict=True)])
                plan = dataset.plan(projection, predicate, int(rng.integers(0, 40)) if rng.random() < 0.3 else None)
            except GpuzarrError:
                continue
            scan = SmallScan(plan, dataset.coordinates, dataset.reader(ScanStatistics()), options, ScanStatistics())
            if not SmallScan.fits(plan) or scan.frame is None:
                continue
            one, other = both(dataset, plan, int(rng.integers(1, 4)))
            if one[0] is not None and other[0] is not None:
                assert one[0].equals(other[0])
                assert one[0].schema == other[0].schema
            assert one[1:] == other[1:]


@pytest.mark.parametrize("sharded", [False, True])
def test_which_scans_are_small(tmp_path: Path, sharded: bool) -> None:
    folder = small_store.folder(tmp_path / "s.zarr", sharded=sharded)
    dataset = open_dataset(folder)
    box = (pl.col("time").dt.day() < 5) & (pl.col("lat") > 40)
    count = ScanStatistics()
    assert dataset.small(dataset.plan(None, box), count) is not None
    for plan in (
        dataset.plan(None, box & (pl.col("t2m") > 0.5)),
        dataset.plan(None, box, 7),
        dataset.plan(None, pl.lit(False)),
    ):
        assert dataset.small(plan, count) is None
    rows = small_store.expected().filter(box)
    assert small_store.same(gpuzarr.scan_zarr(folder).filter(box).collect(), rows)
    with gpuzarr.ZarrBackendSync.from_url(folder) as backend:
        for _ in range(2):
            assert small_store.same(backend.scan_zarr_sync(box), rows)
        backend.clear_coord_cache()
        with mock.patch.object(cached_dataset, "THREADED_BYTES", 1):
            assert small_store.same(backend.scan_zarr_sync(box), rows)
        backend.clear_coord_cache()
        query = backend.dataset().for_query()
        with mock.patch.object(cached_dataset, "SMALL_BYTES", 1):
            assert query.small(query.plan(None, box), count) is None
        assert small_store.same(backend.scan_zarr_sync(box), rows)
        assert query.small(query.plan(None, box), count) is not None  # all chunks are at hand now
        wide = backend.dataset(progress=print).for_query()
        assert wide.small(wide.plan(None, box), count) is None  # who watches is told on the way
