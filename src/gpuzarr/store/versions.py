"""Detects that an object changed while it was being read in several parts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from gpuzarr.errors import Kind, StoreError
from gpuzarr.store.base import ByteStore

__all__ = ["VersionMemory", "for_scan"]


class VersionMemory:
    """Remembers the version (ETag, or mtime and size) of objects read in ranges; bounded, safe under threads.

    An object whose version differs from the remembered one raises `Kind.STORE_CHANGED` once and is then forgotten, so
    that the next scan starts from the new version.
    """

    def __init__(self, limit: int = 65536) -> None:
        self._limit = limit
        self._versions: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def seen(self, key: str) -> Any:
        """The version that is remembered; None if there is none."""
        with self._lock:
            return self._versions.get(key)

    def note(self, key: str, version: Any) -> None:
        """Remember the version of an object, unless one is remembered: parts that were read before count."""
        with self._lock:
            self._versions.setdefault(key, version)
            self._versions.move_to_end(key)
            if len(self._versions) > self._limit:
                self._versions.popitem(last=False)

    def check(self, key: str, version: Any, store: str) -> None:
        """Compare with what was seen before; the first version seen is remembered."""
        with self._lock:
            known = self._versions.setdefault(key, version)
            if known == version:
                self._versions.move_to_end(key)
                if len(self._versions) > self._limit:
                    self._versions.popitem(last=False)
                return
            del self._versions[key]
        raise StoreError(
            "The object was replaced while it was being read in parts, so the parts do not belong together. "
            "Run the query again.",
            kind=Kind.STORE_CHANGED,
            store=store,
            key=key,
        )


def for_scan(store: ByteStore) -> ByteStore:
    """The store as one scan should see it: with a memory of versions that begins now.

    A store that lives longer than a scan would otherwise report an object that was rewritten between two scans. All
    else (connections, threads, limits) is shared; closing either closes both. Stores that tell no versions are
    returned as they are.
    """
    make = getattr(store, "for_scan", None)
    view: ByteStore = store if make is None else make()
    return view
