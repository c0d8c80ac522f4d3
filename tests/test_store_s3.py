"""S3 against a server on loopback, signed and anonymous, through obstore and through fsspec."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zarr

from gpuzarr.errors import Kind, StoreError
from gpuzarr.store import StoreOptions, open_store

pytest.importorskip("moto.server")
pytest.importorskip("obstore")

KEYS = {"key": "testing", "secret": "hUnter2", "region": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server in a process of its own: its libraries warn more than tests here allow."""
    code = (
        "from moto.server import ThreadedMotoServer; import sys\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); server.start()\n"
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read(); server.stop()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        yield url
    finally:
        process.stdin.close()
        process.wait(timeout=20)
        process.stdout.close()


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> str:
    """A group in ``s3://bucket/deep/x.zarr``."""
    import obstore.store as stores
    from zarr.storage import ObjectStore

    def put(path: str) -> None:
        request = urllib.request.Request(f"{endpoint}/{path}", method="PUT", headers={"x-amz-acl": "public-read"})
        urllib.request.urlopen(request, timeout=20).close()

    put("bucket")
    store = stores.S3Store(
        "bucket", prefix="deep/x.zarr", endpoint=endpoint, access_key_id="testing", secret_access_key="x",
        region="us-east-1", client_options={"allow_http": True},
    )  # fmt: skip
    group = zarr.create_group(ObjectStore(store))
    array = group.create_array("a", shape=(1000,), chunks=(100,), shards=(500,), dtype="i4", compressors=None)
    array[:] = np.arange(1000)
    group.create_group("b")
    for listed in store.list():
        for entry in listed:
            put(f"bucket/deep/x.zarr/{entry['path']}?acl")
    return endpoint


def check(store: Any) -> None:
    assert b"group" in bytes(store.get("zarr.json"))
    assert store.list_dir("") == (("zarr.json",), ("a", "b"))
    assert store.list_dir("a/c") == (("0", "1"), ())
    assert store.get("a/c/2") is None
    whole = bytes(store.get("a/c/1"))
    assert np.frombuffer(whole[:2000], "<i4").tolist() == list(range(500, 1000))
    assert store.size("a/c/1") == len(whole)
    assert bytes(store.get_suffix("a/c/1", 84)) == whole[-84:]
    assert bytes(store.get_range("a/c/1", 400, 8)) == np.arange(600, 602, dtype="<i4").tobytes()
    assert bytes(store.get_range("a/c/1", len(whole), 8)) == b""
    assert [bytes(piece) for piece in store.get_ranges("a/c/1", [(0, 4), (1600, 4)])] == [whole[:4], whole[1600:1604]]


@pytest.mark.parametrize("names", ["fsspec", "obstore", "anonymous", "environment"])
def test_s3(bucket: str, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "fsspec": {"key": "testing", "secret": "hUnter2", "client_kwargs": {"endpoint_url": bucket, "region_name": "us-east-1"}},
        "obstore": {"aws_access_key_id": "testing", "aws_secret_access_key": "hUnter2", "endpoint": bucket, "region": "us-east-1"},
        "anonymous": {"anon": True, "endpoint_url": bucket},
        "environment": None,
    }[names]  # fmt: skip
    if options is None:
        for name, value in {
            "ACCESS_KEY_ID": "testing",
            "SECRET_ACCESS_KEY": "hUnter2",
            "ENDPOINT": bucket,
            "REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        options = {"client_options": {"allow_http": True}}
    with open_store(
        "s3://bucket/deep/x.zarr", storage_options=options, options=StoreOptions(coalesce_gap=10)
    ) as opened:
        check(opened.store)
        assert b"hUnter2" not in pickle.dumps(opened.store)
        if names == "anonymous":
            check(pickle.loads(pickle.dumps(opened.store)))
        assert "hUnter2" not in repr(opened)


def test_a_missing_bucket_is_no_missing_object(bucket: str) -> None:
    """S3 answers 404 for both; a chunk must not become fill values because the bucket is gone."""
    with open_store("s3://no-such-bucket/x", storage_options=KEYS | {"endpoint": bucket}) as opened:
        for call in (opened.store.get, opened.store.list_dir, lambda key: opened.store.get_range(key, 0, 5)):
            with pytest.raises(StoreError, match="bucket or container does not exist"):
                call("zarr.json")


def test_a_dead_server_is_an_error() -> None:
    options = StoreOptions(retries=2, backoff=0.01)
    with open_store("s3://b/x", storage_options=KEYS | {"endpoint": "http://127.0.0.1:9"}, options=options) as opened:
        with pytest.raises(StoreError, match="Gave up after 3 attempts") as caught:
            opened.store.get("zarr.json")
        assert caught.value.kind is Kind.STORE_FAILED
        assert "hUnter2" not in str(caught.value)


def test_s3_through_fsspec(bucket: str) -> None:
    pytest.importorskip("s3fs")
    options = {"key": "testing", "secret": "hUnter2", "client_kwargs": {"endpoint_url": bucket}}
    with open_store(
        "s3://bucket/deep/x.zarr", storage_options=options, options=StoreOptions(backend="fsspec", coalesce_gap=10)
    ) as opened:
        check(opened.store)
        assert b"hUnter2" not in pickle.dumps(opened.store)
