"""Single documents: every spelling that real writers use, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sample_documents import V2, V3, named, objects_of, raw
from support_stores import MemoryStore
from support_zarr import same_value

from gpuzarr.errors import Kind, MetadataError
from gpuzarr.metadata import ArrayMetadata, open_node


def v2(attributes: dict[str, Any] | None = None, **changes: Any) -> ArrayMetadata:
    document = {name: value for name, value in (V2 | changes).items() if value is not ...}
    objects = objects_of(document, ".zarray")
    if attributes is not None:
        objects |= objects_of(attributes, ".zattrs")
    array = open_node(MemoryStore(objects))
    assert isinstance(array, ArrayMetadata)
    return array


def v3(**changes: Any) -> ArrayMetadata:
    document = {name: value for name, value in (V3 | changes).items() if value is not ...}
    array = open_node(MemoryStore(objects_of(document, "zarr.json")))
    assert isinstance(array, ArrayMetadata)
    return array


STRUCT = np.dtype([("a", "i2"), ("b", "f4")])


@pytest.mark.parametrize(
    ("dtype", "kind", "numpy", "big"),
    [
        ("|b1", "bool", "?", False),
        ("|i1", "int", "i1", False),
        (">i4", "int", "i4", True),
        ("<u8", "uint", "u8", False),
        (">f2", "float", "f2", True),
        ("<c8", "complex", "c8", False),
        ("<M8[ns]", "datetime", "M8[ns]", False),
        (">M8[25s]", "datetime", "M8[25s]", True),
        ("<M8", "datetime", "M8", False),
        ("<m8[D]", "timedelta", "m8[D]", False),
        ("|S7", "fixed_bytes", "S7", False),
        (">U2", "fixed_string", "U2", True),
        ("|V5", "raw", "V5", False),
        ([["a", "<i2"], ["b", "<f4"]], "structured", STRUCT, False),
        (
            [["a", ">i2"], ["b", [["c", ">f4"], ["d", "|S1"]]]],
            "structured",
            [("a", "i2"), ("b", [("c", "f4"), ("d", "S1")])],
            True,
        ),
    ],
)
def test_v2_dtypes(dtype: Any, kind: str, numpy: Any, big: bool) -> None:
    parsed = v2(dtype=dtype, fill_value=None).dtype
    assert (parsed.kind, parsed.numpy, parsed.stored_big_endian) == (kind, np.dtype(numpy), big)
    assert parsed.numpy.isnative


@pytest.mark.parametrize(
    ("data_type", "kind", "numpy"),
    [
        *[(name, name.rstrip("0123456789"), name) for name in ("bool", "int8", "uint64", "float16", "complex128")],
        ({"name": "int16"}, "int", "i2"),
        (named("int16"), "int", "i2"),
        ("r24", "raw", "V3"),
        (named("raw_bytes", length_bytes=3), "raw", "V3"),
        ("string", "string", "O"),
        ("bytes", "bytes", "O"),
        ("variable_length_bytes", "bytes", "O"),
        (named("fixed_length_utf32", length_bytes=16), "fixed_string", "U4"),
        (named("null_terminated_bytes", length_bytes=4), "fixed_bytes", "S4"),
        (named("numpy.datetime64", unit="ms", scale_factor=10), "datetime", "M8[10ms]"),
        (named("numpy.datetime64", unit="μs", scale_factor=1), "datetime", "M8[us]"),
        (named("numpy.timedelta64", unit="h", scale_factor=1), "timedelta", "m8[h]"),
        (
            named("struct", fields=[{"name": "a", "data_type": "int16"}, {"name": "b", "data_type": "float32"}]),
            "structured",
            STRUCT,
        ),
        (named("structured", fields=[["a", "int16"], ["b", "float32"]]), "structured", STRUCT),
    ],
)
def test_v3_data_types(data_type: Any, kind: str, numpy: Any) -> None:
    zero: Any = {
        "bool": False,
        "complex": [0, 0],
        "string": "",
        "fixed_string": "",
        "raw": raw(b"\0" * 3),
        "structured": {},
    }
    fill = zero.get(kind, "" if "bytes" in kind else 0)
    parsed = v3(data_type=data_type, fill_value=fill).dtype
    assert (parsed.kind, parsed.numpy) == (kind, np.dtype(numpy))
    assert not parsed.stored_big_endian


@pytest.mark.parametrize(
    ("dtype", "filters", "kind"),
    [("vlen-utf8", "filters", "string"), ("vlen-bytes", "filters", "bytes"), ("vlen-utf8", "compressor", "string")],
)
def test_v2_objects_are_what_their_codec_says(dtype: str, filters: str, kind: str) -> None:
    codec = {"id": dtype}
    array = v2(dtype="|O", fill_value=0, **{filters: [codec] if filters == "filters" else codec})
    assert array.dtype.kind == kind
    assert array.fill_value == ("0" if kind == "string" else b"")  # zarr-python reads the number as text too


@pytest.mark.parametrize(
    ("dtype", "spelled", "value"),
    [
        ("<f4", "NaN", np.float32(np.nan)),
        ("<f4", float("nan"), np.float32(np.nan)),
        ("<f8", "-Infinity", np.float64(-np.inf)),
        ("<f8", float("inf"), np.float64(np.inf)),
        ("<f4", "9.5", np.float32(9.5)),
        ("<f4", -1.7976931348623157e308, np.float32(-np.inf)),
        ("<f2", 1, np.float16(1)),
        (">i4", -5.0, np.int32(-5)),
        ("|u1", "255", np.uint8(255)),
        ("<u8", 2**64 - 1, np.uint64(2**64 - 1)),
        ("|b1", 0, np.bool_(False)),
        ("|b1", True, np.bool_(True)),
        ("<c8", ["NaN", 1.5], np.complex64(complex(np.nan, 1.5))),
        ("|S3", raw(b"ab"), np.bytes_(b"ab")),
        ("|S3", 0, np.bytes_(b"")),
        ("<U2", "né", np.str_("né")),
        ("<U2", "longer", np.str_("lo")),
        ("|V2", raw(b"\1\2"), np.frombuffer(b"\1\2", "V2")[0]),
        ("|V2", 0, np.zeros((), "V2")[()]),
        ("<M8[s]", "NaT", np.datetime64("NaT", "s")),
        (">M8[ns]", 5, np.datetime64(5, "ns")),
        ("<m8[s]", -(2**63), np.timedelta64("NaT", "s")),
        ([["a", "<i2"], ["b", "<f4"]], raw(b"\1\0\0\0\x80?"), np.array((1, 1), STRUCT)[()]),
        ([["a", ">i2"], ["b", ">f4"]], raw(b"\0\1?\x80\0\0"), np.array((1, 1), STRUCT)[()]),
        ([["a", "<i2"], ["b", "<f4"]], 0, np.zeros((), STRUCT)[()]),
        ("<f4", None, None),
    ],
)
def test_v2_fill_values(dtype: Any, spelled: Any, value: Any) -> None:
    assert same_value(v2(dtype=dtype, fill_value=spelled).fill_value, value)


@pytest.mark.parametrize(
    ("data_type", "spelled", "value"),
    [
        ("float32", "0x7fc00001", np.array(0x7FC00001, "u4").view("f4")[()]),
        ("float16", "0x3c00", np.float16(1)),
        ("float64", "0xFFF0000000000000", np.float64(-np.inf)),
        ("float32", "Infinity", np.float32(np.inf)),
        ("complex64", ["0x7fc00001", "-Infinity"], np.array([0x7FC00001, 0xFF800000], "u4").view("c8")[0]),
        ("r16", [1, 255], np.frombuffer(b"\1\xff", "V2")[0]),
        ("bytes", [1, 2], b"\1\2"),
        ("bytes", raw(b"\1\2"), b"\1\2"),
        ("string", "é", "é"),
        ("int64", -(2**63), np.int64(-(2**63))),
        (named("numpy.datetime64", unit="s", scale_factor=1), "NaT", np.datetime64("NaT", "s")),
        (named("struct", fields=[["a", "int16"], ["b", "float32"]]), {"b": "NaN"}, np.array((0, np.nan), STRUCT)[()]),
        (
            named("struct", fields=[["a", "int16"], ["b", "float32"]]),
            raw(b"\1\0\0\0\x80?"),
            np.array((1, 1), STRUCT)[()],
        ),
    ],
)
def test_v3_fill_values(data_type: Any, spelled: Any, value: Any) -> None:
    assert same_value(v3(data_type=data_type, fill_value=spelled).fill_value, value)


@pytest.mark.parametrize(
    ("attributes", "changes", "names"),
    [
        ({"_ARRAY_DIMENSIONS": ["y", "x"]}, {}, ("y", "x")),
        ({"_ARRAY_DIMENSIONS": "x"}, {"shape": [3], "chunks": [3]}, ("x",)),
        ({"_ARRAY_DIMENSIONS": []}, {"shape": [], "chunks": []}, ()),
        ({}, {}, None),
        (None, {}, None),
        ({}, {"_NCZARR_ARRAY": {"dimrefs": ["/g/lat", "/g/lon"]}}, ("lat", "lon")),
        ({"_nczarr_array": {"dimension_references": ["/lat", "/lon"]}}, {}, ("lat", "lon")),
        ({"_ARRAY_DIMENSIONS": ["y", "x"]}, {"_NCZARR_ARRAY": {"dimrefs": ["/lat", "/lon"]}}, ("y", "x")),
        ({}, {"_NCZARR_ARRAY": {"dimrefs": [], "storage": "scalar"}, "shape": [1], "chunks": [1]}, None),
    ],
)
def test_v2_dimension_names(attributes: Any, changes: Any, names: Any) -> None:
    array = v2(attributes, **changes)
    assert array.dimension_names == names
    assert array.attributes == (attributes or {})


def test_what_a_v3_document_may_leave_out_or_shorten() -> None:
    short = v3(attributes=..., dimension_names=..., codecs=["bytes"], chunk_key_encoding="v2", storage_transformers=[])
    assert (short.attributes, short.dimension_names, short.key((1, 2))) == ({}, None, "1.2")
    assert v3(attributes=None, dimension_names=None, chunk_key_encoding="default").key((1, 2)) == "c/1/2"
    assert v3(chunk_key_encoding={"name": "default", "separator": "."}).key((1, 2)) == "c.1.2"
    assert v3(dimension_names=..., attributes={"_ARRAY_DIMENSIONS": ["a", "b"]}).dimension_names == ("a", "b")
    assert v3(dimension_names=..., attributes={"_ARRAY_DIMENSIONS": ["a"]}).dimension_names is None
    assert v3(future={"must_understand": False, "x": 1}).shape == (10, 20)
    assert v2(dimension_separator="/").key((1, 2)) == "1/2"
    assert v2(filters=[]).codecs == v2(filters=...).codecs == v2().codecs
    marked = b"\xef\xbb\xbf" + json.dumps(V2 | {"fill_value": 1}).encode()
    assert open_node(MemoryStore({".zarray": marked})) == v2(fill_value=1)


def test_empty_dimensions_and_the_chunk_lengths_that_old_writers_gave_them() -> None:
    array = v2(shape=[0, 20], chunks=[0, 6])
    assert (array.shape, array.chunk_shape, array.grid_shape) == ((0, 20), (1, 6), (0, 4))
    sharding = named("sharding_indexed", chunk_shape=[5, 2], codecs=["bytes"], index_codecs=["bytes"])
    grid = named("regular", chunk_shape=[0, 6])
    assert v3(shape=[0, 20], chunk_grid=grid).chunk_shape == (1, 6)
    assert v3(shape=[0, 20], chunk_grid=grid, codecs=[sharding]).chunk_shape == (5, 6)
    assert v2(shape=[10**18], chunks=[1]).grid_shape == (10**18,)


INVALID, UNSUPPORTED, LIMIT = Kind.METADATA_INVALID, Kind.METADATA_UNSUPPORTED, Kind.METADATA_LIMIT


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        *[({name: ...}, INVALID, f"no '{name}'") for name in V2 if name != "filters"],
        ({"zarr_format": 3}, INVALID, "zarr_format"),
        ({"zarr_format": "2"}, INVALID, "zarr_format"),
        ({"shape": [10, -1]}, INVALID, "length in 'shape'"),
        ({"shape": [10, 2.0]}, INVALID, "length in 'shape'"),
        ({"shape": [10, True]}, INVALID, "length in 'shape'"),
        ({"shape": [10, 2**63]}, INVALID, "length in 'shape'"),
        ({"shape": "10"}, INVALID, "'shape'"),
        ({"shape": [10**18, 10**18]}, LIMIT, "2.63"),
        ({"shape": [1] * 1000, "chunks": [1] * 1000}, LIMIT, "max_ndim"),
        ({"chunks": [5, 0]}, INVALID, "length in 'chunks'"),
        ({"chunks": [5]}, INVALID, "1 dimensions"),
        ({"chunks": [2**40, 2**40]}, LIMIT, "bytes"),
        ({"shape": [2**63 - 1], "chunks": [2**60]}, LIMIT, "boundaries"),
        ({"chunks": None}, INVALID, "'chunks'"),
        ({"order": "A"}, INVALID, "'order'"),
        ({"dimension_separator": "-"}, INVALID, "separator"),
        ({"dimension_separator": None}, INVALID, "separator"),
        ({"compressor": "zlib"}, INVALID, "codec"),
        ({"compressor": {"level": 1}}, INVALID, "'id'"),
        ({"filters": {"id": "delta"}}, INVALID, "'filters'"),
        ({"filters": [{"id": 3}]}, INVALID, "id of a codec"),
        ({"dtype": "<f16"}, UNSUPPORTED, "'<f16'"),
        ({"dtype": "float32"}, UNSUPPORTED, "'float32'"),
        ({"dtype": "|f4"}, INVALID, "byte order"),
        ({"dtype": "<M8[fortnight]"}, UNSUPPORTED, "fortnight"),
        ({"dtype": "<M8[0s]"}, INVALID, "scale"),
        ({"dtype": "<i4[s]"}, UNSUPPORTED, "<i4"),
        ({"dtype": "|S0"}, UNSUPPORTED, "size"),
        ({"dtype": "<U999999999"}, UNSUPPORTED, "size"),
        ({"dtype": "|S1999999999"}, LIMIT, "max_itemsize"),
        ({"dtype": []}, INVALID, "without fields"),
        ({"dtype": [["a", "<i4"], ["a", "<i4"]]}, INVALID, "different"),
        ({"dtype": [["a", "<i4"], ["b", ">i4"]]}, UNSUPPORTED, "mixes byte orders"),
        ({"dtype": [["a", "<i4", [2]]]}, UNSUPPORTED, "'a'"),
        ({"dtype": [["a", "|O"]]}, UNSUPPORTED, "O"),
        ({"dtype": "|O"}, UNSUPPORTED, "without a codec"),
        ({"dtype": "|O", "filters": [{"id": "json2"}]}, UNSUPPORTED, "json2"),
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, Kind.CODEC_REFUSED, "pickle"),
        ({"dtype": "|O", "compressor": {"id": "pickle"}}, Kind.CODEC_REFUSED, "pickle"),
        ({"dtype": "|u1", "fill_value": 256}, INVALID, "256"),
        ({"dtype": "|u1", "fill_value": -1}, INVALID, "-1"),
        ({"dtype": "|u1", "fill_value": 0.5}, INVALID, "0.5"),
        ({"dtype": "<i8", "fill_value": "NaN"}, INVALID, "NaN"),
        ({"fill_value": "x"}, INVALID, "fill value 'x'"),
        ({"fill_value": [1]}, INVALID, "fill value"),
        ({"fill_value": 10**400}, INVALID, "fill value"),
        ({"fill_value": "0x7fc00000"}, INVALID, "fill value"),
        ({"dtype": "<c8", "fill_value": 1}, INVALID, "fill value"),
        ({"dtype": "|S3", "fill_value": "a"}, INVALID, "fill value"),
        ({"dtype": "|V3", "fill_value": raw(b"ab")}, INVALID, "fill value"),
        ({"dtype": "<U3", "fill_value": "\ud800"}, INVALID, "Unicode"),
        ({"dtype": "<M8[s]", "fill_value": 2**63}, INVALID, "fill value"),
        ({"dtype": "|b1", "fill_value": 2}, INVALID, "fill value"),
    ],
)
def test_refused_v2_arrays(changes: dict[str, Any], kind: Kind, message: str) -> None:
    with pytest.raises(MetadataError, match=message) as caught:
        v2(**changes)
    assert (caught.value.kind, caught.value.key, caught.value.store) == (kind, ".zarray", "memory://test")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        *[({name: ...}, INVALID, f"no '{name}'") for name in V3 if name not in ("attributes", "dimension_names")],
        ({"zarr_format": 2}, INVALID, "zarr_format"),
        ({"node_type": "dataset"}, INVALID, "node_type"),
        ({"attributes": []}, INVALID, "'attributes'"),
        ({"dimension_names": ["a"]}, INVALID, "names 1 dimensions"),
        ({"dimension_names": "ab"}, INVALID, "'dimension_names'"),
        ({"dimension_names": [1, 2]}, INVALID, "dimension_names"),
        ({"chunk_grid": named("rectilinear", kind="inline", chunk_shapes=[[1, 9], 20])}, UNSUPPORTED, "rectilinear"),
        ({"chunk_grid": named("regular", chunk_shape=[[5, 5], 6])}, UNSUPPORTED, "one shape"),
        ({"chunk_grid": named("regular", chunk_shape=[5, 0])}, INVALID, "chunk_shape"),
        ({"chunk_grid": named("regular")}, INVALID, "no 'chunk_shape'"),
        ({"chunk_key_encoding": "hilbert"}, UNSUPPORTED, "hilbert"),
        ({"chunk_key_encoding": named("default", separator="")}, INVALID, "separator"),
        ({"chunk_key_encoding": named("default", separator="/", base=1)}, UNSUPPORTED, "'base'"),
        ({"chunk_grid": named("regular", chunk_shape=[5, 6], offset=[1, 1])}, UNSUPPORTED, "'offset'"),
        ({"data_type": named("int8", bits=7), "fill_value": 0}, UNSUPPORTED, "'bits'"),
        ({"data_type": named("numpy.datetime64", unit="s", scale_factor=1, epoch=5)}, UNSUPPORTED, "'epoch'"),
        ({"storage_transformers": [{"name": "indirection"}]}, UNSUPPORTED, "indirection"),
        ({"extension": {"name": "x"}}, UNSUPPORTED, "'extension'"),
        ({"extension": {"must_understand": True}}, UNSUPPORTED, "'extension'"),
        ({"codecs": "bytes"}, INVALID, "'codecs'"),
        ({"codecs": [3]}, INVALID, "codec"),
        ({"codecs": [{"name": "bytes", "configuration": []}]}, INVALID, "configuration"),
        ({"data_type": "bfloat16"}, UNSUPPORTED, "'bfloat16'"),
        ({"data_type": "r12"}, INVALID, "r12"),
        ({"data_type": 3}, INVALID, "data_type"),
        ({"data_type": named("fixed_length_utf32", length_bytes=6)}, INVALID, "length"),
        ({"data_type": named("raw_bytes", length_bytes=2**40)}, INVALID, "length"),
        ({"data_type": named("numpy.datetime64", unit="fortnight", scale_factor=1)}, UNSUPPORTED, "fortnight"),
        ({"data_type": named("struct", fields=[["a", "string"]])}, UNSUPPORTED, "variable length"),
        ({"data_type": named("struct", fields=3)}, INVALID, "fields"),
        ({"fill_value": None}, INVALID, "null"),
        ({"fill_value": "0x7fc0"}, INVALID, "0x7fc0"),
        ({"data_type": "bool", "fill_value": 0}, INVALID, "fill value"),
        ({"data_type": "string", "fill_value": ["a"]}, INVALID, "fill value"),
        ({"data_type": "r8", "fill_value": [256]}, INVALID, "fill value"),
        ({"data_type": named("struct", fields=[["a", "int8"]]), "fill_value": {"b": 1}}, INVALID, "fill value"),
    ],
)
def test_refused_v3_arrays(changes: dict[str, Any], kind: Kind, message: str) -> None:
    with pytest.raises(MetadataError, match=message) as caught:
        v3(**changes)
    assert (caught.value.kind, caught.value.key) == (kind, "zarr.json")


def test_dimension_names_that_do_not_fit_are_refused_as_xarray_does() -> None:
    for names in (["y"], ["y", "x", "z"], [1, 2], 3, None, ["y", "\ud800"]):
        with pytest.raises(MetadataError, match="_ARRAY_DIMENSIONS"):
            v2({"_ARRAY_DIMENSIONS": names})
    with pytest.raises(MetadataError, match="has to be a JSON object") as caught:
        v2([])  # type: ignore[arg-type]
    assert caught.value.key == ".zattrs"
