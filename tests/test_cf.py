"""Numbers, text and coordinates as xarray decodes them; null where xarray has NaN for what is missing."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from support_cf import Group, apply, column, encoded_fill

from gpuzarr.cf import coordinate_names, decoding_for
from gpuzarr.cf.blocks import BLOCK_CELLS
from gpuzarr.errors import DataError, Kind, MetadataError
from gpuzarr.metadata.model import ArrayDType

INTS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
FLOATS = ["f2", "f4", "f8"]


def bits(values: np.ndarray) -> np.ndarray:
    """Bit patterns, NaNs of any payload alike."""
    values = np.ascontiguousarray(values)
    if values.dtype.kind != "f":
        return values
    return np.where(values == values, values, np.nan).astype(values.dtype).view(f"u{values.itemsize}")


def assert_same(got: pl.Series, expected: np.ndarray, *, missing: np.ndarray) -> None:
    """Equal bit for bit where nothing is missing, null exactly where something is."""
    expected = expected.reshape(-1)
    np.testing.assert_array_equal(got.is_null().to_numpy(), missing.reshape(-1))
    there = ~missing.reshape(-1)
    values = got.drop_nulls().to_numpy()
    assert values.dtype == (np.float32 if expected.dtype == np.float16 else expected.dtype)
    np.testing.assert_array_equal(bits(values), bits(expected[there].astype(values.dtype)))


@st.composite
def numbers(draw: st.DrawFn) -> tuple[Group, dict[str, Any]]:
    """A group with one array of numbers whose document says this and that about missing values, scale and sign."""
    zarr_format = draw(st.sampled_from([2, 3]))
    dtype = np.dtype(draw(st.sampled_from([*INTS, *FLOATS])))
    if dtype.kind == "f":
        few = [0.0, -0.0, 1.5, -9999.0, 1e4, np.nan, np.inf, float(np.finfo(dtype).max)]
        cell = st.sampled_from(few) | st.floats(width=8 * dtype.itemsize)
    else:
        info = np.iinfo(dtype)
        few = [int(v) for v in (0, 1, 99, info.max, info.min, info.max - 1)]
        cell = st.sampled_from(few) | st.integers(info.min, info.max)
    values = np.array(draw(st.lists(cell, min_size=1, max_size=8)), dtype=dtype)

    def special() -> Any:
        return draw(cell | st.sampled_from([dtype.type(v).item() for v in values]))

    attributes: dict[str, Any] = {}
    fill_value: Any = "zero"
    nan = False
    if draw(st.booleans()):
        fill = special()
        nan = nan or fill != fill
        if zarr_format == 2 and draw(st.booleans()):
            fill_value = (
                fill if np.isfinite(fill) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(fill)]
            )
        else:
            attributes["_FillValue"] = encoded_fill(fill, dtype) if zarr_format == 3 else fill
    if draw(st.booleans()):
        marks = [special() for _ in range(draw(st.integers(1, 3)))]
        nan = nan or any(m != m for m in marks)
        attributes["missing_value"] = marks if len(marks) > 1 or draw(st.booleans()) else marks[0]
    if draw(st.booleans()):
        factor = st.sampled_from([0.1, 2.0, 1e-5, -3.5]) | st.integers(-4, 4)
        attributes["scale_factor"] = draw(factor)
    if draw(st.booleans()):
        attributes["add_offset"] = draw(st.sampled_from([273.15, 0.0, -1e6]) | st.integers(-4, 4))
    if draw(st.integers(0, 3)) == 0:
        attributes["_Unsigned"] = draw(st.sampled_from(["true", "false", "True", True]))
    if draw(st.integers(0, 5)) == 0:
        attributes["units"] = draw(st.sampled_from(["m", "days", "K", "seconds"]))
    if draw(st.integers(0, 5)) == 0:
        attributes["dtype"] = "bool"
    group = Group(zarr_format).add("x", values, fill_value=fill_value, **attributes)
    return group, {"dtype": dtype, "nan": nan, "attributes": attributes}


@given(case=numbers(), nan_to_null=st.booleans())
def test_numbers_equal_xarray(case: tuple[Group, dict[str, Any]], nan_to_null: bool) -> None:
    group, facts = case
    raw, attributes = group.raw["x"], facts["attributes"]
    got = group.decode("x", nan_to_null=nan_to_null)
    integer_scale = isinstance(attributes.get("scale_factor"), int) and "add_offset" not in attributes
    assume(not (integer_scale and raw.dtype.kind == "f"))  # xarray cuts the fractions off
    try:
        expected = group.xarray()["x"].values
    except (ValueError, TypeError, OverflowError, KeyError):
        # it cannot put NaN into integers, and fails on unsigned fill values given as unsigned
        assert integer_scale or "_Unsigned" in attributes
        return
    unit_only = attributes.get("units") in ("days", "seconds") and expected.dtype == np.int64
    if got.dtype == pl.Boolean:
        there = got.is_not_null().to_numpy()
        np.testing.assert_array_equal(got.drop_nulls().to_numpy(), expected[there])
        return
    if unit_only and got.dtype == pl.UInt64:  # xarray squeezes them into int64
        return
    if unit_only:  # masked, but not decoded: xarray leaves int64's minimum behind
        missing = got.is_null().to_numpy()
        assert ((expected == np.iinfo(np.int64).min) | ~missing).all()
    elif expected.dtype.kind == "f":
        stays = (raw != raw) & (not facts["nan"]) if raw.dtype.kind == "f" else np.zeros(raw.shape, np.bool_)
        computed = (expected != expected) & ~(raw != raw) & (got.is_not_null().to_numpy())  # inf - inf
        missing = (expected != expected) & ~stays & ~computed
        if nan_to_null:
            missing = expected != expected
        assert not computed.any() or not nan_to_null
    else:
        missing = np.zeros(raw.shape, np.bool_)
    assert_same(got, expected, missing=missing)


@pytest.mark.parametrize(
    ("zarr_format", "fill_value", "attributes", "expected"),
    [
        (2, None, {}, [1, 2, 3]),
        (2, 3, {}, [1.0, 2.0, None]),
        (2, 3, {"_FillValue": 1}, [1.0, 2.0, None]),  # the document's fill value takes the attribute's place
        (2, None, {"_FillValue": 1}, [None, 2.0, 3.0]),
        (3, 3, {}, [1, 2, 3]),
        (3, 3, {"_FillValue": 1}, [None, 2.0, 3.0]),
        (3, 3, {"_FillValue": 1, "missing_value": [2, 77]}, [None, None, 3.0]),
        (3, 0, {"missing_value": [1, 2, 3]}, [None, None, None]),
        (3, 0, {"missing_value": "NA"}, [1.0, 2.0, 3.0]),
        (3, 0, {"missing_value": 2.5}, [1.0, 2.0, 3.0]),
        (3, 0, {"missing_value": 300}, [1.0, 2.0, 3.0]),
        (3, 0, {"missing_value": None}, [1, 2, 3]),
        (3, 0, {"scale_factor": [0.5], "add_offset": [1]}, [1.5, 2.0, 2.5]),
        (3, 0, {"scale_factor": None}, [1.0, 2.0, 3.0]),
        (3, 0, {"dtype": "bool"}, [True, True, True]),
        (3, 0, {"_Unsigned": "false"}, [1, 2, 3]),
    ],
)
def test_what_masks_and_what_does_not(
    zarr_format: int, fill_value: Any, attributes: dict[str, Any], expected: list[Any]
) -> None:
    group = Group(zarr_format).add("x", np.array([1, 2, 3], "u1"), fill_value=fill_value, **attributes)
    got = group.decode("x")
    assert got.to_list() == expected
    oracle = group.xarray()["x"].values
    assert got.drop_nulls().to_numpy().dtype == oracle.dtype
    np.testing.assert_array_equal(got.is_null().to_numpy(), oracle != oracle)


def test_where_xarray_fails_the_value_is_still_right() -> None:
    raw = np.array([5, -1, 0], "i1")
    # xarray: NaN does not go into int64; the fill value 255 does not go into int8; _FillValue has to be base64
    assert Group().add("x", raw, scale_factor=2, _FillValue=0).decode("x").to_list() == [10, -2, None]
    assert Group().add("x", raw, _Unsigned="true", _FillValue=255).decode("x").to_list() == [5.0, None, 0.0]
    floats = raw.astype("f4")
    assert Group().add("x", floats, _FillValue=-1.0).decode("x").to_list() == [5.0, None, 0.0]
    assert Group().add("x", np.array([1, np.nan]), _FillValue="NaN").decode("x").to_list() == [1.0, None]
    # xarray: fractions are cut off; masked booleans become True; values next to the fill value lose it
    assert Group().add("x", np.array([0.5], "f4"), scale_factor=1).decode("x").to_list() == [0.5]
    assert Group(2).add("x", raw, fill_value=0, dtype="bool").decode("x").to_list() == [True, True, None]
    assert Group(2).add("x", np.array([True, False]), fill_value=False).decode("x").to_list() == [True, None]


@pytest.mark.parametrize("value", ["0.1", True, [1.0, 2.0], {"a": 1}])
@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
def test_a_factor_that_is_no_number_is_refused(name: str, value: Any) -> None:
    group = Group().add("x", np.array([1]), **{name: value})
    with pytest.raises(MetadataError, match=rf"{name}.*decode_cf=False.*array 'x'") as caught:
        group.decoding("x")
    assert caught.value.kind is Kind.METADATA_INVALID
    assert group.decode("x", decode_cf=False).to_list() == [1]


def test_without_cf_only_types_are_mapped() -> None:
    for dtype in ["?", *INTS, *FLOATS, "c8", "c16"]:
        raw = np.array([0, 1, 1], dtype)
        group = Group(2).add(
            "x", raw, fill_value=[0, 0] if dtype[0] == "c" else 0, scale_factor=2.0, units="days since 1970-01-01"
        )
        decoding = group.decoding("x", decode_cf=False)
        assert not decoding.nullable
        assert decoding.identity == (dtype != "f2")
        got = column(decoding, raw)
        if dtype[0] == "c":
            assert got.to_list() == [{"real": v.real, "imag": v.imag} for v in raw.tolist()]
        else:
            np.testing.assert_array_equal(got.to_numpy(), raw)
    nan = np.array([1.0, np.nan])
    group = Group(2).add("x", nan, fill_value="NaN")
    assert group.decode("x", decode_cf=False).null_count() == 0
    assert group.decode("x", decode_cf=False, nan_to_null=True).to_list() == [1.0, None]


def test_complex_values_are_structs() -> None:
    raw = np.array([1 + 2j, complex(np.nan, 0), -9.5], "c8")
    part = {"real": pl.Float32, "imag": pl.Float32}
    plain = Group().add("x", raw).decode("x")
    assert plain.dtype == pl.Struct(part)
    assert plain.null_count() == 0
    assert plain.struct.field("real").is_nan().to_list() == [False, True, False]
    fill = encoded_fill(-9.5 + 0j, raw.dtype)
    assert Group().add("x", raw, _FillValue=fill).decode("x").is_null().to_list() == [False, False, True]
    assert Group().add("x", raw).decode("x", nan_to_null=True).is_null().to_list() == [False, True, False]
    with pytest.raises(MetadataError, match="Complex values cannot be scaled"):
        Group().add("x", raw, scale_factor=2.0).decoding("x")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_text_and_bytes(zarr_format: int) -> None:
    words = np.array(["", "é", "日本語", "a\x00b"])
    assert Group(zarr_format).add("x", words).decode("x").to_list() == words.tolist()
    raw = np.array([b"", b"\xe9", b"abc"])
    group = Group(zarr_format).add("x", raw).add("y", raw, _Encoding="latin-1").add("z", raw, _Encoding="utf-8")
    assert group.decode("x").to_list() == raw.tolist()
    assert group.decode("x").dtype == pl.Binary
    assert group.decode("y").to_list() == ["", "é", "abc"]
    with pytest.raises(DataError, match="not text in 'utf-8'"):
        group.decode("z")
    for bad in ("no-such-encoding", 7):
        with pytest.raises(MetadataError, match="_Encoding"):
            Group(zarr_format).add("x", raw, _Encoding=bad).decoding("x")


def test_missing_text_is_null_as_in_xarray() -> None:
    words = np.array(["", "a", "-"])
    for fill_value, attributes in ((None, {}), ("", {}), ("a", {"missing_value": "-"}), (None, {"_FillValue": "-"})):
        group = Group(2).add("x", words, fill_value=fill_value, **attributes)
        expected = [v if isinstance(v, str) else None for v in group.xarray()["x"].values.tolist()]
        assert group.decode("x").to_list() == expected
    assert Group(3).add("x", words, fill_value="a").decode("x").null_count() == 0


def test_variable_length_values() -> None:
    text = Group(2).add("x", np.array(["U"])).arrays()["x"]
    for kind, values, dtype in (
        ("string", ["a", "", "日本"], pl.String()),
        ("bytes", [b"a", b"", b"\xff"], pl.Binary()),
    ):
        array = dataclasses.replace(text, dtype=ArrayDType(kind, np.dtype(object)), fill_value=values[1])
        decoding = decoding_for(array, decode_cf=True, time_unit="ns", nan_to_null=False)
        assert decoding.dtype == dtype
        assert not decoding.is_fixed_width
        assert column(decoding, np.array(values, object)).to_list() == [values[0], None, values[2]]
        assert decoding.scalar(values[0]) == (values[0], True)
        assert decoding.scalar(None) == (values[1], False)
        with pytest.raises(DataError, match="A value is no"):
            column(decoding, np.array([3.5, None], object))


def test_types_without_a_column_are_refused_by_name() -> None:
    array = Group(2).add("a_b", np.array([1])).arrays()["a_b"]
    for kind, dtype in (("structured", [("a", "i4")]), ("raw", "V3")):
        other = dataclasses.replace(array, dtype=ArrayDType(kind, np.dtype(dtype)))
        with pytest.raises(MetadataError, match="array 'a_b'") as caught:
            decoding_for(other, decode_cf=False, time_unit="ns", nan_to_null=False)
        assert caught.value.kind is Kind.METADATA_UNSUPPORTED


CASES: list[tuple[str, dict[str, Any]]] = [
    ("?", {}),
    ("f4", {}),
    ("f2", {}),
    ("i8", {}),
    ("f4", {"_FillValue": encoded_fill(np.nan, np.dtype("f4"))}),
    ("f4", {"_FillValue": encoded_fill(3.0, np.dtype("f4")), "missing_value": [5.0, float("nan")]}),
    ("i2", {"_FillValue": 3}),
    ("i2", {"_FillValue": 3, "scale_factor": 0.1, "add_offset": 273.15}),
    ("i8", {"_FillValue": 3, "scale_factor": 0.1}),
    ("f2", {"_FillValue": encoded_fill(np.nan, np.dtype("f2")), "scale_factor": 0.1}),
    ("i1", {"_Unsigned": "true", "_FillValue": -3}),
    ("i1", {"dtype": "bool", "_FillValue": 3}),
    ("i4", {"units": "hours since 1950-01-01"}),
    ("i8", {"units": "hours since 1950-01-01", "_FillValue": 3}),
    ("f8", {"units": "days since 1950-01-01", "calendar": "noleap"}),
    ("i4", {"units": "days since 1501-01-01"}),
    ("c8", {}),
]


@pytest.mark.parametrize(("dtype", "attributes"), CASES)
def test_pieces_and_strides_change_nothing(dtype: str, attributes: dict[str, Any]) -> None:
    """Any layout of source and destination gives what one contiguous array gives cell by cell."""
    shape = (4, 211, 331)  # more cells than a piece
    assert np.prod(shape) > 2 * BLOCK_CELLS
    rng = np.random.default_rng(1)
    raw = rng.integers(-100, 100, shape).astype(dtype)
    if raw.dtype.kind in "fc":
        raw.reshape(-1)[::97] = np.nan
    decoding = Group().add("x", raw[:1, :1, :1], **attributes).decoding("x", time_unit="us")
    assert pickle.loads(pickle.dumps(decoding)) == decoding
    assert hash(pickle.loads(pickle.dumps(decoding))) == hash(decoding)
    values, valid = np.empty(shape, decoding.numpy), np.empty(shape, np.bool_)
    for index in np.ndindex(shape[:2]):
        decoding.apply(raw[index], values[index], valid[index])
    assert decoding.nullable or valid.all()
    expected = np.where(valid, values, np.zeros((), values.dtype))
    wide = np.zeros((4, 2 * 211, 331 + 7), raw.dtype)
    wide[:, ::2, 3:-4] = raw
    for source in (raw, np.asfortranarray(raw), wide[:, ::2, 3:-4], raw[::-1][::-1]):
        for strided in (False, True):
            whole = np.empty((6, 211, 331 * (1 + strided)), decoding.numpy)
            out = whole[1:5, :, :: 1 + strided]
            mask = np.empty((6, 211, 331), np.bool_)[1:5]
            decoding.apply(source, out, mask)
            np.testing.assert_array_equal(mask, valid)
            np.testing.assert_array_equal(np.where(mask, out, np.zeros((), out.dtype)), expected)
            out[...] = 0
            decoding.apply(source, out, None)  # nobody asks for the validity
            np.testing.assert_array_equal(np.where(valid, out, np.zeros((), out.dtype)), expected)
    transposed = np.empty((331, 4, 211), decoding.numpy)
    decoding.apply(raw.transpose(2, 0, 1), transposed, mask := np.empty((331, 4, 211), np.bool_))
    np.testing.assert_array_equal(mask, valid.transpose(2, 0, 1))
    np.testing.assert_array_equal(np.where(mask, transposed, np.zeros((), out.dtype)), expected.transpose(2, 0, 1))
    cell = raw[0, 0, 1]
    value, is_valid = decoding.scalar(cell)
    assert is_valid == valid[0, 0, 1]
    assert not is_valid or value == values[0, 0, 1] or value != value
    for empty in ((0,), (3, 0), (0, 5, 5)):
        decoding.apply(np.empty(empty, raw.dtype), np.empty(empty, decoding.numpy), np.empty(empty, np.bool_))
    point = np.empty((), decoding.numpy)
    decoding.apply(raw[0, 0, 1].reshape(()), point, np.empty((), np.bool_))
    assert not is_valid or point[()] == value or value != value


@pytest.mark.parametrize(("dtype", "attributes"), CASES)
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000])
def test_columns_are_handed_over_without_a_copy(dtype: str, attributes: dict[str, Any], length: int) -> None:
    raw = np.arange(length).astype(dtype)
    decoding = Group().add("x", np.zeros(1, dtype), **attributes).decoding("x", time_unit="us")
    values, _ = apply(decoding, raw)
    for mask in (None, np.ones(length, np.bool_), np.arange(length) % 3 != 1):
        got = decoding.to_series("name", values, mask)
        assert (got.name, got.dtype, len(got)) == ("name", decoding.dtype, length)
        nulls = [False] * length if mask is None else (~mask).tolist()
        assert got.is_null().to_list() == nulls
        assert got.has_nulls() == any(nulls)
        if decoding.numpy.kind not in "bc" and length:
            assert got.to_arrow().buffers()[1].address == values.ctypes.data
        if decoding.numpy.kind == "c":
            expected = [
                None if null else {"real": v.real, "imag": v.imag}
                for v, null in zip(values.tolist(), nulls, strict=True)
            ]
        else:
            expected = [None if null else v for v, null in zip(values.tolist(), nulls, strict=True)]
        assert got.to_physical().to_list() == expected


@st.composite
def datasets(draw: st.DrawFn) -> Group:
    """Arrays over few dimensions that name each other in ``coordinates`` attributes."""
    names = ["x", "y", "a", "b", "lat"]
    text = st.lists(st.sampled_from([*names, "nowhere"]), max_size=3).map(" ".join)
    group = Group(draw(st.sampled_from([2, 3])), {"coordinates": draw(text)} if draw(st.booleans()) else {})
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True)):
        dims = tuple(draw(st.lists(st.sampled_from(["x", "y", "z"]), max_size=2, unique=True)))
        if name in ("x", "y") and dims != (name,) and len(dims) == 1:
            dims = (name,)
        attributes = {"coordinates": draw(text)} if draw(st.booleans()) else {}
        if draw(st.booleans()):
            attributes["bounds"] = draw(st.sampled_from([*names, "nowhere"]))
        group.add(name, np.zeros((2,) * len(dims)), dims, **attributes)
    return group


@given(group=datasets())
def test_coordinates_are_those_of_xarray(group: Group) -> None:
    node = group.node()
    roles = coordinate_names(node.arrays, node.attributes)
    try:
        dataset = group.xarray()
    except (ValueError, xr.MergeError):
        assume(False)
    assert roles.coordinates == set(dataset.coords)
    assert roles.dimensions == {n for n in dataset.coords if dataset[n].dims == (n,)}
    named = {str(a.attributes.get("bounds")) for a in node.arrays.values()}
    assert roles.bounds == named & node.arrays.keys()


def test_attributes_that_are_no_text_name_nothing() -> None:
    group = Group(3, {"coordinates": 3}).add("a", np.zeros(2), ("x",), coordinates=["b"], bounds=7, units=5)
    node = group.node()
    roles = coordinate_names(node.arrays, node.attributes)
    assert not roles.coordinates
    assert not roles.bounds
    assert group.decode("a").to_list() == [0.0, 0.0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["days since 2000-01-01", "days since 99999999-01-01", "hours since 1-1-1 -99", "timedelta64[ns]", "bool", "true",
         "days", "noleap", "hex", "undefined", "utf-8", "a\x00b", "AAAAAAAAAAA=", "NaN", " since ", "d since 9999", "0" * 5000]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
NAMES = [
    "_FillValue",
    "missing_value",
    "scale_factor",
    "add_offset",
    "_Unsigned",
    "units",
    "calendar",
    "dtype",
    "_Encoding",
]


@pytest.mark.filterwarnings("ignore:array 'x' stays numeric:UserWarning")
@given(
    dtype=st.sampled_from(["?", *INTS, *FLOATS, "c8", "U3", "S1", "M8[s]", "m8[ns]"]),
    attributes=st.dictionaries(st.sampled_from(NAMES), JSON),
    zarr_format=st.sampled_from([2, 3]),
    time_unit=st.sampled_from(["ns", "us", "ms"]),
)
def test_whatever_the_attributes_say_it_is_a_column_or_one_of_our_errors(
    dtype: str, attributes: dict[str, Any], zarr_format: int, time_unit: str
) -> None:
    raw = np.zeros((1, 3), dtype) if dtype[0] in "?USMm" else np.array([[0, 1, 100]], dtype)
    array = dataclasses.replace(Group(zarr_format).add("x", raw).arrays()["x"], attributes=attributes)
    try:
        decoding = decoding_for(array, decode_cf=True, time_unit=time_unit, nan_to_null=True, values=raw)
        outcome: Any = column(decoding, raw)
    except (MetadataError, DataError) as error:
        outcome = error
    if isinstance(outcome, pl.Series):
        assert len(outcome) == 3
    else:
        assert outcome.array == "x"
        assert len(str(outcome)) < 1000


def test_many_missing_values_are_looked_up() -> None:
    raw = np.arange(100, dtype="f4")
    raw[50] = np.nan
    marks = [float(v) for v in range(0, 100, 2)]
    got = Group().add("x", raw, missing_value=[*marks, float("nan")]).decode("x")
    assert got.is_null().to_list() == [v % 2 == 0 for v in range(100)]
