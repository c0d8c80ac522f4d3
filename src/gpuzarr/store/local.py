# ruff: noqa: PTH114
"""A directory of the local file system, read with plain system calls (pathlib would cost more than the read)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from gpuzarr.errors import Kind, StoreError
from gpuzarr.store.base import Buffer, Listing
from gpuzarr.store.keys import check_key, check_prefix
from gpuzarr.store.limited import ObjectTooLargeError
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.ranges import Span, check_range, coalesce, cut
from gpuzarr.store.versions import VersionMemory

__all__ = ["LocalByteStore", "read_at", "read_into"]

T = TypeVar("T")

LOCAL_GAP = 32 << 10  # measured in the page cache: there a joined read costs as much as two separate ones
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FLAGS |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # a named pipe or terminal must not block the open
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_IS_LINK = (errno.ELOOP, getattr(errno, "EMLINK", errno.ELOOP))  # what O_NOFOLLOW says of a link
_MOST_FOLDERS = 1 << 16
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_ONE_READ = 1 << 30  # Linux cuts a read at 2 GiB - 4 KiB
_PREAD = hasattr(os, "pread")
_PREADV = hasattr(os, "preadv")


def read_at(descriptor: int, start: int, length: int) -> bytes:
    """``length`` bytes from ``start``, fewer only at the end of the file."""
    if length <= _ONE_READ:
        data = _pread(descriptor, length, start)
        if len(data) == length or not data:
            return data
        parts = [data]
    else:
        parts = []
    done = sum(map(len, parts))
    while done < length:
        data = _pread(descriptor, min(length - done, _ONE_READ), start + done)
        if not data:
            break
        parts.append(data)
        done += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_into(descriptor: int, start: int, out: memoryview) -> int:
    """Fill ``out``, one byte an item, from ``start``; bytes that were read, fewer only at the end of the file."""
    done = 0
    while done < len(out):
        n = _preadv(descriptor, out[done : done + _ONE_READ], start + done)
        if not n:
            break
        done += n
    return done


def _preadv(descriptor: int, out: memoryview, start: int) -> int:
    if _PREADV:
        return os.preadv(descriptor, (out,), start)
    data = _pread(descriptor, len(out), start)
    out[: len(data)] = data
    return len(data)


def _pread(descriptor: int, length: int, start: int) -> bytes:
    if _PREAD:
        return os.pread(descriptor, length, start)
    os.lseek(descriptor, start, os.SEEK_SET)  # the descriptor is this thread's own
    return os.read(descriptor, length)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return entry.is_dir()
    try:
        if not entry.is_dir():
            return False
        target, place = os.path.realpath(entry.path), os.path.realpath(entry.path.rpartition(os.sep)[0])
    except OSError:  # a link to itself
        return False
    return os.path.commonpath((target, place)) != target


class LocalByteStore:
    """Files below a directory, key = relative path with ``/``.

    Parameters
    ----------
    root
        Directory; it may itself be a symbolic link. Links below it that lead outside are refused unless
        ``options.follow_symlinks``.
    """

    is_local = True

    def __init__(self, root: str | os.PathLike[str], options: StoreOptions | None = None) -> None:
        self.options = options if options is not None else StoreOptions()
        self.root = os.path.realpath(root)
        self._base = self.root if self.root.endswith(os.sep) else self.root + os.sep
        self._gap = LOCAL_GAP if self.options.coalesce_gap is None else self.options.coalesce_gap
        self._folders = {""}  # known to lie inside the root
        self._versions = VersionMemory()

    @property
    def label(self) -> str:
        """Path of the root."""
        return self.root

    def __repr__(self) -> str:
        return f"LocalByteStore({self.root!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self.options)

    def for_scan(self) -> LocalByteStore:
        """The same store with an own memory of object versions."""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._versions = VersionMemory()
        return view

    def get(self, key: str) -> Buffer | None:
        """See `ByteStore.get`."""
        return self.with_file(key, lambda file, status: self._read(key, file, status, 0, status.st_size), whole=True)

    def get_at_most(self, key: str, most: int) -> Buffer | None:
        """See `gpuzarr.store.limited.get_at_most`: the size of an open file is known before it is read."""

        def read(file: int, status: os.stat_result) -> Buffer:
            if status.st_size > most:
                raise ObjectTooLargeError(status.st_size)
            return self._read(key, file, status, 0, status.st_size)

        return self.with_file(key, read, whole=True)

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        """See `ByteStore.get_range`."""
        check_range(start, length)
        return self._with_file(key, lambda file, status: self._read(key, file, status, start, length), part=True)

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        """See `ByteStore.get_suffix`."""
        check_range(0, length)
        return self._with_file(
            key, lambda file, status: self._read(key, file, status, max(0, status.st_size - length), length), part=True
        )

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """See `ByteStore.get_ranges`."""
        spans = self.spans(ranges)

        def read(file: int, status: os.stat_result) -> list[Buffer]:
            return cut(ranges, spans, [self._read(key, file, status, span.start, span.length) for span in spans])

        return self._with_file(key, read, part=True)

    def get_into(self, key: str, out: np.ndarray) -> int | None:
        """See `gpuzarr.store.base.ReadsInto.get_into`."""

        def read(file: int, status: os.stat_result) -> int:
            if status.st_size == out.nbytes:
                self._read_into(key, file, status, 0, out)
            return status.st_size

        return self.with_file(key, read, whole=True)

    def get_ranges_into(self, key: str, ranges: Sequence[tuple[int, int]], out: Sequence[np.ndarray]) -> int | None:
        """See `gpuzarr.store.base.ReadsInto.get_ranges_into`."""

        def read(file: int, status: os.stat_result) -> int:
            size = status.st_size
            for (start, length), target in zip(ranges, out, strict=True):
                check_range(start, length)
                if not _PREADV or start + length > size or os.preadv(file, (target,), start) != length:
                    self._read_into(key, file, status, start, target)
            return size

        return self._with_file(key, read, part=True)

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[Span]:
        """The reads that serve some ranges."""
        return coalesce(ranges, self._gap, self.options.coalesce_max)

    def with_file(self, key: str, use: Callable[[int, os.stat_result], T], *, whole: bool) -> T | None:
        """Result of ``use(descriptor, status)`` for a file that may be read; None if there is none.

        For readers of their own: the key, links and the kind of the file have been checked, and that it is the file that
        other parts were read from. ``whole``: all of it is read at once.
        """

        def noted(file: int, status: os.stat_result) -> T:
            self._versions.note(key, (status.st_mtime_ns, status.st_size, status.st_ino))
            return use(file, status)

        return self._with_file(key, noted) if whole else self._with_file(key, use, part=True)

    def shrunk(self, key: str) -> StoreError:
        """The error for a file that ended before its size."""
        return StoreError(
            "The file became shorter while it was being read. Run the query again.",
            kind=Kind.STORE_CHANGED,
            store=self.label,
            key=key,
        )

    def size(self, key: str) -> int | None:
        """See `ByteStore.size`."""
        return self._with_file(key, lambda _file, status: status.st_size)

    def version(self, key: str) -> Any:
        """What changes when the object (or folder) is replaced; None if there is none. One system call."""
        if key:
            check_key(key, self.root)
        try:
            status = os.stat(self._path(key))  # noqa: PTH116  # a Path costs more than the call
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise self._failed(key, error) from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def seen_version(self, key: str) -> Any:
        """Version of an object that was read in parts through this view; None if it was not."""
        return self._versions.seen(key)

    def expect_version(self, key: str, version: Any) -> None:
        """Parts of the object read from now on must belong to this version."""
        self._versions.note(key, version)

    def list_dir(self, prefix: str) -> Listing:
        """See `ByteStore.list_dir`. A link to a folder that it is in, or to itself, is listed as a key: nothing is below it."""
        prefix = check_prefix(prefix, self.label)
        path = self._path(prefix)
        if prefix and not self.options.follow_symlinks:
            self._check_inside(os.path.realpath(path), prefix)
        keys: list[str] = []
        prefixes: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    (prefixes if _is_folder(entry) else keys).append(entry.name)
        except OSError as error:
            if error.errno in _ABSENT:
                return (), ()
            raise self._failed(prefix, error) from error
        return tuple(sorted(keys)), tuple(sorted(prefixes))

    def close(self) -> None:
        """Nothing to release: descriptors live as long as one read."""

    def _path(self, key: str) -> str:
        return self._base + (key if os.sep == "/" else key.replace("/", os.sep))

    def _with_file(self, key: str, use: Callable[[int, os.stat_result], T], *, part: bool = False) -> T | None:
        """Result of ``use(descriptor, status)`` for a regular file inside the root; None if there is none.

        ``part``: it reads only a part of the file, so the file must be the one that other parts were read from.
        """
        check_key(key, self.root)
        try:
            descriptor = self._open(key)
        except StoreError:
            raise
        except OSError as error:
            raise self._failed(key, error) from error
        if descriptor is None:
            if not os.path.isdir(self.root):  # else every chunk of a deleted store would be its fill value  # noqa: PTH112  # as above
                message = "The directory of the store is not there any more."
                raise StoreError(message, kind=Kind.STORE_CHANGED, store=self.root, key=key)
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
                raise StoreError(f"The key is {what}, not an object.", store=self.root, key=key)
            if part and self.options.detect_changes:
                self._versions.check(key, (status.st_mtime_ns, status.st_size, status.st_ino), self.root)
            return use(descriptor, status)
        except StoreError:
            raise
        except OSError as error:
            raise self._failed(key, error) from error
        finally:
            os.close(descriptor)

    def _open(self, key: str) -> int | None:
        """Descriptor of a file; None if there is none.

        A folder is looked at once, when the first key below it is read; the last part of the path is opened without
        following a link, so that only links cost a look at where they lead.
        """
        path = self._path(key)
        if self.options.follow_symlinks:
            return self._open_followed(path, path, key)
        folder = key.rpartition("/")[0]
        self._admit(folder, key)
        if _NOFOLLOW:
            try:
                return os.open(path, _FLAGS | _NOFOLLOW)
            except OSError as error:
                if error.errno in _ABSENT:
                    return None
                if error.errno not in _IS_LINK:
                    raise
        target = os.path.realpath(path)
        self._check_inside(target, key)
        return self._open_followed(target, path, key)

    def _admit(self, folder: str, key: str) -> None:
        """Make sure that a folder lies inside the root; looked at once, one system call a folder unless it is a link."""
        if folder in self._folders:
            return
        self._admit(folder.rpartition("/")[0], key)
        path = self._path(folder)
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except OSError:  # it is not there, or opening the file will say what is wrong
            is_link = False
        if is_link:
            self._check_inside(os.path.realpath(path), key)
        if len(self._folders) >= _MOST_FOLDERS:
            self._folders = {""}
        self._folders.add(folder)

    def _open_followed(self, target: str, path: str, key: str) -> int | None:
        try:
            return os.open(target, _FLAGS)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            if os.path.islink(path):
                raise StoreError(
                    "The key is a symbolic link to something that is not there.", store=self.root, key=key
                ) from error
            return None

    def _check_inside(self, path: str, key: str) -> None:
        if path != self.root and not path.startswith(self._base):
            raise StoreError(
                "The key leads outside the store's root through a symbolic link. If the link is meant, open the store "
                "with StoreOptions(follow_symlinks=True).",
                kind=Kind.KEY_UNSAFE,
                store=self.root,
                key=key,
            )

    def _read(self, key: str, descriptor: int, status: os.stat_result, start: int, length: int) -> bytes:
        expected = max(0, min(length, status.st_size - start))
        data = read_at(descriptor, start, expected) if expected else b""
        if len(data) != expected:
            raise self.shrunk(key)
        return data

    def _read_into(self, key: str, descriptor: int, status: os.stat_result, start: int, out: np.ndarray) -> None:
        view = memoryview(out).cast("B")
        expected = max(0, min(len(view), status.st_size - start))
        if read_into(descriptor, start, view[:expected]) != expected:
            raise self.shrunk(key)

    def _failed(self, key: str, error: OSError) -> StoreError:
        denied = error.errno in (errno.EACCES, errno.EPERM)
        return StoreError(
            f"Reading the file failed: {error.strerror or error}.",
            kind=Kind.STORE_DENIED if denied else Kind.STORE_FAILED,
            store=self.label,
            key=key or None,
        )
