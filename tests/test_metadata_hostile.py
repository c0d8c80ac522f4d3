"""Hostile documents: refused, and cheaply."""

from __future__ import annotations

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
from sample_documents import GROUP, V2, V3, ZMETADATA, named, objects_of, raw
from support_stores import MemoryStore

from gpuzarr.errors import GpuzarrError, Kind, MetadataError
from gpuzarr.metadata import ArrayMetadata, GroupMetadata, Limits, open_node, walk

INVALID, LIMIT = Kind.METADATA_INVALID, Kind.METADATA_LIMIT


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
