"""Any zarr-python ``Store`` as a `ByteStore`.

Coroutines of a zarr store run on zarr's own event loop, in its thread: a store that was already used through zarr may
hold sessions and locks that belong to that loop and fail on another one. Nothing here blocks that loop. Stores whose
coroutines never wait (memory, zip) are driven in the calling thread and need no loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import re
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from zarr import storage as zarr_storage
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer.cpu import buffer_prototype
from zarr.core.sync import _get_loop
from zarr.storage import FsspecStore, MemoryStore, ZipStore

from gpuzarr.errors import EnvironmentLacksError, ResourceError, StoreError
from gpuzarr.redact import redact
from gpuzarr.store.base import Buffer, ByteStore, Listing
from gpuzarr.store.forks import check_same_process
from gpuzarr.store.keys import check_key, check_prefix, join
from gpuzarr.store.limited import ObjectTooLargeError
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.ranges import check_range, coalesce, cut
from gpuzarr.store.retry import Failure, classify, run
from gpuzarr.store.secrets import public_options, public_url

__all__ = ["ZarrByteStore"]

T = TypeVar("T")

REMOTE_GAP = 1 << 20
_UNCHECKED = 64 << 20
# coroutines of these return without ever waiting for anything
_NEVER_WAIT = (MemoryStore, ZipStore, getattr(zarr_storage, "ManagedMemoryStore", MemoryStore))
_BEYOND = re.compile(r"out of (?:bounds|range)|not satisfiable", re.IGNORECASE)
# Icechunk's answers where others say that there is no such object
_NO_KEY = re.compile("invalid zarr key format|bad key prefix")
_DOCUMENTS = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})


class ZarrByteStore:
    """Adapter of a zarr ``Store`` given by the user; closing it leaves that store open.

    Parameters
    ----------
    store
        Any ``zarr.abc.store.Store``.
    url, storage_options
        Where gpuzarr opened the store from, if it did: pickles hold these instead of the store.
    """

    def __init__(
        self,
        store: Store,
        options: StoreOptions | None = None,
        *,
        label: str | None = None,
        url: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.options = options if options is not None else StoreOptions()
        self.zarr_store = store
        self._label = redact(label if label is not None else _describe(store))
        self._url = url
        self._storage_options = dict(storage_options or {})
        self._waits = type(store) not in _NEVER_WAIT
        self._sizes_first = isinstance(store, FsspecStore) and _speaks_http(store)
        self._opening = threading.Lock()
        self._opened = False
        self._pid = os.getpid()
        self._slots = threading.BoundedSemaphore(self.options.max_concurrency)
        gap = self.options.coalesce_gap
        self._gap = gap if gap is not None else REMOTE_GAP if self._waits else 0

    @property
    def label(self) -> str:
        """Kind and place of the store, without secrets."""
        return self._label

    @property
    def is_local(self) -> bool:
        """Whether reads are answered without waiting."""
        return not self._waits

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._label!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._url is not None:
            url, storage_options = self._url, self._storage_options
            if not self.options.pickle_secrets:
                url, (storage_options, _) = public_url(url), public_options(storage_options)
            return _reopen, (url, storage_options, self.options)
        if not self.options.pickle_secrets and _may_be_secret(self.zarr_store):
            raise pickle.PicklingError(
                f"The store {self._label!r} may carry credentials. Give a URL, so that the other process takes its own, "
                f"or open it with StoreOptions(pickle_secrets=True)."
            )
        try:
            pickle.dumps(self.zarr_store)
        except Exception as error:
            raise pickle.PicklingError(
                f"The store {self._label!r} was given as an object that cannot be pickled "
                f"({redact(str(error))[:200]}); give a URL or path instead."
            ) from None
        return _rebuild, (self.zarr_store, self.options, self._label)

    def get(self, key: str) -> Buffer | None:
        """See `ByteStore.get`."""
        return self._get(check_key(key, self._label), None)

    def get_at_most(self, key: str, most: int) -> Buffer | None:
        """See `gpuzarr.store.limited.get_at_most`: files of fsspec are asked for a range, others make their own objects."""
        check_key(key, self._label)
        if not isinstance(self.zarr_store, FsspecStore):
            return self._get(key, None)
        if self._sizes_first:
            size = self.size(key)
            if size is not None and size > most:
                raise ObjectTooLargeError(size)
            return None if size is None else self._get(key, None)
        try:
            data = self._get(key, RangeByteRequest(0, most + 1))
        except StoreError:
            if self.size(key) != 0:  # servers have no ranges of an empty object
                raise
            return b""
        if data is not None and len(data) > most:
            raise ObjectTooLargeError(self.size(key) or len(data))
        return data

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        """See `ByteStore.get_range`."""
        check_key(key, self._label)
        check_range(start, length)
        if length == 0:
            return None if self.size(key) is None else b""
        return self._read_range(key, start, length)

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        """See `ByteStore.get_suffix`."""
        check_key(key, self._label)
        check_range(0, length)
        if length == 0:
            return None if self.size(key) is None else b""
        if self._sizes_first:
            size = self.size(key)
            return None if size is None else self._read_range(key, max(0, size - length), min(length, size))
        data = self._get(key, SuffixByteRequest(length))
        if data is None or len(data) == length:
            return data
        if len(data) > length:  # the server ignored the range and sent all of it
            return data[-length:]
        size = self.size(key)
        if size is None or len(data) == size:
            return data
        # zarr before 3.2 cuts wrongly where the object is shorter than the suffix
        return self._read_range(key, max(0, size - length), min(length, size))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """See `ByteStore.get_ranges`."""
        check_key(key, self._label)
        spans = coalesce(ranges, self._gap, self.options.coalesce_max)
        if not spans:
            return None if self.size(key) is None else [b""] * len(ranges)
        data = self._read_spans(key, [(span.start, span.length) for span in spans])
        return None if data is None else cut(ranges, spans, data)

    def size(self, key: str) -> int | None:
        """See `ByteStore.size`."""
        check_key(key, self._label)
        try:
            return int(self._call(lambda: self.zarr_store.getsize(key), key))
        except _AbsentError:
            return None

    def list_dir(self, prefix: str) -> Listing:
        """See `ByteStore.list_dir`."""
        prefix = check_prefix(prefix, self._label)
        try:
            keys, prefixes = self._call(lambda: self._list(prefix), prefix or None)
        except _AbsentError:
            return (), ()
        return tuple(sorted(keys)), tuple(sorted(prefixes))

    def close(self) -> None:
        """Nothing: the zarr store belongs to whoever made it."""

    async def _list(self, prefix: str) -> tuple[set[str], set[str]]:
        if isinstance(self.zarr_store, FsspecStore):
            return await _list_fsspec(self.zarr_store, prefix)
        keys: set[str] = set()
        prefixes: set[str] = set()
        async for name in self.zarr_store.list_dir(prefix):
            name = name.rstrip("/")
            if not name:
                continue
            known = name in _DOCUMENTS or await self._exists(join(prefix, name))
            (keys if known else prefixes).add(name)
        return keys, prefixes

    async def _exists(self, key: str) -> bool:
        try:
            return await self.zarr_store.exists(key)
        except Exception as error:
            if _NO_KEY.search(str(error)):
                return False
            raise

    def _get(self, key: str, request: RangeByteRequest | SuffixByteRequest | None) -> Buffer | None:
        try:
            return _array(self._call(lambda: self.zarr_store.get(key, buffer_prototype, request), key))
        except _AbsentError:
            return None

    def _read_range(self, key: str, start: int, length: int) -> Buffer | None:
        data = self._read_spans(key, [(start, length)])
        return None if data is None else data[0]

    def _read_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """Bytes of ranges, all asked for at once; each of a length that the object's size explains."""
        # Some libraries allocate what is asked for before they look: a huge length may come from damaged metadata.
        if self._sizes_first or any(length > _UNCHECKED for _, length in spans):
            size = self.size(key)
            if size is None:
                return None
            spans = [(start, max(0, min(length, size - start))) for start, length in spans]

        async def fetch() -> list[Any]:
            wanted = [RangeByteRequest(start, start + length) for start, length in spans if length]
            if not self._waits:
                return [await self.zarr_store.get(key, buffer_prototype, request) for request in wanted]
            return await asyncio.gather(*(self.zarr_store.get(key, buffer_prototype, request) for request in wanted))

        try:
            found = iter(self._call(fetch, key))
        except _AbsentError:
            return None
        except StoreError as error:
            # Icechunk refuses ranges that end after the object
            size = self.size(key) if _BEYOND.search(error.message) else None
            if size is None or all(start + length <= size for start, length in spans):
                raise
            return self._read_spans(key, [(start, max(0, min(length, size - start))) for start, length in spans])
        pieces: list[Buffer] = []
        for start, length in spans:
            data = _array(next(found)) if length else np.empty(0, np.uint8)
            if data is None:
                return None
            pieces.append(data if len(data) == length else self._explained(key, data, start, length))
        return pieces

    def _explained(self, key: str, data: np.ndarray, start: int, length: int) -> np.ndarray:
        """The part of ``data`` that was asked for, where its length is not the one asked for."""
        size = self.size(key)
        expected = length if size is None else max(0, min(length, size - start))
        if len(data) == expected:
            return data
        if len(data) == size:  # the server ignored the range and sent all of it
            return data[start : start + length]
        raise self._wrong_length(key, len(data), expected)

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]], key: str | None) -> T:
        """Result of a coroutine, with retries. `_AbsentError` if the library says that there is no object."""

        def attempt() -> T:
            try:
                with self._slots:
                    if not self._opened:
                        self._open()
                    return self._run(make())
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _AbsentError from error
            except (StoreError, EnvironmentLacksError):
                raise
            except MemoryError as error:
                raise ResourceError("There is not enough memory for the object.", store=self._label, key=key) from error
            except KeyError as error:
                if isinstance(self.zarr_store, ZipStore):
                    raise _AbsentError from error
                raise classify(error, store=self._label, key=key) from error
            except Exception as error:
                if _NO_KEY.search(str(error)):
                    raise _AbsentError from error
                raise classify(error, store=self._label, key=key) from error

        return run(attempt, self.options)

    def _open(self) -> None:
        """Some stores answer only when they were opened, and not all open themselves."""
        with self._opening:
            if not self._opened:
                ensure_open = getattr(self.zarr_store, "_ensure_open", None)
                if ensure_open is not None:
                    self._run(ensure_open())
                self._opened = True

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._waits:
            try:
                coroutine.send(None)
            except StopIteration as result:
                return result.value  # type: ignore[no-any-return]
            coroutine.close()
            raise Failure(StoreError("The store waited although it should not.", store=self._label), transient=False)
        try:
            check_same_process(self._pid, self._label)
        except EnvironmentLacksError:
            coroutine.close()
            raise
        loop = _get_loop()
        if _running_loop() is loop:
            coroutine.close()
            raise EnvironmentLacksError(
                "A blocking read was asked for in zarr's own event loop, which would wait for itself. Use a thread "
                "(asyncio.to_thread).",
                store=self._label,
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result(self.options.request_timeout)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # the store's own time limit
            raise TimeoutError(f"no answer within {self.options.request_timeout:g} s") from None
        finally:
            future.cancel()  # frees the task where this thread was interrupted

    def _wrong_length(self, key: str, got: int, expected: int) -> StoreError:
        return StoreError(
            f"The store returned {got} bytes where {expected} were asked for.", store=self._label, key=key
        )


class _AbsentError(Exception):
    """The library says that there is no such object."""


def _array(buffer: Any) -> np.ndarray | None:
    """A read-only view: the bytes may be the store's own."""
    if buffer is None:
        return None
    view: np.ndarray = buffer.as_numpy_array().view(np.uint8)
    view.flags.writeable = False
    return view


def _reopen(url: str, storage_options: dict[str, Any], options: StoreOptions) -> ByteStore:
    from gpuzarr.store.urls import open_url

    return open_url(url, storage_options, options)


def _speaks_http(store: FsspecStore) -> bool:
    """HTTP servers may ignore ranges, and fsspec does not tell: then lengths are the only evidence."""
    protocol = getattr(store.fs, "protocol", ())
    return "http" in ((protocol,) if isinstance(protocol, str) else protocol)


def _may_be_secret(store: Any) -> bool:
    """Whether a store, or one inside it, was made with options that are not known to be harmless."""
    seen: list[Any] = []
    while store is not None and not any(store is other for other in seen):
        seen.append(store)
        for name in ("storage_options", "config", "client_options"):
            options = getattr(store, name, None)
            if isinstance(options, Mapping) and public_options(options)[1]:
                return True
        # zarr's wrappers, zarr's ObjectStore, FsspecStore, fsspec's wrappers
        inner = (getattr(store, name, None) for name in ("_store", "store", "sync_fs", "fs"))
        store = next((part for part in inner if part is not None), None)
    return False


def _rebuild(store: Store, options: StoreOptions, label: str) -> ZarrByteStore:
    return ZarrByteStore(store, options, label=label)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _describe(store: Store) -> str:
    if type(store) is MemoryStore:
        return "memory"
    if isinstance(store, FsspecStore):
        protocol = getattr(store.fs, "protocol", "fsspec")
        protocol = protocol if isinstance(protocol, str) else protocol[0]
        return store.path if "://" in store.path else f"{protocol}://{store.path}"
    text = " ".join(str(store).split())
    return text if len(text) <= 200 else type(store).__name__


async def _list_fsspec(store: FsspecStore, prefix: str) -> tuple[set[str], set[str]]:
    """Own listing: zarr's does not tell objects from directories, and before 3.3 mangled names under some roots."""
    root = store.path.rstrip("/")
    path = "/".join(part for part in (root, prefix) if part)
    scraped = _speaks_http(store)
    keys: set[str] = set()
    prefixes: set[str] = set()
    for entry in await store.fs._ls(path, detail=True):  # noqa: SLF001 - fsspec's documented name for the coroutine
        full = entry["name"].rstrip("/")
        name = full.rpartition("/")[2]
        if full.strip("/") == path.strip("/") or not name:
            continue
        if scraped and any(character in name for character in "?#"):  # a link of an HTML page, not an object
            continue
        (prefixes if entry.get("type") == "directory" else keys).add(name)
    return keys, prefixes
