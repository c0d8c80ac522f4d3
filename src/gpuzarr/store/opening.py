"""From what a user gives to a store and the path of a node in it."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, StorePath, ZipStore

from gpuzarr.errors import Kind, NotFoundError, RequestError, StoreError
from gpuzarr.redact import public_cause, redact
from gpuzarr.store.base import ByteStore
from gpuzarr.store.keys import check_prefix
from gpuzarr.store.local import LocalByteStore
from gpuzarr.store.obstore_store import ObstoreByteStore
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.urls import open_url
from gpuzarr.store.zarr_store import ZarrByteStore
from gpuzarr.store.zip_store import ZipByteStore

__all__ = ["OpenedStore", "open_store"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:(?://|:)")


@dataclass(frozen=True)
class OpenedStore:
    """A store and where in it the node is that was asked for.

    Attributes
    ----------
    store
        Bytes by key.
    path
        Path of a group or array inside the store; "" is its root.
    """

    store: ByteStore
    path: str = ""

    def close(self) -> None:
        """Release what opening the store took."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(
    target: Any, *, storage_options: Mapping[str, Any] | None = None, options: StoreOptions | None = None
) -> OpenedStore:
    """Open a store for reading.

    Parameters
    ----------
    target
        A path (``str`` or ``os.PathLike``; a directory or a zip file), a URL (``file://``, ``s3://``, ``gs://``,
        ``az://``, ``abfs://``, ``http(s)://``, whatever fsspec knows), a zarr ``Store``, ``StorePath``, ``Group`` or
        ``Array``, an obstore store, an fsspec mapper, an Icechunk store or session.
    storage_options
        Options of the library that opens a URL: credentials, region, endpoint.
    options
        Limits, retries, coalescing.

    Raises
    ------
    NotFoundError
        There is nothing at the path.
    RequestError
        The target is of no known kind, or the options do not fit it.
    EnvironmentLacksError
        A library for the URL is not installed.
    """
    options = options if options is not None else StoreOptions()
    if isinstance(target, OpenedStore):
        return target
    if isinstance(target, str) and _URL.match(target):
        return OpenedStore(_open_url(target, storage_options or {}, options))
    if storage_options:
        what = (
            "a path needs none"
            if isinstance(target, str | os.PathLike)
            else f"a {type(target).__name__} carries its own"
        )
        raise RequestError(f"storage_options are for URLs; {what}.")
    if _is_upath(target):
        target = target.fs.get_mapper(target.path)
    if isinstance(target, str | os.PathLike):
        return OpenedStore(_open_path(os.fspath(target), options))
    if isinstance(target, zarr.Group | zarr.Array):
        target = target.store_path
    if isinstance(target, StorePath):
        return OpenedStore(_adapt(target.store, options), check_prefix(target.path))
    if isinstance(target, Store):
        return OpenedStore(_adapt(target, options))
    if _is_obstore(target):
        return OpenedStore(ObstoreByteStore(target, options))
    if _is_mapper(target):
        return OpenedStore(ZarrByteStore(FsspecStore.from_mapper(target, read_only=True), options))
    session = _icechunk_store(target)
    if session is not None:
        return OpenedStore(ZarrByteStore(session, options))
    if isinstance(target, ByteStore):
        return OpenedStore(target)
    raise RequestError(
        f"Cannot open {type(target).__name__} as a store. Give a path, a URL, a zarr store, group or array, an obstore "
        f"store or an fsspec mapper."
    )


def _open_path(path: str | bytes, options: StoreOptions) -> ByteStore:
    text = os.fsdecode(path)
    if not text or "\x00" in text:
        raise RequestError("The path of the store is empty or holds a NUL character.")
    place = Path(text).expanduser()
    try:
        if place.is_dir():
            return LocalByteStore(place, options)
        if place.is_file() and zipfile.is_zipfile(place):
            return ZipByteStore(place, options)
        exists = place.exists() or place.is_symlink()
    except OSError as error:
        raise StoreError(
            f"The path cannot be opened: {error.strerror or error}.",
            kind=Kind.STORE_DENIED if isinstance(error, PermissionError) else Kind.STORE_FAILED,
            store=str(place),
        ) from error
    if exists:
        raise NotFoundError(
            f"{str(place)!r} is neither a directory nor a zip file. Give the directory that holds zarr.json, .zgroup or "
            f".zarray."
        )
    raise NotFoundError(
        f"There is nothing at {str(place)!r}. Check the path; relative paths start at {str(Path.cwd())!r}."
    )


def _open_url(url: str, storage_options: Mapping[str, Any], options: StoreOptions) -> ByteStore:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise RequestError(f"The URL {redact(url)!r} is malformed: {error}.") from public_cause(error)
    if parts.scheme.lower() != "file":
        return open_url(url, storage_options, options)
    if parts.netloc not in ("", "localhost"):
        raise RequestError(f"A file URL must name this machine (file:///path), not {parts.netloc!r}.")
    if storage_options:
        raise RequestError("storage_options do not apply to file URLs.")
    return _open_path(url2pathname(parts.path), options)


def _adapt(store: Store, options: StoreOptions) -> ByteStore:
    """The fastest way to a zarr store's bytes: its files or objects directly where its kind is known."""
    if type(store) is LocalStore:
        return LocalByteStore(store.root, options)
    if type(store) is ZipStore and store.read_only and store.path is not None:
        return ZipByteStore(store.path, options)
    if type(store).__name__ == "ObjectStore" and type(store).__module__.startswith("zarr."):
        return ObstoreByteStore(store.store, options)  # type: ignore[attr-defined]
    return ZarrByteStore(store, options)


def _is_obstore(target: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "obstore" for kind in type(target).__mro__) and hasattr(
        target, "list_with_delimiter"
    )


def _is_mapper(target: Any) -> bool:
    return type(target).__name__ == "FSMap" and hasattr(target, "fs") and hasattr(target, "root")


def _is_upath(target: Any) -> bool:
    """Whether it is a path of universal_pathlib that is not local."""
    return (
        getattr(target, "protocol", "") not in ("", "file", "local")
        and hasattr(target, "fs")
        and hasattr(target, "path")
    )


def _icechunk_store(target: Any) -> Store | None:
    """Store of an Icechunk session; its stores are zarr stores already."""
    if type(target).__module__.partition(".")[0] != "icechunk":
        return None
    store = getattr(target, "store", None)
    return store if isinstance(store, Store) else None
