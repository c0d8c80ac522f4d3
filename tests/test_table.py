"""Which table a group is: row space, columns, names, what is refused and how."""

from __future__ import annotations

import math
import pickle
import re
import warnings

import numpy as np
import polars as pl
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from support_documents import array, group

from gpuzarr.errors import Kind, MetadataError, NotFoundError, RequestError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.table import Coordinates, GpuzarrWarning, Table, TableOptions, build_table, build_tables


def refuse_to_read(a: ArrayMetadata) -> np.ndarray:
    raise AssertionError(f"{a.path} was read")


def table(node, *, read_raw=refuse_to_read, descendants=(), **options) -> Table:
    return build_table(
        node, store_label="mem", options=TableOptions(**options), read_raw=read_raw, descendants=descendants
    )


def tables(*nodes, **options) -> dict[str, Table]:
    groups = nodes[0] if isinstance(nodes[0], ArrayMetadata) else list(nodes)
    return build_tables(groups, store_label="mem", options=TableOptions(**options), read_raw=refuse_to_read)


def dims(t: Table) -> dict[str, int]:
    return {d.name: d.size for d in t.dims}


def roles(t: Table) -> dict[str, str]:
    return {c.name: c.role for c in t.columns}


CLIMATE = group(
    array("time", ("time",), (4,), dtype="i4", bounds="time_bnds"),
    array("lat", ("lat",), (5,)),
    array("time_bnds", ("time", "bnds"), (4, 2)),
    array("t2m", ("time", "lat", "lon"), (4, 5, 6), (2, 5, 6), coordinates="area dist"),
    array("u10", ("time", "lat", "lon"), (4, 5, 6)),
    array("area", ("lat", "lon"), (5, 6)),
    array("dist", ("station",), (3,)),
    array("crs", (), (), dtype="i4"),
    attributes={"title": "a test"},
)
LEVELS = group(
    *CLIMATE.arrays.values(),
    array("z", ("time", "level", "lat", "lon"), (4, 2, 5, 6)),
    array("mask", ("lon", "lat"), (6, 5), dtype="?"),
)


def test_one_dimension_tuple_is_the_table():
    t = table(CLIMATE)
    assert dims(t) == {"time": 4, "lat": 5, "lon": 6}
    # dimensions in order, lon as an index; area fits, dist does not; bounds widen nothing; 0-D variables are constants
    assert roles(t) == {
        "time": "dimension",
        "lat": "dimension",
        "lon": "index",
        "area": "auxiliary",
        "crs": "variable",
        "t2m": "variable",
        "u10": "variable",
    }
    assert list(t.schema.items())[:4] == [
        ("time", pl.Int32),
        ("lat", pl.Float32),
        ("lon", pl.Int64),
        ("area", pl.Float32),
    ]
    assert t.rows == 120
    assert t.attributes == {"title": "a test"}
    assert t.by_name["crs"].dims == ()
    assert [t.repeats(t.by_name[n]) for n in ("t2m", "area", "time", "crs")] == [1, 4, 30, 120]
    again = pickle.loads(pickle.dumps(t))
    assert again.schema == t.schema
    assert again.dims == t.dims


def test_several_tuples_are_ambiguous_and_the_message_works():
    with pytest.raises(RequestError) as caught:
        table(LEVELS)
    message = str(caught.value)
    assert caught.value.kind == Kind.TABLE_AMBIGUOUS
    for text in (
        "(time: 4, lat: 5, lon: 6): 't2m', 'u10'",
        "(lon: 6, lat: 5): 'mask'",
        "(): 'crs'",
        "mem",
        "scan_tables",
    ):
        assert text in message
    # the calls that the message names do work, and choose the table that it says
    names = eval(re.search(r"variables=(\[.*?\])", message)[1])
    axes = eval(re.search(r"dims=(\(.*?\))", message)[1])
    assert dims(table(LEVELS, variables=names)) == dims(table(LEVELS, dims=axes))
    assert "broadcast=True" in message
    everything = table(LEVELS, broadcast=True)
    assert dims(everything) == {"time": 4, "level": 2, "lat": 5, "lon": 6}
    assert set(roles(everything)) >= {"z", "mask", "t2m", "crs"}
    assert not {"time_bnds", "bnds"} & set(roles(everything))
    assert everything.by_name["mask"].dims == ("lon", "lat")
    assert everything.repeats(everything.by_name["t2m"]) == 2


