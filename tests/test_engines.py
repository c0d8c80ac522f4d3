"""A scan is a plain LazyFrame: every engine, every way to run a query, other processes and threads."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import polars as pl
import psutil
import pytest
import zarr
from polars.testing import assert_frame_equal
from support_counting import CountingStore, LatencyStore
from support_stores import FolderStore

import gpuzarr

ENGINES = ["in-memory", "streaming"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store: two variables on (time, lat, lon), sharded and not, and their coordinates."""
    path = tmp_path_factory.mktemp("engines") / "grid.zarr"
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(path)
        dims = ("time", "lat", "lon")
        shape = (24, 12, 10)
        t2m = group.create_array("t2m", shape=shape, chunks=(4, 6, 5), dtype="f4", dimension_names=dims)
        t2m[...] = rng.normal(280, 15, shape)
        sharded = group.create_array(
            "rain", shape=shape, chunks=(3, 4, 5), shards=(6, 12, 10), dtype="f8", dimension_names=dims
        )
        sharded[...] = rng.random(shape) + 1
        time_ = group.create_array(
            "time",
            shape=(24,),
            chunks=(24,),
            dtype="i4",
            dimension_names=("time",),
            attributes={"units": "hours since 2020-01-01"},
        )
        time_[...] = np.arange(24) * 6
        for name, n in (("lat", 12), ("lon", 10)):
            array = group.create_array(name, shape=(n,), chunks=(n,), dtype="f8", dimension_names=(name,))
            array[...] = np.arange(n) * 2.5
        zarr.consolidate_metadata(group.store)
    return path


@pytest.fixture(scope="module")
def table(folder: Path) -> pl.DataFrame:
    return gpuzarr.scan_zarr(folder).collect()


