"""Odd stores and odd names: each of these once gave a wrong row, an unclear error or a needless wait."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

import gpuzarr
from gpuzarr.device.pool import WorkPool
from gpuzarr.table.coordinates import MAX_DIMENSION_CELLS


def test_index_of_a_long_dimension(tmp_path: Path) -> None:
    """A dimension without coordinate may be longer than what is held in memory of one."""
    size, cells = MAX_DIMENSION_CELLS + 10, 2**16
    array = zarr.create_array(
        tmp_path / "a", shape=(size, 3), chunks=(cells, 2), dtype="u1", dimension_names=("i", "x")
    )
    array[cells - 1 : cells + 2] = np.arange(1, 10, dtype="u1").reshape(3, 3)
    array[-1] = (7, 8, 9)

    lf = gpuzarr.scan_zarr(tmp_path / "a", order="C")
    last = {"i": [size - 1] * 3, "x": [0, 1, 2], "value": [7, 8, 9]}
    assert lf.tail(3).collect().to_dict(as_series=False) == last
    assert lf.head(2).collect().rows() == [(0, 0, 0), (0, 1, 0)]
    assert lf.slice(3 * cells - 4, 3).collect()["i"].to_list() == [cells - 2, cells - 1, cells - 1]
    for order in ("C", "tile"):
        lf = gpuzarr.scan_zarr(tmp_path / "a", order=order)
        kept = lf.filter((pl.col("value") > 0) & (pl.col("i") != cells)).collect().sort("i", "x")
        assert kept["i"].to_list() == [cells - 1] * 3 + [cells + 1] * 3 + [size - 1] * 3
        assert kept["value"].to_list() == [1, 2, 3, 7, 8, 9, 7, 8, 9]
    sums = gpuzarr.scan_zarr(tmp_path / "a").select(pl.len(), pl.col("i").sum()).collect(engine="streaming")
    assert sums.row(0) == (3 * size, 3 * size * (size - 1) // 2)


def test_dimensions_too_long_to_count_with(tmp_path: Path) -> None:
    """Declared sizes cost nothing: the first rows of 10^18 are there at once."""
    group = zarr.create_group(tmp_path / "g")
    group.create_array("a", shape=(10**9, 10**9), chunks=(10, 10), dtype="f4", dimension_names=("y", "x"))
    assert gpuzarr.scan_zarr(tmp_path / "g").head(3).collect()["x"].to_list() == [0, 1, 2]
    lf = gpuzarr.scan_zarr(tmp_path / "g", max_rows=10**6)
    with pytest.raises(gpuzarr.errors.PlanLimitError):
        lf.collect()


@pytest.mark.parametrize(
    "names", [("__gpuzarr_leaf_0", "__gpuzarr_leaf_1"), ("row", "keep"), ("len", "literal"), ("*", "^a.*$")]
)
def test_column_names_that_are_taken(tmp_path: Path, names: tuple[str, str]) -> None:
    """Names used inside, by Polars or in patterns are names like all others."""
    cells = np.arange(12.0).reshape(3, 4)
    group = zarr.create_group(tmp_path / "g")
    for number, name in enumerate(names):
        array = group.create_array(name, shape=(3, 4), chunks=(2, 2), dtype="f8", dimension_names=("y", "x"))
        array[...] = cells + number
    group.create_array("y", shape=(3,), chunks=(3,), dtype="i4", dimension_names=("y",))[...] = [3, 1, 2]
    columns = {name: cells.reshape(-1) + number for number, name in enumerate(names)}
    places = {"y": np.repeat([3, 1, 2], 4).astype("i4"), "x": np.tile(np.arange(4), 3)}
    table = pl.DataFrame(places | {name: columns[name] for name in sorted(names)})
    lf = gpuzarr.scan_zarr(tmp_path / "g", order="C")
    first = pl.nth(2) if set("*^") & set(names[0] + names[1]) else pl.col(names[0])
    predicates = [
        (first > 3) | (pl.col("y") > 2),
        (first > 3) & ((pl.col("y") > 2) | (first < 9)),
        (first > 30) | ((pl.col("y") > 1) & (pl.col("x") < 2)),
    ]
    for predicate in predicates:
        expected = table.filter(predicate)
        assert lf.filter(predicate).collect().equals(expected)
        assert lf.filter(predicate).select("x").collect().equals(expected.select("x"))


def test_tasks_that_come_together_run_together() -> None:
    """One idle worker does not keep others from being started for the tasks behind its own."""
    pool, together = WorkPool(4), threading.Barrier(4)
    results: list[bool] = []

    def task() -> None:
        try:
            together.wait(10)
        except threading.BrokenBarrierError:
            results.append(False)
        else:
            results.append(True)

    done = threading.Event()
    pool.submit(0, done.set)
    assert done.wait(10)
    time.sleep(0.05)  # the worker is idle now
    for _ in range(4):
        pool.submit(0, task)
    for _ in range(1200):
        if len(results) == 4:
            break
        time.sleep(0.01)
    pool.close()
    assert results == [True] * 4


def test_a_deleted_store_is_an_error(tmp_path: Path) -> None:
    """Chunks that are not there are fill values only as long as the store is there."""
    array = zarr.create_array(tmp_path / "a", shape=(4, 4), chunks=(2, 2), dtype="f8", dimension_names=("y", "x"))
    array[...] = 1.0
    lf = gpuzarr.scan_zarr(tmp_path / "a")
    assert lf.select(pl.col("value").sum()).collect().item() == 16.0
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(
        Exception, match=r"\[store-changed\] The directory of the store is not there any more"
    ) as caught:
        lf.collect()
    assert "key 'zarr.json'" in str(caught.value)


@pytest.mark.parametrize("broken", ["directory", "missing"])
def test_errors_of_the_store_name_array_and_store(tmp_path: Path, broken: str) -> None:
    """A store knows keys only, a missing chunk has none: the message has all the same."""
    group = zarr.create_group(tmp_path / "g")
    array = group.create_array("a", shape=(4,), chunks=(2,), dtype="f8", dimension_names=("x",))
    array[...] = 1.0
    (tmp_path / "g" / "a" / "c" / "1").unlink()
    if broken == "directory":
        (tmp_path / "g" / "a" / "c" / "1").mkdir()
    with pytest.raises(Exception, match=r"array 'a', key 'a/c/1', store") as caught:
        gpuzarr.scan_zarr(tmp_path / "g", on_missing="raise").collect()
    assert ("store-failed" if broken == "directory" else "chunk-missing") in str(caught.value)


def test_explain_of_what_is_no_query() -> None:
    """A collected frame is refused by name."""
    with pytest.raises(gpuzarr.errors.RequestError, match="not DataFrame; leave out collect"):
        gpuzarr.explain(pl.DataFrame({"a": [1]}))  # type: ignore[arg-type]


def test_a_pool_waits_for_all_its_threads_together() -> None:
    """Closing takes as long as one stuck task is waited for, however many there are."""
    pool, release, started = WorkPool(6), threading.Event(), threading.Barrier(7)

    def task() -> None:
        started.wait(10)
        release.wait(30)

    for _ in range(6):
        pool.submit(0, task)
    started.wait(10)
    begin = time.monotonic()
    pool.close(timeout=0.5)
    took = time.monotonic() - begin
    release.set()
    assert 0.4 < took < 2.5


def test_dimensions_of_more_tiles_than_memory(tmp_path: Path) -> None:
    """A declared size costs nothing by itself: the first rows are there at once, listing all tiles is refused."""
    group = zarr.open_group(tmp_path / "huge", mode="w", zarr_format=3)
    group.create_array("v", shape=(10**18,), chunks=(10**6,), dtype="f4", dimension_names=("x",))
    lf = gpuzarr.scan_zarr(tmp_path / "huge")
    assert lf.head(3).collect().rows() == [(0, 0.0), (1, 0.0), (2, 0.0)]
    with pytest.raises(Exception, match=r"plan-limit.*tiles along dimension 'x'"):
        lf.select(pl.len()).collect()


def test_links_in_a_store(tmp_path: Path) -> None:
    """A link into a circle holds nothing; one that leads outside is left out, by name; neither refuses the rest."""
    outside = zarr.create_array(tmp_path / "outside", data=np.arange(3.0), chunks=(2,))
    group = zarr.create_group(tmp_path / "s")
    group.create_array("a", data=np.arange(4.0), chunks=(2,))
    group.create_group("deep").create_array("b", data=np.arange(5.0), chunks=(2,))
    (tmp_path / "s" / "itself").symlink_to("itself")
    (tmp_path / "s" / "deep" / "up").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "deep" / "here").symlink_to(".")
    (tmp_path / "s" / "alias").symlink_to(tmp_path / "s" / "deep")
    assert sorted(gpuzarr.scan_tables(tmp_path / "s")) == ["alias/dim_0", "deep/dim_0", "dim_0"]
    assert gpuzarr.scan_zarr(tmp_path / "s").collect()["a"].to_list() == [0, 1, 2, 3]
    (tmp_path / "s" / "far").symlink_to(tmp_path / "outside")
    with pytest.warns(gpuzarr.GpuzarrWarning, match="'far'.*follow_symlinks"):
        assert sorted(gpuzarr.scan_tables(tmp_path / "s")) == ["alias/dim_0", "deep/dim_0", "dim_0"]
    assert outside.shape == (3,)


def test_coordinate_of_another_size(tmp_path: Path) -> None:
    """It labels no row, so it is left out, and never without a word; one that fits another table is no mistake."""
    group = zarr.create_group(tmp_path / "s")

    def put(name: str, shape: tuple[int, ...], *dims: str) -> None:
        group.create_array(name, shape=shape, chunks=shape, dtype="f4", dimension_names=dims)

    put("v", (4, 3), "lat", "lon")
    put("lon", (3,), "lon")
    assert gpuzarr.scan_zarr(tmp_path / "s").collect_schema().names() == ["lat", "lon", "v"]
    put("lat", (5,), "lat")
    for scan in (gpuzarr.scan_zarr, lambda store: gpuzarr.scan_tables(store)["lat_lon"]):
        with pytest.warns(gpuzarr.GpuzarrWarning, match=r"'lat': It has 5 elements along 'lat', which has 4"):
            lf = scan(tmp_path / "s")
        assert lf.select("lat").collect()["lat"].unique().sort().to_list() == [0, 1, 2, 3]
    put("w", (5,), "lat")
    assert gpuzarr.scan_tables(tmp_path / "s")["lat"].collect_schema().names() == ["lat", "w"]
    assert gpuzarr.scan_zarr(tmp_path / "s", variables=["v"]).collect_schema().names() == ["lat", "lon", "v"]


def test_messages_of_wrong_calls(tmp_path: Path) -> None:
    """Errors of the tree, which say what to do."""
    group = zarr.create_group(tmp_path / "in" / "s")
    group.create_array("a", data=np.arange(3.0), chunks=(2,), attributes={"_FillValue": "AAAAAAAA+H8="})
    for call, words in (
        (lambda: gpuzarr.scan_zarr(tmp_path / "in"), "'/' has 's'. If it is below 's', say group='s'."),
        (lambda: gpuzarr.scan_zarr(tmp_path / "in", group="x"), "'/' has 's'."),
        (lambda: gpuzarr.scan_zarr(tmp_path, limits={"max_ndim": 3}), "limits must be gpuzarr.Limits(...), not"),
        (lambda: gpuzarr.Limits(max_ndim=0), "Limits.max_ndim has to be a positive int, not 0."),
        (lambda: gpuzarr.scan_zarr(tmp_path, storage_options={"a": 1}), "are for URLs; a path needs none."),
    ):
        with pytest.raises(gpuzarr.errors.RequestError) as caught:
            call()
        assert words in str(caught.value)
    assert "null: _FillValue=nan" in str(gpuzarr.schema(tmp_path / "in" / "s"))


def test_a_pool_works_with_the_threads_that_the_system_has(monkeypatch):
    start, started = threading.Thread.start, []

    def refused(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    pool, done, release = WorkPool(6), threading.Semaphore(0), threading.Event()
    assert not pool.refused
    for _ in range(8):
        pool.submit(0, lambda: (release.wait(10), done.release()))
    release.set()
    assert all(done.acquire(timeout=10) for _ in range(8))
    pool.close()
    assert len(started) == 2
    none = WorkPool(2)
    with pytest.raises(gpuzarr.errors.ResourceError, match="starts no thread"):
        none.submit(0, lambda: None)
    none.close()
    assert (pool.workers, pool.refused) == (2, True)
    assert not none.refused  # nothing runs at all: an error, not a note