def test_named_variables_span_the_union():
    t = table(LEVELS, variables=["u10", "mask"])
    assert dims(t) == {"time": 4, "lat": 5, "lon": 6}
    assert list(roles(t)) == ["time", "lat", "lon", "area", "mask", "u10"]
    assert list(roles(table(LEVELS, variables="crs"))) == ["crs"]
    assert table(LEVELS, variables="crs").rows == 1
    # no variable spans: the one with most dimensions leads, the others follow
    assert dims(table(LEVELS, variables=["dist", "mask"])) == {"lon": 6, "lat": 5, "station": 3}
    # coordinates may be named; a coordinate of the row space stays where it is
    assert list(roles(table(LEVELS, variables=["area"]))) == ["lat", "lon", "area"]
    assert dims(table(LEVELS, variables=["lat"])) == {"lat": 5}
    assert dims(table(LEVELS, variables=["lat", "u10"])) == dims(t)
    assert dims(table(LEVELS, variables=["u10"], dims={"lon", "lat", "time"})) == dims(t)
    with pytest.raises(RequestError, match="span \\(lon: 6, lat: 5\\)"):
        table(LEVELS, variables=["mask"], dims=("lon", "lat", "time"))


def test_the_order_of_dimensions_is_that_of_the_first_spanning_variable():
    a, b = array("a", ("x", "y"), (2, 3)), array("b", ("y", "x"), (3, 2))
    both = group(a, b)
    with pytest.raises(RequestError, match=r"\(x: 2, y: 3\): 'a'; \(y: 3, x: 2\): 'b'"):
        table(both)
    assert list(dims(table(both, broadcast=True))) == ["x", "y"]
    assert list(dims(table(both, variables=["b", "a"]))) == ["x", "y"]
    assert list(roles(table(both, dims=("y", "x")))) == ["y", "x", "b"]
    assert list(roles(table(both, dims={"y", "x"}))) == ["x", "y", "a", "b"]
    # an order that no variable has is taken as a set
    assert list(roles(table(group(a), dims=("y", "x")))) == ["x", "y", "a"]
    # a coordinate does not decide, a variable does, whatever their names
    aux = group(array("a", ("x", "y"), (2, 3)), array("v", ("y", "x"), (3, 2), coordinates="a"))
    assert list(roles(table(aux, variables=["a", "v"]))) == ["y", "x", "a", "v"]


def test_dims_choose_exactly():
    assert list(roles(table(LEVELS, dims=["time", "lat", "lon"]))) == ["time", "lat", "lon", "area", "t2m", "u10"]
    wide = table(LEVELS, dims=["time", "lat", "lon"], broadcast=True)
    assert list(roles(wide)) == ["time", "lat", "lon", "area", "crs", "mask", "t2m", "u10"]
    assert list(roles(table(LEVELS, dims=["time", "bnds"]))) == ["time", "bnds", "time_bnds"]
    assert list(roles(table(LEVELS, dims=()))) == ["crs"]
    assert list(roles(table(LEVELS, dims="station"))) == ["station", "dist"]
    with pytest.raises(NotFoundError, match=r"\('time', 'x'\).*'t2m'"):
        table(LEVELS, dims=("time", "x"))


def test_bounds_never_widen_a_table():
    alone = table(CLIMATE, variables=["time_bnds"])
    assert dims(alone) == {"time": 4, "bnds": 2}
    with pytest.raises(RequestError, match="bounds do not widen") as caught:
        table(CLIMATE, variables=["t2m", "time_bnds"])
    assert caught.value.array == "time_bnds"
    fits = group(
        array("x", ("x",), (4,), bounds="x_bnds"), array("x_bnds", ("x", "n"), (4, 2)), array("v", ("x", "n"), (4, 2))
    )
    assert roles(table(fits))["x_bnds"] == "variable"


