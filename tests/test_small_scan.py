"""Small scans, done at once, are the scans that a device does: the same rows, requests and errors."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
import support_backends as small_store
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scan_queries import SHAPES, small_frames
from scan_stores import random_store
from support_stores import MemoryStore

import gpuzarr
from gpuzarr.api import open_dataset
from gpuzarr.backends import cached_dataset
from gpuzarr.device import small
from gpuzarr.device.pool import FEWER_THREADS
from gpuzarr.device.small import SmallScan
from gpuzarr.errors import GpuzarrError
from gpuzarr.options import ScanOptions
from gpuzarr.plan import model
from gpuzarr.plan.axis import Axis, simplify
from gpuzarr.plan.model import Filter, Piece, ScanPlan
from gpuzarr.source import dataset as source_dataset
from gpuzarr.source.dataset import Dataset
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import Buffer
from gpuzarr.table import TableOptions
from gpuzarr.table.model import Dimension, Table

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


@given(st.integers(0, 2**63))
def test_pieces_are_joined_along_the_leading_dimension(seed: int) -> None:
    """The same rows in the same order, and no two neighbours are left that could be one."""
    rng = np.random.default_rng(seed)
    cuts = [0, *sorted(rng.choice(np.arange(1, 9), int(rng.integers(0, 5)), replace=False).tolist()), 9]
    pieces: list[Piece] = []
    rows = 0
    for low, high in itertools.pairwise(cuts):
        if rng.random() < 0.2:
            continue
        other: Any = slice(2, 4) if rng.random() < 0.7 else np.array([1, 3], np.int64)
        for wide in (other,) if rng.random() < 0.8 else (slice(0, 2), slice(2, 4)):
            pieces.append(Piece(len(pieces), (slice(low, high), wide), (high - low, 2), rows, True, False, None))
            rows += 2 * (high - low)
    joined = small._joined(pieces)

    def cells(of: list[Piece]) -> list[tuple[int, int]]:
        table = np.arange(100).reshape(10, 10)
        return [int(n) for p in of for n in table[p.picks[0]][:, p.picks[1]].reshape(-1)]

    assert cells(joined) == cells(pieces)
    assert sum(p.rows for p in joined) == rows
    assert [p.first_row for p in joined] == [0, *np.cumsum([p.rows for p in joined]).tolist()][: len(joined)]
    for one, two in itertools.pairwise(joined):
        same = all(isinstance(p.picks[1], slice) for p in (one, two)) and one.picks[1] == two.picks[1]
        assert not (same and one.picks[0].stop == two.picks[0].start)


@given(st.integers(0, 2**63))
def test_tiles_in_one_go_are_those_looked_up_one_by_one(seed: int) -> None:
    """Also those of a plan that filters some of them, with picks that are no slices."""
    rng = np.random.default_rng(seed)
    sizes = tuple(int(n) for n in rng.integers(1, 7, int(rng.integers(0, 4))))
    dims = tuple(Dimension(f"d{i}", n) for i, n in enumerate(sizes))
    tile = tuple(int(rng.integers(1, n + 1)) for n in sizes)
    table = Table("s", "", dims, (), tile, {})
    picked = [simplify(np.flatnonzero(rng.random(n) < 0.7)) for n in sizes]
    axes = tuple(Axis.of(n, t, p) for n, t, p in zip(sizes, tile, picked, strict=True))
    plan = ScanPlan(table, (), axes)
    if rng.random() < 0.5:
        plan = replace(plan, filter=Filter(pl.lit(True), {}, ()))
        if rng.random() < 0.5:
            plan = replace(plan, needs_filter=rng.random(plan.grid_shape) < 0.5)
    stop = None if rng.random() < 0.5 else int(rng.integers(0, plan.grid_size + 2))
    at_once = list(plan.tiles(0, stop))
    with mock.patch.object(model, "_MOST_PICKS", -1):
        one_by_one = list(plan.tiles(0, stop))
    assert len(at_once) == len(one_by_one)
    for one, two in zip(at_once, one_by_one, strict=True):
        assert (one.position, one.filtered, one.limit) == (two.position, two.filtered, two.limit)
        assert type(one.filtered) is bool
        for a, b in zip(one.picks, two.picks, strict=True):
            assert type(a) is type(b)
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize("slow", [False, True])
def test_threads_help_where_chunks_take_long(slow: bool) -> None:
    ran: list[str] = []

    def task() -> None:
        if slow:
            time.sleep(0.02)
        ran.append(threading.current_thread().name)

    with mock.patch.object(small, "SLOW_SECONDS", 0.01 if slow else 1e9):
        assert small._run([task] * 12, 1, 3) is True
    assert len(ran) == 12
    assert len(set(ran)) == (4 if slow else 1)

    ran.clear()
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        assert small._run([task] * 5, 3, 0) is False  # a process may have as many as it is allowed
        assert small._run([task], 3, 3) is True  # nothing to share
        with mock.patch.object(small, "SLOW_SECONDS", 0):
            assert small._run([task] * 5, 1, 3) is False  # those that were to help later
    assert len(ran) == 11

    def fail() -> None:
        time.sleep(0.02)
        raise ValueError(threading.current_thread().name)

    with mock.patch.object(small, "SLOW_SECONDS", 0.01), pytest.raises(ValueError, match=r"gpuzarr-worker|Main"):
        small._run([task, fail, fail, task], 1, 3)


@pytest.mark.parametrize("at_once", [True, False])
def test_scans_note_that_there_were_fewer_threads(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    group = zarr.create_group(inner := zarr.storage.MemoryStore())
    cells = np.arange(6000.0).reshape(60, 100)
    for name in "abcd":  # small chunks of a variable are one task
        group.create_array(name, data=cells, chunks=(10, 50), dimension_names=("y", "x"))
    start, started, refused = threading.Thread.start, [], threading.Event()

    def start_one(thread: threading.Thread) -> None:
        if started:
            refused.set()
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    class Waiting(MemoryStore):
        """Hands out chunks once a thread was refused: until then the first one is busy."""

        def get(self, key: str) -> Buffer | None:
            if wait and "/c/" in key:
                assert refused.wait(10)
            return super().get(key)

    wait = False
    store = Waiting({key: bytes(data.to_bytes()) for key, data in inner._store_dict.items()}, is_local=True)
    lf = gpuzarr.scan_zarr(store)
    monkeypatch.setattr(Dataset, "workers", 3)
    for name in ("INLINE_BYTES", "CALL_COST", "INLINE_ROWS"):
        monkeypatch.setattr(source_dataset, name, 0)
    if not at_once:
        monkeypatch.setattr(source_dataset, "SMALL_CHUNKS", 0)
    scans = mock.Mock(wraps=SmallScan.frames)
    monkeypatch.setattr(SmallScan, "frames", lambda self: scans(self))
    (enough,) = gpuzarr.profile(lf).scans
    assert enough.notes == ()
    wait = not at_once
    with mock.patch.object(threading.Thread, "start", start_one):
        profile = gpuzarr.profile(lf)
    (scan,) = profile.scans
    assert scans.call_count == 2 * at_once
    assert refused.is_set()
    assert len(started) == 1
    assert scan.notes == (FEWER_THREADS,)
    assert FEWER_THREADS in str(profile)
    assert profile.frame.select(*"abcd").sum().row(0) == (cells.sum(),) * 4


@pytest.mark.parametrize("sharded", [False, True])
def test_which_scans_are_small(tmp_path: Path, sharded: bool) -> None:
    folder = small_store.folder(tmp_path / "s.zarr", sharded=sharded)
    dataset = open_dataset(folder)
    box = (pl.col("time").dt.day() < 5) & (pl.col("lat") > 40)
    count = ScanStatistics()
    assert dataset.small(dataset.plan(None, box), count) is not None
    for plan in (
        dataset.plan(None, box & (pl.col("t2m") > 0.5)),
        dataset.plan(None, pl.lit(False)),
    ):
        assert dataset.small(plan, count) is None
    assert dataset.small(dataset.plan(None, None, 3), count) is not None
    for name in ("SMALL_TILES", "SMALL_CHUNKS", "SMALL_BYTES", "FRAME_ROWS"):
        with mock.patch.object(source_dataset, name, 0):
            assert dataset.small(dataset.plan(None, box), count) is None
    with mock.patch.object(source_dataset, "INLINE_BYTES", 0), mock.patch.object(source_dataset, "CALL_COST", 1):
        found = dataset.small(dataset.plan(None, box), count)
        assert found is not None
        assert found.threads == dataset.workers
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
