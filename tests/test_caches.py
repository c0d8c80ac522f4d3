"""The caches: bounded in bytes, one reader per value, never out of date without saying so."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from support_backends import expected, folder, objects, same, values, write
from support_counting import CountingStore, LatencyStore
from support_stores import MemoryStore

import gpuzarr
from gpuzarr import BackendOptions, ZarrBackendSync
from gpuzarr.backends.byte_cache import ByteCache, Entry, Ticket
from gpuzarr.errors import Kind, StoreError

STEPS = st.lists(st.tuples(st.sampled_from("lpcd"), st.integers(0, 6), st.integers(0, 40)), max_size=60)


@given(STEPS, st.integers(0, 100), st.integers(0, 4))
def test_a_cache_is_least_recently_used_and_never_above_its_bounds(steps: Any, most: int, entries: int) -> None:
    cache, model = ByteCache(most, entries), dict[int, int]()  # a dict in order of use: key to size
    for step, key, size in steps:
        if step == "l":
            made = []
            entry = cache.load(key, lambda made=made, size=size: made.append(1) or Entry(size, size))
            assert bool(made) == (key not in model)
            size = entry.value
            model.pop(key, None)
            model[key] = size
        elif step == "p":
            cache.put(key, Entry(size, size))
            model.pop(key, None)
            model[key] = size
        elif step == "d" and (kept := cache.peek(key)) is not None:
            cache.drop(key, kept)
            del model[key]
        elif step == "c" and key == 0:
            cache.clear()
            model.clear()
        if model and model[last := next(reversed(model))] > most:
            del model[last]
        while sum(model.values()) > most or 0 < entries < len(model):
            del model[next(iter(model))]
        figures = cache.statistics()
        assert (figures.entries, figures.nbytes) == (len(model), sum(model.values()))
        assert all(cache.peek(k) is not None for k in model)


def test_a_value_is_made_once_however_many_ask_and_a_failure_is_the_makers_own() -> None:
    cache, calls = ByteCache(1000), []
    gate = threading.Event()

    def make() -> Entry:
        calls.append(threading.get_ident())
        gate.wait(5)
        if len(calls) == 1:
            raise ValueError("the first fails")
        return Entry("value", 10)

    def ask(_: int) -> Any:
        try:
            return cache.load("key", make).value
        except ValueError as error:
            return error

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(ask, i) for i in range(16)]
        while cache.statistics().joined < 15:
            time.sleep(0.001)
        gate.set()
        found = [future.result() for future in futures]
    assert sum(isinstance(f, ValueError) for f in found) == 1
    assert found.count("value") == 15
    assert len(calls) == 2


def test_what_was_being_made_when_the_cache_was_cleared_is_not_kept() -> None:
    cache = ByteCache(1000)
    ticket = cache.claim("key")
    assert isinstance(ticket, Ticket)
    cache.clear()
    cache.settle(ticket, Entry("old", 1))
    assert cache.peek("key") is None


@pytest.mark.parametrize("sharded", [False, True])
def test_a_second_query_reads_nothing_and_says_so(sharded: bool) -> None:
    store = CountingStore(MemoryStore(objects(sharded=sharded)))
    with ZarrBackendSync.from_store(store) as backend:
        first = backend.scan_zarr_sync()
        assert same(first, expected())
        store.clear()
        lf = backend.lazy()
        profile = gpuzarr.profile(lf)
        assert profile.frame.equals(first)
        assert not store.requests
        statistics = profile.scans[0].statistics
        assert statistics["chunks_cached"] > 0
        assert (statistics["chunks_read"], statistics["bytes_read"], statistics["requests"]) == (0, 0, 0)
        assert gpuzarr.explain(lf).stored_bytes == 0
        stats = backend.cache_stats()
        assert stats["coord_entries"] == 3
        assert stats["has_metadata"]
        backend.clear_coord_cache()
        assert (backend.cache_stats()["coord_entries"], backend.cache_stats()["var_entries"]) == (0, 0)
        assert backend.cache_stats()["has_metadata"]
        assert backend.scan_zarr_sync().equals(first)
        backend.clear_all_caches()
        assert not backend.cache_stats()["has_metadata"]
        assert backend.scan_zarr_sync().equals(first)


def test_variables_cannot_crowd_out_coordinates_and_budgets_hold() -> None:
    store = MemoryStore(objects())
    options = BackendOptions(var_cache_bytes=2000, coord_cache_bytes=10_000)
    with ZarrBackendSync.from_store(store, options=options) as backend:
        for day in range(12):
            frame = backend.scan_zarr_sync(pl.col("time").dt.ordinal_day() == day + 1)
            assert same(frame, expected().filter(pl.col("time").dt.ordinal_day() == day + 1))
        stats = backend.cache_stats()
        assert stats["coord_entries"] == 3
        assert stats["coordinates"]["misses"] == 3
        assert 0 < stats["variables"]["nbytes"] <= 2000
        assert stats["variables"]["evictions"] > 0


def test_nothing_is_kept_where_nothing_may_be() -> None:
    options = BackendOptions(var_cache_bytes=0, coord_cache_bytes=0, index_cache_bytes=0)
    with ZarrBackendSync.from_store(MemoryStore(objects(sharded=True)), options=options) as backend:
        for _ in range(2):
            assert same(backend.scan_zarr_sync(), expected())
        stats = backend.cache_stats()
        assert (stats["coord_entries"], stats["var_entries"], stats["indexes"]["entries"]) == (0, 0, 0)


def test_chunks_handed_out_cannot_be_written_to(tmp_path: Path) -> None:
    with ZarrBackendSync.from_url(folder(tmp_path / "a")) as backend:
        first = backend.scan_zarr_sync(pl.col("lat") < -40, ["t2m"])
        array = first["t2m"].to_numpy()
        copy = array.copy()
        try:
            array += 1
        except ValueError:
            pass
        assert np.array_equal(backend.scan_zarr_sync(pl.col("lat") < -40, ["t2m"])["t2m"].to_numpy(), copy)


@pytest.mark.parametrize("sharded", [False, True])
def test_files_that_change_are_read_again(tmp_path: Path, sharded: bool) -> None:
    path = folder(tmp_path / "a", sharded=sharded)
    rng = random.Random(0)
    with ZarrBackendSync.from_url(path) as backend:
        table = expected()
        assert same(backend.scan_zarr_sync(), table)
        group = zarr.open_group(str(path), mode="r+")
        data = values(1)
        for _ in range(12):
            at = rng.randrange(12), rng.randrange(6), rng.randrange(10)
            data[at] = rng.random()
            group["t2m"][at] = data[at]  # rewrites the one chunk (or shard) that holds it
            table = table.with_columns(pl.Series("t2m", data.reshape(-1)))
            assert same(backend.scan_zarr_sync(), table)
        group["lat"][:] = np.linspace(-60.0, 60.0, 6)
        assert backend.scan_zarr_sync(pl.col("lat") < -55)["lat"].unique().to_list() == [-60.0]


def test_changed_documents_are_noticed(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", consolidated=False)
    with ZarrBackendSync.from_url(path) as backend:
        lf = backend.lazy()
        assert lf.select(pl.len()).collect().item() == 720
        write(str(path), shape=(14, 6, 10), consolidated=False, names=("t2m", "wind"))
        with pytest.raises((StoreError, pl.exceptions.ComputeError), match="store-changed"):
            lf.collect()
        assert "wind" in backend.schema()
        assert same(backend.scan_zarr_sync(), expected(0, (14, 6, 10), ("t2m", "wind")))


class Versioned(MemoryStore):
    """A remote store that tells versions when asked, as object stores do."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.asked: list[str] = []
        self._expected: dict[str, Any] = {}

    def for_scan(self) -> Versioned:
        view = object.__new__(type(self))
        view.__dict__ = {**self.__dict__, "_expected": {}}
        return view

    def _etag(self, key: str) -> Any:
        return None if key not in self.objects else hash(self.objects[key])

    def version(self, key: str) -> Any:
        self.asked.append(key)
        return self._etag(key)

    def seen_version(self, key: str) -> Any:
        return self._expected.get(key)

    def expect_version(self, key: str, version: Any) -> None:
        self._expected[key] = version

    def get(self, key: str) -> Any:
        data = super().get(key)
        known = self._expected.setdefault(key, self._etag(key))
        if known != self._etag(key):
            del self._expected[key]
            raise StoreError("changed", kind=Kind.STORE_CHANGED, key=key)
        return data


