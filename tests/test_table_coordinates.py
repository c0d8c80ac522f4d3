"""Coordinates and whole small arrays, read from stores that xarray and zarr-python wrote, against what xarray reads."""

from __future__ import annotations

import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xarray as xr
import zarr
from support_documents import array, group

from gpuzarr.errors import ChunkError, DataError, GpuzarrError, Kind, RequestError, StoreError
from gpuzarr.metadata import open_node
from gpuzarr.predicate import CoordinateProvider
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store import open_store
from gpuzarr.table import Coordinates, Dimension, TableOptions, build_table, whole
from gpuzarr.table import coordinates as limits
from gpuzarr.table.whole import read_whole


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    nan_lat = rng.normal(size=(5, 7))
    nan_lat[1, 2] = np.nan
    ds = xr.Dataset(
        {"v": (("time", "y", "x"), rng.normal(size=(4, 5, 7)))},
        coords={
            "time": np.array(["1999-12-31T23:59", "2000-01-01", "2000-01-02T01:02:03", "2001-01-01"], "M8[ns]"),
            "y": ("y", np.array([30, 10, 20, 10, 5], "i2")),
            "lat": (("x", "y"), nan_lat.T),  # transposed with respect to the table
            "label": ("y", np.array(["a", "", "ccc", "ü", "e"], dtype=object)),
            "flag": ("x", np.arange(7) % 2 == 0),
            "height": ((), np.float32(2.0)),
            "step": ("time", np.array([0, 1, 2, 3], "m8[h]").astype("m8[ns]")),
        },
    )
    encoding = {
        "lat": {"_FillValue": -9.0, "chunks": (3, 2)},
        "y": {"scale_factor": 0.5, "dtype": "i2", "chunks": (2,)},
    }
    target = tmp_path / "store.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about packing and about strings in Zarr 3
        ds.to_zarr(target, encoding=encoding, zarr_format=request.param, consolidated=False)
    return target


def read_through(path: Path, **options):
    opened = open_store(path)
    node = open_node(opened.store, "")
    read_raw = partial(read_whole, opened.store)
    table = build_table(node, store_label=opened.store.label, options=TableOptions(**options), read_raw=read_raw)
    return table, Coordinates(table, read_raw)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_values_are_those_of_xarray_in_table_order(path: Path) -> None:
    table, coordinates = read_through(path)
    provider: CoordinateProvider = coordinates
    with xr.open_zarr(path, consolidated=False, chunks=None) as ds:
        assert coordinates.names == ("time", "y", "x", "flag", "height", "label", "lat", "step")
        assert provider.dims_of("v") is None
        assert coordinates.nbytes == 0
        for name in coordinates.names:
            dims = provider.dims_of(name)
            assert dims == tuple(d for d in table.sizes if d in (ds[name].dims if name in ds else (name,)))
            values = provider.values(name)
            assert values.name == name
            assert values.dtype == table.schema[name]
            if name == "x":
                assert values.to_list() == list(range(7))
                continue
            want = ds[name].transpose(*dims).values.reshape(-1)
            if want.dtype.kind in "mM":
                want = want.astype(f"{want.dtype.kind}8[ns]")
            if want.dtype.kind in "OTU":
                assert values.to_list() == want.tolist()
            else:
                if want.dtype.kind == "f":
                    assert values.null_count() == np.isnan(want).sum()
                assert np.array_equal(values.to_numpy(), want, equal_nan=True)
    assert coordinates.values("lat").null_count() == 1
    values, valid = coordinates.numpy("lat")
    assert values.shape == (5, 7)
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[1, 2]]
    assert not values.flags.writeable
    assert coordinates.numpy("time")[0].dtype == np.int64
    assert coordinates.numpy("time")[1] is None
    assert coordinates.nbytes > 0


def test_each_array_is_read_once_however_many_ask(path: Path) -> None:
    opened = open_store(path)
    node = open_node(opened.store, "")
    reads: list[str] = []
    barrier = threading.Barrier(8, timeout=30)

    def slow(a):
        reads.append(a.path)
        return read_whole(opened.store, a)

    table = build_table(node, store_label="s", options=TableOptions(time_unit="us"), read_raw=slow)
    coordinates = Coordinates(table, slow)

    def ask(name: str) -> pl.Series:
        barrier.wait()
        return coordinates.values(name)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, ["lat", "time"] * 4))
    assert sorted(reads) == ["lat", "time"]
    assert all(r.equals(results[i % 2]) for i, r in enumerate(results))


