"""Decoded chunks in device memory, shared by the device scans of a backend under a budget of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

from gpuzarr.backends.byte_cache import ByteCache, Entry, Ticket
from gpuzarr.backends.freshness import QueryView
from gpuzarr.reader.kept import Keep

__all__ = ["DeviceChunks"]


class DeviceChunks:
    """`gpuzarr.reader.kept.KeptChunks` of one array.

    Parameters
    ----------
    view
        The store as the query sees it.
    cache
        Of the backend.
    token
        Array and decoding.
    """

    def __init__(self, view: QueryView, cache: ByteCache, token: tuple[Any, ...]) -> None:
        self._view = view
        self._cache = cache
        self._token = token

    def get(self, place: Hashable, index: tuple[int, ...]) -> Any | None:
        """See `KeptChunks.get`."""
        key = (place, self._token, index)
        found = self._cache.claim(key)
        if isinstance(found, Ticket):
            self._cache.abandon(found, LookupError())  # decoded in batches: nobody is made to wait for one
            return None
        if not isinstance(found, Entry):
            return None
        if not self._view.may_use(found):
            self._cache.drop(key, found)
            return None
        return found.value

    def reading(self, key: str) -> Callable[[tuple[int, ...]], Keep]:
        """See `KeptChunks.reading`."""
        view = self._view
        began, before = time.monotonic(), view.version_before(key)

        def read(index: tuple[int, ...]) -> Keep:
            version = view.version_after(key, before)
            view.freshness.note(key, version, began)

            def keep(place: Hashable, value: Any, nbytes: int) -> None:
                self._cache.put((place, self._token, index), Entry(value, nbytes, ((key, version),), began))

            return keep

        return read

    def check(self) -> None:
        """See `KeptChunks.check`."""
        self._view.check()

    def make_room(self) -> bool:
        """See `KeptChunks.make_room`."""
        held = self._cache.statistics().nbytes > 0
        self._cache.clear()
        return held
