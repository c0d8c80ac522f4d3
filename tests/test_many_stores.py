"""Many stores as one table: the same as their tables one below the other, and nothing opened that is not needed."""

from __future__ import annotations

import gc
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from support_backends import expected, folder, objects, same
from support_counting import CountingStore
from support_stores import MemoryStore

import gpuzarr
from gpuzarr.errors import GpuzarrError, MetadataError, NotFoundError, PlanLimitError, RequestError

MODELS = ["a", "a", "b", "b", None]
MEMBERS = [1, 2, 1, 2, 3]
LIMITS = [0.1, 0.3, 0.5, 0.7, 0.9]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("many")
    return [folder(root / f"{i}.zarr", seed=10 * i, shape=(3 + i, 4, 5)) for i in range(5)]


@pytest.fixture(scope="module")
def tables(paths: list[Path]) -> list[pl.DataFrame]:
    out = [gpuzarr.scan_zarr(p).collect() for p in paths]
    assert all(same(t, expected(10 * i, (3 + i, 4, 5))) for i, t in enumerate(out))
    return out


@pytest.fixture(scope="module")
def catalogue(paths: list[Path]) -> pl.DataFrame:
    return pl.DataFrame({"model": MODELS, "url": [str(p) for p in paths], "member": MEMBERS, "limit": LIMITS})


def whole(catalogue: pl.DataFrame, tables: list[pl.DataFrame]) -> pl.DataFrame:
    rows = catalogue.drop("url")
    parts = [
        t.select(*(pl.lit(rows[n][i], dtype=rows[n].dtype).alias(n) for n in rows.columns), pl.all())
        for i, t in enumerate(tables)
    ]
    return pl.concat(parts)


PREDICATES = [
    pl.col("model") == "b",
    pl.col("model").is_null(),
    pl.col("model") == "nobody",
    (pl.col("model") == "b") & (pl.col("lat") > 0),
    (pl.col("model") == "b") | (pl.col("lon") > 100),
    ~((pl.col("model") == "a") & (pl.col("t2m") > 0.5)),
    (pl.col("t2m") > pl.col("limit")) & (pl.col("member") < 3),
    ((pl.col("model") == "a") & (pl.col("lat") < 0)) | ((pl.col("model") == "b") & (pl.col("t2m") > 0.5)),
    pl.col("member").is_in([1, 3]) ^ (pl.col("lat") > 0),
    pl.col("t2m") > 0.9,
    pl.lit(value=True),
]


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_frame_of_stores_equals_its_tables_one_below_the_other(
    catalogue: pl.DataFrame, tables: list[pl.DataFrame], engine: Any
) -> None:
    table = whole(catalogue, tables)
    for frame in (catalogue, catalogue.lazy()):
        lf = gpuzarr.scan_zarr(frame)
        assert lf.collect_schema() == table.schema
        assert lf.collect(engine=engine).equals(table)
    for n in (0, 1, 61, 200, 10**6):
        assert lf.head(n).collect(engine=engine).equals(table.head(n))
    for p in PREDICATES:
        for query in (
            lambda f, p=p: f.filter(p),
            lambda f, p=p: f.filter(p).select("member"),
            lambda f, p=p: f.filter(p).select(pl.len()),
            lambda f, p=p: f.filter(p).select("t2m", "model"),
            lambda f, p=p: f.head(150).filter(p).select("lat", "model"),
            lambda f, p=p: f.filter(p).group_by("model", maintain_order=True).agg(pl.col("t2m").sum()),
        ):
            got, want = query(lf).collect(engine=engine), query(table.lazy()).collect()
            if "t2m" in got.columns and "lat" not in got.columns and got.height < 10:
                assert got.drop("t2m").equals(want.drop("t2m"))
                assert np.allclose(got["t2m"], want["t2m"])
            else:
                assert got.equals(want), p
    joined = pickle.loads(pickle.dumps(lf.filter(PREDICATES[3])))
    assert joined.collect().equals(table.filter(PREDICATES[3]))
    self_join = lf.join(lf.filter(pl.col("member") == 1), on=["time", "lat", "lon"], how="semi")
    assert self_join.select(pl.len()).collect(engine=engine).item() > 0


