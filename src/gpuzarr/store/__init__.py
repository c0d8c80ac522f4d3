"""Bytes by key from wherever they lie: one blocking, thread-safe interface over all kinds of stores."""

from __future__ import annotations

from gpuzarr.store.base import Buffer, ByteStore, Listing
from gpuzarr.store.opening import OpenedStore, open_store
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.versions import for_scan

__all__ = ["Buffer", "ByteStore", "Listing", "OpenedStore", "StoreOptions", "for_scan", "open_store"]