def test_a_dimension_is_a_name_and_a_size():
    two = group(array("x", ("x",), (10,)), array("a", ("x",), (10,)), array("b", ("x",), (20,)))
    for asked in ({"broadcast": True}, {"variables": ["a", "b"]}):
        with pytest.raises(RequestError, match="'x' has 10 elements in 'a' and 20 in 'b'") as caught:
            table(two, **asked)
        assert caught.value.kind == Kind.TABLE_AMBIGUOUS
    with pytest.raises(RequestError, match="differ in size"):
        table(two, dims=["x"])
    with pytest.raises(RequestError) as caught:
        table(two)
    assert "broadcast" not in str(caught.value)
    assert "dims=" not in str(caught.value)
    assert roles(table(two, variables="a")) == {"x": "dimension", "a": "variable"}
    assert roles(table(two, variables="b")) == {"x": "index", "b": "variable"}
    assert {k: t.rows for k, t in tables(two).items()} == {"x(10)": 10, "x(20)": 20}


def test_unnamed_dimensions_and_root_arrays():
    root = table(array("", None, (3, 2)))
    assert list(roles(root)) == ["dim_0", "dim_1", "value"]
    assert root.group == ""
    named = table(array("a/temperature", ("time", None), (3, 2)))
    assert list(roles(named)) == ["time", "dim_1", "temperature"]
    assert named.group == "a/temperature"
    assert list(roles(table(array("", ("dim_1", None), (3, 2))))) == ["dim_1", "dim_1_", "value"]
    assert roles(table(array("x", ("x",), (3,)))) == {"x": "dimension"}
    assert table(array("", (), ())).rows == 1
    assert list(tables(array("b", None, (3,)))) == ["b"]
    with pytest.raises(NotFoundError, match="its only variable is 'value'"):
        table(array("", None, (3,)), variables=["x"])
    with pytest.raises(MetadataError, match="occurs twice") as caught:
        table(array("a/b", ("x", "x"), (3, 3)))
    assert "'a/b'" in str(caught.value)


def test_stored_names_win_over_indices():
    swath = group(
        array("lat", ("lat", "lon"), (2, 3)),
        array("lon", ("lat", "lon"), (2, 3)),
        array("v", ("lat", "lon"), (2, 3)),
        array("lon_index", ("lat",), (2,)),
    )
    t = table(swath, variables=["v", "lon_index"])
    assert roles(t) == {
        "lat_index": "index",
        "lon_index_": "index",
        "lat": "auxiliary",
        "lon": "auxiliary",
        "lon_index": "variable",
        "v": "variable",
    }
    assert t.columns[0].dims == ("lat",)
    # an array with the name of a dimension of other arrays is a coordinate, on whatever dimensions it is
    other = group(array("x", ("y",), (2,)), array("v", ("y", "x"), (2, 3)))
    assert roles(table(other)) == {"y": "index", "x_index": "index", "x": "auxiliary", "v": "variable"}


def test_groups_without_variables():
    coordinates = group(
        array("x", ("x",), (3,), bounds="x_bnds"), array("y", ("y",), (2,)), array("x_bnds", ("x", "n"), (3, 2))
    )
    assert dims(table(coordinates)) == {"x": 3, "y": 2}
    assert list(tables(coordinates)) == ["x_n"]
    with_crs = group(array("x", ("x",), (3,)), array("y", ("y",), (2,)), array("crs", (), ()))
    assert roles(table(with_crs)) == {"x": "dimension", "y": "dimension", "crs": "variable"}
    assert table(group(array("a", (), ()), array("b", (), ()))).rows == 1
    assert list(tables(group(array("x", ("x",), (3,)), array("y", ("y",), (2,))))) == ["x_y"]
    with pytest.raises(RequestError, match=r"'fine', 'raw'.*group='a/fine'.*scan_tables"):
        table(group(path="a", groups=("fine", "raw")))
    with pytest.raises(NotFoundError, match="holds no arrays"):
        table(group())
    with pytest.raises(NotFoundError, match="no arrays"):
        tables(group(groups=("a",)), group(path="a"))


