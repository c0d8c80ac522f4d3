"""The schema report: what it says, and that it reads no variable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from support_counting import CountingStore
from zarr.codecs import BloscCodec, ZstdCodec

from gpuzarr.describe import describe, schema
from gpuzarr.errors import NotFoundError, RequestError
from gpuzarr.metadata import open_node
from gpuzarr.store import open_store
from gpuzarr.table import TableOptions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    root = zarr.create_group(tmp_path / "s.zarr", zarr_format=3, attributes={"title": "t"})
    cube = {"dimension_names": ("time", "lat", "lon"), "shape": (8, 4, 6), "fill_value": 0}
    root.create_array(
        "packed",
        dtype="i2",
        chunks=(2, 4, 6),
        shards=(4, 4, 6),
        compressors=ZstdCodec(),
        attributes={"scale_factor": 0.1, "_FillValue": -999, "units": "K", "long_name": "<temperature>"},
        **cube,
    )
    root.create_array("plain", dtype="f4", chunks=(1, 4, 6), compressors=BloscCodec(), **cube)
    root.create_array("area", dtype="f8", shape=(4, 6), dimension_names=("lat", "lon"), chunks=(4, 6))
    time = root.create_array(
        "time",
        dtype="i8",
        shape=(8,),
        chunks=(8,),
        dimension_names=("time",),
        attributes={"units": "days since 1970-01-01", "bounds": "time_bnds"},
    )
    time[:] = np.arange(8) * 10**6  # beyond nanoseconds
    root.create_array("time_bnds", dtype="i8", shape=(8, 2), chunks=(8, 2), dimension_names=("time", "nv"))
    root.create_array("covariance", dtype="f4", shape=(2, 2), chunks=(2, 2), dimension_names=("q", "q"))
    below = root.create_group("below")
    below.create_array("w", dtype="?", shape=(4,), chunks=(4,), dimension_names=("lat",))
    return tmp_path / "s.zarr"


def test_report_of_one_table(path: Path) -> None:
    report = schema(path, variables=["packed", "area"])
    (table,) = report.tables.values()
    assert dict(table.sizes) == {"time": 8, "lat": 4, "lon": 6}
    assert table.rows == 192
    assert table.tile_shape == (8, 4, 6)
    assert table.schema == pl.Schema(
        {"time": pl.Datetime("us"), "lat": pl.Int64, "lon": pl.Int64, "area": pl.Float64, "packed": pl.Float64}
    )
    columns = {c.name: c for c in table.columns}
    packed = columns["packed"]
    assert (packed.role, packed.dims, packed.repeats) == ("variable", ("time", "lat", "lon"), 1)
    assert (packed.chunks, packed.shards, packed.stored_dtype) == ((2, 4, 6), (4, 4, 6), "int16")
    assert packed.codecs is not None
    assert "zstd" in packed.codecs
    assert packed.units == "K"
    assert packed.nullable
    assert packed.missing_markers == {"_FillValue": -999}
    assert packed.fill_value == 0
    assert packed.attributes["long_name"] == "<temperature>"
    assert columns["area"].repeats == 8
    assert columns["lat"].path is None
    assert set(report.others) == {"plain", "time_bnds"}
    assert report.others["time_bnds"] == {"time": 8, "nv": 2}
    assert report.groups == ("below",)
    assert list(report.unreadable) == ["covariance"]
    assert report.attributes["title"] == "t"
    text = str(report)
    for part in (
        str(path),
        "time: 8, lat: 4, lon: 6",
        "192 rows in tiles of 8 x 4 x 6",
        "2x4x6 in 4x4x6",
        "Datetime(us)",
        "repeated 8 times",
        "null: _FillValue=-999",
        "groups below: below",
        "not in this table: plain (time: 8, lat: 4, lon: 6), time_bnds",
        "covariance: ",
        "occurs twice",
    ):
        assert part in text
    assert report._repr_html_().startswith("<pre>")
    assert "<temperature>" not in report._repr_html_()


def test_ambiguous_groups_list_every_table_and_what_is_asked_must_exist(path: Path) -> None:
    report = schema(path)
    assert list(report.tables) == ["lat_lon", "time_lat_lon", "time_nv"]
    assert "3 tables: choose one" in str(report)
    assert not report.others
    only = schema(path, group="below")
    assert list(only.tables) == ["lat"]
    assert only.group == "below"
    structs = schema(path, dims=("lat", "lon"), groups="struct")
    (table,) = structs.tables.values()
    assert table.schema["below"] == pl.Struct({"w": pl.Boolean})
    assert [f.name for f in table.columns[-1].fields] == ["w"]
    assert "\n    w" in str(structs)
    with pytest.raises(NotFoundError, match=r"'packd'.*'packed'"):
        schema(path, variables="packd")
    with pytest.raises(RequestError):
        schema(path, variables=["packed", "time_bnds"])
    with pytest.raises(NotFoundError):
        schema(path, group="nowhere")
    with pytest.raises(NotFoundError):
        schema(path.parent / "nothing.zarr")


def test_root_array_and_group_without_arrays(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(4,), dtype="c8", chunks=(2,), zarr_format=2)
    report = schema(tmp_path / "a.zarr")
    assert report.tables["value"].schema == {
        "dim_0": pl.Int64,
        "value": pl.Struct({"real": pl.Float32, "imag": pl.Float32}),
    }
    zarr.create_group(tmp_path / "g.zarr").create_group("child")
    empty = schema(tmp_path / "g.zarr")
    assert (dict(empty.tables), empty.groups) == ({}, ("child",))
    assert "groups below: child" in str(empty)


def test_only_documents_and_undecided_times_are_read(path: Path) -> None:
    store = open_store(path).store
    node = open_node(store, "")
    counting = CountingStore(store)
    describe(counting, node, TableOptions())
    assert [request.key for request in counting.requests] == ["time/c/0"]
