"""The sorted flag: where it is set it is true, and where a coordinate leads in order it is set."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from polars.testing import assert_frame_equal
from scan_queries import small_frames
from scan_stores import random_store
from support_stores import FolderStore, MemoryStore

import gpuzarr
from gpuzarr.errors import StoreError
from gpuzarr.source.polars_source import TELLS_ORDER

VERSION = tuple(int(n) for n in pl.__version__.split(".")[:2])
KEPT = {False: VERSION >= (1, 44), True: VERSION >= (2, 0), None: False}


def true_flags(frame: pl.DataFrame) -> dict[str, bool]:
    """Flagged columns, and whether they descend; each is checked."""
    out = {}
    for name, series in zip(frame.columns, frame, strict=True):
        flags = series.flags
        for flag, descending in (("SORTED_ASC", False), ("SORTED_DESC", True)):
            if flags.get(flag):
                plain = pl.Series(series.to_list(), dtype=series.dtype)
                ways = (plain.sort(descending=descending, nulls_last=last) for last in (False, True))
                assert any(plain.equals(way, null_equal=True) for way in ways), name
                out[name] = descending
    return out


ORDERS: dict[str, tuple[list[float], bool | None]] = {
    "ascending": ([1, 2, 2, 3, 4, 5, 6, 7], False),
    "descending": ([7, 6, 5, 4, 4, 3, 2, 1], True),
    "unsorted": ([1, 2, 4, 3, 5, 6, 7, 8], None),
    "NaN": ([1, 2, 3, 4, 5, 6, 7, np.nan], None),
}


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("order", ["tile", "C"])
@pytest.mark.parametrize("case", ORDERS)
@pytest.mark.parametrize("chunks", [(1, 2), (2, 2), (2, 6), (8, 6)])
def test_leading_coordinate(tmp_path: Path, engine: Any, order: Any, case: str, chunks: tuple[int, int]) -> None:
    values, descending = ORDERS[case]
    group = zarr.create_group(tmp_path / "s")
    group.create_array("y", data=np.array(values), chunks=(3,), dimension_names=("y",), attributes={"_FillValue": "no"})
    group.create_array("v", data=np.arange(48.0).reshape(8, 6), chunks=chunks, dimension_names=("y", "x"))
    backend = gpuzarr.ZarrBackendSync(str(tmp_path / "s"), order=order)
    with backend, small_frames(np.random.default_rng(0)):
        lazy = backend.lazy()  # may see other values at every query
        for lf in (gpuzarr.scan_zarr(tmp_path / "s", order=order), lazy):
            in_order = order == "C" or chunks[0] == 1 or chunks[1] == 6
            for query in (lf, lf.filter(pl.col("v") % 5 > 1), lf.filter(pl.col("y") > 2).select("y"), lf.head(17)):
                found = true_flags(query.collect(engine=engine))
                if KEPT[descending] and in_order:
                    assert found["y"] is descending
            true_flags(lf.select("x", "v").collect(engine=engine))
            told = "hint.sorted('y'" in lf.explain()
            table = lf.collect()
            if lf is lazy or not TELLS_ORDER or descending is None:
                assert not told
            elif in_order:
                assert told
            if told:
                assert pl.Series(table["y"].to_list()).is_sorted(descending=descending)
            for ask in BY_Y:
                assert_frame_equal(ask(lf).collect(engine=engine), ask(table.lazy()).collect(), check_row_order=False)


BY_Y: list[Callable[[pl.LazyFrame], pl.LazyFrame]] = [
    lambda lf: lf.group_by("y").agg(pl.col("v").sum(), pl.len()),
    lambda lf: lf.filter(pl.col("v") % 7 > 2).group_by("y", "x").agg(pl.col("v").max()),
    lambda lf: lf.filter(pl.col("v") < 0).group_by("y").agg(pl.len()),
    lambda lf: lf.sort("y", "v").head(9),
    lambda lf: lf.sort("y", descending=True, maintain_order=True).with_row_index().filter(pl.col("index") < 5),
    lambda lf: lf.select("y").unique(),
    lambda lf: lf.join(lf.filter(pl.col("x") == 1).select("y", w="v"), on="y", how="left"),
    lambda lf: lf.join(lf.head(13).select("y", w="v"), on="y", how="full", coalesce=True),
    lambda lf: lf.select(pl.col("y").min(), hi=pl.col("y").max(), n=pl.col("y").n_unique()),
    lambda lf: pl.concat([lf.head(7), lf.head(20)]).group_by("y").agg(pl.len()),
    lambda lf: lf.select("v", y=-pl.col("y")).group_by("y").agg(pl.col("v").sum()),
]


@pytest.mark.parametrize("seed", range(30))
def test_never_a_wrong_flag(seed: int) -> None:
    rng = np.random.default_rng(seed)
    store = random_store(rng)
    with small_frames(rng):
        for order in ("tile", "C"):
            lf = gpuzarr.scan_zarr(MemoryStore(store.objects, is_local=True), broadcast=True, order=order)  # type: ignore[arg-type]
            for engine in ("in-memory", "streaming"):
                true_flags(lf.collect(engine=engine))  # type: ignore[call-overload]
                pair = pl.concat([lf, lf]).collect(engine=engine)  # type: ignore[call-overload]
                true_flags(pair)


@pytest.mark.skipif(not TELLS_ORDER, reason="this Polars is not told")
def test_a_remote_coordinate_is_told_if_opening_read_it(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "s")
    hours = {"units": "hours since 2000-01-01"}
    group.create_array("t", data=np.arange(8), chunks=(8,), dimension_names=("t",), attributes=hours)
    group.create_array("y", data=np.arange(8), chunks=(8,), dimension_names=("y",))
    group.create_array("v", data=np.arange(48.0).reshape(8, 6), chunks=(2, 6), dimension_names=("t", "x"))
    group.create_array("w", data=np.arange(48.0).reshape(8, 6), chunks=(2, 6), dimension_names=("y", "x"))
    for lead, told in (("t", True), ("y", False)):
        store = FolderStore(tmp_path / "s")
        store.is_local = False
        lf = gpuzarr.scan_zarr(store, variables=["v" if told else "w"])
        assert ("hint.sorted" in lf.explain()) is told
        assert store.requested.count(f"{lead}/c/0") == int(told)
        assert lf.collect().height == 48
        assert store.requested.count(f"{lead}/c/0") == 1


@pytest.mark.skipif(not TELLS_ORDER, reason="this Polars is not told")
def test_a_query_that_need_not_sort_notices_other_coordinates(tmp_path: Path) -> None:
    """Polars leaves out the sorting, and then does not ask for the coordinate by which rows are in order."""

    def write_y(values: list[float]) -> None:
        attributes = {"_FillValue": "no"}
        group.create_array("y", data=np.array(values), dimension_names=("y",), attributes=attributes, overwrite=True)

    group = zarr.create_group(tmp_path / "s")
    group.create_array("v", data=np.arange(48.0).reshape(8, 6), dimension_names=("y", "x"))
    write_y([0, 1, 2, 3, 4, 5, 6, 7])
    past = time.time() - 100  # else all documents are compared at every query
    for file in (tmp_path / "s").rglob("*"):
        os.utime(file, (past, past))
    lf = gpuzarr.scan_zarr(tmp_path / "s")
    copy = pickle.loads(pickle.dumps(lf))
    for query in (lf, copy):
        assert "SORT" not in query.sort("y").select("v").explain()
        assert query.sort("y").select("v").collect()["v"].to_list() == list(range(48))
    fresh = pickle.loads(pickle.dumps(lf))
    write_y([1, 0, 2, 3, 4, 5, 6, 7])
    for query in (lf, copy, fresh):
        with pytest.raises(StoreError, match="store-changed"):
            query.sort("y").select("v").collect()
