"""Backends: one store opened once for many queries, with caches that they share. Blocking or awaited."""

from __future__ import annotations

from gpuzarr.backends.aliases import configure_zarr_codecs
from gpuzarr.backends.backend import Backend
from gpuzarr.backends.functions import scan_zarr_async
from gpuzarr.backends.icechunk_backend import IcechunkBackend
from gpuzarr.backends.options import BackendOptions
from gpuzarr.backends.zarr_backend import ZarrBackend, ZarrBackendSync

__all__ = [
    "Backend",
    "BackendOptions",
    "IcechunkBackend",
    "ZarrBackend",
    "ZarrBackendSync",
    "configure_zarr_codecs",
    "scan_zarr_async",
]
