"""Failures of servers and networks: bounded repetition, then an error; never wrong bytes, never a missing object."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import FAULTS, FaultServer

from gpuzarr.errors import Kind, MetadataError, StoreError
from gpuzarr.metadata import open_node
from gpuzarr.metadata.limits import Limits
from gpuzarr.store import ByteStore, StoreOptions, for_scan, open_store
from gpuzarr.store.limited import get_at_most
from gpuzarr.store.retry import Failure, run

pytest.importorskip("obstore")

DATA = np.random.default_rng(7).integers(0, 256, 50_000, np.uint8).tobytes()
SMALL = DATA[:300]
QUICK = tuple(fault for fault in FAULTS if fault not in ("stall", "slow_body"))
OPTIONS = StoreOptions(retries=4, backoff=0.005, request_timeout=0.5, retry_timeout=20.0, coalesce_gap=50)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer({"big": DATA, "small": SMALL}, stall=1.2) as running:
        yield running


@pytest.fixture
def store(server: FaultServer) -> Iterator[ByteStore]:
    with open_store(server.url, options=OPTIONS) as opened:
        yield opened.store


def times(fault: str, count: int) -> Any:
    """Plan: the first ``count`` requests fail."""
    numbers = itertools.count()
    return lambda method, key: fault if next(numbers) < count else None


READS = {
    "get": (lambda store: store.get("big"), DATA),
    "get_range": (lambda store: store.get_range("big", 1000, 2000), DATA[1000:3000]),
    "get_suffix": (lambda store: store.get_suffix("big", 500), DATA[-500:]),
    "get_ranges": (lambda store: b"".join(store.get_ranges("big", [(10, 20), (40, 60)])), DATA[10:30] + DATA[40:100]),
    "size": (lambda store: store.size("big"), len(DATA)),
}


def plain(answer: Any) -> Any:
    return answer if answer is None or isinstance(answer, int) else bytes(answer)


@pytest.mark.parametrize("fault", QUICK)
@pytest.mark.parametrize("read", READS)
def test_a_passing_fault_is_survived(server: FaultServer, store: ByteStore, read: str, fault: str) -> None:
    call, right = READS[read]
    for count in (1, 2):
        server.requests.clear()
        server.plan = times(fault, count)
        assert plain(call(store)) == right
        assert len(server.requests) <= count + 1 + 2 * count  # refused ranges are answered by whole objects


@pytest.mark.parametrize("fault", QUICK)
@pytest.mark.parametrize("read", READS)
def test_a_lasting_fault_is_an_error(server: FaultServer, store: ByteStore, read: str, fault: str) -> None:
    call, right = READS[read]
    server.plan = lambda method, key: fault
    begin = time.monotonic()
    try:
        answer = plain(call(store))
    except StoreError as error:
        assert error.key == "big"  # noqa: PT017
        assert error.kind in (Kind.STORE_FAILED, Kind.STORE_TIMEOUT)  # noqa: PT017
        assert error.store == server.url  # noqa: PT017
    else:
        # a server without ranges is served whole; a HEAD has no body to cut short
        assert answer == right
        assert fault == "range_ignored" or (read == "size" and fault in ("short", "reset_body"))
    assert len(server.requests) <= 2 * (OPTIONS.retries + 1) + 1
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("fault", ["stall", "slow_body"])
def test_time_limits(server: FaultServer, fault: str) -> None:
    options = StoreOptions(retries=2, backoff=0.01, request_timeout=0.3, retry_timeout=5.0)
    with open_store(server.url, options=options) as opened:
        server.plan = times(fault, 1)
        assert bytes(opened.store.get("big")) == DATA
        server.plan = lambda method, key: fault
        begin = time.monotonic()
        with pytest.raises(StoreError) as caught:
            opened.store.get("big")
        assert 0.8 < time.monotonic() - begin < 3.0
        assert caught.value.kind is Kind.STORE_TIMEOUT
        assert "after 3 attempts" in str(caught.value)


def test_retry_timeout_ends_the_attempts(server: FaultServer) -> None:
    options = StoreOptions(retries=1000, backoff=0.05, retry_timeout=0.6, request_timeout=5.0)
    server.plan = lambda method, key: "503"
    with open_store(server.url, options=options) as opened:
        begin = time.monotonic()
        with pytest.raises(StoreError):
            opened.store.get("big")
        assert time.monotonic() - begin < 1.5
        assert 3 <= len(server.requests) <= 30


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("403", Kind.STORE_DENIED),
        ("401", Kind.STORE_DENIED),
        ("400", Kind.STORE_FAILED),
        ("410", Kind.STORE_FAILED),
        ("501", Kind.STORE_FAILED),
    ],
)
def test_final_answers_are_not_repeated(server: FaultServer, store: ByteStore, status: str, kind: Kind) -> None:
    server.plan = lambda method, key: status
    for call, _ in READS.values():
        server.requests.clear()
        with pytest.raises(StoreError) as caught:
            call(store)
        assert caught.value.kind is kind
        assert len(server.requests) == 1


@pytest.mark.parametrize("secret", ["https://user:hUnter2@127.0.0.1:9/a.zarr", "http://127.0.0.1:9/a.zarr?sig=hUnter2"])
def test_tracebacks_hold_no_secret(secret: str) -> None:
    """Causes are errors of other libraries, which print whole URLs; the one of a harmless URL stays."""
    options = StoreOptions(retries=0)
    with open_store(secret, options=options) as opened, pytest.raises(StoreError) as caught:
        opened.store.get("a")
    shown = "".join(traceback.format_exception(caught.value))
    assert "hUnter2" not in shown
    assert "***" in str(caught.value)
    with open_store("http://127.0.0.1:9/a.zarr", options=options) as opened, pytest.raises(StoreError) as caught:
        opened.store.get("a")
    assert caught.value.__cause__ is not None


def test_missing_is_not_failed(server: FaultServer, store: ByteStore) -> None:
    assert store.get("nothing") is None
    assert len(server.requests) == 1
    server.plan = times("503", 2)
    assert store.get("nothing") is None
    server.plan = lambda method, key: "503"
    with pytest.raises(StoreError):
        store.get("nothing")


def test_a_server_without_ranges_is_learnt(server: FaultServer, store: ByteStore) -> None:
    server.ranges = False
    for _ in range(5):
        assert bytes(store.get_range("big", 7, 9)) == DATA[7:16]
    assert len(server.requests) == 2 + 2 + 3
    server.requests.clear()
    assert [bytes(piece) for piece in store.get_ranges("big", [(0, 5), (40_000, 5)])] == [DATA[:5], DATA[40_000:40_005]]
    assert len(server.requests) == 1


def test_one_refused_range_does_not_spoil_the_store(server: FaultServer, store: ByteStore) -> None:
    server.plan = times("range_ignored", 1)
    for _ in range(3):
        assert bytes(store.get_range("big", 7, 9)) == DATA[7:16]
    assert [asked for _, _, asked in server.requests] == ["bytes=7-15", None, "bytes=7-15", "bytes=7-15"]


@pytest.mark.parametrize("send_etag", [True, False])
def test_a_replaced_object_is_noticed(server: FaultServer, store: ByteStore, send_etag: bool) -> None:
    server.send_etag = send_etag
    assert bytes(store.get_suffix("big", 16)) == DATA[-16:]
    server.objects["big"] = DATA[::-1] + b"more"
    server.etags["big"] = '"new"'
    for read in (
        lambda: store.get_range("big", 0, 10),
        lambda: store.get_ranges("big", [(0, 10), (30, 10)]),
        lambda: store.get_suffix("big", 3),
    ):
        view = for_scan(store)
        assert bytes(view.get_range("small", 0, 10)) == SMALL[:10]
        with pytest.raises(StoreError, match="Run the query again") as caught:
            read()
        assert caught.value.kind is Kind.STORE_CHANGED
        assert bytes(store.get_range("big", 0, 4)) == DATA[::-1][:4]  # the next scan starts from the new version
        server.objects["big"] = server.objects["big"][:-1] + bytes([server.objects["big"][-1] ^ 1]) + b"longer"
        server.etags["big"] += "x"
    assert bytes(for_scan(store).get_range("big", 0, 4)) == DATA[::-1][:4]
    server.etags["big"] = '"last"'
    with pytest.raises(StoreError) as caught:
        store.get_ranges("big", [(0, 10), (30_000, 10)])
    assert caught.value.kind is Kind.STORE_CHANGED


def test_an_object_removed_between_ranges_is_an_error(server: FaultServer, store: ByteStore) -> None:
    lock, seen = threading.Lock(), itertools.count()

    def plan(method: str, key: str) -> str | None:
        with lock:
            if next(seen) == 1:
                server.objects.pop("big", None)
        return None

    server.plan = plan
    with pytest.raises(StoreError, match="removed") as caught:
        store.get_ranges("big", [(index * 1000, 10) for index in range(40)])
    assert caught.value.kind is Kind.STORE_CHANGED


def check_many_faults(
    reads: int, *, threads: int = 16, seed: int = 0, share: float = 0.5, slow: float = 0.0
) -> dict[str, Any]:
    """Random reads of random objects against a server that fails at random; every answer is right or an error."""
    rng = np.random.default_rng(seed)
    objects = {f"k{number}": rng.bytes(int(size)) for number, size in enumerate(rng.integers(1, 20_000, 40))}
    lock = threading.Lock()
    quick = [fault for fault in QUICK if fault != "range_ignored"] + ["range_ignored"]

    def plan(method: str, key: str) -> str | None:  # called under the server's lock
        if slow and rng.random() < slow:
            return ("stall", "slow_body")[int(rng.integers(2))]
        return quick[int(rng.integers(len(quick)))] if rng.random() < share else None

    options = StoreOptions(retries=5, backoff=0.002, request_timeout=0.5, retry_timeout=30.0, coalesce_gap=100)
    outcome = {"right": 0, "errors": 0, "wrong": 0, "missing": 0, "longest": 0.0}

    def read(number: int, store: ByteStore) -> None:
        own = np.random.default_rng((seed, number))
        key = f"k{own.integers(41)}"  # k40 is not there
        data = objects.get(key)
        size = 20_000 if data is None else len(data)
        start, length = int(own.integers(size)), int(own.integers(1, size + 1))
        ranges = [(int(a), int(n)) for a, n in zip(own.integers(0, size, 4), own.integers(1, 400, 4), strict=True)]
        calls = [
            (lambda: store.get(key), lambda d: d),
            (lambda: store.get_range(key, start, length), lambda d: d[start : start + length]),
            (lambda: store.get_suffix(key, length), lambda d: d[-length:]),
            (
                lambda: b"".join(store.get_ranges(key, ranges) or ()),
                lambda d: b"".join(d[a : a + n] for a, n in ranges),
            ),
            (lambda: store.size(key), len),
        ]
        call, right = calls[number % len(calls)]
        begin = time.monotonic()
        try:
            answer = call()
        except StoreError as error:
            verdict = (
                "errors" if error.key == key and error.kind in (Kind.STORE_FAILED, Kind.STORE_TIMEOUT) else "wrong"
            )
        else:
            if data is None:
                verdict = "missing" if not answer else "wrong"
            else:
                verdict = "right" if answer is not None and plain(answer) == right(data) else "wrong"
        with lock:
            outcome[verdict] += 1
            outcome["longest"] = max(outcome["longest"], time.monotonic() - begin)

    with FaultServer(objects, stall=0.8) as server, open_store(server.url, options=options) as opened:
        server.plan = plan
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda number: read(number, opened.store), range(reads)))
        return outcome | {
            "faults": sum(server.faults.values()),
            "requests": len(server.requests),
            "kinds": dict(server.faults),
        }


def test_hundreds_of_faults_and_no_wrong_byte() -> None:
    outcome = check_many_faults(500, slow=0.005)
    assert outcome["wrong"] == 0
    assert outcome["faults"] > 300
    assert outcome["right"] > 300
    assert set(outcome["kinds"]) >= set(QUICK)
    assert outcome["longest"] < 31
    assert outcome["requests"] <= 500 * 6 * 5


def test_retry_waits_between_bounds() -> None:
    """The schedule itself, with a clock of its own."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def fail() -> None:
        now[0] += 1.0
        raise Failure(StoreError("no", key="k"), transient=True)

    options = StoreOptions(retries=100, retry_timeout=100.0, backoff=0.5)
    with pytest.raises(StoreError, match="Gave up after"):
        run(fail, options, sleep=sleep, clock=lambda: now[0], jitter=lambda: 1.0)
    assert slept == [0.25, 0.5, 1.0, 2.0, 4.0, *[5.0] * (len(slept) - 5)]
    assert now[0] <= 101.0

    slept.clear()
    with pytest.raises(StoreError, match="after 4 attempts"):
        run(fail, StoreOptions(retries=3), sleep=sleep, clock=lambda: now[0], jitter=lambda: 0.0)
    assert slept == [0.1, 0.2, 0.4]
    slept.clear()

    def fail_for_good() -> None:
        raise Failure(StoreError("no", key="k"), transient=False)

    with pytest.raises(StoreError, match="no"):
        run(fail_for_good, options, sleep=sleep)
    assert slept == []