@pytest.mark.parametrize("sharded", [False, True])
def test_object_stores_are_believed_for_a_while_then_asked(sharded: bool) -> None:
    old, new = objects(sharded=sharded), objects(sharded=sharded, seed=5)
    store = Versioned(dict(old))
    with ZarrBackendSync.from_store(store, options=BackendOptions(max_age=0.15)) as backend:
        assert same(backend.scan_zarr_sync(), expected())
        store.requested.clear()
        assert same(backend.scan_zarr_sync(), expected())
        assert not store.requested
        time.sleep(0.2)
        store.asked.clear()
        assert same(backend.scan_zarr_sync(), expected())
        assert not store.requested  # nothing changed: asked for versions only
        assert store.asked
        store.objects.update(new)
        time.sleep(0.2)
        assert same(backend.scan_zarr_sync(), expected(5))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_mixture_of_versions_is_an_error_and_never_a_result(sharded: bool) -> None:
    old, new = objects(sharded=sharded), objects(sharded=sharded, seed=5)
    store = Versioned(dict(old))
    tables = (expected(), expected(5))
    options = BackendOptions(max_age=None, var_cache_bytes=4 << 10)
    with ZarrBackendSync.from_store(store, options=options) as backend:
        first = backend.scan_zarr_sync(pl.col("lat") < 0, ["time", "lat", "lon", "t2m"])
        assert same(first, tables[0].filter(pl.col("lat") < 0).drop("pr"))
        store.objects.update(new)
        backend._freshness.changed()  # what a scan does that meets a changed object
        assert same(backend.scan_zarr_sync(), tables[1])
        store.objects.update(old)
        results = 0
        for _ in range(4):  # trusted parts and new parts meet: an error that says so, then the new table
            try:
                frame = backend.scan_zarr_sync()
            except StoreError as error:
                assert error.kind is Kind.STORE_CHANGED  # noqa: PT017
            else:
                results += 1
                assert any(same(frame, table) for table in tables)
        assert results


def test_one_chunk_is_read_once_by_scans_that_run_at_once() -> None:
    store = CountingStore(LatencyStore(MemoryStore(objects()), 0.02))
    with ZarrBackendSync.from_store(store) as backend:
        backend.schema()
        store.clear()
        with ThreadPoolExecutor(12) as pool:
            frames = list(pool.map(lambda _: backend.scan_zarr_sync(pl.col("time").dt.day() <= 4, ["t2m"]), range(12)))
        assert all(frame.equals(frames[0]) for frame in frames)
        chunks = [key for key in store.keys() if "/c/" in key]  # noqa: SIM118
        assert len(chunks) == len(set(chunks))
