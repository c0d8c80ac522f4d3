"""Opening stores, files, secrets, processes, threads."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from fault_server import FaultServer
from hypothesis import given
from hypothesis import strategies as st
from support_counting import CountingStore, FaultyStore, LatencyStore
from support_stores import make_zip
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, StorePath

from gpuzarr.errors import EnvironmentLacksError, Kind, NotFoundError, RequestError, StoreError
from gpuzarr.store import ByteStore, OpenedStore, StoreOptions, for_scan, local, open_store
from gpuzarr.store.keys import check_key
from gpuzarr.store.limited import ObjectTooLargeError, get_at_most
from gpuzarr.store.local import LocalByteStore
from gpuzarr.store.ranges import coalesce, cut, span_count
from gpuzarr.store.secrets import public_options, public_url
from gpuzarr.store.urls import obstore_options

SECRET = "hUnter2"


# --- what can be opened -------------------------------------------------------------------------------------------------


def test_groups_and_arrays_open_at_their_path(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "x.zarr")
    array = group.create_group("deep").create_array("a", shape=(4,), chunks=(2,), dtype="i4")
    array[:] = 7
    for target, path in [
        (group, ""),
        (group["deep"], "deep"),
        (array, "deep/a"),
        (StorePath(LocalStore(tmp_path / "x.zarr"), "deep"), "deep"),
    ]:
        opened = open_store(target)
        assert (opened.path, type(opened.store)) == (path, LocalByteStore)
        assert opened.store.get("deep/a/zarr.json") == (tmp_path / "x.zarr/deep/a/zarr.json").read_bytes()
    assert open_store(opened) is opened
    assert open_store(opened.store) == OpenedStore(opened.store)


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("", RequestError, "empty"),
        ("a\x00b", RequestError, "NUL"),
        ("no/such/place.zarr", NotFoundError, "nothing at 'no/such/place.zarr'.*relative paths start at"),
        (Path("/no/such"), NotFoundError, "nothing at '/no/such'"),
        ("file:///no/such", NotFoundError, "nothing at"),
        ("file://elsewhere/x", RequestError, "name this machine"),
        (__file__, NotFoundError, "neither a directory nor a zip file"),
        ("nothing-knows-this://x", (RequestError, EnvironmentLacksError), "nothing-knows-this"),
        (42, RequestError, "Cannot open int"),
        ({"a": b""}, RequestError, "Cannot open dict"),
        (None, RequestError, "Cannot open NoneType"),
    ],
)
def test_what_cannot_be_opened_says_why(target: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        open_store(target)


def test_options_are_checked(tmp_path: Path) -> None:
    for wrong in (
        {"max_concurrency": 0}, {"retries": -1}, {"retry_timeout": 0}, {"request_timeout": float("nan")}, {"backoff": -1},
        {"coalesce_gap": -1}, {"coalesce_max": 0}, {"backend": "curl"},
    ):  # fmt: skip
        with pytest.raises(RequestError):
            StoreOptions(**wrong)
    with pytest.raises(RequestError, match="storage_options"):
        open_store(tmp_path, storage_options={"anon": True})
    with pytest.raises(RequestError, match="storage_options"):
        open_store(tmp_path.as_uri(), storage_options={"anon": True})
    pytest.importorskip("obstore")
    with pytest.raises(RequestError, match=r"'foo' is not valid.*S3Store"):
        open_store("s3://bucket/x", storage_options={"foo": 1})
    with pytest.raises(RequestError, match="HTTPStore"):
        open_store("https://host/x", storage_options={"anon": True})


def test_option_names_of_other_libraries_are_understood() -> None:
    def of(kind: str, url: str, **options: Any) -> dict[str, Any]:
        return obstore_options(kind, url, options)

    assert of("s3", "s3://b", anon=True, asynchronous=True) == {"skip_signature": True}
    assert of("s3", "s3://b", key="k", secret="s", token="t") == {
        "access_key_id": "k", "secret_access_key": "s", "token": "t",
    }  # fmt: skip
    assert of("s3", "s3://b", client_kwargs={"endpoint_url": "http://h:1", "region_name": "r"}) == {
        "endpoint_url": "http://h:1", "region": "r", "client_options": {"allow_http": True},
    }  # fmt: skip
    assert of("gs", "gs://b", token="anon") == {"skip_signature": True}
    assert of("az", "az://c", account_name="a", anon="true") == {"account_name": "a", "skip_signature": True}
    assert of("http", "https://h", headers={"x": "y"}) == {"client_options": {"default_headers": {"x": "y"}}}
    assert of("http", "HTTP://h", client_options={"allow_http": False}) == {"client_options": {"allow_http": False}}


def test_libraries_that_are_missing_are_named() -> None:
    """In a process of its own, with the optional libraries hidden."""
    code = (
        "import sys\n"
        "sys.modules['obstore'] = sys.modules['obstore.store'] = sys.modules['fsspec'] = None\n"
        "import gpuzarr.store as s\n"
        "from gpuzarr.errors import EnvironmentLacksError\n"
        "for url in ('s3://b/x', 'https://h/x', 'ftp://h/x'):\n"
        "    try: s.open_store(url)\n"
        "    except EnvironmentLacksError as e: print(e)\n"
        "print(s.open_store('.').store.is_local)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert all("gpuzarr[remote]" in line for line in lines[:3])
    assert lines[3:] == ["True"]


def test_icechunk_sessions_and_stores() -> None:
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    group = zarr.create_group(session.store)
    group.create_array("a", shape=(6,), chunks=(2,), dtype="u1", compressors=None)[:] = np.arange(1, 7)
    session.commit("one")
    for target in (session, session.store, group):
        store = open_store(target).store
        assert bytes(store.get("a/c/1")) == b"\x03\x04"
        assert bytes(store.get_range("a/c/1", 1, 9)) == b"\x04"
        assert store.get("a/c/9") is None
        assert store.get(".zgroup") is None
        assert store.list_dir("") == (("zarr.json",), ("a",))
        assert store.list_dir("a") == (("zarr.json",), ("c",))
        assert store.list_dir("a/c") == (("0", "1", "2"), ())
        assert store.list_dir("nothing") == ((), ())


# --- local files ----------------------------------------------------------------------------------------------------------


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (tmp_path / "roots").mkdir()
    root = tmp_path / "roots/data"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "roots/data-sibling").write_bytes(b"secret")
    (root / "inside/file").write_bytes(b"fine")
    (root / "link-file").symlink_to(tmp_path / "outside/secret")
    (root / "link-dir").symlink_to(tmp_path / "outside")
    (root / "link-sibling").symlink_to(tmp_path / "roots/data-sibling")
    (root / "link-inside").symlink_to("inside/file")
    (root / "link-nowhere").symlink_to("nowhere")
    linked = tmp_path / "linked-root"
    linked.symlink_to(root)
    for place in (root, linked):
        store = open_store(place).store
        assert store.get("inside/file") == store.get("link-inside") == b"fine"
        for key in ("link-file", "link-dir/secret", "link-sibling"):
            for call in (store.get, store.size, lambda key, store=store: store.get_range(key, 0, 1)):
                with pytest.raises(StoreError, match="follow_symlinks=True") as caught:
                    call(key)
                assert caught.value.kind is Kind.KEY_UNSAFE
        with pytest.raises(StoreError) as caught:
            store.list_dir("link-dir")
        assert caught.value.kind is Kind.KEY_UNSAFE
        with pytest.raises(StoreError, match="link to something that is not there"):
            store.get("link-nowhere")
        open_wide = open_store(place, options=StoreOptions(follow_symlinks=True)).store
        assert open_wide.get("link-dir/secret") == open_wide.get("link-file") == b"secret"
        assert open_wide.list_dir("link-dir") == (("secret",), ())


def test_what_is_no_readable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "locked").write_bytes(b"x")
    store = open_store(tmp_path).store
    with pytest.raises(StoreError, match="a directory") as caught:
        store.get("folder")
    assert (caught.value.kind, caught.value.key) == (Kind.STORE_FAILED, "folder")
    with pytest.raises(StoreError, match="no regular file"):  # and does not wait for a writer
        store.get("pipe")
    with pytest.raises(StoreError, match="File name too long") as caught:
        store.get("x" * 5000)
    (tmp_path / "locked").chmod(0)
    if not os.access(tmp_path / "locked", os.R_OK):
        with pytest.raises(StoreError) as caught:
            store.get("locked")
        assert caught.value.kind is Kind.STORE_DENIED


def test_large_documents_of_a_folder_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    store = LocalByteStore(tmp_path)
    assert get_at_most(store, "x", 10) == b"0123456789"
    assert get_at_most(store, "y", 10) is None
    assert store.seen_version("x") == store.version("x")
    monkeypatch.setattr(local, "read_at", None)
    with pytest.raises(ObjectTooLargeError) as caught:
        get_at_most(store, "x", 9)
    assert caught.value.nbytes == 10


def test_denied_files_are_no_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"x")
    store = open_store(tmp_path).store
    for number, kind in (
        (13, Kind.STORE_DENIED),
        (1, Kind.STORE_DENIED),
        (5, Kind.STORE_FAILED),
        (24, Kind.STORE_FAILED),
    ):

        def fail(*_: Any, number: int = number) -> Any:
            raise OSError(number, os.strerror(number))

        for function in ("open", "pread"):
            with monkeypatch.context() as patch, pytest.raises(StoreError, match=os.strerror(number)) as caught:
                patch.setattr(os, function, fail)
                store.get("x")
            assert (caught.value.kind, caught.value.key, caught.value.store) == (kind, "x", str(tmp_path))


def test_files_that_change_between_ranges(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    store = open_store(tmp_path).store
    careless = open_store(tmp_path, options=StoreOptions(detect_changes=False)).store
    assert store.get_suffix("x", 10) == careless.get_suffix("x", 10) == bytes(10)
    (tmp_path / "x").write_bytes(b"1" * 101)
    assert store.get("x") == b"1" * 101  # one read, one version
    assert for_scan(store).get_range("x", 0, 2) == careless.get_range("x", 0, 2) == b"11"
    with pytest.raises(StoreError) as caught:
        store.get_ranges("x", [(0, 2)])
    assert caught.value.kind is Kind.STORE_CHANGED
    assert store.get_range("x", 0, 2) == b"11"


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    store = open_store(tmp_path).store
    real = os.pread
    monkeypatch.setattr(
        os, "pread", lambda file, length, start: real(file, min(length, 60 - start), start) if start < 60 else b""
    )
    for call in (lambda: store.get("x"), lambda: store.get_range("x", 50, 20), lambda: store.get_suffix("x", 10)):
        with pytest.raises(StoreError) as caught:
            call()
        assert caught.value.kind is Kind.STORE_CHANGED


def test_short_reads_of_the_system_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 10
    (tmp_path / "x").write_bytes(data)
    store = open_store(tmp_path).store
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, start: real(file, min(length, 7), start))
    assert store.get("x") == data
    assert store.get_range("x", 3, 100) == data[3:103]


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 10)
    (tmp_path / "d").mkdir()
    store = open_store(tmp_path).store
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("needs /proc")
    for _ in range(50):
        store.get("x")
        store.get("none")
        with pytest.raises(StoreError):
            store.get("d")
        with pytest.raises(StoreError):
            store.get("../x")
    assert len(os.listdir("/proc/self/fd")) == before


# --- ranges and keys ----------------------------------------------------------------------------------------------------------

RANGES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 200)), max_size=20)


@given(RANGES, st.integers(0, 100), st.integers(1, 500))
def test_spans_cover_exactly_what_is_needed(ranges: list[tuple[int, int]], gap: int, cap: int) -> None:
    spans = coalesce(ranges, gap, cap)
    assert span_count(ranges, gap, cap) == len(spans)
    members = [member for span in spans for member in span.members]
    assert sorted(members) == [index for index, (_, length) in enumerate(ranges) if length]
    wanted: set[int] = set()
    for span in spans:
        own: set[int] = set()
        for member in span.members:
            start, length = ranges[member]
            assert span.start <= start
            assert start + length <= span.start + span.length
            own |= set(range(start, start + length))
        wanted |= own
        assert span.length <= max(cap, max(ranges[member][1] for member in span.members))
        assert {span.start, span.start + span.length - 1} <= own
        holes = sorted(own)
        assert all(after - before - 1 <= gap for before, after in itertools.pairwise(holes))
    assert [span.start for span in spans] == sorted(span.start for span in spans)
    for one, two in itertools.pairwise(spans):  # neighbours were kept apart for a reason
        joined = max(two.start + two.length, one.start + one.length) - one.start
        assert two.start - (one.start + one.length) > gap or joined > cap
    data = np.random.default_rng(0).integers(0, 256, 900, np.uint8).tobytes()
    pieces = cut(ranges, spans, [data[span.start : span.start + span.length] for span in spans])
    assert [bytes(piece) for piece in pieces] == [data[a : a + n] for a, n in ranges]


@given(st.text(max_size=30))
def test_accepted_keys_stay_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except StoreError as error:
        assert error.kind is Kind.KEY_UNSAFE  # noqa: PT017
        return
    from urllib.parse import unquote

    for form in (key, unquote(key), unquote(unquote(key))):
        path = os.path.normpath(os.path.join("/root", form))
        assert path.startswith("/root/")
        assert len(path.split("/")) == len(key.split("/")) + 2


# --- secrets --------------------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_text_and_no_pickle() -> None:
    pytest.importorskip("obstore")
    with FaultServer({"x": b"x"}) as server:
        server.plan = lambda method, key: "403"
        url = server.url.replace("http://", f"http://user:{SECRET}@") + f"/root?sig={SECRET}"
        options = {"headers": {"Authorization": f"Bearer {SECRET}"}, "client_options": {"user_agent": "me"}}
        opened = open_store(url, storage_options=options, options=StoreOptions(retries=0))
        with pytest.raises(StoreError) as caught:
            opened.store.get("x")
        texts = [repr(opened), opened.store.label, repr(opened.store), str(caught.value), repr(caught.value)]
        texts.append(repr(vars(opened.store)["_recipe"]))
        assert not any(SECRET in text for text in texts)
        assert SECRET.encode() not in pickle.dumps(opened.store)
        assert for_scan(opened.store).obstore_store is opened.store.obstore_store
        again = pickle.loads(pickle.dumps(opened.store))
        assert again.label == f"{server.url}/root"
        with pytest.raises(StoreError, match="unpickled without its credentials") as caught:
            again.get("x")
        assert caught.value.kind is Kind.STORE_DENIED
        twice = pickle.loads(pickle.dumps(again))
        with pytest.raises(StoreError, match="unpickled without its credentials"):
            twice.get("x")
        kept = open_store(url, storage_options=options, options=StoreOptions(pickle_secrets=True)).store
        assert pickle.dumps(kept).count(SECRET.encode()) >= 2
        assert pickle.loads(pickle.dumps(kept)).label == kept.label

    stores = pytest.importorskip("obstore.store")
    given = stores.S3Store("bucket", prefix="p", region="eu-west-1", access_key_id="AK", secret_access_key=SECRET)
    store = open_store(given).store
    assert SECRET.encode() not in pickle.dumps(store)
    assert pickle.loads(pickle.dumps(store)).obstore_store.config == {"bucket": "bucket", "region": "eu-west-1"}
    kept = open_store(given, options=StoreOptions(pickle_secrets=True)).store
    assert pickle.loads(pickle.dumps(kept)).obstore_store.config == given.config
    for opened in (
        open_store("s3://bucket/p", storage_options={"key": "AK", "secret": SECRET, "region": "eu-west-1"}),
    ):
        assert SECRET.encode() not in pickle.dumps(opened.store)


def test_fsspec_stores_keep_their_secrets() -> None:
    pytest.importorskip("fsspec")
    store = FsspecStore.from_url("memory://x", storage_options={"secret_thing": SECRET})
    with pytest.raises(pickle.PicklingError, match="pickle_secrets=True") as caught:
        pickle.dumps(open_store(store).store)
    assert SECRET not in str(caught.value)
    with pytest.raises(pickle.PicklingError, match="pickle_secrets=True"):
        pickle.dumps(open_store(LoggingStore(store, log_level="CRITICAL")).store)
    opened = open_store("memory://x", storage_options={"secret_thing": SECRET})
    assert SECRET.encode() not in pickle.dumps(opened.store)


def test_only_known_options_are_public() -> None:
    options = {
        "region": "eu", "aws_endpoint": "http://u:p@h:1/x", "key": "k", "new_option": 1,
        "client_options": {"allow_http": True, "default_headers": {"a": "b"}}, "AWS_SECRET_ACCESS_KEY": "s",
    }  # fmt: skip
    assert public_options(options) == (
        {"region": "eu", "aws_endpoint": "http://h:1/x", "client_options": {"allow_http": True}},
        True,
    )
    assert public_options({"region": "eu", "client_kwargs": {"region_name": "x"}})[1] is False
    assert public_url("https://u:p@h:1/a?sig=1#f") == "https://h:1/a"
    assert public_url("abfss://c@a.dfs.core.windows.net/x") == "abfss://c@a.dfs.core.windows.net/x"


# --- processes, threads, loops ----------------------------------------------------------------------------------------------


def read_in_child(store: ByteStore, key: str, answers: Any) -> None:
    try:
        answers.put(bytes(store.get(key)))
    except EnvironmentLacksError as error:
        answers.put(error.kind)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_are_told_and_do_not_hang(tmp_path: Path) -> None:
    code = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fault_server import FaultServer
from gpuzarr.store import open_store
from gpuzarr.errors import EnvironmentLacksError
import fsspec, zarr

def tell(name, call):
    try:
        print(name, bytes(call()), flush=True)
    except EnvironmentLacksError as error:
        print(name, error.kind.value, flush=True)

with FaultServer({{"x": b"over http"}}) as server:
    local = open_store({str(tmp_path)!r}).store
    packed = open_store({str(tmp_path / "z.zip")!r}).store
    http = open_store(server.url).store
    fsspec.get_mapper("memory://m")["x"] = b"in memory"
    async_ = open_store("memory://m").store
    http.get("x"); async_.get("x")
    child = os.fork()
    if child == 0:
        tell("local", lambda: local.get("x"))
        tell("zip", lambda: packed.get("a/zarr.json")[:4])
        tell("http", lambda: http.get("x"))
        tell("http anew", lambda: open_store(server.url).store.get("x"))
        tell("async", lambda: async_.get("x"))
        tell("async anew", lambda: open_store("memory://m").store.get("x"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    tell("parent", lambda: http.get("x"))
"""
    pytest.importorskip("obstore")
    (tmp_path / "x").write_bytes(b"file")
    make_zip(tmp_path / "z.zip")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "local b'file'",
        "zip b'{}{}'",
        "http forked",
        "http anew forked",
        "async forked",
        "async anew b'in memory'",
        "parent b'over http'",
    ], done.stderr


