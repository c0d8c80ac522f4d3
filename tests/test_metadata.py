"""Metadata against zarr-python: what it writes is read as it reads it; how nodes are found, and with how many requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import VLenBytes, VLenUTF8
from support_stores import FolderStore, MemoryStore
from support_zarr import assert_same_array, assert_same_group, opened_by_zarr, quiet, written

from gpuzarr.errors import Kind, MetadataError, NotFoundError, RequestError, StoreError
from gpuzarr.metadata import ArrayMetadata, GroupMetadata, Limits, open_node, walk

ORDERED = [
    *(f"i{n}" for n in (2, 4, 8)),
    *(f"u{n}" for n in (2, 4, 8)),
    *(f"f{n}" for n in (2, 4, 8)),
    "c8",
    "c16",
    "U3",
    "M8[ns]",
    "M8[10us]",
    "M8[D]",
    "m8[s]",
    "m8[Y]",
]
FIXED = [
    "?",
    "i1",
    "u1",
    "S5",
    "V3",
    *(order + name for name in ORDERED for order in "<>"),
    [("a", "<i4"), ("b", "<f8"), ("c", "S2")],
    [("a", ">u2"), ("b", ">c8")],
]


def fill_values(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    if dtype.fields or dtype.kind == "V":
        return st.binary(min_size=dtype.itemsize, max_size=dtype.itemsize).map(lambda b: np.frombuffer(b, dtype)[0])
    match dtype.kind:
        case "b":
            return st.booleans()
        case "i" | "u":
            bounds = np.iinfo(dtype)
            return st.integers(int(bounds.min), int(bounds.max))
        case "f":
            return st.floats(width=8 * dtype.itemsize)
        case "c":
            return st.complex_numbers(width=8 * dtype.itemsize)
        case "U":
            return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
        case "S":
            return st.binary(max_size=5).map(lambda b: b.rstrip(b"\0"))
    counts = st.one_of(st.just(np.iinfo(np.int64).min), st.integers(-(2**62), 2**62))
    return counts.map(lambda n: np.array(n, np.int64).view(dtype.newbyteorder("="))[()])


@st.composite
def array_arguments(draw: st.DrawFn) -> dict[str, Any]:
    zarr_format = draw(st.sampled_from([2, 3]))
    dtype = np.dtype(draw(st.sampled_from(FIXED)))
    shape = tuple(draw(st.lists(st.integers(0, 20), max_size=4)))
    arguments: dict[str, Any] = {
        "zarr_format": zarr_format,
        "shape": shape,
        "chunks": tuple(draw(st.integers(1, 25)) for _ in shape),
        "dtype": dtype,
        "fill_value": draw(fill_values(dtype)),
        "attributes": draw(
            st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.integers(), st.text()), max_size=2)
        ),
    }
    separator = draw(st.sampled_from("/."))
    if zarr_format == 2:
        arguments["chunk_key_encoding"] = {"name": "v2", "separator": separator}
        arguments["order"] = draw(st.sampled_from("CF"))
    else:
        arguments["chunk_key_encoding"] = {"name": draw(st.sampled_from(["default", "v2"])), "separator": separator}
        names = st.lists(st.none() | st.text(max_size=3), min_size=len(shape), max_size=len(shape))
        arguments["dimension_names"] = draw(st.none() | names)
        if draw(st.booleans()) and shape:
            arguments["shards"] = tuple(2 * size for size in arguments["chunks"])
    return arguments


@given(arguments=array_arguments(), name=st.sampled_from([None, "x", "a/b/x"]))
def test_arrays_are_read_as_zarr_python_reads_them(arguments: dict[str, Any], name: str | None) -> None:
    objects = written(lambda store: zarr.create_array(store, name=name, **arguments))
    theirs = opened_by_zarr(objects)
    with quiet():
        array = theirs[name] if name else theirs
    assert_same_array(open_node(MemoryStore(objects), name or ""), array)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("dtype", "codec", "fill"), [("str", VLenUTF8(), "né"), ("bytes", VLenBytes(), b"\0\1")])
def test_variable_length_arrays(zarr_format: Any, dtype: str, codec: Any, fill: Any) -> None:
    kind = {"str": "string", "bytes": "variable_length_bytes"}[dtype]
    # zarr-python names no v2 object type by a string
    dtype_of: Any = kind if zarr_format == 3 or dtype == "str" else zarr.core.dtype.VariableLengthBytes()
    objects = written(
        lambda store: zarr.create_array(store, shape=(3,), dtype=dtype_of, fill_value=fill, zarr_format=zarr_format)
    )
    ours = open_node(MemoryStore(objects))
    assert isinstance(ours, ArrayMetadata)
    assert_same_array(ours, opened_by_zarr(objects))
    assert (ours.dtype.kind, ours.fill_value) == ({"str": "string"}.get(dtype, "bytes"), fill)


def tree(store: Any, zarr_format: Any, consolidated: bool) -> None:
    root = zarr.create_group(store, zarr_format=zarr_format, attributes={"title": "t", "nan": float("nan")})
    for path in ("", "a", "a/b", "empty"):
        group = root.require_group(path) if path else root
        group.attrs["at"] = path
        if path != "empty":
            for name, shape in (("x", (5,)), ("t", (3, 5)), ("s", ())):
                names = ["t", "x"][2 - len(shape) :]
                of_format = (
                    {"dimension_names": names} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": names}}
                )
                group.create_array(name, shape=shape, dtype="f4", chunks=tuple(2 for _ in shape), **of_format)
    if consolidated:
        zarr.consolidate_metadata(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("is_local", [True, False])
def test_trees_are_read_as_zarr_python_reads_them(zarr_format: Any, consolidated: bool, is_local: bool) -> None:
    objects = written(lambda store: tree(store, zarr_format, consolidated))
    theirs = opened_by_zarr(objects)
    # NaN in attributes is read (zarr-python writes it) but equals nothing
    assert np.isnan(theirs.attrs["nan"])
    objects = {key: value.replace(b"NaN", b"12345") if b'"nan"' in value else value for key, value in objects.items()}
    theirs = opened_by_zarr(objects)
    store = MemoryStore(objects, is_local=is_local)
    groups = {group.path: group for group in walk(store)}
    assert list(groups) == ["", "a", "a/b", "empty"]
    for path, group in groups.items():
        assert_same_group(group, theirs[path] if path else theirs)
        assert open_node(store, path) == group
    for path in ("x", "a/b/t", "a/s"):
        array = open_node(store, path)
        assert isinstance(array, ArrayMetadata)
        assert_same_array(array, theirs[path])
        assert (array.dimension_names or ()) == ("t", "x")[2 - array.ndim :]
    assert [group.path for group in walk(store, "a")] == ["a", "a/b"]


def test_a_consolidated_group_costs_few_requests() -> None:
    v3 = MemoryStore(written(lambda store: tree(store, 3, True)))
    open_node(v3)
    assert v3.requested == ["zarr.json"]
    v3.requested.clear()
    assert len(list(walk(v3))) == 4
    assert v3.requested == ["zarr.json"]
    v3.requested.clear()
    open_node(v3, "a/b")
    assert v3.requested == ["a/b/zarr.json", "zarr.json"]
    v2 = MemoryStore(written(lambda store: tree(store, 2, True)))
    assert len(list(walk(v2))) == 4
    assert v2.requested == ["zarr.json", ".zmetadata"]


def test_a_store_that_cannot_list() -> None:
    consolidated = MemoryStore(written(lambda store: tree(store, 3, True)), can_list=False)
    assert isinstance(open_node(consolidated, "a/b"), GroupMetadata)
    plain = MemoryStore(written(lambda store: tree(store, 3, False)), can_list=False)
    assert isinstance(open_node(plain, "a/b/x"), ArrayMetadata)
    with pytest.raises(StoreError, match=r"has no consolidated metadata.*cannot list"):
        open_node(plain, "a/b")
    with pytest.raises(NotFoundError, match="No Zarr array or group at 'a/nothing'"):
        open_node(plain, "a/nothing")


def test_consolidated_metadata_alone_are_enough() -> None:
    for zarr_format, name in ((2, ".zmetadata"), (3, "zarr.json")):
        objects = written(lambda store, zarr_format=zarr_format: tree(store, zarr_format, True))
        alone = MemoryStore({name: objects[name]}, can_list=False)
        full = MemoryStore(objects)
        assert list(walk(alone))[1:] == list(walk(full))[1:]
        for path in ("a", "a/b", "a/b/x"):
            assert open_node(alone, path) == open_node(full, path)


def test_a_node_missing_from_stale_consolidated_metadata_is_still_opened() -> None:
    def write(store: Any) -> None:
        tree(store, 3, True)
        zarr.create_array(store, name="late/x", shape=(1,), dtype="i1")

    store = MemoryStore(written(write))
    late = open_node(store, "late")
    assert isinstance(late, GroupMetadata)
    assert list(late.arrays) == ["x"]


def test_not_found_says_what_is_near(tmp_path: Any) -> None:
    zarr.create_array(tmp_path / "data", name="temperature", shape=(1,), dtype="i1")
    store = FolderStore(tmp_path / "data")
    with pytest.raises(NotFoundError, match=r"'temperatur': none of zarr.json.*'/' has 'temperature'") as caught:
        open_node(store, "temperatur")
    assert caught.value.kind == Kind.NOT_FOUND
    assert caught.value.store == str(tmp_path / "data")
    with pytest.raises(NotFoundError, match="empty or does not exist"):
        open_node(FolderStore(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "path", ["..", "a/../b", "a/./b", "a\\b", "a\0b", "%2e%2e/a", "a/%2E.", "a%2fb", "a%5Cb", "\ud800", "x" * 2000]
)
def test_unsafe_paths_are_refused_before_anything_is_read(path: str) -> None:
    store = MemoryStore({})
    with pytest.raises(RequestError) as caught:
        open_node(store, path)
    assert caught.value.kind == Kind.KEY_UNSAFE
    assert not store.requested


def test_slashes_around_a_path_do_not_matter() -> None:
    store = MemoryStore(written(lambda s: tree(s, 3, True)))
    assert open_node(store, "/a//b/") == open_node(store, "a/b")
    with pytest.raises(RequestError, match="is an array"):
        list(walk(store, "a/x"))


def test_formats_may_be_mixed_and_v3_wins() -> None:
    def write(store: Any) -> None:
        tree(store, 3, False)
        zarr.create_array(store, name="old", shape=(2,), dtype="i1", zarr_format=2, fill_value=1)
        zarr.create_array(store, name="a/x", shape=(9,), dtype="i1", zarr_format=2, fill_value=1)

    store = MemoryStore(written(write))
    root = open_node(store)
    assert isinstance(root, GroupMetadata)
    assert root.arrays["old"].zarr_format == 2
    a = open_node(store, "a")
    assert isinstance(a, GroupMetadata)
    assert a.arrays["x"].shape == (5,)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_bad_child_never_breaks_the_rest(zarr_format: Any, consolidated: bool) -> None:
    objects = written(lambda store: tree(store, zarr_format, consolidated))
    changed = {}
    for key, value in objects.items():
        document = json.loads(value)
        nodes = {"x": document}
        if key == ".zmetadata":
            nodes = {"x": document["metadata"]["x/.zarray"]}
        elif key == "zarr.json" and consolidated:
            nodes = {"x": document["consolidated_metadata"]["metadata"]["x"]}
        elif key not in ("x/.zarray", "x/zarr.json"):
            nodes = {}
        for node in nodes.values():
            node["shape"] = [-1]
        changed[key] = json.dumps(document).encode()
    group = open_node(MemoryStore(changed))
    assert isinstance(group, GroupMetadata)
    assert set(group.arrays) == {"s", "t"}
    error = group.unreadable["x"]
    assert isinstance(error, MetadataError)
    assert (error.kind, error.array, error.store) == (Kind.METADATA_INVALID, "x", "memory://test")
    assert error.key in ("x/.zarray", "x/zarr.json")
    with pytest.raises(MetadataError, match="'shape'"):
        open_node(MemoryStore(changed), "x") if not consolidated else (_ for _ in ()).throw(error)


def test_a_refused_root_does_not_break_a_node_below() -> None:
    objects = written(lambda store: tree(store, 2, False))
    store = MemoryStore(objects | {".zmetadata": b"{"})
    with pytest.raises(MetadataError, match="not JSON"):
        open_node(store)
    a = open_node(store, "a")
    assert isinstance(a, GroupMetadata)
    assert set(a.arrays) == {"x", "t", "s"}


def test_limits_of_groups() -> None:
    objects = written(lambda store: tree(store, 3, False))
    largest = max(map(len, objects.values()))
    for limits in (
        Limits(max_arrays=4),
        Limits(max_nodes=3),
        Limits(max_group_depth=1),
        Limits(max_document_bytes=2 * largest),  # each document is small enough, all of them together are not
        Limits(max_document_values=150),
    ):
        with pytest.raises(MetadataError, match=r"limits=Limits\(max_") as caught:
            list(walk(MemoryStore(objects), limits=limits))
        assert caught.value.kind == Kind.METADATA_LIMIT
        assert isinstance(open_node(MemoryStore(objects), "a/b/x", limits=limits), ArrayMetadata)
    consolidated = MemoryStore(written(lambda store: tree(store, 3, True)))
    limits = Limits(max_document_bytes=len(consolidated.objects["zarr.json"]))
    assert len(list(walk(consolidated, limits=limits))) == 4
    assert isinstance(open_node(consolidated, "a/b", limits=limits), GroupMetadata)
    assert consolidated.requested[-1] == "zarr.json"  # the root counts for itself
    with pytest.raises(ValueError, match="max_ndim"):
        Limits(max_ndim=0)


def test_groups_in_a_circle_end(tmp_path: Any) -> None:
    zarr.create_group(tmp_path / "data")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data", target_is_directory=True)
    with pytest.raises(MetadataError, match="Nested groups: 33") as caught:
        list(walk(FolderStore(tmp_path / "data")))
    assert caught.value.kind == Kind.METADATA_LIMIT
