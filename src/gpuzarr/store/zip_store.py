"""A zip file on the local file system; members are read without a lock."""

from __future__ import annotations

import os
import stat
import struct
import threading
import weakref
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from gpuzarr.errors import Kind, NotFoundError, StoreError
from gpuzarr.store.base import Buffer, Listing
from gpuzarr.store.keys import check_key, check_prefix
from gpuzarr.store.local import LOCAL_GAP, read_at
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.ranges import check_range, coalesce, cut

__all__ = ["ZipByteStore"]

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # PKWARE APPNOTE 4.3.7
_SIGNATURE = b"PK\x03\x04"
_MOST_PER_BYTE = 1032  # deflate cannot expand further
_ENCRYPTED = 0x1


class ZipByteStore:
    """Members of a zip file, key = member name.

    The directory is read once. Stored members (as zarr writes them) are read by range with ``pread``, so threads do not
    wait for each other; deflated ones are inflated whole. Whole reads check the CRC of the zip file.

    Parameters
    ----------
    path
        Zip file. It must not change while it is open; a changed file is refused.
    """

    is_local = True

    def __init__(self, path: str | os.PathLike[str], options: StoreOptions | None = None) -> None:
        self.options = options if options is not None else StoreOptions()
        self.path = os.path.realpath(path)
        self._gap = LOCAL_GAP if self.options.coalesce_gap is None else self.options.coalesce_gap
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(self.path)
        except FileNotFoundError as error:
            raise NotFoundError(f"There is no file at {self.path!r}.") from error
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            denied = isinstance(error, PermissionError)
            raise StoreError(
                f"The zip file cannot be opened: {error}.",
                kind=Kind.STORE_DENIED if denied else Kind.STORE_FAILED,
                store=self.path,
            ) from error
        # A store in a reference cycle is collected with its file, in any order: the file must be closed by then.
        weakref.finalize(self, self._zip.close)
        self._file = self._zip.fp
        self._members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        self._folders = _folders(self._zip.namelist())
        self._starts: dict[str, int] = {}
        self._version = self._status()

    @property
    def label(self) -> str:
        """Path of the zip file."""
        return self.path

    def __repr__(self) -> str:
        return f"ZipByteStore({self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.options)

    def get(self, key: str) -> Buffer | None:
        """See `ByteStore.get`."""
        info = self._info(key)
        return None if info is None else self._whole(info)

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        """See `ByteStore.get_range`."""
        check_range(start, length)
        info = self._info(key)
        return None if info is None else self._part(info, start, length)

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        """See `ByteStore.get_suffix`."""
        check_range(0, length)
        info = self._info(key)
        return None if info is None else self._part(info, max(0, info.file_size - length), length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """See `ByteStore.get_ranges`."""
        spans = coalesce(ranges, self._gap, self.options.coalesce_max)
        info = self._info(key)
        if info is None:
            return None
        if info.compress_type == zipfile.ZIP_STORED:
            return cut(ranges, spans, [self._part(info, span.start, span.length) for span in spans])
        whole = memoryview(self._whole(info))
        return [whole[start : start + length] for start, length in ranges]

    def size(self, key: str) -> int | None:
        """See `ByteStore.size`."""
        info = self._info(key)
        return None if info is None else info.file_size

    def list_dir(self, prefix: str) -> Listing:
        """See `ByteStore.list_dir`."""
        keys, prefixes = self._folders.get(check_prefix(prefix, self.label), (set(), set()))
        return tuple(sorted(keys)), tuple(sorted(prefixes))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._zip.close()
            self._file = None

    def _info(self, key: str) -> zipfile.ZipInfo | None:
        return self._members.get(check_key(key, self.label))

    def _part(self, info: zipfile.ZipInfo, start: int, length: int) -> bytes:
        length = max(0, min(length, info.file_size - start))
        if info.compress_type != zipfile.ZIP_STORED:
            return self._whole(info)[start : start + length]
        return self._read(info, start, length)

    def _whole(self, info: zipfile.ZipInfo) -> bytes:
        if info.compress_type == zipfile.ZIP_STORED:
            data = self._read(info, 0, info.file_size)
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            data = self._inflate(info)
        else:
            raise self._damaged(
                info, f"it is compressed with method {info.compress_type}; only stored and deflated members are read"
            )
        if zlib.crc32(data) != info.CRC:
            raise self._damaged(info, "its checksum does not match")
        return data

    def _inflate(self, info: zipfile.ZipInfo) -> bytes:
        if info.file_size > _MOST_PER_BYTE * info.compress_size + 64:
            raise self._damaged(info, f"it claims to expand from {info.compress_size} to {info.file_size} bytes")
        packed = self._read(info, 0, info.compress_size)
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, info.file_size + 1)
        except zlib.error as error:
            raise self._damaged(info, str(error)) from error
        if len(data) != info.file_size:
            raise self._damaged(info, f"it does not expand to {info.file_size} bytes")
        return data

    def _read(self, info: zipfile.ZipInfo, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        descriptor = self._descriptor()
        try:
            data = read_at(descriptor, self._start(descriptor, info) + start, length)
        except OSError as error:
            raise StoreError(
                f"Reading the zip file failed: {error.strerror or error}.", store=self.path, key=info.filename
            ) from error
        if len(data) != length:
            raise self._damaged(info, "the zip file ends inside it")
        return data

    def _descriptor(self) -> int:
        file = self._file
        if file is None:
            raise StoreError("The zip file was closed.", store=self.path)
        if self._status() != self._version:
            raise StoreError(
                "The zip file changed while it was open. Open it again.", kind=Kind.STORE_CHANGED, store=self.path
            )
        return file.fileno()

    def _start(self, descriptor: int, info: zipfile.ZipInfo) -> int:
        """Offset of the member's bytes: its local header has a length of its own."""
        start = self._starts.get(info.filename)
        if start is None:
            header = read_at(descriptor, info.header_offset, _LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or header[:4] != _SIGNATURE:
                raise self._damaged(info, "its local header is not where the directory says")
            if info.flag_bits & _ENCRYPTED:
                raise self._damaged(info, "it is encrypted")
            *_, name, extra = _LOCAL_HEADER.unpack(header)
            start = info.header_offset + _LOCAL_HEADER.size + name + extra
            self._starts[info.filename] = start
        return start

    def _status(self) -> tuple[int, int, int]:
        file = self._file
        if file is None:
            raise StoreError("The zip file was closed.", store=self.path)
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise StoreError("The path is no regular file.", store=self.path)
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _damaged(self, info: zipfile.ZipInfo, why: str) -> StoreError:
        return StoreError(f"The member of the zip file cannot be read: {why}.", store=self.path, key=info.filename)


def _folders(names: Sequence[str]) -> dict[str, tuple[set[str], set[str]]]:
    """Keys and sub-prefixes by prefix."""
    folders: dict[str, tuple[set[str], set[str]]] = {}
    for name in names:
        parent, _, last = name.rstrip("/").rpartition("/")
        kind = 1 if name.endswith("/") else 0
        while last:
            keys = folders.setdefault(parent, (set(), set()))[kind]
            if last in keys:
                break
            keys.add(last)
            parent, _, last = parent.rpartition("/")
            kind = 1
    return folders
