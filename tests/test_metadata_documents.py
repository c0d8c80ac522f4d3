"""Single documents: every spelling that real writers use, and hostile ones."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import tracemalloc
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_stores import MemoryStore
from support_zarr import same_value

from gpuzarr.errors import GpuzarrError, Kind, MetadataError
from gpuzarr.metadata import ArrayMetadata, GroupMetadata, Limits, open_node, walk

V2 = {
    "zarr_format": 2,
    "shape": [10, 20],
    "chunks": [5, 6],
    "dtype": "<f4",
    "order": "C",
    "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
    "filters": None,
    "fill_value": "NaN",
}
V3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [10, 20],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [5, 6]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0.5,
    "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 1}},
    ],
    "attributes": {"units": "K"},
    "dimension_names": ["y", None],
}
GROUP = {
    "zarr_format": 3,
    "node_type": "group",
    "attributes": {},
    "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": {"a": V3, "g/b": V3}},
}
ZMETADATA = {
    "zarr_consolidated_format": 1,
    "metadata": {".zgroup": {"zarr_format": 2}, "a/.zarray": V2, "a/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]}},
}


def objects_of(document: Any, name: str) -> dict[str, bytes]:
    return {name: document if isinstance(document, bytes) else json.dumps(document).encode()}


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


def raw(data: bytes) -> str:
    return base64.b64encode(data).decode()


def named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


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


def deep(levels: int) -> bytes:
    return b'{"zarr_format":3,"node_type":"group","attributes":{"a":' + b"[" * levels + b"]" * levels + b"}}"


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", INVALID, "not JSON"),
        (b"{", INVALID, "not JSON"),
        (b'{"a": 1}x', INVALID, "not JSON"),
        (b"[]", INVALID, "JSON object"),
        (b"null", INVALID, "JSON object"),
        (b'{"a": "\xff"}', INVALID, "UTF-8"),
        (json.dumps(V3).encode("utf-16"), INVALID, "UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", INVALID, "too long"),
        (deep(100), LIMIT, "max_document_depth"),
        (deep(10_000), LIMIT, "max_document_depth"),
        (b"[" * 2_000_000, LIMIT, "max_document_values"),
        (b'{"a": "' + b"x" * 2**25 + b'"}', LIMIT, "max_document_bytes"),
        (b'{"a": "' + b"x" * 2**23 + '\U0001f600"}'.encode(), LIMIT, "max_document_bytes"),
        (b'{"a": "' + b"x" * 2**23 + b'\\ud83d\\ude00"}', LIMIT, "max_document_bytes"),
        (b'{"a": "' + b"\\n" * 10**6 + b'"}', LIMIT, "max_document_values"),
    ],
)
@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zgroup", ".zmetadata"])
@pytest.mark.parametrize("is_local", [True, False])
def test_refused_bytes(content: bytes, kind: Kind, message: str, name: str, is_local: bool) -> None:
    with pytest.raises(MetadataError, match=message) as caught:
        open_node(MemoryStore({name: content}, is_local=is_local))
    assert (caught.value.kind, caught.value.key) == (kind, name)


def test_the_last_of_repeated_keys_counts_and_limits_can_be_raised() -> None:
    text = json.dumps(V2)
    assert open_node(MemoryStore({".zarray": (text[:-1] + ', "shape": [1, 1]}').encode()})).shape == (1, 1)  # type: ignore[union-attr]
    assert isinstance(
        open_node(MemoryStore({"zarr.json": deep(100)}), limits=Limits(max_document_depth=200)), GroupMetadata
    )


CONSOLIDATED = '{"zarr_format":3,"node_type":"group","consolidated_metadata":{"kind":"inline","metadata":{%s}}}'
GROUP_ATTRIBUTE = '{"zarr_format":3,"node_type":"group","attributes":{"a":%s}}'


def outcome_of(store: MemoryStore) -> ArrayMetadata | GroupMetadata | GpuzarrError:
    """The node, or the error that says why there is none; any other exception is a fault."""
    try:
        return open_node(store)
    except GpuzarrError as error:
        return error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zarr.json", GROUP_ATTRIBUTE % ('"' + "x" * (2**25 - 100) + '"')),
        ("zarr.json", GROUP_ATTRIBUTE % ('"' + "x" * (2**23 - 100) + '\U0001f600"')),
        ("zarr.json", GROUP_ATTRIBUTE % ("[" + ",".join(["{}"] * 499_000) + "]")),
        ("zarr.json", GROUP_ATTRIBUTE % ("[" + ",".join(['{"a":0}'] * 333_000) + "]")),
        ("zarr.json", GROUP_ATTRIBUTE % ("{" + ",".join(f'"k{i}":{i}' for i in range(490_000)) + "}")),
        ("zarr.json", CONSOLIDATED % ",".join(f'"a{i}":0' for i in range(19_000))),
        ("zarr.json", CONSOLIDATED % ",".join(f'"a{i}":0' for i in range(400_000))),
        ("zarr.json", CONSOLIDATED % ",".join(f'"../{i}":0' for i in range(40_000))),
        ("zarr.json", CONSOLIDATED % ",".join(f'"{"/".join([f"{i}x"] * 30)}":0' for i in range(15_000))),
        ("zarr.json", CONSOLIDATED % ",".join(f'"{"/".join([f"{i}" + "n" * 900] * 30)}":0' for i in range(900))),
        (".zmetadata", '{"metadata":{' + ",".join(f'"a{i}/.zarray":0' for i in range(490_000)) + "}}"),
    ],
    ids=range(11),
)
def test_hostile_documents_cost_little(name: str, content: str) -> None:
    data = content.encode()
    del content
    start = perf_counter()
    tracemalloc.start()
    outcome = outcome_of(MemoryStore({name: data}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(outcome, GroupMetadata) or outcome.kind == Kind.METADATA_LIMIT
    assert peak < 100 * 2**20
    assert perf_counter() - start < 10  # about 0.5 s; tracing makes it several times slower


def test_ten_thousand_arrays_open_in_time() -> None:
    members = {".zgroup": {"zarr_format": 2}}
    for i in range(10_000):
        members |= {f"a{i}/.zarray": V2, f"a{i}/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"], "units": "K"}}
    store = MemoryStore(objects_of({"metadata": members}, ".zmetadata"))
    start = perf_counter()
    group = open_node(store)
    assert perf_counter() - start < 5  # about 0.3 s
    assert isinstance(group, GroupMetadata)
    assert len(group.arrays) == 10_000


def test_names_in_consolidated_metadata_never_leave_the_store() -> None:
    names = ["../x", "a/../../x", "/etc", "a\\b", "a\0b", "%2e%2e", "a//b", "c" * 2000, "\ud800", "/".join("d" * 50)]
    for document, name in (
        (
            GROUP | {"consolidated_metadata": {"kind": "inline", "metadata": dict.fromkeys(names, V3) | {"ok": V3}}},
            "zarr.json",
        ),
        ({"metadata": {f"{n}/.zarray": V2 for n in [*names, "ok"]}}, ".zmetadata"),
    ):
        store = MemoryStore(objects_of(document, name))
        group = open_node(store)
        assert isinstance(group, GroupMetadata)
        assert list(group.arrays) == ["ok"]
        assert not group.groups
        assert len(group.unreadable) == len(names)
        assert {error.kind for error in group.unreadable.values()} == {Kind.KEY_UNSAFE, Kind.METADATA_LIMIT}  # type: ignore[attr-defined]
        assert not {key for key in store.requested if key not in ("zarr.json", ".zmetadata")}


def test_consolidated_metadata_are_parsed_as_strictly_as_documents() -> None:
    hidden = V2 | {"dtype": "|O", "filters": [{"id": "pickle"}]}
    group = open_node(
        MemoryStore(objects_of({"metadata": {"a/.zarray": hidden}}, ".zmetadata") | objects_of(V2, "a/.zarray"))
    )
    assert isinstance(group, GroupMetadata)
    assert group.unreadable["a"].kind == Kind.CODEC_REFUSED  # type: ignore[attr-defined]
    for consolidated, message in (
        ({"kind": "external", "metadata": {}}, "'external'"),
        ({"kind": "inline", "metadata": []}, "'metadata'"),
        ({"kind": "inline"}, "no 'metadata'"),
        ([1], "'consolidated_metadata'"),
    ):
        with pytest.raises(MetadataError, match=message):
            open_node(MemoryStore(objects_of(GROUP | {"consolidated_metadata": consolidated}, "zarr.json")))
    with pytest.raises(MetadataError, match="format 2"):
        open_node(MemoryStore(objects_of(ZMETADATA | {"zarr_consolidated_format": 2}, ".zmetadata")))
    for absent in (None, {}, {"kind": "external", "must_understand": False}):
        store = MemoryStore(
            objects_of(GROUP | {"consolidated_metadata": absent}, "zarr.json") | objects_of(V3, "b/zarr.json")
        )
        listed = open_node(store)
        assert isinstance(listed, GroupMetadata)
        assert list(listed.arrays) == ["b"]


DOCUMENTS: list[tuple[str, Any]] = [
    (".zarray", V2),
    (".zarray", V2 | {"dtype": [["a", "<i2"], ["b", "<f4"]], "fill_value": raw(bytes(6))}),
    (".zarray", V2 | {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "fill_value": ""}),
    ("zarr.json", V3),
    ("zarr.json", V3 | {"data_type": named("numpy.datetime64", unit="ns", scale_factor=1), "fill_value": "NaT"}),
    (
        "zarr.json",
        V3 | {"data_type": named("struct", fields=[["a", "int8"], ["b", "complex64"]]), "fill_value": {"a": 1}},
    ),
    ("zarr.json", GROUP),
    (".zmetadata", ZMETADATA),
]
HOSTILE = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            0,
            -1,
            2**31,
            2**63 - 1,
            2**63,
            10**30,
            0.5,
            float("nan"),
            float("inf"),
            "",
            "NaN",
            "NaT",
            "0x00",
            "\ud800",
        ]
    ),
    st.sampled_from(["<f4", ">M8[us]", "|V0", "|S9", "<U4", "|O", "r8", "string", "bytes", "..", "a/../b", "x" * 3000]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


@st.composite
def mutated_documents(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid document with a few values replaced, removed or moved, then perhaps damaged as text."""
    name, document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from(places(document)[1:] or [("zarr_format",)]))
        holder = document
        for key in above:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[last] = draw(HOSTILE)
            case "remove":
                del holder[last]
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=4))] = draw(HOSTILE)
            case "add":
                holder.append(draw(HOSTILE))
    text = json.dumps(document).encode()
    if draw(st.integers(0, 4)) == 0:
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(st.binary(max_size=3)) + text[start + draw(st.integers(0, 3)) :]
    return name, text


