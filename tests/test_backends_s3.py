"""Backends and many stores on an S3 server on loopback."""

from __future__ import annotations

import asyncio
import pickle
import urllib.request

import polars as pl
import pytest
from support_backends import expected, same, write
from test_backends_remote import BOX
from test_store_s3 import KEYS, endpoint  # noqa: F401  # a fixture

import gpuzarr
from gpuzarr import ZarrBackend, ZarrBackendSync
from gpuzarr.errors import NotFoundError


def test_s3(endpoint: str) -> None:  # noqa: F811
    import obstore.store as stores
    from zarr.storage import ObjectStore

    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/backends", method="PUT"), timeout=10).close()
    for name in ("a", "b"):
        part = stores.S3Store(
            "backends", prefix=f"many/{name}.zarr", endpoint=endpoint, access_key_id=KEYS["key"],
            secret_access_key=KEYS["secret"], region=KEYS["region"], client_options={"allow_http": True},
        )  # fmt: skip
        write(ObjectStore(part), seed=ord(name))
    options = {**KEYS, "endpoint_url": endpoint}
    table = expected(ord("a"))

    async def main() -> None:
        opened = ZarrBackend.from_url("s3://backends/many/a.zarr", storage_options=options)
        async with opened as backend:
            assert "hUnter2" not in repr(backend)
            asked = [(pl.col("lat") > low) & BOX for low in range(-60, 40, 10)]
            found = await asyncio.gather(*(backend.scan_zarr_async(pl.all().filter(p)) for p in asked))
            assert all(same(f, table.filter(p)) for f, p in zip(found, asked, strict=True))
            stats = backend.cache_stats()["variables"]
            assert stats["misses"] == stats["entries"]
        with pytest.raises(NotFoundError):
            ZarrBackendSync.from_url("s3://backends/none.zarr", storage_options=options).schema()

    asyncio.run(main())
    both = gpuzarr.scan_zarr("s3://backends/many/*.zarr", storage_options=options)
    assert same(both.head(720).collect(), table)
    assert both.select(pl.len()).collect().item() == 1440
    assert b"hUnter2" not in pickle.dumps(both)
