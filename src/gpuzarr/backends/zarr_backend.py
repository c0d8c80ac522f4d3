"""Backends over any Zarr store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from gpuzarr.backends.asynchronous import AsyncBackend
from gpuzarr.backends.backend import Backend
from gpuzarr.backends.options import BackendOptions
from gpuzarr.store import StoreOptions, open_store

__all__ = ["ZarrBackend", "ZarrBackendSync"]


class _FromStores:
    """How backends over Zarr stores are opened."""

    @classmethod
    def from_url(
        cls,
        url: Any,
        options: BackendOptions | None = None,
        *,
        group: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        store_options: StoreOptions | None = None,
        **table: Any,
    ) -> Self:
        """Open a path or URL. Nothing is read before it is needed.

        Parameters
        ----------
        url
            A path, a URL or a zip file, see `gpuzarr.store.open_store`.
        options
            Sizes and rules of the caches.
        group
            Path of the group (or array) inside the store.
        storage_options
            Credentials and options of the library that opens the URL.
        store_options
            Limits, retries and coalescing of requests.
        table
            Which table, and how it is read: ``variables``, ``dims``, ``on_missing``, … as in `gpuzarr.scan_zarr`.

        Raises
        ------
        NotFoundError, RequestError, EnvironmentLacksError
            As `gpuzarr.store.open_store`.
        """
        opened = open_store(url, storage_options=storage_options, options=store_options)
        return cls(opened, options, group=group, **table)  # type: ignore[call-arg]

    @classmethod
    def from_store(
        cls,
        store: Any,
        prefix: str | None = None,
        options: BackendOptions | None = None,
        *,
        group: str | None = None,
        store_options: StoreOptions | None = None,
        **table: Any,
    ) -> Self:
        """Open an object: a zarr ``Store``, ``Group`` or ``Array``, an obstore store, an fsspec mapper, an Icechunk session.

        Closing the backend leaves it open: it is the caller's.

        Parameters
        ----------
        store
            The object.
        prefix
            Path inside the store, where the Zarr group begins.
        options, group, store_options, table
            As in `from_url`.
        """
        opened = open_store(store, options=store_options)
        path = "/".join(part for part in ((prefix or "").strip("/"), (group or "").strip("/")) if part)
        return cls(opened, options, group=path, **table)  # type: ignore[call-arg]


class ZarrBackend(_FromStores, AsyncBackend):
    """One Zarr store for many queries, awaited or blocking."""


class ZarrBackendSync(_FromStores, Backend):
    """One Zarr store for many blocking queries."""
