"""Scanning a store once, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import polars as pl

from gpuzarr.backends.asynchronous import AsyncBackend
from gpuzarr.backends.backend import Backend
from gpuzarr.backends.zarr_backend import ZarrBackend
from gpuzarr.errors import RequestError

__all__ = ["scan_zarr_async"]


async def scan_zarr_async(
    store: Any,
    expr: pl.Expr | None = None,
    max_concurrency: int | None = None,
    max_chunks_to_read: int | None = None,
    prefix: str | None = None,
    *,
    predicate: pl.Expr | None = None,
    with_columns: Sequence[str] | None = None,
    n_rows: int | None = None,
    **opening: Any,
) -> pl.DataFrame:
    """Plan a scan from an expression, read what it needs, and evaluate ``select([expression])``.

    Parameters
    ----------
    store
        A path, a URL, a store, or a backend (which keeps its caches; anything else is opened for this one query).
    expr, max_concurrency, max_chunks_to_read, predicate, with_columns, n_rows
        As in `gpuzarr.ZarrBackend.scan_zarr_async`.
    prefix
        Path inside the store.
    opening
        For stores: arguments of `gpuzarr.ZarrBackend.from_url` (``storage_options=``, ``options=``, ``variables=``, …).

    Raises
    ------
    RequestError
        ``prefix`` or other arguments of opening were given with a backend.
    """
    arguments: dict[str, Any] = {
        "expr": expr,
        "max_concurrency": max_concurrency,
        "max_chunks_to_read": max_chunks_to_read,
        "predicate": predicate,
        "with_columns": with_columns,
        "n_rows": n_rows,
    }
    if isinstance(store, Backend):
        if prefix is not None or opening:
            raise RequestError("A backend is open already; prefix and other arguments of opening are for stores.")
        if isinstance(store, AsyncBackend):
            return await store.scan_zarr_async(**arguments)
        # A blocking backend gives an awaitable here as well; the store stays its own.
        return await _borrowed(store).scan_zarr_async(**arguments)
    if prefix is not None:
        opening["group"] = "/".join(p.strip("/") for p in (prefix, opening.get("group")) if p)
    loop = asyncio.get_running_loop()
    backend = await loop.run_in_executor(None, lambda: ZarrBackend.from_url(store, **opening))
    async with backend:
        return await backend.scan_zarr_async(**arguments)


def _borrowed(backend: Backend) -> AsyncBackend:
    """An awaited view of a blocking backend: the same caches, threads and life."""
    view = object.__new__(ZarrBackend)
    view.__dict__ = backend.__dict__
    return view