def test_rows_are_counted_without_columns(
    paths: list[Path], catalogue: pl.DataFrame, tables: list[pl.DataFrame]
) -> None:
    """Polars may ask for no column at all."""
    rows = [t.height for t in tables]
    for lf, want in (
        (gpuzarr.scan_zarr(paths[1]), rows[1]),
        (gpuzarr.scan_zarr(paths), sum(rows)),
        (gpuzarr.scan_zarr(catalogue), sum(rows)),
        (gpuzarr.scan_zarr(catalogue).filter(pl.col("model") == "b"), rows[2] + rows[3]),
        (gpuzarr.scan_zarr(catalogue).head(70), 70),
    ):
        assert lf.select(pl.lit(1).alias("one"), pl.len()).collect().row(0) == (1, want)
        assert lf.select(pl.len()).collect().item() == want


def test_lists_patterns_and_reports(paths: list[Path], tables: list[pl.DataFrame]) -> None:
    table = pl.concat(tables)
    for target in (paths, tuple(map(str, paths)), str(paths[0].parent / "*.zarr"), str(paths[0].parent / "[0-9].zarr")):
        assert gpuzarr.scan_zarr(target).collect().equals(table)
    query = gpuzarr.scan_zarr(paths).filter(pl.col("lat") > 0)
    bill, profile = gpuzarr.explain(query), gpuzarr.profile(query)
    assert profile.frame.equals(table.filter(pl.col("lat") > 0))
    assert [s.store for s in bill.scans] == [str(p) for p in paths] == [s.store for s in profile.scans]
    assert (bill.stored_bytes, bill.requests) == (profile.bytes_read, profile.requests)
    events: list[Any] = []
    gpuzarr.scan_zarr(paths, progress=events.append).collect()
    assert sum(e.finished for e in events) == 5


def test_an_excluded_store_is_never_opened() -> None:
    stores = [CountingStore(MemoryStore(objects(seed=i), is_local=True)) for i in range(4)]
    from gpuzarr.many.source import ManySource
    from gpuzarr.many.stores import Stores
    from gpuzarr.metadata.limits import DEFAULT_LIMITS
    from gpuzarr.options import ScanOptions
    from gpuzarr.table import TableOptions

    plain = gpuzarr.scan_zarr(stores)
    assert not any(s.requests for s in stores[1:])
    assert stores[0].requests
    assert plain.head(10).collect().height == 10
    assert not any(s.requests for s in stores[2:])
    for store in stores:
        store.clear()
    source = ManySource(
        Stores(
            stores, pl.DataFrame({"model": ["a", "b", "c", "d"]}), group=None, table=TableOptions(), options=ScanOptions(),
            storage_options=None, limits=DEFAULT_LIMITS,
        )
    )  # fmt: skip
    stores[0].clear()
    chosen = pl.col("model").is_in(["c"]) & (pl.col("lat") < 0)
    frame = pl.concat(list(source(None, chosen, None, None)))
    assert same(frame.drop("model"), expected(2).filter(pl.col("lat") < 0))
    assert [bool(s.requests) for s in stores] == [False, False, True, False]


def test_a_thousand_stores_are_planned_in_a_second(paths: list[Path]) -> None:
    urls = [str(paths[i % 5]) for i in range(1000)]
    catalogue = pl.DataFrame({"url": urls, "number": range(1000)})
    begin = time.perf_counter()
    lf = gpuzarr.scan_zarr(catalogue)
    picked = lf.filter(pl.col("number") == 777).collect()
    assert time.perf_counter() - begin < 1.0
    assert picked.height == 5 * 4 * 5


