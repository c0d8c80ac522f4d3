"""Chunks that a backend keeps in device memory: taken by later scans, given up for room, never out of date. On host memory."""

from __future__ import annotations

import gc
import random
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zarr
from support_backends import expected, folder, objects, same, values
from support_wave import scans_on
from test_caches import Versioned

import gpuzarr
from gpuzarr import BackendOptions, ZarrBackendSync
from gpuzarr.device.file_reads import PreadReader
from gpuzarr.device.runtime_host import HostRuntime
from gpuzarr.errors import Kind, StoreError


def scanned(
    backend: ZarrBackendSync, runtime: HostRuntime, predicate: Any = None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """A scan through the wave engine, and what it read."""
    with scans_on(lambda: runtime):
        lf = backend.lazy()
        profile = gpuzarr.profile(lf if predicate is None else lf.filter(predicate))
    return profile.frame, profile.scans[0].statistics


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_a_second_scan_decodes_nothing(tmp_path: Path, sharded: bool, direct: bool) -> None:
    runtime = HostRuntime(files=PreadReader(direct=direct))
    check_second_scan(tmp_path, runtime, sharded=sharded)
    gc.collect()
    assert not runtime.damage
    other = HostRuntime()
    with ZarrBackendSync.from_url(folder(tmp_path / "b", sharded=sharded)) as backend:
        scanned(backend, runtime)
        frame, statistics = scanned(backend, other)  # the memory of one device is of no use to another
        assert statistics["chunks_cached"] == 0
        assert same(frame, expected())


def check_second_scan(tmp_path: Path, runtime: Any, *, sharded: bool) -> None:
    """Scan, scan again, clear, scan again; on any runtime."""
    with ZarrBackendSync.from_url(folder(tmp_path / "a", sharded=sharded)) as backend:
        frame, first = scanned(backend, runtime)
        assert same(frame, expected())
        frame, second = scanned(backend, runtime)
        assert same(frame, expected())
        assert second["chunks_cached"] == first["chunks_read"] > 0
        assert (second["chunks_read"], second["bytes_read"], second["waves"]) == (0, 0, 0)
        part = pl.col("lat") < 0
        frame, third = scanned(backend, runtime, part)
        assert same(frame, expected().filter(part))
        assert third["chunks_read"] == 0
        stats = backend.cache_stats()["device"]
        assert stats["entries"] == first["chunks_read"]
        assert stats["hits"] == second["chunks_cached"] + third["chunks_cached"]
        assert stats["nbytes"] > 0
        backend.clear_coord_cache()
        assert backend.cache_stats()["device"]["entries"] == 0
        frame, again = scanned(backend, runtime)
        assert same(frame, expected())
        assert again["chunks_read"] == first["chunks_read"]


def test_a_part_of_a_chunk_is_kept_whole(tmp_path: Path) -> None:
    runtime = HostRuntime()
    with ZarrBackendSync.from_url(folder(tmp_path / "a")) as backend:
        scanned(backend, runtime, pl.col("lat") < -40)
        frame, statistics = scanned(backend, runtime)
        assert same(frame, expected())
        assert statistics["chunks_cached"] > 0


def test_the_budget_holds_and_zero_keeps_nothing(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    for budget in (0, 1500):
        runtime = HostRuntime()
        with ZarrBackendSync.from_url(path, options=BackendOptions(device_cache_bytes=budget)) as backend:
            for _ in range(2):
                frame, statistics = scanned(backend, runtime)
                assert same(frame, expected())
            stats = backend.cache_stats()["device"]
            assert stats["nbytes"] <= budget
            gc.collect()
            assert runtime.used == stats["nbytes"]
            assert (stats["entries"] > 0) == (budget > 0)
            assert statistics["chunks_read"] > 0


def test_memory_is_given_up_for_scans_that_need_it(tmp_path: Path) -> None:
    runtime = HostRuntime()
    with ZarrBackendSync.from_url(folder(tmp_path / "a")) as backend:
        _, first = scanned(backend, runtime)
        gc.collect()
        kept = backend.cache_stats()["device"]["nbytes"]
        assert runtime.used == kept > 0
        runtime.fails = lambda number: backend.cache_stats()["device"]["nbytes"] == kept  # full, until it is given up
        frame, statistics = scanned(backend, runtime)
        assert same(frame, expected())
        assert statistics["chunks_cached"] == first["chunks_read"]  # those that were taken before stay what they are
        assert backend.cache_stats()["device"]["nbytes"] == 0


@pytest.mark.parametrize("sharded", [False, True])
def test_files_that_change_are_read_again(tmp_path: Path, sharded: bool) -> None:
    path = folder(tmp_path / "a", sharded=sharded)
    rng = random.Random(0)
    runtime = HostRuntime()
    with ZarrBackendSync.from_url(path) as backend:
        table = expected()
        assert same(scanned(backend, runtime)[0], table)
        group = zarr.open_group(str(path), mode="r+")
        data = values(1)
        for _ in range(6):
            at = rng.randrange(12), rng.randrange(6), rng.randrange(10)
            data[at] = rng.random()
            group["t2m"][at] = data[at]  # type: ignore[index]  # rewrites the one chunk (or shard) that holds it
            table = table.with_columns(pl.Series("t2m", data.reshape(-1)))
            frame, statistics = scanned(backend, runtime)
            assert same(frame, table)
            assert statistics["chunks_read"] > 0
            assert statistics["chunks_cached"] > 0


def test_object_stores_are_believed_for_a_while_then_asked() -> None:
    old, new = objects(), objects(seed=5)
    store = Versioned(dict(old))
    runtime = HostRuntime()
    with ZarrBackendSync.from_store(store, options=BackendOptions(max_age=0.5)) as backend:
        assert same(scanned(backend, runtime)[0], expected())
        store.objects.update(new)
        frame, statistics = scanned(backend, runtime)
        assert same(frame, expected())  # believed
        assert statistics["chunks_cached"] > 0
        time.sleep(0.6)
        assert same(scanned(backend, runtime)[0], expected(5))


def test_a_mixture_of_versions_is_an_error_and_never_a_result() -> None:
    old, new = objects(), objects(seed=5)
    store = Versioned(dict(old))
    runtime = HostRuntime()
    options = BackendOptions(max_age=None, device_cache_bytes=3 << 10)  # some chunks are kept, others are not
    with ZarrBackendSync.from_store(store, options=options) as backend:
        scanned(backend, runtime)
        store.objects.update(new)
        backend._freshness.changed()  # what a scan does that meets a changed object
        assert same(scanned(backend, runtime)[0], expected(5))
        frame, statistics = scanned(backend, runtime)
        assert same(frame, expected(5))
        assert statistics["chunks_read"] > 0
        frame, statistics = scanned(backend, runtime)
        assert statistics["chunks_cached"] > 0
        store.objects.update(old)
        results = 0
        for _ in range(5):  # trusted parts and new parts meet: an error that says so, then the new table
            try:
                frame, _statistics = scanned(backend, runtime)
            except (StoreError, pl.exceptions.ComputeError) as error:
                assert Kind.STORE_CHANGED.value in str(error)  # noqa: PT017
                continue
            assert same(frame, expected())
            results += 1
        assert 1 <= results < 5


def test_chunks_that_are_not_stored_are_looked_for_again(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    chunk = next(p for p in sorted(Path(path).glob("t2m/**/*")) if p.is_file() and p.name[0] not in ".z")
    data = chunk.read_bytes()
    chunk.unlink()
    runtime = HostRuntime()
    with ZarrBackendSync.from_url(path) as backend:
        frame, _ = scanned(backend, runtime)
        assert not same(frame, expected())
        chunk.write_bytes(data)
        assert same(scanned(backend, runtime)[0], expected())


def test_deferred_work_is_done_before_a_chunk_is_taken(tmp_path: Path) -> None:
    """With streams that run nothing before somebody waits, a copy that nobody waited for would show as poison."""
    runtime = HostRuntime(deferred=True)
    with ZarrBackendSync.from_url(folder(tmp_path / "a")) as backend:
        for predicate in (pl.col("t2m") > 0.3, None, pl.col("pr") < 0.6):
            frame, _ = scanned(backend, runtime, predicate)
            want = expected() if predicate is None else expected().filter(predicate)
            assert same(frame, want)
    assert not runtime.damage
