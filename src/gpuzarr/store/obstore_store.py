"""Object stores through obstore's blocking calls: no event loop, the GIL is released while waiting."""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from gpuzarr.errors import EnvironmentLacksError, Kind, ResourceError, StoreError
from gpuzarr.redact import redact
from gpuzarr.store.base import Buffer, Listing
from gpuzarr.store.forks import check_same_process, check_tokio
from gpuzarr.store.keys import check_key, check_prefix
from gpuzarr.store.limited import ObjectTooLargeError
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.ranges import check_range, coalesce, cut
from gpuzarr.store.retry import Failure, classify, run
from gpuzarr.store.secrets import public_options, public_url
from gpuzarr.store.versions import VersionMemory

__all__ = ["ObstoreByteStore", "Recipe"]

T = TypeVar("T")

REMOTE_GAP = 1 << 20
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified (?:bucket|container) does not exist")
_REFUSALS = 2  # a single refused range may be a proxy's whim


@dataclass(frozen=True)
class Recipe:
    """How to open a store again in another process.

    Attributes
    ----------
    url
        Where it is; with its secrets, if it has any.
    storage_options
        Options as the user gave them.
    """

    url: str
    storage_options: Mapping[str, Any]

    def public(self) -> tuple[Recipe, bool]:
        """The recipe without secrets, and whether there were any."""
        url = public_url(self.url)
        options, dropped = public_options(self.storage_options)
        return Recipe(url, options), dropped or url != self.url

    def __repr__(self) -> str:
        return f"Recipe({redact(self.url)!r}, storage_options={sorted(self.storage_options)})"


@dataclass(frozen=True)
class _Piece:
    data: memoryview
    size: int
    version: Any