def test_unknown_names_say_what_is_there():
    with pytest.raises(NotFoundError, match="did you mean 't2m'") as caught:
        table(CLIMATE, variables=["t2n"])
    assert caught.value.store == "mem"
    with pytest.raises(NotFoundError, match="there are 'area', 'crs'"):
        table(CLIMATE, variables=["zzzzzzz"])
    with pytest.raises(NotFoundError, match=r"is a group.*group='a/b'"):
        table(group(array("a/v", ("x",), (3,)), path="a", groups=("b",)), variables=["b"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"variables": []},
        {"variables": [1]},
        {"variables": 1},
        {"dims": ("x", "x")},
        {"dims": 3},
        {"groups": "all"},
        {"time_unit": "s"},
        {"broadcast": 1},
        {"decode_cf": None},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        TableOptions(**wrong)


def test_what_cannot_be_represented_is_left_out_once_and_never_breaks_the_rest():
    broken = MetadataError("its document is no JSON", array="w")
    odd = group(
        array("x", ("x",), (3,)),
        array("v", ("x",), (3,)),
        array("cov", ("x", "x"), (3, 3)),
        array("other", ("q", "q"), (3, 3)),
        unreadable={"w": broken, "y": broken},
    )
    with pytest.warns(GpuzarrWarning) as caught:
        t = table(odd)
    assert list(roles(t)) == ["x", "v"]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for text in ("'cov'", "'w'", "'y'", "occurs twice", "no JSON", "mem"):
        assert text in str(caught[0].message)
    with pytest.raises(MetadataError, match="occurs twice") as refused:
        table(odd, variables=["v", "cov"])
    assert refused.value.array == "cov"
    with pytest.raises(MetadataError, match="no JSON"):
        table(odd, variables=["w"])
    with warnings.catch_warnings():  # with names given, what was not named is not missed
        warnings.simplefilter("error")
        assert list(roles(table(odd, variables=["v"]))) == ["x", "v"]
    grid = group(array("v", ("x", "y"), (3, 2)), unreadable={"y": broken, "w": broken})
    with pytest.warns(GpuzarrWarning, match="'y'"):  # but a coordinate of the table is
        assert roles(table(grid, variables=["v"]))["y"] == "index"
    with pytest.raises(MetadataError, match=r"No array of group '/' can be read\. 'w': Its document"):
        table(group(unreadable={"w": broken}))
    with pytest.warns(GpuzarrWarning, match="'a/w'") as caught:
        found = tables(group(groups=("a",), unreadable={"w": broken}), group(path="a", unreadable={"w": broken}),
                       group(array("b/v", ("x",), (2,)), path="b"))  # fmt: skip
    assert list(found) == ["b/x"]
    assert len(caught) == 1


def test_what_only_its_attributes_rule_out_is_left_out_too():
    packed = {"scale_factor": "much"}
    node = group(
        array("v", ("x",), (3,)),
        array("bad", ("x", "y"), (3, 2), **packed),
        array("x", ("x",), (3,), **packed),
        groups=("c",),
    )
    child = group(array("c/w", ("x",), (3,)), array("c/bad", ("x",), (3,), **packed), path="c")
    with pytest.warns(GpuzarrWarning) as caught:
        found = tables(node, child)
    assert {key: roles(t) for key, t in found.items()} == {
        "x": {"x": "index", "v": "variable"},
        "c/x": {"x": "index", "w": "variable"},
    }
    assert len(caught) == 1
    assert all(f"'{path}'" in str(caught[0].message) for path in ("bad", "x", "c/bad"))
    with pytest.warns(GpuzarrWarning, match="'c/bad'"):
        t = table(node, groups="struct", descendants=[child], variables=["v"])
    assert t.schema["c"] == pl.Struct({"w": pl.Float32})
    with pytest.raises(MetadataError, match="scale_factor"):
        table(node, variables=["bad"])
    assert table(node, variables=["bad"], decode_cf=False).rows == 6


@st.composite
def datasets(draw: st.DrawFn) -> tuple[xr.Dataset, list[str]]:
    sizes = {name: draw(st.integers(1, 4)) for name in "pqrs"}
    parts = st.lists(st.sampled_from(list(sizes)), unique=True, max_size=3).map(tuple)

    def variable() -> tuple[tuple[str, ...], np.ndarray]:
        own = draw(parts)
        return own, np.zeros([sizes[d] for d in own], "f4")

    data = {f"v{i}": variable() for i in range(draw(st.integers(1, 4)))}
    coords = {f"c{i}": variable() for i in range(draw(st.integers(0, 3)))}
    coords |= {d: ((d,), np.zeros(sizes[d], "f4")) for d in draw(st.sets(st.sampled_from(list(sizes))))}
    names = draw(st.lists(st.sampled_from([*data, *coords]), min_size=1, max_size=3, unique=True))
    return xr.Dataset(data, coords), names


@given(datasets())
def test_named_variables_are_the_frame_that_xarray_makes(case: tuple[xr.Dataset, list[str]]) -> None:
    ds, names = case
    arrays = [array(str(name), tuple(map(str, v.dims)), v.shape) for name, v in ds.variables.items()]
    attributes = {"coordinates": " ".join(str(name) for name in ds.coords if name not in ds.dims)}
    t = table(group(*arrays, attributes=attributes), variables=names)
    part = ds[names]
    assert dims(t) == dict(part.sizes)
    assert t.rows == math.prod(part.sizes.values())
    assert {name for name, role in roles(t).items() if role != "index"} == set(part.variables)
    assert {name for name, role in roles(t).items() if role in ("dimension", "auxiliary")} == set(part.coords)
    spanning = sorted(str(n) for n in part.data_vars if set(part[n].dims) == set(part.sizes))
    if spanning:
        assert tuple(dims(t)) == part[spanning[0]].dims


def test_rows_beyond_int64_are_refused_and_empty_dimensions_are_not():
    with pytest.raises(RequestError, match="rows") as caught:
        table(group(array("v", ("x", "y"), (10**18, 100), (10**6, 1))))
    assert caught.value.kind == Kind.PLAN_LIMIT
    assert table(group(array("v", ("x", "y"), (10**18, 9), (10**6, 1)))).rows == 9 * 10**18
    empty = table(group(array("v", ("x", "y"), (0, 4), (5, 2)), array("x", ("x",), (0,)), array("c", (), ())))
    assert empty.rows == 0
    assert empty.grid_shape[0] == 0
    assert empty.repeats(empty.by_name["c"]) == 0


def test_child_groups_as_structs_and_tables_by_path():
    root = group(
        array("x", ("x",), (3,)),
        array("y", ("y",), (2,)),
        array("v", ("x", "y"), (3, 2)),
        groups=("a", "b", "other"),
    )
    below = [
        group(array("a/x", ("x",), (3,)), array("a/v", ("y", "x"), (2, 3)), array("a/n", ("x",), (3,)), path="a", groups=("d",)),
        group(array("a/d/w", ("y",), (2,), dtype="i2"), path="a/d"),
        group(path="b", groups=("e",)),
        group(array("b/e/s", (), ()), path="b/e"),
        group(array("other/v", ("x",), (30,)), path="other"),
    ]  # fmt: skip
    assert "a" not in roles(table(root, descendants=below))
    t = table(root, descendants=below, groups="struct")
    assert roles(t) == {"x": "dimension", "y": "dimension", "a": "struct", "b": "struct", "v": "variable"}
    assert t.schema["a"] == pl.Struct({"d": pl.Struct({"w": pl.Int16}), "n": pl.Float32, "v": pl.Float32})
    assert t.schema["b"] == pl.Struct({"e": pl.Struct({"s": pl.Float32})})
    assert t.by_name["a"].dims == ("x", "y")
    assert [f.array.path for f in t.by_name["a"].fields if f.array] == ["a/n", "a/v"]
    # a field may have the name of a coordinate of the table; its values are its own
    v, n = array("v", ("x", "y"), (3, 2)), array("n", ("x",), (3,))
    named_alike = group(v, n, groups=("a",), attributes={"coordinates": "n"})
    shared = table(named_alike, descendants=below[:1], groups="struct")
    coordinates = Coordinates(shared, refuse_to_read)
    (field,) = (f for f in shared.by_name["a"].fields if f.name == "n")
    assert coordinates.holds(shared.by_name["n"])
    assert not coordinates.holds(field)
    found = tables(root, *below)
    assert {key: list(dims(t)) for key, t in found.items()} == {
        "x_y": ["x", "y"],
        "a/x": ["x"],
        "a/y_x": ["y", "x"],
        "a/d/y": ["y"],
        "b/e/scalar": [],
        "other/x": ["x"],
    }
    assert list(tables(*below[:2])) == ["x", "y_x", "d/y"]  # relative to the first group
    clash = tables(group(array("p", ("a_b", "c"), (1, 2)), array("q", ("a", "b_c"), (1, 2))))
    assert list(clash) == ["a_b(1)_c(2)", "a(1)_b_c(2)"]
    with pytest.raises(RequestError, match="scan_zarr"):
        tables(root, variables=["v"])


def test_only_times_whose_unit_depends_on_values_are_read():
    read: list[str] = []

    def values(a: ArrayMetadata) -> np.ndarray:
        read.append(a.path)
        return np.array([0, 10**6] if a.path == "far" else [0, 1], a.dtype.numpy)

    def of(name: str, dtype: str, units: str | None, **options) -> pl.DataType:
        attributes = {} if units is None else {"units": units}
        node = group(array(name, (name,), (2,), dtype=dtype, **attributes), array("v", (name,), (2,)))
        return table(node, read_raw=values, **options).schema[name]

    assert of("far", "i8", "days since 2000-01-01") == pl.Datetime("us")
    assert of("near", "i8", "days since 2000-01-01") == pl.Datetime("ns")
    assert of("float", "f8", "hours since 2000-01-01") == pl.Datetime("ns")
    assert read == ["far", "near", "float"]
    read.clear()
    assert of("near", "i2", "days since 2000-01-01") == pl.Datetime("ns")  # int16 days cannot leave the range
    assert of("near", "i8", None) == pl.Int64
    assert of("near", "i8", "metres") == pl.Int64
    assert of("near", "i8", "days since 2000-01-01", time_unit="us") == pl.Datetime("us")
    assert of("near", "i8", "days since 2000-01-01", decode_cf=False) == pl.Int64
    long = group(array("t", ("t",), (2**23 + 1,), dtype="i8", units="days since 2000-01-01"))
    assert table(long, read_raw=values).schema["t"] == pl.Datetime("ns")
    assert read == []


def test_character_arrays_become_strings_of_bytes():
    attributes: dict[str, object] = {}
    chars = array("name", ("station", "strlen"), (4, 8), (2, 8), dtype="S1", **attributes)
    node = group(chars, array("v", ("station",), (4,)))
    t = table(node)
    assert dims(t) == {"station": 4}
    assert t.schema["name"] == pl.Binary
    column = t.by_name["name"]
    assert column.array is not None
    assert column.array.key((1,)) == "name/c/1/0"
    assert dims(table(node, variables=["name"], decode_cf=False)) == {"station": 4, "strlen": 8}
    # not if the dimension means something else too, or if strings are spread over chunks
    for changed in (
        group(chars, array("v", ("strlen",), (8,))),
        group(chars, array("strlen", ("strlen",), (8,), dtype="i4")),
        group(array("name", ("station", "strlen"), (4, 8), (4, 4), dtype="S1")),
    ):
        assert dims(table(changed, variables=["name"])) == {"station": 4, "strlen": 8}