def test_pickles_without_values_and_reads_again(path: Path) -> None:
    _, coordinates = read_through(path)
    want = coordinates.values("lat")
    table = pickle.loads(pickle.dumps(coordinates._table))
    opened = open_store(path)
    small = Coordinates(table, partial(_fixed, 1.5))
    small.values("height")
    assert small.nbytes > 0
    copy = pickle.loads(pickle.dumps(small))
    assert copy.nbytes == 0
    assert copy.values("height").to_list() == [1.5]
    assert Coordinates(table, partial(read_whole, opened.store)).values("lat").equals(want)


def _fixed(value, a):
    return np.full(a.shape, value, a.dtype.numpy)


def test_large_ones_are_left_to_chunkwise_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    node = group(
        array("x", ("x",), (100,)),
        array("names", ("x",), (100,), dtype="U50"),
        array("v", ("x", "y"), (100, 90)),
        array("aux", ("x", "y"), (100, 90)),
        attributes={"coordinates": "aux names"},
    )
    table = build_table(node, store_label="m", options=TableOptions(), read_raw=partial(_fixed, 1))
    assert table.dims[1] == Dimension("y", 90)

    def names() -> tuple[str, ...]:
        return Coordinates(table, partial(_fixed, 1)).names

    assert names() == ("x", "y", "aux", "names")
    monkeypatch.setattr(limits, "MAX_AUXILIARY_CELLS", 8999)
    assert names() == ("x", "y", "names")
    monkeypatch.setattr(limits, "MAX_DIMENSION_CELLS", 99)
    assert names() == ("y", "names")
    monkeypatch.setattr(limits, "MAX_COORDINATE_BYTES", 100 * 200 - 1)
    assert names() == ("y",)
    for name in ("x", "v", "nothing"):
        with pytest.raises(RequestError, match=f"'{name}' is no coordinate.*'y'"):
            Coordinates(table, partial(_fixed, 1)).values(name)


def test_failures_name_the_array_and_are_tried_again() -> None:
    node = group(array("x", ("x",), (3,)), array("v", ("x",), (3,)))
    table = build_table(node, store_label="mem://a", options=TableOptions(), read_raw=partial(_fixed, 1))
    answers = [OSError("gone"), StoreError("denied"), np.zeros(4, "f4"), np.zeros(3, "f4")]

    def read_raw(a):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    coordinates = Coordinates(table, read_raw)
    for wanted, text in ((StoreError, "OSError: gone"), (StoreError, "denied"), (DataError, "shape")):
        with pytest.raises(wanted, match=text) as caught:
            coordinates.values("x")
        assert isinstance(caught.value, GpuzarrError)
        assert caught.value.array == "x"
        assert caught.value.store == "mem://a"
    assert coordinates.values("x").to_list() == [0, 0, 0]


@pytest.mark.parametrize(
    ("zarr_format", "shards", "batch"), [(2, None, 2), (3, None, 2**16), (3, (4, 6), 2**16), (3, (4, 6), 3)]
)
def test_whole_arrays_with_missing_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zarr_format: int, shards: tuple[int, ...] | None, batch: int
) -> None:
    monkeypatch.setattr(whole, "_BATCH", batch)
    values = np.arange(35, dtype=">i4").reshape(5, 7)
    made = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(5, 7),
        chunks=(2, 3),
        shards=shards,
        dtype=">i4",
        fill_value=-1,
        zarr_format=zarr_format,
    )
    made[0:2, 0:3] = values[0:2, 0:3]
    made[4:, 6:] = values[4:, 6:]
    want = made[...]
    store = open_store(tmp_path / "a.zarr").store
    node = open_node(store, "")
    statistics = ScanStatistics()
    got = read_whole(store, node, statistics=statistics)
    assert got.dtype == np.int32
    assert np.array_equal(got, want)
    assert statistics.metadata_requests > 0
    assert statistics.metadata_bytes > 0
    assert statistics.requests == 0
    masked = read_whole(store, node, on_missing="null")
    stored = np.zeros((5, 7), np.bool_)
    stored[0:2, 0:3] = stored[4:, 6:] = True
    assert np.array_equal(np.ma.getmaskarray(masked), ~stored)
    with pytest.raises(ChunkError, match=r"on_missing='raise'") as caught:
        read_whole(store, node, on_missing="raise")
    assert caught.value.kind == Kind.CHUNK_MISSING
    assert (caught.value.key is None) == (shards is not None)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", [">i4", "f8", "U3", "M8[s]"])