HOT = pl.col("t2m") > 285
BOX = pl.col("lat").is_between(5, 20) & (pl.col("time").dt.hour() == 6)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_way_to_run_a_query(folder: Path, table: pl.DataFrame, engine: Any, tmp_path: Path) -> None:
    def queries(lf: pl.LazyFrame) -> dict[str, pl.LazyFrame]:
        keys = ["time", "lat", "lon"]
        daily = lf.filter(HOT).group_by("time").agg(pl.len(), pl.col("t2m").max()).sort("time")
        return {
            "self-join": lf.filter(BOX).join(lf.filter(HOT).select(*keys, again="rain"), on=keys).sort(keys),
            "join": lf.join(daily.rename({"t2m": "hottest"}), on="time")
            .filter(pl.col("t2m") == pl.col("hottest"))
            .sort(keys),
            "semi": lf.join(pl.LazyFrame({"lat": [2.5, 10.0]}), on="lat", how="semi").sort(keys),
            "group": daily,
            "sql": pl.SQLContext(grid=lf).execute(
                "select lat, max(t2m) as m from grid where lon > 5 and t2m > 270 group by lat order by lat"
            ),
            "concat": pl.concat([lf.filter(BOX), lf.filter(HOT).head(7)]),
            "top": lf.sort("rain").head(5),
            "when": lf.with_columns(c=pl.when(HOT).then(1).otherwise(2)).filter(pl.col("c") == 1, pl.col("lat") > 10),
            "over": lf.filter(pl.col("t2m") > pl.col("t2m").mean().over("lat")).sort(keys),
        }

    scanned, plain = queries(gpuzarr.scan_zarr(folder)), queries(table.lazy())
    for name, query in scanned.items():
        assert_frame_equal(query.collect(engine=engine), plain[name].collect(), check_exact=True)
    together = pl.collect_all(list(scanned.values()), engine=engine)
    for name, frame in zip(scanned, together, strict=True):
        assert_frame_equal(frame, plain[name].collect(), check_exact=True)

    lf = gpuzarr.scan_zarr(folder).filter(HOT)
    expected = table.filter(HOT)
    lf.sink_parquet(tmp_path / "hot.parquet", engine=engine)
    assert_frame_equal(pl.read_parquet(tmp_path / "hot.parquet"), expected)
    lf.sink_ipc(tmp_path / "hot.arrow", engine=engine)
    assert_frame_equal(pl.read_ipc((tmp_path / "hot.arrow").read_bytes()), expected)
    lf.sink_csv(tmp_path / "hot.csv", engine=engine)
    assert pl.read_csv(tmp_path / "hot.csv").height == expected.height

    async def collected() -> pl.DataFrame:
        return await lf.collect_async(engine=engine)

    assert_frame_equal(asyncio.run(collected()), expected)
    if hasattr(lf, "collect_batches"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unstable
            batches = list(lf.collect_batches(engine=engine, maintain_order=True))
        assert_frame_equal(pl.concat(batches), expected)


def test_bill_and_profile_see_every_scan_of_a_join(folder: Path, table: pl.DataFrame) -> None:
    store = CountingStore(FolderStore(folder))
    lf = gpuzarr.scan_zarr(store)
    keys = ["time", "lat", "lon"]
    query = lf.filter(BOX).select(*keys, "t2m").join(lf.filter(pl.col("lon") < 5).select(*keys, "rain"), on=keys)
    store.clear()
    bill = gpuzarr.explain(query)
    assert len(bill.scans) == 2
    assert bill.is_exact
    assert not [k for k in store.keys("get", "get_range", "get_ranges") if "/c/" in k and k.startswith("t2m")]
    for engine in ENGINES:
        profile = gpuzarr.profile(query, engine=engine)
        assert (profile.requests, profile.bytes_read) == (bill.requests, bill.stored_bytes)
        rows = {s.columns[-1]: s.statistics["rows"] for s in profile.scans}
        assert rows == {s.columns[-1]: s.rows for s in bill.scans}
    expected = table.filter(BOX, pl.col("lon") < 5).select(*keys, "t2m", "rain").sort(keys)
    assert_frame_equal(query.collect().sort(keys), expected)
    assert not gpuzarr.explain(table.lazy().filter(HOT)).scans


# -- other processes -------------------------------------------------------------------------------------------------


def test_pickled_scans_carry_no_secrets_and_run_elsewhere(folder: Path, table: pl.DataFrame, tmp_path: Path) -> None:
    query = gpuzarr.scan_zarr(folder).filter(HOT, BOX).select("lat", "t2m")
    expected = table.filter(HOT, BOX).select("lat", "t2m")
    for copy in (
        _reserialised(query),
        pickle.loads(cloudpickle.dumps(query)),
        pickle.loads(pickle.dumps(query)),
    ):
        assert_frame_equal(copy.collect(), expected)

    data, answer = tmp_path / "query.bin", tmp_path / "answer.parquet"
    query.serialize(data)
    code = f"import polars as pl; pl.LazyFrame.deserialize({str(data)!r}).sink_parquet({str(answer)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env={**os.environ, "PYTHONPATH": _path()})
    assert_frame_equal(pl.read_parquet(answer), expected)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        port = server.server_address[1]
        url = f"http://reader:hunter2@127.0.0.1:{port}/{folder.name}"
        lf = gpuzarr.scan_zarr(url)
        assert_frame_equal(lf.collect(), table)
        seen = [lf.explain(), str(gpuzarr.explain(lf)), str(gpuzarr.profile(lf)), repr(lf)]
        assert not [text for text in seen if "hunter2" in text]
        assert b"hunter2" not in cloudpickle.dumps(lf)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(Exception, match="store-") as caught:
        lf.collect()
    assert "hunter2" not in str(caught.value)


def _reserialised(query: pl.LazyFrame) -> pl.LazyFrame:
    buffer = io.BytesIO()
    query.serialize(buffer)
    buffer.seek(0)
    return pl.LazyFrame.deserialize(buffer)


def _path() -> str:
    return os.pathsep.join([str(Path(gpuzarr.__file__).parents[1]), str(Path(__file__).parent)])


def _python(code: str, *arguments: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": _path()}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=timeout, env=environment, **options
    )


def test_forked_child_gets_a_clear_error(folder: Path) -> None:
    code = """
        import os, signal, sys, gpuzarr
        lf = gpuzarr.scan_zarr(sys.argv[1])
        lf.collect()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                lf.collect(engine=sys.argv[2])
            except BaseException as error:
                os._exit(7 if "[forked]" in str(error) and "spawn" in str(error) else 8)
            os._exit(9)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert _python(code, str(folder), "in-memory").stdout.strip() == "7"


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_returns_within_a_second(folder: Path, engine: str) -> None:
    code = """
        import sys, time, gpuzarr
        from support_counting import LatencyStore
        from support_stores import FolderStore
        store = LatencyStore(FolderStore(sys.argv[1]), 0.0)
        lf = gpuzarr.scan_zarr(store)
        lf.select("lat", "lon", "time").collect()
        store.seconds = 0.3
        query = lf.with_columns(a="t2m")
        from gpuzarr.source import dataset
        dataset.REMOTE_WORKERS = 1
        print("ready", flush=True)
        begin = time.time()
        try:
            for _ in range(100):
                query.collect(engine=sys.argv[2])
        except BaseException as error:  # Polars 1.x wraps it where the source was running
            assert "KeyboardInterrupt" in repr(error), repr(error)
            print("interrupted", time.time(), flush=True)
        import threading
        time.sleep(0.5)
        print([t.name for t in threading.enumerate() if t.name.startswith("gpuzarr-worker")])
    """
    environment = {**os.environ, "PYTHONPATH": _path()}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(folder), engine],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    time.sleep(1.0)
    sent = time.time()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    words = out.split()
    assert words[:1] == ["interrupted"], out + err
    assert float(words[1]) - sent < 1.5
    assert out.strip().endswith("[]")


# -- threads ---------------------------------------------------------------------------------------------------------


def test_many_unions_do_not_starve_the_engine(folder: Path) -> None:
    """Polars' threads may all wait for scans at once; scans must not wait for Polars' threads then."""
    code = """
        import faulthandler, sys, gpuzarr, polars as pl
        faulthandler.dump_traceback_later(60, exit=True)
        lf = gpuzarr.scan_zarr(sys.argv[1])
        p = pl.any_horizontal(pl.col("t2m") > 280, pl.col("rain") * pl.col("lat") < 5, pl.col("t2m") * 2 < 540)
        for engine in ("in-memory", "streaming"):
            for _ in range(4):
                print(pl.concat([lf.filter(p)] * 16).collect(engine=engine).height)
                pl.collect_all([lf.filter(p).select("lat").unique() for _ in range(16)], engine=engine)
    """
    done = _python(code, str(folder), timeout=100, cwd=str(folder))
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 1


def test_thirty_two_threads_on_one_frame(folder: Path, table: pl.DataFrame) -> None:
    lf = gpuzarr.scan_zarr(folder)
    process = psutil.Process()

    def one(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(3):
            low, n = float(rng.integers(260, 290)), int(rng.integers(1, 3000))
            p = (pl.col("t2m") > low) & (pl.col("lat") > float(rng.integers(0, 20)))
            engine: Any = ENGINES[int(rng.integers(2))]
            got = lf.head(n).filter(p).select("time", "rain").collect(engine=engine)
            assert_frame_equal(got, table.head(n).filter(p).select("time", "rain"))

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(32)))
        files = process.num_fds()
        list(pool.map(one, range(32, 64)))
    assert process.num_fds() <= files + 4
    assert workers_end()


def workers_end(seconds: float = 2.0) -> bool:
    """Whether all worker threads of scans end within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not [t for t in threading.enumerate() if t.name.startswith("gpuzarr-worker")]:
            return True
        time.sleep(0.02)
    return False


def test_what_the_consumer_does_ends_the_scan(folder: Path) -> None:
    """Limits above filters, failing consumers and batches that nobody takes leave no thread behind."""
    store = LatencyStore(FolderStore(folder), 0.0)
    lf = gpuzarr.scan_zarr(store)
    lf.select("time", "lat", "lon").collect()
    store.seconds = 0.02

    def fail(frame: pl.DataFrame) -> pl.DataFrame:
        raise ZeroDivisionError("the consumer's own mistake")

    for engine in ENGINES:
        assert lf.filter(HOT).head(3).collect(engine=engine).height == 3
        with pytest.raises(Exception, match="own mistake"):
            lf.map_batches(fail, schema=lf.collect_schema()).collect(engine=engine)
        with pytest.raises(Exception, match=r"(?i)no such|not found|os error"):
            lf.sink_parquet("/no/such/folder/x.parquet", engine=engine)
        assert workers_end(), engine
    if hasattr(lf, "collect_batches"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches = lf.collect_batches(chunk_size=10)
            next(iter(batches))
            del batches
        assert workers_end()
