"""Stores in zip archives."""

from __future__ import annotations

import gc
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zarr
from support_stores import make_zip
from zarr.storage import ZipStore

from gpuzarr.errors import Kind, NotFoundError, StoreError
from gpuzarr.store import open_store
from gpuzarr.store.zip_store import ZipByteStore


def test_zip_damage_is_an_error(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip")
    data = path.read_bytes()
    cases = {
        "checksum": data.replace(b"{}{}", b"{}[}", 1),
        "local header": data.replace(b"PK\x03\x04", b"PK\x03\x05", 1),
        "cannot be opened": data[:-30],
    }
    for words, damaged in cases.items():
        path.write_bytes(damaged)
        with pytest.raises((StoreError, NotFoundError), match=f"{words}|neither"):
            open_store(path).store.get("a/zarr.json")
    deflated = make_zip(path, zipfile.ZIP_DEFLATED).read_bytes()
    sizes = struct.pack("<2L", len(zipfile.ZipFile(path).read("a/c/0")), 0)[:4]
    bomb = deflated.replace(sizes, struct.pack("<L", 0x7FFF_FFFF))
    assert bomb != deflated
    path.write_bytes(bomb)
    with pytest.raises(StoreError, match="claims to expand"):
        open_store(path).store.get("a/c/0")
    make_zip(path, zipfile.ZIP_BZIP2)
    with pytest.raises(StoreError, match="only stored and deflated"):
        open_store(path).store.get("a/c/0")


def test_zip_that_changes_or_is_closed(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip")
    opened = open_store(path)
    assert isinstance(opened.store, ZipByteStore)
    assert opened.store.size("a/c/0") == 1000
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(StoreError) as caught:
        opened.store.get("a/c/0")
    assert caught.value.kind is Kind.STORE_CHANGED
    opened.close()
    opened.close()
    with pytest.raises(StoreError, match="closed"):
        opened.store.get("a/c/0")


def test_zip_written_by_zarr(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "z.zip", mode="w") as writer:
        zarr.create_array(writer, shape=(4,), chunks=(2,), dtype="u1", compressors=None)[:] = [1, 2, 3, 4]
    with open_store(tmp_path / "z.zip") as opened:
        assert opened.store.get("c/1") == b"\x03\x04"
        assert opened.store.list_dir("") == (("zarr.json",), ("c",))


def test_a_zip_file_in_a_reference_cycle_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "__del__", lambda _: None)  # as where the collector meets the file first
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", "{}")
    for _ in range(20):
        ring: list[Any] = [ZipByteStore(path)]
        ring.append(ring)
        del ring
    gc.collect()  # an unclosed file would be a warning, which is an error here