def test_spawned_processes_read() -> None:
    pytest.importorskip("obstore")
    with FaultServer({"x": b"over http"}) as server:
        context = multiprocessing.get_context("spawn")
        answers = context.Queue()
        child = context.Process(target=read_in_child, args=(open_store(server.url).store, "x", answers))
        child.start()
        assert answers.get(timeout=60) == b"over http"
        child.join()


def test_reads_inside_a_running_loop(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "x").write_bytes(b"fine")
    store = open_store(FsspecStore.from_url(f"local://{tmp_path}")).store

    async def read() -> bytes:
        return bytes(store.get("x"))

    assert asyncio.run(read()) == b"fine"
    from zarr.core.sync import sync

    with pytest.raises(EnvironmentLacksError, match="own event loop"):
        sync(read())


def test_threads_end_with_the_store() -> None:
    pytest.importorskip("obstore")
    with FaultServer({"x": bytes(100_000)}) as server:
        with open_store(server.url, options=StoreOptions(coalesce_gap=0)) as opened:
            opened.store.get_ranges("x", [(index * 1000, 10) for index in range(50)])
            assert any(thread.name.startswith("gpuzarr") for thread in threading.enumerate())
        assert not any(thread.name.startswith("gpuzarr") for thread in threading.enumerate())
        assert bytes(opened.store.get("x")) == bytes(100_000)  # a closed store opens what it needs anew
        opened.close()