class ObstoreByteStore:
    """Any obstore store (S3, GCS, Azure, HTTP, memory, local).

    Ranges are asked for with the whole reply at hand, so that a body of another length than announced is never passed
    on, and an object that was replaced between two ranges is noticed.

    Parameters
    ----------
    store
        The obstore store.
    recipe
        How to make it again, if gpuzarr made it; None for a store that the user gave.
    retries_itself
        Whether the store repeats failed requests itself; then only wrong lengths are repeated here.
    stripped
        Whether credentials were left out when the store was pickled.
    """

    is_local = False

    def __init__(
        self,
        store: Any,
        options: StoreOptions | None = None,
        *,
        label: str | None = None,
        recipe: Recipe | None = None,
        retries_itself: bool = True,
        stripped: bool = False,
    ) -> None:
        self.options = options if options is not None else StoreOptions()
        self.obstore_store = store
        self._label = redact(label if label is not None else describe(store))
        self._recipe = recipe
        self._retries_itself = retries_itself
        self._stripped = stripped
        self._pid = os.getpid()
        self._slots = threading.BoundedSemaphore(self.options.max_concurrency)
        self._gap = REMOTE_GAP if self.options.coalesce_gap is None else self.options.coalesce_gap
        self._shared = _Shared(self.options.max_concurrency)
        self._versions = VersionMemory()

    @property
    def label(self) -> str:
        """URL without secrets."""
        return self._label

    def __repr__(self) -> str:
        return f"ObstoreByteStore({self._label!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        recipe, dropped = self._recipe, False
        if recipe is None:
            return _restore_given, (*self._given(), self.options, self._label)
        if not self.options.pickle_secrets:
            recipe, dropped = recipe.public()
        return _restore, (recipe.url, dict(recipe.storage_options), self.options, dropped or self._stripped)

    def for_scan(self) -> ObstoreByteStore:
        """The same store with an own memory of object versions; connections and threads are shared."""
        view = object.__new__(type(self))  # copy.copy would go through the pickle, without credentials
        view.__dict__.update(self.__dict__)
        view._versions = VersionMemory()
        return view

    def get(self, key: str) -> Buffer | None:
        """See `ByteStore.get`."""
        check_key(key, self._label)
        piece = self._request(key, None)
        if piece is None:
            return None
        self._versions.note(key, piece.version)
        return piece.data

    def get_at_most(self, key: str, most: int) -> Buffer | None:
        """See `gpuzarr.store.limited.get_at_most`: a reply begins with the object's size."""
        check_key(key, self._label)
        piece = self._request(key, None, most)
        if piece is None:
            return None
        self._versions.note(key, piece.version)
        return piece.data

    def _whole_of_parts(self, key: str) -> memoryview | None:
        """The object, where the server knows no ranges: all parts must be of one version here too."""
        piece = self._request(key, None)
        if piece is None:
            return None
        self._versions_check(key, piece)
        return piece.data

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        """See `ByteStore.get_range`."""
        check_key(key, self._label)
        check_range(start, length)
        if length == 0:
            return None if self.size(key) is None else b""
        return self._range(key, start, length)

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        """See `ByteStore.get_suffix`."""
        check_key(key, self._label)
        check_range(0, length)
        if length == 0:
            return None if self.size(key) is None else b""
        if self._shared.whole_only:
            whole = self._whole_of_parts(key)
            return None if whole is None else whole[-length:]
        try:
            piece = self._request(key, {"suffix": length})
        except _RangeRefusedError:
            return self._suffix_by_size(key, length)
        except _BeyondEndError:  # some servers say so for a suffix of an empty object
            return self._suffix_by_size(key, length)
        if piece is None:
            return None
        if len(piece.data) != min(length, piece.size):
            raise self._wrong_length(key, len(piece.data), min(length, piece.size)).error
        self._versions_check(key, piece)
        return piece.data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """See `ByteStore.get_ranges`."""
        check_key(key, self._label)
        spans = coalesce(ranges, self._gap, self.options.coalesce_max)
        if not spans:
            return None if self.size(key) is None else [b""] * len(ranges)
        if len(spans) == 1:
            pieces = [self._range(key, spans[0].start, spans[0].length)]
        elif self._shared.whole_only:
            whole = self._whole_of_parts(key)
            pieces = [None if whole is None else whole[span.start : span.start + span.length] for span in spans]
        else:
            check_same_process(self._pid, self._label)
            pool = self._shared.pool()
            futures = [pool.submit(self._range, key, span.start, span.length) for span in spans[1:]]
            try:
                pieces = [self._range(key, spans[0].start, spans[0].length)]
                pieces += [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
        found = [piece for piece in pieces if piece is not None]
        if not found:
            return None
        if len(found) != len(pieces):
            raise StoreError(
                "The object was removed while it was being read in parts. Run the query again.",
                kind=Kind.STORE_CHANGED,
                store=self._label,
                key=key,
            )
        return cut(ranges, spans, found)

    def size(self, key: str) -> int | None:
        """See `ByteStore.size`."""
        check_key(key, self._label)
        try:
            return int(self._call(lambda: self.obstore_store.head(key), key)["size"])
        except _AbsentError:
            return None

    def version(self, key: str) -> Any:
        """What changes when the object is replaced; None if there is none. One request without a body."""
        check_key(key, self._label)
        try:
            meta = self._call(lambda: self.obstore_store.head(key), key)
        except _AbsentError:
            return None
        return meta["e_tag"], meta["size"], meta["last_modified"]

    def seen_version(self, key: str) -> Any:
        """Version of an object that was read through this view; None if it was not."""
        return self._versions.seen(key)

    def expect_version(self, key: str, version: Any) -> None:
        """Parts of the object read from now on must belong to this version."""
        self._versions.note(key, version)

    def list_dir(self, prefix: str) -> Listing:
        """See `ByteStore.list_dir`."""
        prefix = check_prefix(prefix, self._label)
        try:
            found = self._call(lambda: self.obstore_store.list_with_delimiter(prefix or None), prefix or None)
        except _AbsentError:
            return (), ()
        except StoreError as error:
            if self._label.startswith(("http://", "https://")) and error.kind is not Kind.STORE_TIMEOUT:
                raise StoreError(
                    f"This server does not list what it holds, so the store needs consolidated metadata, or name the "
                    f"array. {error.message}",
                    kind=error.kind,
                    store=self._label,
                    key=prefix or None,
                ) from error
            raise
        keys = {entry["path"].rpartition("/")[2] for entry in found["objects"] if entry["path"].strip("/") != prefix}
        prefixes = {path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]}
        return tuple(sorted(keys - {""})), tuple(sorted(prefixes - {""}))

    def close(self) -> None:
        """End the threads of this store; the obstore store itself is released with the last reference."""
        self._shared.close()

    def _range(self, key: str, start: int, length: int) -> memoryview | None:
        """Bytes of a range, shorter only where the object ends."""
        if not self._shared.whole_only:
            try:
                piece = self._request(key, (start, start + length))
            except _RangeRefusedError:
                self._shared.refused()
            except _BeyondEndError:
                size = self.size(key)
                if size is None or start >= size:
                    return None if size is None else memoryview(b"")
                raise self._wrong_length(key, 0, min(length, size - start)).error from None
            else:
                if piece is None:
                    return None
                self._shared.ranges_work = True
                self._versions_check(key, piece)
                return piece.data
        whole = self._whole_of_parts(key)
        return None if whole is None else whole[start : start + length]

    def _suffix_by_size(self, key: str, length: int) -> memoryview | None:
        size = self.size(key)
        if not size:
            return None if size is None else memoryview(b"")
        return self._range(key, max(0, size - length), min(length, size))

    def _request(self, key: str, byte_range: Any, most: int | None = None) -> _Piece | None:
        """One reply of a verified length; None if there is no object. An object of more than ``most`` bytes is refused."""

        def fetch() -> _Piece:
            result = self.obstore_store.get(key, options=None if byte_range is None else {"range": byte_range})
            meta, (start, stop) = result.meta, result.range
            if most is not None and meta["size"] > most:
                raise ObjectTooLargeError(meta["size"])
            data = memoryview(result.bytes())
            expected = stop - start
            if byte_range is None:
                expected = meta["size"]
            elif isinstance(byte_range, tuple):
                expected = max(0, min(byte_range[1], meta["size"]) - byte_range[0])
            if len(data) != expected:
                raise self._wrong_length(key, len(data), expected)
            return _Piece(data, meta["size"], (meta["e_tag"], meta["size"], meta["last_modified"]))

        try:
            return self._call(fetch, key)
        except _AbsentError:
            return None

    def _call(self, make: Callable[[], T], key: str | None) -> T:
        check_same_process(self._pid, self._label)
        check_tokio(self._label)

        def attempt() -> T:
            with self._slots:
                try:
                    return make()
                except (FileNotFoundError, NotADirectoryError) as error:
                    if _NO_BUCKET.search(str(error)) is None:
                        raise _AbsentError from error
                    raise self._failure(error, key) from error
                except (Failure, ObjectTooLargeError):
                    raise
                except MemoryError as error:
                    raise ResourceError(
                        "There is not enough memory for the object.", store=self._label, key=key
                    ) from error
                except Exception as error:
                    raise self._failure(error, key) from error

        return run(attempt, self.options)

    def _failure(self, error: Exception, key: str | None) -> Exception:
        text = str(error)
        name = type(error).__name__
        if name == "NotFoundError" or "kind: NotADirectory" in text:
            return _AbsentError()
        if "RangeNotSupported" in text or (name == "NotSupportedError" and "range" in text.lower()):
            return _RangeRefusedError()
        if "status code: 416" in text or "StartTooLarge" in text:
            return _BeyondEndError()
        if _NO_BUCKET.search(text) is not None:
            message = "The bucket or container does not exist. Check its name, the account and the endpoint."
            return Failure(StoreError(message, store=self._label, key=key), transient=False)
        failure = classify(error, store=self._label, key=key)
        if failure.error.kind is Kind.STORE_DENIED and self._stripped:
            message = (
                f"{failure.error.message} The store was unpickled without its credentials: set them in this process's "
                f"environment, or open it with StoreOptions(pickle_secrets=True)."
            )
            return Failure(
                StoreError(message, kind=Kind.STORE_DENIED, store=self._label, key=key), transient=failure.transient
            )
        if self._retries_itself:
            return Failure(failure.error, transient=False)
        return failure

    def _versions_check(self, key: str, piece: _Piece) -> None:
        if self.options.detect_changes:
            self._versions.check(key, piece.version, self._label)

    def _wrong_length(self, key: str, got: int, expected: int) -> Failure:
        message = f"The store sent {got} bytes where {expected} were announced."
        return Failure(StoreError(message, store=self._label, key=key), transient=True)

    def _given(self) -> tuple[type, dict[str, Any]]:
        """Class and arguments of a store that the user gave, without secrets unless they are wanted."""
        store = self.obstore_store
        arguments: dict[str, Any] = {}
        for name in ("url", "config", "prefix", "client_options", "retry_config"):
            value = getattr(store, name, None)
            if value is not None:
                arguments[name] = value
        if "url" not in arguments and "config" not in arguments and type(store).__name__ != "LocalStore":
            raise pickle.PicklingError(
                f"The store {self._label!r} was given as an object that cannot be pickled; give a URL or path instead."
            )
        if not self.options.pickle_secrets:
            if "url" in arguments:
                arguments["url"] = public_url(arguments["url"])
            for name in ("config", "client_options"):
                if name in arguments:
                    arguments[name], _ = public_options(arguments[name])
        return type(store), arguments


