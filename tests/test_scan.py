"""A scan reads what it must, once; refuses what it should, early; and every failure is one clear error."""

from __future__ import annotations

import json
import shutil
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import polars as pl
import psutil
import pytest
import zarr
from polars.testing import assert_frame_equal
from support_counting import CountingStore, FaultyStore, LatencyStore, Request
from support_stores import FolderStore, MemoryStore

import gpuzarr
import gpuzarr.device.host
import gpuzarr.plan.model
import gpuzarr.table.build
from gpuzarr.api import open_dataset
from gpuzarr.errors import GpuzarrError, StoreError

ENGINES = ["in-memory", "streaming"]


def make(path: Path, *, zarr_format: Any = 3, shards: Any = None, compressors: Any = "auto") -> np.ndarray:
    """``v`` and ``w`` on (y: 40, x: 30) in chunks of (10, 10) and (8, 15); ``v`` counts its cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(path, zarr_format=zarr_format)
        values = np.arange(1200, dtype="f8").reshape(40, 30)
        for name, chunks in (("v", (10, 10)), ("w", (8, 15))):
            options: dict[str, Any] = {"shards": shards if name == "v" else None, "compressors": compressors}
            named: dict[str, Any] = {"dimension_names": ("y", "x")} if zarr_format == 3 else {}
            attributes = {} if zarr_format == 3 else {"_ARRAY_DIMENSIONS": ["y", "x"]}
            array = group.create_array(
                name,
                shape=(40, 30),
                chunks=chunks,
                dtype="f8",
                fill_value=-1.0,
                attributes=attributes,
                **named,
                **options,
            )
            array[...] = values
    return values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def chunk_keys(store: CountingStore) -> Counter[str]:
    return Counter(k for k in store.keys("get", "get_range", "get_suffix", "get_ranges") if "/c/" in k)


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_exactly_the_chunks_of_surviving_tiles_once_each(path: Path, engine: Any, monkeypatch: Any) -> None:
    store = CountingStore(FolderStore(path))
    tile_shape = gpuzarr.table.build.tile_shape
    monkeypatch.setattr(gpuzarr.table.build, "tile_shape", lambda *a, **k: tile_shape(*a, **{**k, "tile_rows": 100}))
    monkeypatch.setattr(gpuzarr.plan.model, "FRAME_ROWS", 100)
    lf = gpuzarr.scan_zarr(store)
    y, x, v = pl.col("y"), pl.col("x"), pl.col("v")

    def read(query: pl.LazyFrame) -> tuple[pl.DataFrame, Counter[str]]:
        store.clear()
        return query.collect(engine=engine), chunk_keys(store)

    nothing = [
        lf.select(pl.len()), lf.select("y"), lf.filter(y < 7, x == 3).select("x", "y"), lf.filter(y > 1000),
        lf.filter((y > 20) & (y < 10)), lf.select(y.max(), x.min()), lf.head(17).select("x"), lf.filter(y < 5).select(pl.len()),
        lf.filter(pl.lit(False)), lf.head(0), lf.group_by("y").len(),
    ]  # fmt: skip
    for query in nothing:
        assert not read(query)[1], query.explain()

    frame, keys = read(lf.filter(y.is_between(12, 18), x < 10))
    assert frame.height == 70
    assert keys == Counter({"v/c/1/0": 1, "w/c/1/0": 1, "w/c/2/0": 1})
    frame, keys = read(lf)
    assert set(keys.values()) == {1}
    assert len(keys) == 12 + 10
    frame, keys = read(lf.head(150).select("v"))
    assert frame["v"].to_list() == lf.collect()["v"].head(150).to_list()
    assert set(keys) == {"v/c/0/0", "v/c/0/1"}

    # late materialisation: w is read only where a row survived the filter on v
    frame, keys = read(lf.filter(v.is_in([25.0, 26.0, 1190.0])).select("v", "w", "y"))
    assert frame.rows() == [(25.0, 25.0, 0), (26.0, 26.0, 0), (1190.0, 1190.0, 39)]
    assert keys == Counter({**{f"v/c/{i}/{j}": 1 for i in range(4) for j in range(3)}, "w/c/0/1": 1, "w/c/4/1": 1})
    _, keys = read(lf.filter(v < 0).select("w"))
    assert {k[0] for k in keys} == {"v"}
    _, keys = read(
        lf.filter((v > 300) | (y < 10), x >= 10, y < 20).select("x")
    )  # filter only; tiles known true unread?
    assert set(keys) <= {f"v/c/{i}/{j}" for i in range(2) for j in (1, 2)}


def test_guards_refuse_before_any_chunk(path: Path) -> None:
    store = CountingStore(FolderStore(path))
    for limit in ({"max_rows": 1199}, {"max_chunks_to_read": 21}, {"max_bytes": 1000}):
        lf = gpuzarr.scan_zarr(store, **limit)
        store.clear()
        for engine in ENGINES:
            with pytest.raises(Exception, match=rf"plan-limit.*{next(iter(limit))}"):
                lf.collect(engine=engine)  # type: ignore[arg-type]
        assert next(iter(limit)) in str(gpuzarr.explain(lf).scans[0].refused)
        assert not chunk_keys(store)
        assert lf.filter(pl.col("y") == 3, pl.col("x") < 4).select("y").collect().height == 4
    lf = gpuzarr.scan_zarr(store, max_rows=1200, max_chunks_to_read=22)
    assert lf.collect().height == 1200


# -- failures --------------------------------------------------------------------------------------------------------


def failing(lf: pl.LazyFrame, *expected: str) -> None:
    """Both engines fail with all of these words in the message, and no worker stays."""
    for engine in ENGINES:
        with pytest.raises(Exception) as caught:  # Polars 1.x wraps them
            lf.collect(engine=engine)  # type: ignore[arg-type]
        text = str(caught.value)
        assert not [word for word in expected if word not in text], text
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and workers():
        time.sleep(0.01)
    assert not workers()


def workers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("gpuzarr-worker")]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_and_missing_chunks(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "s.zarr"
    compressors = numcodecs.Blosc() if zarr_format == 2 else zarr.codecs.BloscCodec()
    make(path, zarr_format=zarr_format, compressors=compressors)
    key = "v/2.1" if zarr_format == 2 else "v/c/2/1"
    good = (path / key).read_bytes()
    whole = gpuzarr.scan_zarr(path).collect()
    for damage in (good[:-20], good[:7], b"", b"\xff" * len(good), good[:16] + bytes(len(good) - 16)):
        (path / key).write_bytes(damage)
        lf = gpuzarr.scan_zarr(path)
        failing(lf.select("v"), "[chunk-", "array 'v'", f"key '{key}'")
        failing(lf.filter(pl.col("v") > 5).select("w"), "[chunk-", f"key '{key}'")
        ok = pl.col("y") < 20
        assert_frame_equal(lf.filter(ok).collect(), whole.filter(ok))
    (path / key).unlink()
    lf = gpuzarr.scan_zarr(path, decode_cf=False)
    inside = pl.col("y").is_between(20, 29) & pl.col("x").is_between(10, 19)
    profile = gpuzarr.profile(lf)
    assert profile.scans[0].statistics["chunks_missing"] == 1
    assert profile.frame.filter(inside)["v"].to_list() == [-1.0] * 100
    assert gpuzarr.scan_zarr(path, on_missing="null").filter(inside).collect()["v"].null_count() == 100
    failing(gpuzarr.scan_zarr(path, on_missing="raise"), "[chunk-missing]", "array 'v'", f"key '{key}'")
    with pytest.raises(Exception, match="chunk-missing"):
        gpuzarr.scan_zarr(path, on_missing="raise").filter(pl.col("v") > 5).collect()


def test_failed_reads_are_never_fill_values(path: Path) -> None:
    def fault(request: Request) -> Exception | None:
        return StoreError("connection reset", key=request.key) if request.key == "v/c/3/2" else None

    lf = gpuzarr.scan_zarr(FaultyStore(FolderStore(path), fault))
    failing(lf, "[store-failed]", "Connection reset", "v/c/3/2")
    failing(lf.join(lf, on=["x", "y"]), "[store-failed]", "v/c/3/2")
    failing(pl.concat([lf, lf.filter(pl.col("v") > 3)]), "[store-failed]", "v/c/3/2")

    def foreign(request: Request) -> Exception | None:
        return ZeroDivisionError("inside a driver") if request.key == "v/c/3/2" else None

    lf = gpuzarr.scan_zarr(FaultyStore(FolderStore(path), foreign))
    failing(lf, "inside a driver")


def test_sharded_chunk_errors_name_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    make(path, shards=(20, 30))
    shard = path / "v/c/1/0"
    data = bytearray(shard.read_bytes())
    data[10:40] = b"\x00" * 30
    shard.write_bytes(bytes(data))
    failing(gpuzarr.scan_zarr(path).select("v"), "[chunk-", "array 'v'", "key 'v/c/1/0'", "bytes ")
    shard.write_bytes(bytes(data[:-9]))
    failing(gpuzarr.scan_zarr(path).filter(pl.col("y") > 20, pl.col("x") < 4).select("v"), "key 'v/c/1/0'")


# -- ends ------------------------------------------------------------------------------------------------------------


def test_closing_a_scan_stops_its_work(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpuzarr.plan.model, "FRAME_ROWS", 30)
    monkeypatch.setattr(gpuzarr.plan.model, "MAX_FRAME_ROWS", 30)
    slow = LatencyStore(FolderStore(path), 0.0)
    dataset = open_dataset(slow)
    slow.seconds = 0.02
    files = psutil.Process().num_fds()
    for taken in (0, 1, 3):
        frames = dataset.scan(dataset.plan())
        for _ in range(taken):
            assert next(frames).height > 0
        begin = time.monotonic()
        frames.close()  # type: ignore[attr-defined]
        while workers() and time.monotonic() < begin + 3:
            time.sleep(0.005)
        assert time.monotonic() - begin < 1
    frames = dataset.scan(dataset.plan())
    next(frames)
    del frames
    time.sleep(0.3)
    assert not workers()
    assert psutil.Process().num_fds() <= files + 1


# -- bad input -------------------------------------------------------------------------------------------------------


def edit(path: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((path / name).read_text())
    change(document)
    (path / name).write_text(json.dumps(document))


BAD_DOCUMENTS: dict[str, Callable[[Path], object]] = {
    "truncated document": lambda p: (p / "v/zarr.json").write_text((p / "v/zarr.json").read_text()[:-40]),
    "no document": lambda p: (p / "v/zarr.json").write_bytes(b"\x00\xff\xfe"),
    "unknown codec": lambda p: edit(p, "v/zarr.json", lambda d: d.update(codecs=[{"name": "bytes"}, {"name": "nope"}])),
    "negative shape": lambda p: edit(p, "v/zarr.json", lambda d: d.update(shape=[-40, 30])),
    "zero chunk": lambda p: edit(
        p, "v/zarr.json", lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[0, 10])
    ),
    "dimension twice": lambda p: edit(p, "v/zarr.json", lambda d: d.update(dimension_names=["x", "x"])),
    "unknown dtype": lambda p: edit(p, "v/zarr.json", lambda d: d.update(data_type="float1")),
}


@pytest.mark.parametrize("case", BAD_DOCUMENTS)
def test_bad_documents_are_one_clear_error(path: Path, case: str) -> None:
    BAD_DOCUMENTS[case](path)
    with pytest.raises(GpuzarrError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gpuzarr.scan_zarr(path, variables=["v"])
    text = str(caught.value)
    assert "'v'" in text or "v/zarr.json" in text, text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert gpuzarr.scan_zarr(path, variables=["w"]).collect().height == 1200


def test_bad_requests_are_one_clear_error(path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no store")
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: gpuzarr.scan_zarr(tmp_path / "absent.zarr"), r"not-found.*absent"),
        (lambda: gpuzarr.scan_zarr(tmp_path / "empty"), r"not-found.*empty"),
        (lambda: gpuzarr.scan_zarr(tmp_path / "file.txt"), r"file\.txt"),
        (lambda: gpuzarr.scan_zarr(path, variables=["nope"]), r"not-found.*nope.*v.*w|nope"),
        (lambda: gpuzarr.scan_zarr(path, group="nope"), r"not-found.*nope"),
        (lambda: gpuzarr.scan_zarr(path, dims=["x", "nope"]), r"nope"),
        (lambda: gpuzarr.scan_zarr(path, device="tpu"), r"argument.*tpu"),  # type: ignore[arg-type]
        (lambda: gpuzarr.scan_zarr(path, device="cuda"), r"backend-unavailable"),
        (lambda: gpuzarr.scan_zarr(path, order="F"), r"argument.*'F'"),  # type: ignore[arg-type]
        (lambda: gpuzarr.scan_zarr(path, on_missing="skip"), r"argument.*skip"),  # type: ignore[arg-type]
        (lambda: gpuzarr.scan_zarr(path, time_unit="s"), r"time_unit"),  # type: ignore[arg-type]
        (lambda: gpuzarr.scan_zarr(path, groups="list"), r"groups"),  # type: ignore[arg-type]
        (lambda: gpuzarr.scan_zarr(path, max_rows=-1), r"argument.*max_rows"),
        (lambda: gpuzarr.scan_zarr(path, memory_budget=1.5), r"memory_budget"),  # type: ignore[arg-type]
        (lambda: gpuzarr.scan_zarr(42), r"argument.*int"),
        (lambda: gpuzarr.scan_zarr(path, storage_options={"key": "x"}), r"storage_options"),
    ]
    for call, words in calls:
        with pytest.raises(GpuzarrError, match=words):
            call()
    shutil.rmtree(path / "w")
    make_other = zarr.open_group(path, mode="a").create_array("u", shape=(3,), chunks=(3,), dtype="i4")
    make_other[...] = 1
    with pytest.raises(GpuzarrError, match=r"(?s)table-ambiguous.*variables="):
        gpuzarr.scan_zarr(path)
    assert set(gpuzarr.scan_tables(path)) == {"y_x", "dim_0"}


def test_root_arrays_and_open_nodes(path: Path) -> None:
    """What zarr-python has opened scans like its path."""
    whole = gpuzarr.scan_zarr(path).select("v").collect()
    group = zarr.open_group(path, mode="r")
    array = group["v"]
    assert isinstance(array, zarr.Array)
    for target in (array, str(path / "v"), MemoryStore({k: (path / "v" / k).read_bytes() for k in _files(path / "v")})):
        lf = gpuzarr.scan_zarr(target)
        values = lf.collect().to_series(-1)
        assert values.to_list() == whole["v"].to_list()
        assert lf.collect_schema().names()[:2] == ["y", "x"]
    assert_frame_equal(gpuzarr.scan_zarr(group).collect(), gpuzarr.scan_zarr(path).collect())


def _files(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