@contextlib.contextmanager
def peak_growth() -> Iterator[list[int]]:
    """Bytes by which the peak of resident memory exceeds what is resident at the beginning."""

    def status(name: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]

    Path("/proc/self/clear_refs").write_text("5")
    before, grown = status("VmRSS"), [0]
    yield grown
    grown[0] = status("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is measured on Linux")
@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_documents_that_are_too_large_are_not_read(backend: str) -> None:
    """The size is known before the body; memory does not grow, whatever the server holds."""
    document = json.dumps({"zarr_format": 3, "node_type": "group"}).encode()
    objects = {"small/zarr.json": document, "bomb/zarr.json": document + b" " * (96 << 20)}
    with FaultServer(objects) as server:
        options = StoreOptions(backend=backend)  # type: ignore[arg-type]
        for name, limits in (("bomb", Limits()), ("small", Limits(max_document_bytes=len(document) - 1))):
            store = open_store(f"{server.url}/{name}", options=options).store
            with peak_growth() as grown, pytest.raises(MetadataError, match="Bytes of the document") as caught:
                open_node(store, limits=limits)
            assert caught.value.kind == Kind.METADATA_LIMIT
            assert "max_document_bytes" in str(caught.value)
            assert grown[0] < 48 << 20
        store = open_store(f"{server.url}/small", options=options).store
        assert get_at_most(store, "zarr.json", len(document)) is not None
        assert get_at_most(store, "nothing", 10) is None