@pytest.mark.filterwarnings("ignore:The data type")
def test_arrays_of_one_chunk_are_read_as_those_of_several(tmp_path: Path, zarr_format: int, dtype: str) -> None:
    values = np.arange(35).reshape(5, 7).astype("M8[s]" if dtype == "M8[s]" else dtype)
    for stored in (True, False):
        read = {}
        for name, chunks in (("several", (2, 3)), ("one", (5, 7)), ("larger", (8, 7))):
            path = tmp_path / f"{name}-{stored}.zarr"
            made = zarr.create_array(path, shape=(5, 7), chunks=chunks, dtype=values.dtype, zarr_format=zarr_format)
            if stored:
                made[...] = values
            store = open_store(path).store
            statistics = ScanStatistics()
            read[name] = read_whole(store, open_node(store, ""), on_missing="null", statistics=statistics)
            assert statistics.metadata_requests == (1 if name != "several" else 9)
            if not stored:
                with pytest.raises(ChunkError, match=r"on_missing='raise'"):
                    read_whole(store, open_node(store, ""), on_missing="raise")
                assert not np.ma.getmask(read_whole(store, open_node(store, ""))).any()
        for name in ("one", "larger"):
            assert read[name].dtype == read["several"].dtype
            assert read[name].shape == (5, 7)
            assert np.array_equal(np.ma.getmaskarray(read[name]), np.ma.getmaskarray(read["several"]))
            assert np.ma.getdata(read[name]).tobytes() == np.ma.getdata(read["several"]).tobytes()


def test_missing_chunks_of_a_coordinate_become_null_where_that_is_asked(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "g.zarr", zarr_format=3)
    for name, stored in (("x", 2), ("v", 4)):
        made = root.create_array(name, shape=(4,), chunks=(2,), dtype="f8", dimension_names=("x",), fill_value=7.0)
        made[:stored] = np.arange(stored)
    root.create_array("empty", shape=(0,), chunks=(1,), dtype="f8", dimension_names=("e",))
    store = open_store(tmp_path / "g.zarr").store
    node = open_node(store, "")
    for on_missing, want in (("fill", [0.0, 1.0, 7.0, 7.0]), ("null", [0.0, 1.0, None, None])):
        read_raw = partial(read_whole, store, on_missing=on_missing)
        table = build_table(node, store_label="s", options=TableOptions(variables=["v"]), read_raw=read_raw)
        assert Coordinates(table, read_raw).values("x").to_list() == want
    assert read_whole(store, node.arrays["empty"]).shape == (0,)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:The data type")
def test_joined_characters_read_as_xarray_reads_them(tmp_path: Path, zarr_format: int) -> None:
    characters = np.array([b"ab", b"", b"cde", b"f"], "S3").view("S1").reshape(4, 3)
    root = zarr.create_group(tmp_path / "g.zarr", zarr_format=zarr_format)
    names = {"dimension_names": ("n", "c")} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["n", "c"]}}
    made = root.create_array("w", shape=(6, 3), dtype="S1", chunks=(2, 3), **names)
    made[:4] = characters
    root.attrs["coordinates"] = "w"
    store = open_store(tmp_path / "g.zarr").store
    table = build_table(
        open_node(store, ""), store_label="s", options=TableOptions(), read_raw=partial(read_whole, store)
    )
    assert table.sizes == {"n": 6}
    got = Coordinates(table, partial(read_whole, store)).values("w").to_list()
    with xr.open_zarr(tmp_path / "g.zarr", consolidated=False, chunks=None) as ds:
        want = [None if value != value else value for value in ds["w"].values.tolist()]
    assert got == want
