"""Backends: the names and shapes that users know, the answers of plain scans, awaited and blocking, many at once."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
import zarr
from expressions import random_predicate
from scan_stores import random_store
from support_backends import close, expected, folder, objects, same
from support_counting import CountingStore, LatencyStore
from support_stores import MemoryStore

import gpuzarr
from gpuzarr import BackendOptions, ZarrBackend, ZarrBackendSync
from gpuzarr.errors import EnvironmentLacksError, NotFoundError, PlanLimitError, RequestError, ScanCancelled, StoreError

LOW = pl.col("lat") < -20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("stores") / "secret=hUnter2.zarr")


@pytest.fixture(scope="module")
def table(path: Path) -> pl.DataFrame:
    frame = gpuzarr.scan_zarr(path).collect()
    assert same(frame, expected())
    return frame


EXPRESSIONS = {
    "filtered column": pl.col("t2m").filter(LOW),
    "filtered columns": pl.col("t2m", "lat").filter(LOW & (pl.col("lon") > 100)),
    "filtered by a variable": pl.col("lat", "pr").filter(pl.col("t2m") > 0.9),
    "all": pl.all(),
    "all filtered": pl.all().filter(LOW),
    "selector": pl.selectors.float().filter(LOW),
    "one column": pl.col("lat"),
    "aggregate": pl.col("t2m").filter(LOW).mean(),
    "two filters": pl.col("t2m").filter(LOW).sum() - pl.col("pr").filter(pl.col("lon") > 300).max(),
    "filter of arithmetic": (pl.col("t2m") * 2).filter(LOW).sum(),
    "filter and whole": pl.col("t2m").filter(LOW).sum() / pl.col("t2m").sum(),
    "length": pl.col("t2m").filter(LOW).sum() / pl.len(),
    "filter that looks around": pl.col("t2m").filter(pl.col("t2m") == pl.col("t2m").max()),
    "filter of a shift": pl.col("t2m").shift(1).filter(LOW),
    "sorted": pl.col("t2m").filter(LOW).sort().head(3),
    "interpolated": pl.col("t2m").rolling_mean(3).filter(pl.col("lon") == 0),
    "literal": pl.lit(1),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_awaited_expression_is_select_of_it(path: Path, table: pl.DataFrame, name: str) -> None:
    expr = EXPRESSIONS[name]

    async def main() -> None:
        async with ZarrBackend.from_url(path) as backend:
            for _ in range(2):
                assert close(await backend.scan_zarr_async(expr), table.select(expr))
            limited = await backend.scan_zarr_async(expr, n_rows=100, predicate=pl.col("lon") > 30)
            assert close(limited, table.head(100).filter(pl.col("lon") > 30).select(expr))

    asyncio.run(main())


@pytest.mark.parametrize("name", ["filtered column", "aggregate", "filter of arithmetic", "sorted"])
def test_filters_inside_an_expression_keep_chunks_unread(path: Path, name: str) -> None:
    store = CountingStore(MemoryStore(objects()))

    async def main() -> None:
        async with ZarrBackend.from_store(store) as backend:
            await backend.scan_zarr_async(EXPRESSIONS[name])

    asyncio.run(main())
    read = {key for key in store.keys() if key.startswith("t2m/c/")}  # noqa: SIM118
    assert {key.split("/")[3] for key in read} == {"0"}  # lat: chunk 0 of 2
    assert len(read) == 6


def test_a_bare_condition_gives_its_value_where_it_can_hold(path: Path, table: pl.DataFrame) -> None:
    async def main() -> None:
        async with ZarrBackend.from_url(path) as backend:
            found = await backend.scan_zarr_async(LOW)
            assert found.equals(table.filter(LOW).select(LOW))
            both = await backend.scan_zarr_async(predicate=LOW & (pl.col("t2m") > 0.5))
            assert both.equals(table.filter(LOW).select((LOW & (pl.col("t2m") > 0.5)).alias("lat")))

    asyncio.run(main())


def test_blocking_scans(path: Path, table: pl.DataFrame) -> None:
    with ZarrBackendSync.from_url(str(path)) as backend:
        assert backend.scan_zarr_sync().equals(table)
        assert backend.scan_zarr_sync(LOW, ["t2m", "lat"]).equals(table.filter(LOW).select("t2m", "lat"))
        assert backend.scan_zarr_sync(pl.col("t2m") > 0.9, "lat", n_rows=50).equals(
            table.head(50).filter(pl.col("t2m") > 0.9).select("lat")
        )
        top = pl.col("t2m") == pl.col("t2m").max()
        assert backend.scan_zarr_sync(top).equals(table.filter(top))
        for batch in (None, 7, 100_000):
            for p in (None, LOW, top):
                frames = list(backend.scan_zarr_streaming_sync(p, ["lat", "t2m"], n_rows=500, batch_size=batch))
                whole = table.head(500).filter(p) if p is not None else table.head(500)
                assert pl.concat(frames).equals(whole.select("lat", "t2m"))
                assert batch is None or all(f.height <= batch for f in frames)
        assert backend.lazy().filter(LOW).collect().equals(table.filter(LOW))
        assert gpuzarr.scan_zarr(backend).collect().equals(table)
        assert gpuzarr.scan_zarr(backend, variables=["pr"]).collect().equals(table.drop("t2m"))
        assert backend.schema() == table.schema
        assert dict(backend.schema(["pr"])) == dict(table.drop("t2m").schema)
        assert backend.root() == "/"


def test_limits_and_bad_calls(path: Path) -> None:
    with ZarrBackendSync.from_url(path) as backend:
        for scan in (backend.scan_zarr_sync, lambda **k: list(backend.scan_zarr_streaming_sync(**k))):
            with pytest.raises(ValueError, match=r"max_chunks_to_read exceeded: 24 chunks needed, limit is 5"):
                scan(max_chunks_to_read=5)
            with pytest.raises(RequestError, match="no column 'nope'"):
                scan(with_columns=["nope"])
        assert backend.scan_zarr_sync(LOW, max_chunks_to_read=12).height > 0
        with pytest.raises(PlanLimitError):
            backend.scan_zarr_sync(pl.col("t2m") == pl.col("t2m").max(), max_chunks_to_read=5)
        with pytest.raises(RequestError):
            gpuzarr.scan_zarr(backend, group="a")
        with pytest.raises(RequestError):
            list(backend.scan_zarr_streaming_sync(batch_size=0))
    for wrong in (
        {"coord_cache_bytes": -1}, {"var_cache_max_entries": 1.5}, {"max_age": "no"}, {"assume_sorted": 3},
        {"max_scans": 0}, {"codec_aliases": {"x": "pickle"}},
    ):  # fmt: skip
        with pytest.raises(RequestError):
            BackendOptions(**wrong)
    assert BackendOptions(assume_sorted=["lat"], coord_cache_max_entries=0).coord_cache_max_entries == 0
    with pytest.raises(ScanCancelled, match="closed"):
        backend.scan_zarr_sync()
    with pytest.raises(TypeError):
        ZarrBackendSync.from_url(path, nonsense=1)

    async def main() -> None:
        async with ZarrBackend.from_url(path) as awaited:
            with pytest.raises(PlanLimitError, match="24 chunks"):
                await awaited.scan_zarr_async(pl.all(), max_chunks_to_read=5)
            with pytest.raises(RequestError, match="nope"):
                await awaited.scan_zarr_async(pl.col("nope"))
            with pytest.raises(RequestError):
                await awaited.scan_zarr_async()

    asyncio.run(main())


def test_selected_chunks_have_the_known_shape(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a"), mode="w", zarr_format=3)
    shape: dict[str, Any] = {"shape": (10, 7), "chunks": (4, 3), "dtype": "f4", "dimension_names": ("y", "x")}
    group.create_array("v", shards=(8, 6), **shape)
    group.create_array("w", **shape)
    group.create_array("y", shape=(10,), chunks=(10,), dtype="f8", dimension_names=("y",))[...] = np.arange(10)
    group.create_array("x", shape=(7,), chunks=(7,), dtype="f8", dimension_names=("x",))[...] = np.arange(7)
    with ZarrBackendSync.from_url(tmp_path / "a") as backend:
        corner = (pl.col("y") > 8) & (pl.col("x") > 5)
        v = {"indices": [2, 2], "origin": [8, 6], "shape": [4, 3]}
        shard = {"indices": [1, 1], "origin": [8, 6], "shape": [2, 1]}
        found = backend.selected_chunks_debug(pl.col("v", "w").filter(corner))
        assert found == {
            "grids": [
                {"dims": ["y", "x"], "variables": ["v"], "chunks": [{**v, "shards": [shard]}]},
                {"dims": ["y", "x"], "variables": ["w"], "chunks": [{**v, "shards": []}]},
            ],
            "coord_reads": 2,
        }
        assert backend.selected_chunks_debug(pl.col("v", "w").filter(corner)) == {**found, "coord_reads": 0}
        assert backend.selected_chunks_debug(corner)["grids"] == found["grids"]
        assert backend.selected_chunks_debug(pl.col("v").filter(pl.col("y") > 70)) == {"grids": [], "coord_reads": 0}
        counts = {g["variables"][0]: len(g["chunks"]) for g in backend.selected_chunks_debug(pl.all())["grids"]}
        assert counts == {"v": 9, "w": 9}
        assert [g["variables"] for g in backend.selected_chunks_debug(pl.col("v"))["grids"]] == [["v"]]
        assert [g["variables"] for g in backend.selected_chunks_debug(pl.col("y"))["grids"]] == [["y"]]
        assert backend.cache_stats()["var_entries"] == 0


def test_cache_methods_work_with_and_without_await(path: Path) -> None:
    async def main() -> None:
        async with ZarrBackend.from_url(path) as backend:
            await backend.scan_zarr_async(pl.all())
            stats = await backend.cache_stats()
            assert stats == backend.cache_stats()
            assert {"coord_entries", "var_entries", "has_metadata"} <= stats.keys()
            assert (await backend.clear_coord_cache()) is None
            assert (await backend.clear_all_caches()) is None

    asyncio.run(main())


def test_random_stores_and_queries_equal_plain_scans_cold_and_warm(tmp_path: Path) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        store = random_store(rng)
        memory = MemoryStore(store.objects, is_local=bool(rng.random() < 0.5))
        plain = gpuzarr.scan_zarr(memory, broadcast=True)
        whole = plain.collect()
        with ZarrBackendSync.from_store(memory, broadcast=True) as backend:
            specs = store.specs(whole)
            for number in range(8):
                predicate = random_predicate(rng, specs, int(rng.integers(0, 3)), python_functions=False)
                columns = [
                    str(c) for c in rng.permutation(store.columns)[: int(rng.integers(1, len(store.columns) + 1))]
                ]
                for _ in range(2):  # the second time from the caches, without threads
                    got = backend.scan_zarr_sync(predicate, columns)
                    want = whole.filter(predicate).select(columns)
                    assert got.equals(want, null_equal=True), (seed, number)


def test_the_short_way_equals_the_long_one(path: Path, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuzarr.backends import cached_dataset

    queries = [LOW, pl.col("t2m") > 0.99, (pl.col("lon") == 36) & (pl.col("pr") < 0.1), pl.col("lat") > 1e9]
    for inline in (True, False):
        monkeypatch.setattr(cached_dataset.CachedDataset, "is_inline", lambda self, plan, inline=inline: inline)
        with ZarrBackendSync.from_url(path) as backend:
            for query in queries:
                for _ in range(2):
                    assert backend.scan_zarr_sync(query).equals(table.filter(query))


def test_a_warm_query_starts_no_thread(path: Path) -> None:
    with ZarrBackendSync.from_url(path) as backend:
        box = LOW & (pl.col("lon") < 100) & (pl.col("time").dt.ordinal_day() == 2)
        backend.scan_zarr_sync(box)
        started = []
        real = threading.Thread.start
        try:
            threading.Thread.start = lambda self: (started.append(self.name), real(self))[1]  # type: ignore[assignment,method-assign]
            backend.scan_zarr_sync(box)
        finally:
            threading.Thread.start = real  # type: ignore[method-assign]
        assert not started


def queries(number: int) -> Iterator[tuple[pl.Expr, pl.Expr]]:
    rng = np.random.default_rng(1)
    for _ in range(number):
        low, day = int(rng.integers(-50, 50)), int(rng.integers(1, 13))
        p = (pl.col("lat") > low) & (pl.col("time").dt.ordinal_day() <= day)
        if rng.random() < 0.3:
            p &= pl.col("t2m") > float(rng.random())
        yield (
            p,
            [pl.all().filter(p), pl.col("t2m").filter(p).sum(), pl.col("pr", "lon").filter(p)][int(rng.integers(3))],
        )


def test_64_awaited_scans_at_once_equal_serial_ones(table: pl.DataFrame) -> None:
    asked = list(queries(64))

    async def main(max_age: float | None, local: bool) -> None:
        store = LatencyStore(MemoryStore(objects()), 0.0005) if not local else MemoryStore(objects(), is_local=True)
        options = BackendOptions(max_age=max_age, var_cache_bytes=20_000)
        async with ZarrBackend.from_store(store, options=options) as backend:
            found = await asyncio.gather(*(backend.scan_zarr_async(e, max_concurrency=3) for _, e in asked))
            for frame, (_, e) in zip(found, asked, strict=True):
                assert close(frame, table.select(e))

    asyncio.run(main(None, local=False))
    asyncio.run(main(0.0, local=True))


def test_32_threads_equal_serial_answers(path: Path, table: pl.DataFrame) -> None:
    asked = list(queries(96))
    with (
        ZarrBackendSync.from_url(path, BackendOptions(var_cache_bytes=30_000)) as backend,
        ThreadPoolExecutor(32) as pool,
    ):
        for frame, (p, _) in zip(pool.map(lambda q: backend.scan_zarr_sync(q[0]), asked), asked, strict=True):
            assert frame.equals(table.filter(p))


def test_the_blocking_calls_work_where_a_loop_runs_and_the_loop_is_never_blocked(
    path: Path, table: pl.DataFrame
) -> None:
    async def main() -> None:
        backend = ZarrBackend.from_store(LatencyStore(MemoryStore(objects()), 0.05))
        assert backend.scan_zarr_sync(LOW).equals(table.filter(LOW))
        assert backend.lazy().select(pl.len()).collect().item() == table.height
        backend.clear_all_caches()
        beats, longest, last = 0, 0.0, time.perf_counter()
        task = asyncio.ensure_future(backend.scan_zarr_async(pl.all()))
        while not task.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            beats, longest, last = beats + 1, max(longest, now - last), now
        assert task.result().equals(table)
        assert beats > 20
        assert longest < 0.5
        await backend.aclose()

    asyncio.run(main())


def test_an_asynchronous_stream(path: Path, table: pl.DataFrame) -> None:
    async def main() -> None:
        async with ZarrBackend.from_url(path) as backend:
            frames = [f async for f in backend.scan_zarr_streaming(LOW, ["t2m"], batch_size=13)]
            assert pl.concat(frames).equals(table.filter(LOW).select("t2m"))
            stream = backend.scan_zarr_streaming(LOW, batch_size=5)
            await anext(stream)
            await stream.aclose()

    asyncio.run(main())


def ours() -> int:
    return sum(t.name.startswith("gpuzarr") for t in threading.enumerate())


def settled(limit: float = 5.0) -> int:
    end = time.monotonic() + limit
    while ours() and time.monotonic() < end:
        time.sleep(0.01)
    return ours()


def test_cancelling_stops_the_work_and_frees_all(table: pl.DataFrame) -> None:
    assert settled() == 0
    store = CountingStore(LatencyStore(MemoryStore(objects()), 0.03))

    async def main() -> None:
        async with ZarrBackend.from_store(store) as backend:
            backend.schema()
            store.clear()
            for expr in (pl.all(), pl.col("t2m").sum(), pl.col("t2m").filter(pl.col("t2m") == pl.col("t2m").max())):
                task = asyncio.ensure_future(backend.scan_zarr_async(expr, max_concurrency=1))
                await asyncio.sleep(0.1)
                begin = time.perf_counter()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.perf_counter() - begin < 0.5
                await asyncio.sleep(0.2)
                before = len(store.requests)
                await asyncio.sleep(0.2)
                assert len(store.requests) == before  # nobody reads any more
                backend.clear_coord_cache()
            assert sum("/c/" in request.key for request in store.requests) < 3 * 24
            assert (await backend.scan_zarr_async(pl.all())).equals(table)

    asyncio.run(main())
    assert settled() == 0


def test_closing_ends_what_runs(table: pl.DataFrame) -> None:
    async def main() -> None:
        backend = ZarrBackend.from_store(LatencyStore(MemoryStore(objects()), 0.05))
        task = asyncio.ensure_future(backend.scan_zarr_async(pl.all(), max_concurrency=1))
        await asyncio.sleep(0.15)
        await backend.aclose()
        with pytest.raises((ScanCancelled, asyncio.CancelledError)):
            await task
        backend.close()

    asyncio.run(main())
    assert settled() == 0


def test_nothing_is_left_after_many_backends(path: Path) -> None:
    process = psutil.Process()

    async def once() -> None:
        async with ZarrBackend.from_url(path) as backend:
            await asyncio.gather(*(backend.scan_zarr_async(pl.all().filter(LOW)) for _ in range(4)))

    asyncio.run(once())
    gc.collect()
    assert settled() == 0
    files = process.num_fds()
    for _ in range(5):
        asyncio.run(once())
    gc.collect()
    assert settled() == 0
    assert process.num_fds() <= files


def test_what_fails_is_said_in_our_words_and_tried_again_by_the_next() -> None:
    stored = objects()
    bad = dict(stored)
    key = "t2m/c/0/0/0"
    bad[key] = bad[key][:10]
    memory = MemoryStore(bad)

    async def main() -> None:
        async with ZarrBackend.from_store(memory) as backend:
            results = await asyncio.gather(
                *(backend.scan_zarr_async(e) for e in (pl.all(), pl.col("t2m").sum(), pl.col("t2m").filter(LOW)) * 4),
                return_exceptions=True,
            )
            assert all(isinstance(r, gpuzarr.errors.ChunkError) for r in results), results
            assert all(key in str(r) for r in results)
            memory.objects[key] = stored[key]
            assert same(await backend.scan_zarr_async(pl.all()), expected())

    asyncio.run(main())


def test_one_query_without_a_backend(path: Path, table: pl.DataFrame) -> None:
    expr = pl.col("t2m").filter(LOW)

    async def main() -> None:
        assert (await gpuzarr.scan_zarr_async(str(path), expr)).equals(table.select(expr))
        assert (await gpuzarr.scan_zarr_async(MemoryStore(objects()), expr)).equals(table.select(expr))
        with ZarrBackendSync.from_url(path) as blocking:
            assert (await gpuzarr.scan_zarr_async(blocking, expr)).equals(table.select(expr))
            assert blocking.cache_stats()["var_entries"] == 6
        with pytest.raises(RequestError):
            await gpuzarr.scan_zarr_async(ZarrBackend.from_url(path), expr, prefix="a")

    asyncio.run(main())
    assert settled() == 0


def test_secrets_stay_out_and_pickles_open_again(path: Path, table: pl.DataFrame) -> None:
    url = "https://user:hUnter2@example.invalid/a.zarr?sig=hUnter2"
    with ZarrBackend.from_url(url, storage_options={"headers": {"Authorization": "Bearer hUnter2"}}) as backend:
        assert "hUnter2" not in repr(backend)
        assert b"hUnter2" not in pickle.dumps(backend)
    with ZarrBackend.from_url(path) as backend:
        lf = pickle.loads(pickle.dumps(backend.lazy().filter(LOW)))
        assert lf.collect().equals(table.filter(LOW))
        with pickle.loads(pickle.dumps(backend)) as other:
            assert other.scan_zarr_sync(LOW).equals(table.filter(LOW))


def test_codec_aliases(tmp_path: Path) -> None:
    import json

    path = folder(tmp_path / "a", consolidated=False, names=("t2m",))
    document = path / "t2m" / "zarr.json"
    parsed = json.loads(document.read_text())
    parsed["codecs"].insert(0, {"name": "my_rounding", "configuration": {"keepbits": 20}})
    document.write_text(json.dumps(parsed))
    with ZarrBackendSync.from_url(path) as backend, pytest.warns(gpuzarr.GpuzarrWarning):
        assert "t2m" not in backend.schema()
    with ZarrBackendSync.from_url(path, BackendOptions(codec_aliases={"my_rounding": "bitround"})) as backend:
        assert same(backend.scan_zarr_sync(), expected(names=("t2m",)))
    try:
        gpuzarr.configure_zarr_codecs(aliases={"my_rounding": "numcodecs.bitround"})
        with ZarrBackendSync.from_url(path) as backend:
            assert same(backend.scan_zarr_sync(), expected(names=("t2m",)))
    finally:
        gpuzarr.configure_zarr_codecs()
    for wrong in ({"a": "pickle"}, {"": "bitround"}, {"a": 3}):
        with pytest.raises(ValueError, match="bitround"):
            gpuzarr.configure_zarr_codecs(aliases=wrong)


def test_progress_is_right_and_ends_once(path: Path, table: pl.DataFrame) -> None:
    def check(events: list[Any], chunks: int) -> None:
        assert [e.finished for e in events].count(True) == 1
        assert events[-1].finished
        assert events[-1].chunks == chunks
        assert [e.chunks for e in events] == sorted(e.chunks for e in events)
        assert {e.chunks_total for e in events} == {24}

    events: list[Any] = []
    gpuzarr.scan_zarr(path, progress=events.append).collect(engine="streaming")
    check(events, 24)
    assert events[-1].bytes_decoded == events[-1].bytes_total
    events.clear()
    scan = iter(gpuzarr.scan_zarr(MemoryStore(objects()), progress=events.append).collect_batches(chunk_size=10))
    next(scan)
    del scan

    async def main() -> None:
        async with ZarrBackend.from_url(path, progress=seen.append) as backend:
            for _ in range(2):  # cold, then from the caches
                seen.clear()
                assert (await backend.scan_zarr_async(pl.all())).equals(table)
                check(seen, 24)

    seen: list[Any] = []
    asyncio.run(main())
    with pytest.raises(RequestError):
        gpuzarr.scan_zarr(path, progress=3)
    try:
        import tqdm  # noqa: F401
    except ImportError:
        with pytest.raises(EnvironmentLacksError, match="tqdm"):
            gpuzarr.scan_zarr(path, progress=True)
    else:
        assert gpuzarr.scan_zarr(path, progress=True).collect().equals(table)


def test_a_store_that_fails_is_no_fill_value() -> None:
    class Failing(MemoryStore):
        def get(self, key: str) -> Any:
            if key.startswith("t2m/c/1"):
                raise StoreError("down", key=key)
            return super().get(key)

    with ZarrBackendSync.from_store(Failing(objects())) as backend:
        with pytest.raises(StoreError, match="down"):
            backend.scan_zarr_sync()
        with pytest.raises(StoreError, match="down"):
            backend.scan_zarr_sync(n_rows=500)
        assert backend.scan_zarr_sync(pl.col("time").dt.ordinal_day() < 4).height


@pytest.mark.parametrize("kind", [ZarrBackend, ZarrBackendSync])
def test_opened_with_a_path(tmp_path: Path, kind: type[ZarrBackend]) -> None:
    """The class itself opens what `from_url` does, and says what else it was given."""
    zarr.create_array(tmp_path / "a", data=np.arange(3.0), chunks=(2,))
    with kind(str(tmp_path / "a")) as backend:
        assert backend.lazy().collect()["value"].to_list() == [0.0, 1.0, 2.0]
    with pytest.raises(NotFoundError, match="There is nothing at"):
        kind(tmp_path / "b")
    for wrong in (3, None):
        with pytest.raises(RequestError, match="Cannot open"):
            kind(wrong)
    with pytest.raises(RequestError, match="options must be BackendOptions, not 'a'; name the other arguments"):
        kind(str(tmp_path), "a")
