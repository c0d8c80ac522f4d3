"""Every store answers the same questions in the same way."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import FaultServer
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, ZipStore

from gpuzarr.errors import Kind, RequestError, StoreError
from gpuzarr.store import ByteStore, StoreOptions, for_scan, open_store

OBJECTS = {
    "zarr.json": b"{}",
    "empty": b"",
    "a/zarr.json": b'{"a": 1}',
    "a/c/0/0": np.random.default_rng(1).integers(0, 256, 70_001, np.uint8).tobytes(),
    "a/c/0/1": b"x",
    "b/.zarray": b"[]",
    "b/0.0": bytes(range(256)),
    "b/with space %20 ü+&=#.bin": b"odd name",
}
LISTINGS = {
    "": (("empty", "zarr.json"), ("a", "b")),
    "a": (("zarr.json",), ("c",)),
    "a/c": ((), ("0",)),
    "a/c/0": (("0", "1"), ()),
    "b": ((".zarray", "0.0", "with space %20 ü+&=#.bin"), ()),
    "nothing": ((), ()),
}
Make = Callable[[Path, ExitStack], Any]


def _folder(path: Path) -> Path:
    for key, data in OBJECTS.items():
        file = path / "root" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path / "root"


def _zip(path: Path, compression: int) -> Path:
    with zipfile.ZipFile(path / "data.zip", "w", compression) as file:
        for key, data in OBJECTS.items():
            file.writestr(key, data)
    return path / "data.zip"


def _memory(path: Path, stack: ExitStack) -> MemoryStore:
    from zarr.core.buffer import cpu

    return MemoryStore({key: cpu.Buffer.from_bytes(data) for key, data in OBJECTS.items()})


def _open_zip(path: Path, stack: ExitStack) -> ZipStore:
    store = ZipStore(_zip(path, zipfile.ZIP_STORED), mode="a")  # being written: cannot be read beside the store
    stack.callback(lambda: store._is_open and store.close())
    return store


def _fsspec_memory(path: Path, stack: ExitStack) -> Any:
    fsspec = pytest.importorskip("fsspec")
    mapper = fsspec.get_mapper(f"memory://{path.name}")
    mapper.setitems(OBJECTS)
    return mapper


def _obstore_memory(path: Path, stack: ExitStack) -> Any:
    stores = pytest.importorskip("obstore.store")
    store = stores.MemoryStore()
    for key, data in OBJECTS.items():
        if "%" not in key:
            store.put(key, data)
    return store


def _object_store(path: Path, stack: ExitStack) -> Any:
    stores = pytest.importorskip("obstore.store")
    from zarr.storage import ObjectStore

    return ObjectStore(stores.LocalStore(str(_folder(path))))


def _http(path: Path, stack: ExitStack, **options: Any) -> str:
    pytest.importorskip("obstore")
    return stack.enter_context(FaultServer(dict(OBJECTS), **options)).url


def _http_fsspec(path: Path, stack: ExitStack, **options: Any) -> Any:
    pytest.importorskip("aiohttp")
    server = stack.enter_context(FaultServer(dict(OBJECTS), **options))
    return FsspecStore.from_url(server.url, read_only=True)


MAKERS: dict[str, Make] = {
    "path": lambda path, stack: str(_folder(path)),
    "pathlib": lambda path, stack: _folder(path),
    "file url": lambda path, stack: _folder(path).as_uri(),
    "zarr local": lambda path, stack: LocalStore(_folder(path)),
    "zip stored": lambda path, stack: _zip(path, zipfile.ZIP_STORED),
    "zip deflated": lambda path, stack: str(_zip(path, zipfile.ZIP_DEFLATED)),
    "zarr zip": lambda path, stack: ZipStore(_zip(path, zipfile.ZIP_STORED)),
    "zarr zip being written": _open_zip,
    "zarr memory": _memory,
    "zarr wrapper": lambda path, stack: LoggingStore(_memory(path, stack), log_level="CRITICAL"),
    "fsspec mapper": _fsspec_memory,
    "fsspec local": lambda path, stack: FsspecStore.from_url(f"local://{_folder(path)}"),
    "memory url": lambda path, stack: f"memory://{_fsspec_memory(path, stack).root.strip('/')}",
    "obstore memory": _obstore_memory,
    "zarr object store": _object_store,
    "http": _http,
    "http without ranges": lambda path, stack: _http(path, stack, ranges=False),
    "http fsspec": _http_fsspec,
    "http fsspec without ranges": lambda path, stack: _http_fsspec(path, stack, ranges=False),
}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, ByteStore, dict[str, bytes]]]:
    with ExitStack() as stack:
        target = MAKERS[request.param](tmp_path, stack)
        opened = stack.enter_context(open_store(target, options=StoreOptions(coalesce_gap=100, backoff=0.01)))
        assert isinstance(opened.store, ByteStore)
        assert opened.path == ""
        # A URL may decode the percent sign of a key, and obstore refuses it.
        decodes = request.param.startswith("http") or request.param == "obstore memory"
        objects = {key: data for key, data in OBJECTS.items() if "%" not in key or not decodes}
        yield request.param, opened.store, objects


def test_answers_are_equal_everywhere(made: tuple[str, ByteStore, dict[str, bytes]]) -> None:
    _, store, objects = made
    for key, data in objects.items():
        size = len(data)
        assert bytes(store.get(key)) == data
        assert store.size(key) == size
        for length in (0, 1, 5, size, size + 1, 1 << 40):
            assert bytes(store.get_suffix(key, length)) == (data[-length:] if length else b"")
        for start in (0, 1, size // 2, max(0, size - 1), size, size + 10):
            for length in (0, 1, 3, size, 1 << 40):
                assert bytes(store.get_range(key, start, length)) == data[start : start + length], (key, start, length)
        ranges = [
            (size // 2, 10),
            (0, 3),
            (0, 3),
            (2, 300),
            (3, 0),
            (size - min(size, 1), 5),
            (size + 5, 5),
            (60_000, 99),
        ]
        assert [bytes(piece) for piece in store.get_ranges(key, ranges)] == [data[a : a + n] for a, n in ranges]
        assert store.get_ranges(key, []) == []
    for key in ("nothing", "a/c/9/9", "a/zarr.json/below", "c/0"):
        assert store.get(key) is None
        assert store.size(key) is None
        assert store.get_range(key, 0, 5) is None
        assert store.get_range(key, 0, 0) is None
        assert store.get_suffix(key, 5) is None
        assert store.get_ranges(key, [(0, 5), (100_000, 5)]) is None
        assert store.get_ranges(key, []) is None
    assert bytes(for_scan(store).get_range("b/0.0", 1, 2)) == b"\x01\x02"


def test_listings_are_equal_everywhere(made: tuple[str, ByteStore, dict[str, bytes]]) -> None:
    name, store, objects = made
    if name.startswith("http"):
        if "fsspec" not in name:
            with pytest.raises(StoreError, match="does not list"):
                store.list_dir("a")
        return
    for prefix, (keys, prefixes) in LISTINGS.items():
        kept = tuple(key for key in keys if not prefix or f"{prefix}/{key}" in objects)
        assert store.list_dir(prefix) == (kept, prefixes)
        assert store.list_dir(prefix + "/") == (kept, prefixes)


def test_bytes_cannot_be_changed_through_what_is_returned(made: tuple[str, ByteStore, dict[str, bytes]]) -> None:
    _, store, _ = made
    for piece in (store.get("b/0.0"), store.get_range("b/0.0", 2, 5), *store.get_ranges("b/0.0", [(0, 4), (6, 4)])):
        assert memoryview(piece).readonly


UNSAFE = [
    "", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a/./b", "a//b", "a/", "a\\b", "a\x00b",
    "%2e%2e/x", "a/%2E%2e", "a/%252e%252e/b", "a%2fb", "a%5Cb", "a%00b", "C:/x", "c:x", "a/\ud800",
]  # fmt: skip


def test_unsafe_keys_are_refused(made: tuple[str, ByteStore, dict[str, bytes]]) -> None:
    _, store, _ = made
    for key in UNSAFE:
        calls = [
            lambda key: store.get(key),
            lambda key: store.size(key),
            lambda key: store.get_range(key, 0, 1),
            lambda key: store.get_suffix(key, 1),
            lambda key: store.get_ranges(key, [(0, 1)]),
            lambda key: store.get_ranges(key, []),
        ]
        if key.strip("/") and not key.endswith("/"):
            calls.append(lambda key: store.list_dir(key))
        for call in calls:
            with pytest.raises(StoreError) as caught:
                call(key)
            assert caught.value.kind is Kind.KEY_UNSAFE


def test_impossible_ranges_are_refused(made: tuple[str, ByteStore, dict[str, bytes]]) -> None:
    _, store, _ = made
    for start, length in ((-1, 5), (0, -1), (1 << 63, 1), (1 << 62, 1 << 63)):
        with pytest.raises(RequestError):
            store.get_range("b/0.0", start, length)
        with pytest.raises(RequestError):
            store.get_ranges("b/0.0", [(0, 1), (start, length)])


def test_threads_get_what_a_single_reader_gets(made: tuple[str, ByteStore, dict[str, bytes]]) -> None:
    _, store, objects = made
    keys = [key for key in objects if objects[key]]

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        key = keys[rng.integers(len(keys))]
        data = objects[key]
        start, length = int(rng.integers(len(data))), int(rng.integers(1, len(data) + 1))
        match seed % 4:
            case 0:
                return bytes(store.get(key)) == data
            case 1:
                return bytes(store.get_range(key, start, length)) == data[start : start + length]
            case 2:
                return bytes(store.get_suffix(key, length)) == data[-length:]
            case _:
                pieces = store.get_ranges(key, [(start, length), (0, 7)])
                return [bytes(piece) for piece in pieces] == [data[start : start + length], data[:7]]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(200)))


def test_a_pickled_store_reads_the_same(made: tuple[str, ByteStore, dict[str, bytes]]) -> None:
    name, store, objects = made
    if name == "obstore memory":
        with pytest.raises(pickle.PicklingError, match="give a URL or path instead"):
            pickle.dumps(store)
        return
    if name == "zarr zip being written":
        return
    again = pickle.loads(pickle.dumps(store))
    assert bytes(again.get("a/c/0/0")) == objects["a/c/0/0"]
    assert again.label == store.label
    again.close()


@given(
    st.binary(max_size=2000),
    st.lists(st.tuples(st.integers(0, 2100), st.integers(0, 2100)), max_size=12),
    st.integers(0, 300),
    st.integers(1, 3000),
)
def test_memory_ranges_for_any_gap_and_cap(data: bytes, ranges: list[tuple[int, int]], gap: int, cap: int) -> None:
    from zarr.core.buffer import cpu

    store = open_store(
        MemoryStore({"k": cpu.Buffer.from_bytes(data)}), options=StoreOptions(coalesce_gap=gap, coalesce_max=cap)
    ).store
    assert [bytes(piece) for piece in store.get_ranges("k", ranges)] == [data[a : a + n] for a, n in ranges]
