"""Stores for tests that depend on no other room: a dict, a folder, a zip archive."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from gpuzarr.errors import StoreError
from gpuzarr.store.base import Buffer, Listing


class MemoryStore:
    """A `ByteStore` over a dict; counts what is asked of it."""

    label = "memory://test"

    def __init__(self, objects: dict[str, bytes], *, is_local: bool = False, can_list: bool = True) -> None:
        self.objects = objects
        self.is_local = is_local
        self.can_list = can_list
        self.requested: list[str] = []

    def get(self, key: str) -> Buffer | None:
        self.requested.append(key)
        return self.objects.get(key)

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        data = self.get(key)
        return None if data is None else data[start : start + length]

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        data = self.get(key)
        return None if data is None else data[-length:]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        data = self.get(key)
        return None if data is None else [data[start : start + length] for start, length in ranges]

    def size(self, key: str) -> int | None:
        return len(self.objects[key]) if key in self.objects else None

    def list_dir(self, prefix: str) -> Listing:
        if not self.can_list:
            raise StoreError("this store cannot list")
        self.requested.append(f"{prefix}/*")
        start = f"{prefix}/" if prefix else ""
        rest = [key[len(start) :] for key in self.objects if key.startswith(start)]
        return (
            tuple(sorted({key for key in rest if "/" not in key})),
            tuple(sorted({key.split("/", 1)[0] for key in rest if "/" in key})),
        )

    def close(self) -> None:
        pass


class FolderStore(MemoryStore):
    """A `ByteStore` over a folder."""

    def __init__(self, root: str | Path) -> None:
        super().__init__({}, is_local=True)
        self.root = Path(root)
        self.label = str(root)

    def get(self, key: str) -> Buffer | None:
        self.requested.append(key)
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    def size(self, key: str) -> int | None:
        path = self.root / key
        return path.stat().st_size if path.is_file() else None

    def list_dir(self, prefix: str) -> Listing:
        self.requested.append(f"{prefix}/*")
        folder = self.root / prefix
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        return tuple(e.name for e in entries if e.is_file()), tuple(e.name for e in entries if e.is_dir())


def make_zip(path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/zarr.json", b"{}" * 50)
        file.writestr("a/c/0", bytes(1000))
    return path
