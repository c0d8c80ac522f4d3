"""Whether what was read before is still what is stored: one rule for documents, coordinates, chunks and shard indexes.

How a store tells versions decides:

=========  ==================================  ==================================================================
kind       stores                              rule
=========  ==================================  ==================================================================
fixed      Icechunk, opened for reading        a snapshot never changes: always current
free       local directories                   looked up at every use (time, size and number of the file)
asked      S3, GCS, Azure, HTTP (obstore)      believed for ``max_age`` seconds, then asked for (ETag), one request
unknown    other zarr stores                   believed for ``max_age`` seconds, then read again
=========  ==================================  ==================================================================

When an object is found to have changed, everything older than that moment is looked up again before it is used, and a
scan that has already handed out something that it merely believed ends with ``store-changed``.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any, Literal

from gpuzarr.backends.byte_cache import Entry
from gpuzarr.errors import Kind, StoreError
from gpuzarr.store import ByteStore, for_scan

__all__ = ["UNKNOWN", "Freshness", "QueryView", "VersionKind"]

VersionKind = Literal["fixed", "free", "asked", "unknown"]

_MOST_OBJECTS = 1 << 16

UNKNOWN: Any = ("unknown version",)
"""Version of an object that is there, but whose store did not tell."""


class Freshness:
    """Judges kept values of one store.

    Parameters
    ----------
    store
        The store.
    max_age
        Seconds for which what was read is believed where asking costs a request; None: until the caches are cleared.
    fixed
        Nothing in the store can change.
    """

    def __init__(self, store: ByteStore, *, max_age: float | None, fixed: bool = False) -> None:
        self.store = store
        self.max_age = max_age
        self.kind: VersionKind = "unknown"
        if fixed:
            self.kind = "fixed"
        elif hasattr(store, "version"):
            self.kind = "free" if store.is_local else "asked"
        self.generation = 0
        self._changed_at = float("-inf")
        self._asked: OrderedDict[str, tuple[Any, float]] = OrderedDict()
        self._lock = threading.Lock()

    def is_current(self, entry: Entry) -> bool:
        """Whether a kept value may be used; may ask the store."""
        if self.kind == "fixed":
            return True
        if self.kind == "free":
            version: Any = getattr(self.store, "version")  # noqa: B009  # no part of the protocol
            for key, known in entry.objects:
                if version(key) != known:
                    self.changed()
                    return False
            return True
        if self.is_believed(entry.read_at):
            return True
        if self.kind == "unknown":
            return False
        return all(self._still(key, known, entry.read_at) for key, known in entry.objects)

    def is_believed(self, read_at: float) -> bool:
        """Whether something that was read (or asked for) then is believed without asking."""
        if read_at <= self._changed_at:
            return False
        return self.max_age is None or time.monotonic() - read_at <= self.max_age

    def _still(self, key: str, known: Any, read_at: float) -> bool:
        with self._lock:
            version, asked = self._asked.get(key, (None, float("-inf")))
        if asked < read_at or not self.is_believed(asked):
            asked = time.monotonic()
            version = self.store.version(key)  # type: ignore[attr-defined]
            self._remember(key, version, asked)
        if known is UNKNOWN:
            return False
        if bool(version == known):
            return True
        self.changed()
        return False

    def note(self, key: str, version: Any, read_at: float) -> None:
        """An object was read: if it was of another version before, the store has changed."""
        if self.kind != "asked" or version is UNKNOWN:
            return
        with self._lock:
            known = self._asked.get(key)
        if known is not None and known[0] != version:
            self.changed()
        self._remember(key, version, read_at)

    def _remember(self, key: str, version: Any, at: float) -> None:
        with self._lock:
            self._asked[key] = version, at
            self._asked.move_to_end(key)
            if len(self._asked) > _MOST_OBJECTS:
                self._asked.popitem(last=False)

    def changed(self) -> None:
        """An object was found to have changed: nothing that was read before is believed without a look."""
        with self._lock:
            self.generation += 1
            if self.kind != "free":
                self._changed_at = time.monotonic()


class QueryView:
    """The store as one query sees it, and what the query has already taken from the caches on trust.

    Parameters
    ----------
    freshness
        Judges kept values.
    """

    def __init__(self, freshness: Freshness) -> None:
        self.freshness = freshness
        self.store = for_scan(freshness.store)
        self._generation = freshness.generation
        self._trusts = False

    def may_use(self, entry: Entry) -> bool:
        """Whether a kept value may be used by this query."""
        if not self.freshness.is_current(entry):
            return False
        if self.freshness.kind in ("asked", "unknown"):
            self._trusts = True
        return True

    def check(self) -> None:
        """Raise if something changed since the query began, after it had trusted what was kept."""
        if self._trusts and self._generation != self.freshness.generation:
            raise StoreError(
                "The store was changed while it was being read, and a part of the result was taken from the cache. Run "
                "the query again.",
                kind=Kind.STORE_CHANGED,
                store=self.store.label,
            )

    def version_before(self, key: str) -> Any:
        """Version of an object that is about to be read, where asking for it costs no request."""
        if self.freshness.kind == "free":
            return self.freshness.store.version(key)  # type: ignore[attr-defined]
        return None

    def version_after(self, key: str, before: Any, *, is_there: bool = True) -> Any:
        """Version of an object that has just been read through `store`; None for one that is not there."""
        if self.freshness.kind != "asked":
            return before
        version = self.store.seen_version(key)  # type: ignore[attr-defined]
        return UNKNOWN if version is None and is_there else version

    def expects(self, key: str, version: Any) -> bool:
        """Let further reads of an object belong to a version; False if other parts of it were of another one."""
        if self.freshness.kind not in ("free", "asked") or version is None or version is UNKNOWN:
            return True
        seen = self.store.seen_version(key)  # type: ignore[attr-defined]
        if seen is None:
            self.store.expect_version(key, version)  # type: ignore[attr-defined]
            return True
        return bool(seen == version)