def test_concurrency_is_bounded() -> None:
    pytest.importorskip("obstore")
    running, most, lock = [0], [0], threading.Lock()
    with FaultServer({"x": bytes(1000)}) as server:
        gate = threading.Event()

        class Slow(dict):  # type: ignore[type-arg]
            def get(self, key: Any, default: Any = None) -> Any:
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                gate.wait(0.02)
                with lock:
                    running[0] -= 1
                return super().get(key, default)

        server.objects = Slow(server.objects)
        with open_store(server.url, options=StoreOptions(max_concurrency=3, coalesce_gap=0)) as opened:
            threads = [
                threading.Thread(target=opened.store.get_ranges, args=("x", [(i * 50, 9) for i in range(9)]))
                for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert 2 <= most[0] <= 3


# --- the wrappers of the tests themselves ------------------------------------------------------------------------------------


def test_wrappers_pass_everything_on() -> None:
    from zarr.core.buffer import cpu

    inner = open_store(MemoryStore({"k": cpu.Buffer.from_bytes(b"0123456789")})).store
    counting = CountingStore(LatencyStore(inner, 0.0))
    assert isinstance(counting, ByteStore)
    assert bytes(counting.get("k")) == b"0123456789"
    assert [bytes(piece) for piece in counting.get_ranges("k", [(0, 2), (8, 9)])] == [b"01", b"89"]
    assert [(r.method, r.start, r.length) for r in counting.requests] == [
        ("get", None, None), ("get_ranges", 0, 2), ("get_ranges", 8, 9),
    ]  # fmt: skip
    assert counting.keys("get") == ["k"]
    faulty = FaultyStore(inner, lambda request: StoreError("no") if request.method == "get" else None)
    assert faulty.size("k") == 10
    with pytest.raises(StoreError):
        faulty.get("k")