def check_array(array: ArrayMetadata) -> None:
    """What every accepted array promises."""
    assert all(0 <= n < 2**63 for n in array.shape)
    assert all(0 < n < 2**63 for n in array.chunk_shape)
    assert len(array.shape) == len(array.chunk_shape) == len(array.grid_shape) <= 32
    assert array.dimension_names is None or len(array.dimension_names) == array.ndim
    assert array.key((0,) * array.ndim).startswith(array.path)
    assert array.dtype.numpy.isnative
    if array.fill_value is not None:
        if array.dtype.kind in ("string", "bytes"):
            assert type(array.fill_value) is {"string": str, "bytes": bytes}[array.dtype.kind]
        elif array.dtype.kind in ("fixed_string", "fixed_bytes"):
            assert np.asarray(array.fill_value, array.dtype.numpy)[()] == array.fill_value
        else:
            assert array.fill_value.dtype == array.dtype.numpy
    assert isinstance(pickle.loads(pickle.dumps(array)), ArrayMetadata)


@given(document=mutated_documents(), is_local=st.booleans())
def test_any_document_is_read_or_refused(document: tuple[str, bytes], is_local: bool) -> None:
    name, content = document
    store = MemoryStore({name: content}, is_local=is_local)
    node = outcome_of(store)
    if isinstance(node, GpuzarrError):
        assert isinstance(node, MetadataError)
        assert len(str(node)) < 1000
    if isinstance(node, ArrayMetadata):
        check_array(node)
    for group in walk(store) if isinstance(node, GroupMetadata) else ():
        assert all(isinstance(error, MetadataError) for error in group.unreadable.values())
        for array in group.arrays.values():
            check_array(array)