class _Shared:
    """What all views of one store share: its threads, and what is known of the server."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._refusals = 0
        self.ranges_work = False

    @property
    def whole_only(self) -> bool:
        """Whether the server was seen to know no ranges."""
        return not self.ranges_work and self._refusals >= _REFUSALS

    def refused(self) -> None:
        with self._lock:
            self._refusals += 1

    def pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="gpuzarr-ranges")
            return self._pool

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


class _AbsentError(Exception):
    """There is no such object."""


class _RangeRefusedError(Exception):
    """The server sent the whole object where a range was asked for, or cannot do this kind of range."""


class _BeyondEndError(Exception):
    """The range starts at or after the end of the object."""


def describe(store: Any) -> str:
    """URL-like text for a store that the user gave."""
    url = getattr(store, "url", None)
    if isinstance(url, str):
        return url
    try:
        text = repr(store)
    except Exception:
        text = ""
    return text if 0 < len(text) <= 200 else type(store).__name__


def _restore(url: str, storage_options: dict[str, Any], options: StoreOptions, stripped: bool) -> ObstoreByteStore:
    from gpuzarr.store.urls import open_obstore

    return open_obstore(url, storage_options, options, stripped=stripped)


def _restore_given(kind: type, arguments: dict[str, Any], options: StoreOptions, label: str) -> ObstoreByteStore:
    try:
        store = kind.from_url(arguments.pop("url"), **arguments) if "url" in arguments else kind(**arguments)  # type: ignore[attr-defined]
    except Exception as error:
        raise EnvironmentLacksError(
            f"The store cannot be opened again here: {str(error).splitlines()[0]}. Set its credentials in this process's "
            f"environment.",
            store=label,
        ) from error
    return ObstoreByteStore(store, options, label=label, stripped=not options.pickle_secrets)
