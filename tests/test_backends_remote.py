"""Backends over servers on loopback, Icechunk repositories, and stores that count round trips."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from fault_server import FaultServer
from support_backends import Depth, expected, objects, same, values, write
from support_counting import CountingStore, LatencyStore
from support_stores import MemoryStore

import gpuzarr
from gpuzarr import BackendOptions, IcechunkBackend, ZarrBackendSync
from gpuzarr.errors import GpuzarrError, Kind, NotFoundError, RequestError, StoreError
from gpuzarr.store import StoreOptions
from gpuzarr.store.base import Buffer

BOX = (pl.col("lat") < -20) & (pl.col("lon") < 100) & (pl.col("time").dt.ordinal_day() <= 2)
QUICK = StoreOptions(retries=6, backoff=0.001, request_timeout=2.0, retry_timeout=20.0)


class RoundTrips(LatencyStore):
    """Counts how many requests had to wait for one another."""

    def __init__(self, inner: Any, seconds: float) -> None:
        super().__init__(inner, seconds)
        self.depth = Depth()

    def _timed(self, call: Any) -> Any:
        self.depth.begin()
        try:
            return call()
        finally:
            self.depth.end()

    def get(self, key: str) -> Buffer | None:
        return self._timed(lambda: super(RoundTrips, self).get(key))

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        return self._timed(lambda: super(RoundTrips, self).get_range(key, start, length))

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        return self._timed(lambda: super(RoundTrips, self).get_suffix(key, length))

    def get_ranges(self, key: str, ranges: Any) -> list[Buffer] | None:
        return self._timed(lambda: super(RoundTrips, self).get_ranges(key, ranges))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("query", ["box", "variable", "shards"])
def test_the_first_query_takes_few_round_trips(zarr_format: int, query: str) -> None:
    if zarr_format == 2 and query == "shards":
        pytest.skip("v2 has no shards")
    store = RoundTrips(MemoryStore(objects(zarr_format=zarr_format, sharded=query == "shards")), 0.05)
    where = BOX & (pl.col("t2m") > 0.5) if query == "variable" else BOX
    with ZarrBackendSync.from_store(store) as backend:
        frame = backend.scan_zarr_sync(where)
        assert same(frame, expected().filter(where))
        # documents (v2: two, one after the other), coordinates, chunks; the others of a filtered table; a shard's index
        assert store.depth.rounds <= 3 + (zarr_format == 2) + (query != "box")
        before = store.depth.rounds
        assert same(backend.scan_zarr_sync(where), frame)
        assert store.depth.rounds == before
    plain = RoundTrips(MemoryStore(objects(zarr_format=zarr_format, sharded=query == "shards")), 0.05)
    assert gpuzarr.scan_zarr(plain).filter(where).collect().height == frame.height
    assert plain.depth.rounds <= 3 + (zarr_format == 2) + (query != "box")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_an_http_server_with_and_without_ranges(ranges: bool, sharded: bool) -> None:
    pytest.importorskip("obstore")
    with FaultServer(objects(sharded=sharded), ranges=ranges) as server:  # noqa: SIM117
        with ZarrBackendSync.from_url(server.url, store_options=QUICK) as backend:
            assert same(backend.scan_zarr_sync(BOX), expected().filter(BOX))
            assert same(backend.scan_zarr_sync(), expected())
            before = len(server.requests)
            assert same(backend.scan_zarr_sync(), expected())
            assert len(server.requests) == before


def test_an_object_that_changes_on_a_server_is_noticed_by_its_etag() -> None:
    pytest.importorskip("obstore")
    with FaultServer(objects()) as server:
        etags = {key: f'"{hash(data)}"' for key, data in server.objects.items()}
        server.etags.update(etags)
        options = BackendOptions(max_age=0.0)
        with ZarrBackendSync.from_url(server.url, options, store_options=QUICK) as backend:
            assert same(backend.scan_zarr_sync(), expected())
            before = len(server.requests)
            assert same(backend.scan_zarr_sync(), expected())
            assert {method for method, _, _ in server.requests[before:]} == {"HEAD"}
            server.objects.update(objects(seed=3))
            server.etags.update({key: f'"{hash(data)}"' for key, data in server.objects.items()})
            for _ in range(2):
                try:
                    frame = backend.scan_zarr_sync()
                    break
                except StoreError as error:
                    assert error.kind is Kind.STORE_CHANGED  # noqa: PT017
            assert same(frame, expected(3))


FAULTS = ("503", "429", "500", "reset", "closed", "garbage", "short", "reset_body", "range_ignored", "range_shifted",
          "range_truncated", "range_short_body")  # fmt: skip


def check_faulty_scans(number: int, *, seed: int) -> dict[str, Any]:
    """Scans of a server that fails half of all requests: the right table or one error of ours; never other rows."""
    rng = random.Random(seed)
    stored = objects(sharded=True)
    table = expected()
    outcome: dict[str, Any] = {"right": 0, "errors": 0, "wrong": 0, "longest": 0.0}
    store_options = StoreOptions(retries=4, backoff=0.001, request_timeout=2.0, retry_timeout=10.0)
    with FaultServer(stored) as server:
        server.etags.update({key: f'"{hash(data)}"' for key, data in stored.items()})
        server.plan = lambda method, key: rng.choice(FAULTS) if method == "GET" and rng.random() < 0.5 else None
        for _ in range(number):
            where = (pl.col("lat") > rng.randrange(-60, 60)) & (pl.col("lon") < rng.randrange(0, 400))
            begin = time.monotonic()
            try:
                with ZarrBackendSync.from_url(server.url, store_options=store_options) as backend:
                    frame = backend.scan_zarr_sync(where)
            except GpuzarrError:
                outcome["errors"] += 1
            else:
                outcome["right" if same(frame, table.filter(where)) else "wrong"] += 1
            outcome["longest"] = max(outcome["longest"], time.monotonic() - begin)
        outcome["faults"] = sum(server.faults.values())
        outcome["requests"] = len(server.requests)
    return outcome


def test_failing_servers_never_change_a_row() -> None:
    pytest.importorskip("obstore")
    outcome = check_faulty_scans(25, seed=1)
    assert outcome["wrong"] == 0
    assert outcome["right"] > 0
    assert outcome["faults"] > 100
    assert outcome["longest"] < 30


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, str]]:
    icechunk = pytest.importorskip("icechunk")
    path = tmp_path_factory.mktemp("icechunk")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    ids = {}
    session = repo.writable_session("main")
    write(session.store, consolidated=False)
    ids["first"] = session.commit("first")
    repo.create_tag("v1", snapshot_id=ids["first"])
    repo.create_branch("other", snapshot_id=ids["first"])
    session = repo.writable_session("main")
    zarr.open_group(session.store)["t2m"][...] = values(9)
    ids["second"] = session.commit("second")
    return path, repo, ids


def test_icechunk_branches_tags_and_snapshots(repository: tuple[Path, Any, dict[str, str]]) -> None:
    path, repo, ids = repository
    old = expected()
    new = old.with_columns(pl.Series("t2m", values(9).reshape(-1)))

    async def main() -> None:
        cases: list[tuple[dict[str, Any], pl.DataFrame]] = [
            ({}, new), ({"branch": "main"}, new), ({"branch": "other"}, old), ({"tag": "v1"}, old),
            ({"snapshot": ids["first"]}, old), ({"snapshot": ids["second"]}, new),
        ]  # fmt: skip
        for choice, table in cases:
            for make in (
                IcechunkBackend.from_filesystem(path, **choice),
                IcechunkBackend.from_repository(repo, **choice),
            ):
                async with await make as backend:
                    for _ in range(2):
                        assert same(await backend.scan_zarr_async(pl.all().filter(BOX)), table.filter(BOX))
        session = repo.readonly_session("main")
        async with await IcechunkBackend.from_session(session, options=BackendOptions(max_age=0)) as backend:
            assert same(await backend.scan_zarr_async(pl.all()), new)
            writing = repo.writable_session("main")
            zarr.open_group(writing.store)["t2m"][...] = 0.0
            writing.commit("third")
            before = backend.cache_stats()["variables"]["misses"]
            assert same(await backend.scan_zarr_async(pl.all()), new)  # the snapshot stays what it is
            assert backend.cache_stats()["variables"]["misses"] == before
            assert same(pl.concat(list(backend.scan_zarr_streaming_sync(BOX))), new.filter(BOX))
        for wrong in ({"branch": "nope"}, {"tag": "nope"}, {"snapshot": "nope"}):
            with pytest.raises(NotFoundError, match="nope"):
                await IcechunkBackend.from_repository(repo, **wrong)
        with pytest.raises(NotFoundError):
            await IcechunkBackend.from_filesystem(path / "nothing")
        with pytest.raises(RequestError):
            await IcechunkBackend.from_repository(repo, branch="main", tag="v1")
        with pytest.raises(RequestError):
            await IcechunkBackend.from_repository(repo, root="a", group="b")

    asyncio.run(main())


def test_latency_is_paid_once_by_50_boxes() -> None:
    store = CountingStore(LatencyStore(MemoryStore(objects(sharded=True)), 0.01))
    rng = np.random.default_rng(0)
    table = expected()
    with ZarrBackendSync.from_store(store) as backend:
        backend.scan_zarr_sync()
        begin = time.perf_counter()
        for _ in range(50):
            low, west = rng.integers(-50, 40), rng.integers(0, 300)
            p = pl.col("lat").is_between(low, low + 20) & pl.col("lon").is_between(west, west + 60)
            assert same(backend.scan_zarr_sync(p), table.filter(p))
        assert time.perf_counter() - begin < 50 * 0.2
