"""A store that notes which objects are read through it, and their versions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gpuzarr.backends.freshness import QueryView
from gpuzarr.store import Buffer, ByteStore, Listing
from gpuzarr.store.limited import get_at_most

__all__ = ["RecordingStore"]


class RecordingStore:
    """A `ByteStore` over a view of another.

    Attributes
    ----------
    began
        When recording began, seconds of `time.monotonic`.
    """

    def __init__(self, view: QueryView) -> None:
        self._view = view
        self._store: ByteStore = view.store
        self._objects: dict[str, Any] = {}
        self.began = time.monotonic()

    @property
    def objects(self) -> tuple[tuple[str, Any], ...]:
        """Keys that were read, and the versions they had."""
        return tuple(self._objects.items())

    @property
    def label(self) -> str:
        """That of the store."""
        return self._store.label

    @property
    def is_local(self) -> bool:
        """That of the store."""
        return self._store.is_local

    def get(self, key: str) -> Buffer | None:
        """See `ByteStore.get`."""
        before = self._view.version_before(key)
        data = self._store.get(key)
        self._note(key, before, is_there=data is not None)
        return data

    def get_at_most(self, key: str, most: int) -> Buffer | None:
        """See `gpuzarr.store.limited.get_at_most`."""
        before = self._view.version_before(key)
        data = get_at_most(self._store, key, most)
        self._note(key, before, is_there=data is not None)
        return data

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        """See `ByteStore.get_range`."""
        before = self._view.version_before(key)
        data = self._store.get_range(key, start, length)
        self._note(key, before, is_there=data is not None)
        return data

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        """See `ByteStore.get_suffix`."""
        before = self._view.version_before(key)
        data = self._store.get_suffix(key, length)
        self._note(key, before, is_there=data is not None)
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """See `ByteStore.get_ranges`."""
        before = self._view.version_before(key)
        data = self._store.get_ranges(key, ranges)
        self._note(key, before, is_there=data is not None)
        return data

    def size(self, key: str) -> int | None:
        """See `ByteStore.size`."""
        before = self._view.version_before(key)
        size = self._store.size(key)
        if size is None:
            self._note(key, before, is_there=False)
        return size

    def list_dir(self, prefix: str) -> Listing:
        """See `ByteStore.list_dir`. A folder has a version only where asking is free."""
        before = self._view.version_before(prefix)
        found = self._store.list_dir(prefix)
        if self._view.freshness.kind == "free":
            self._objects.setdefault(prefix, before)
        return found

    def close(self) -> None:
        """Nothing: the store is another's."""

    def _note(self, key: str, before: Any, *, is_there: bool) -> None:
        self._objects.setdefault(key, self._view.version_after(key, before, is_there=is_there))