@pytest.mark.parametrize(
    "layout", [{}, {"zarr_format": 2}, {"consolidated": False}, {"zarr_format": 2, "consolidated": False}]
)
def test_alike_stores_are_opened_by_their_documents(layout: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One is taken apart; of the others documents are compared, and only what they say differs is told apart."""
    from gpuzarr.many import openings

    stores = []
    for i in range(6):
        keys = objects(seed=i, shape=(3, 4, 5), **layout)
        for name in (".zattrs", ".zmetadata", "zarr.json"):
            if name in keys:
                document = json.loads(keys[name])
                holder = document if name == "zarr.json" else document.get("metadata", {})
                own = (
                    document
                    if name == ".zattrs"
                    else holder.setdefault("attributes" if name == "zarr.json" else ".zattrs", {})
                )
                own["tracking_id"] = f"{i}" * (i + 1)
                keys[name] = json.dumps(document).encode()
        if i == 4:  # other times: read with the first one's attributes, they would be wrong
            for name in [
                n for n in keys if n.endswith(("time/.zattrs", "time/zarr.json", ".zmetadata")) or n == "zarr.json"
            ]:
                keys[name] = _a_year_later(name, keys[name])
        stores.append(CountingStore(MemoryStore(keys, is_local=i != 5)))
    taken_apart = []
    build = openings.build_table
    monkeypatch.setattr(openings, "build_table", lambda *a, **k: taken_apart.append(k["store_label"]) or build(*a, **k))
    lf = gpuzarr.scan_zarr(stores, variables=["t2m", "pr"])
    got = lf.collect()
    assert len(taken_apart) == 2
    documents = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
    read = [r.key for r in stores[5].requests if r.method == "get" and r.key.endswith(documents)]
    assert len(read) == len(set(read)) > 0  # of a remote one, each document is read once
    parts = [expected(i, (3, 4, 5)) for i in range(6)]
    parts[4] = parts[4].with_columns(pl.col("time").dt.offset_by("366d"))
    assert same(got.slice(240, 60), parts[4])
    assert got.equals(pl.concat([gpuzarr.scan_zarr(s, variables=["t2m", "pr"]).collect() for s in stores]))


def _a_year_later(name: str, data: bytes) -> bytes:
    """The document with times that count from another day."""
    document, units = json.loads(data), "days since 2021-01-01"
    if name.endswith(".zmetadata"):
        document["metadata"]["time/.zattrs"]["units"] = units
    elif name == "zarr.json" and "consolidated_metadata" in document:
        document["consolidated_metadata"]["metadata"]["time"]["attributes"]["units"] = units
    elif name.endswith("time/.zattrs"):
        document["units"] = units
    elif name.endswith("time/zarr.json"):
        document["attributes"]["units"] = units
    return json.dumps(document).encode()


def test_times_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    """The same documents, but other values: they would need another unit than the first store's."""
    first, late = (folder(tmp_path / name, names=("t2m",)) for name in ("first.zarr", "late.zarr"))
    zarr.open_group(str(late), mode="r+")["time"][...] = np.arange(12) + 200_000
    lf = gpuzarr.scan_zarr([first, late])
    with pytest.raises((GpuzarrError, pl.exceptions.ComputeError), match=r"late\.zarr"):
        lf.collect()
    with pytest.raises((GpuzarrError, pl.exceptions.ComputeError), match=r"time_unit"):
        lf.collect()
    assert gpuzarr.scan_zarr([first, late], time_unit="us").collect().height == 2 * 720
    assert gpuzarr.scan_zarr([late, late]).collect_schema()["time"] == pl.Datetime("us")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be listed")
def test_few_files_are_kept_open(
    paths: list[Path], tables: list[pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from gpuzarr.many import stores

    monkeypatch.setattr(stores, "_KEPT_FILES", 2)
    zips = [shutil.make_archive(str(tmp_path / path.stem), "zip", path) for path in paths]
    lf = gpuzarr.scan_zarr(zips)
    for _ in range(2):
        assert lf.collect().equals(pl.concat(tables))
        gc.collect()
        kept = [path for path in map(os.path.realpath, Path("/proc/self/fd").glob("*")) if path.endswith(".zip")]
        assert len(kept) <= 2


def test_stores_that_do_not_fit_are_named(paths: list[Path], tmp_path: Path) -> None:
    other = folder(tmp_path / "other.zarr", names=("t2m", "wind"))
    with pytest.raises((MetadataError, pl.exceptions.ComputeError), match=r"'wind'.*other\.zarr"):
        gpuzarr.scan_zarr([paths[0], other]).collect()
    assert gpuzarr.scan_zarr([paths[0], other], variables=["t2m"]).select(pl.len()).collect().item() == 60 + 720
    with pytest.raises((NotFoundError, pl.exceptions.ComputeError), match="nowhere"):
        gpuzarr.scan_zarr([paths[0], tmp_path / "nowhere"]).collect()
    for wrong in ([], pl.DataFrame({"a": ["b"]}), pl.DataFrame({"url": [None]}), {}, str(tmp_path / "zz*")):
        with pytest.raises(RequestError):
            gpuzarr.scan_zarr(wrong)
    with pytest.raises(RequestError, match="'lat' is a column"):
        gpuzarr.scan_zarr(pl.DataFrame({"url": [str(paths[0])], "lat": [1]}))
    for option, most in (("max_rows", 300), ("max_chunks_to_read", 10), ("max_bytes", 3000)):
        with pytest.raises((PlanLimitError, pl.exceptions.ComputeError), match=f"{option} exceeded.*5 stores"):
            gpuzarr.scan_zarr(paths, **{option: most}).collect()
        small = gpuzarr.scan_zarr(paths, **{option: most}).filter(pl.col("time") < pl.datetime(2020, 1, 2))
        assert small.select("t2m").head(20).collect().height == 20


def test_variables_side_by_side(tmp_path: Path) -> None:
    tas = folder(tmp_path / "tas.zarr", names=("tas",))
    pr = folder(tmp_path / "pr.zarr", seed=4, names=("rain",), zarr_format=2)
    both = folder(tmp_path / "both.zarr", seed=7, names=("pr", "tas"), sharded=True)
    lf = gpuzarr.scan_zarr({"tas": tas, "pr": pr, "other": tas})
    want = (
        expected(names=("tas",))
        .with_columns(pr=expected(4, names=("rain",))["rain"], other=pl.col("tas"))
        .select("time", "lat", "lon", "other", "pr", "tas")
    )
    assert lf.collect_schema() == want.schema
    assert same(lf.collect(), want)
    p = (pl.col("pr") > 0.8) & (pl.col("tas") < 0.5) & (pl.col("lat") > 0)
    assert same(lf.filter(p).collect(), want.filter(p))
    assert {a.path for s in gpuzarr.explain(lf.filter(p)).scans for a in s.arrays} == {
        "tas/tas",
        "pr/rain",
        "other/tas",
    }
    assert same(pickle.loads(pickle.dumps(lf)).collect(), want)
    two = gpuzarr.scan_zarr({"tas": both, "pr": pr}).collect()
    assert same(two.select("time", "lat", "lon", "tas"), expected(7, names=("pr", "tas")).drop("pr"))
    with pytest.raises(RequestError, match="'nope'"):
        gpuzarr.scan_zarr({"tas": tas, "nope": both})
    shorter = folder(tmp_path / "shorter.zarr", names=("pr",), shape=(11, 6, 10))
    with pytest.raises(RequestError, match=r"time: 12.*time: 11"):
        gpuzarr.scan_zarr({"tas": tas, "pr": shorter})
    moved = folder(tmp_path / "moved.zarr", names=("pr",))
    zarr.open_group(str(moved), mode="r+")["lat"][3] = 11.5
    with pytest.raises(
        RequestError, match=r"'lat' differs between 'tas' and 'pr' at 1 of 6 indices, first at 3: 10\.\d+ and 11\.5"
    ):
        gpuzarr.scan_zarr({"tas": tas, "pr": moved})
    for wrong in ({"": tas}, {"a/b": tas}, {3: tas}, {"lat": tas}):
        with pytest.raises(RequestError):
            gpuzarr.scan_zarr(wrong)
    with pytest.raises(RequestError):
        gpuzarr.scan_zarr({"tas": tas}, variables=["tas"])
