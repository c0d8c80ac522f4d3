"""Whether a store still is what its table was made from: else a scan would read other cells than its rows say.

A chunk that is not stored is the fill value, so an array that was deleted, or written anew with another layout, looks like
one that was never filled. When that is looked at depends on what a look costs:

* Of a local store (a directory, a zip file, memory), the documents of the arrays that a query names, and of the coordinate
  whose order Polars was told, are looked at when it is planned, and again when all is read: one system call a document for a
  directory.
* Of any store, when a chunk of an array is not there or cannot be decoded: once per scan and array, one or two requests.

Documents that differ are compared for what they say. An array that only grew (records were appended) still holds the rows
of the table; nor do attributes matter that say nothing about values. Where documents were written again, coordinates that
were read before are compared with what is stored now.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gpuzarr.errors import Kind, StoreError
from gpuzarr.metadata.changes import (
    array_in_group,
    as_opened,
    changed_attributes,
    changed_layout,
    document_keys,
    keys_above,
    read_again,
)
from gpuzarr.metadata.limits import DEFAULT_LIMITS, Limits
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.store import ByteStore
from gpuzarr.table import Column, Table

__all__ = ["DocumentGuard", "arrays_of", "same_values"]

_YOUNG_NS = 2 * 10**9
"""A file this young may be written again without a visible change of its time."""

_SIBLINGS = 4


def arrays_of(columns: Iterable[Column]) -> list[ArrayMetadata]:
    """The arrays of columns, those of struct fields one by one."""
    out: list[ArrayMetadata] = []
    for column in columns:
        if column.array is not None:
            out.append(column.array)
        out += arrays_of(column.fields)
    return out


class DocumentGuard:
    """Notices that arrays of a table were deleted or written anew. Safe under threads.

    Parameters
    ----------
    store
        The store.
    table
        The table that was made from it just now.
    limits
        How much metadata was accepted.
    seen
        Of a guard of the same table, `seen`: what documents looked like when the table was made.
    coordinates_differ
        Called where documents were written again: name of a coordinate whose values are other ones now, None if all are
        the same.
    on_change
        Called before an error is raised.
    """

    def __init__(
        self,
        store: ByteStore,
        table: Table,
        *,
        limits: Limits = DEFAULT_LIMITS,
        seen: Mapping[str, Any] | None = None,
        coordinates_differ: Callable[[], str | None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._arrays = [array for array in arrays_of(table.columns) if array.documents is not None]
        self._limits = limits
        self._coordinates_differ = coordinates_differ
        self._on_change = on_change
        self._lock = threading.Lock()
        if seen is None:
            seen = self._first_looks() if store.is_local else {}
        self._first = dict(seen)
        self._known = {path: look for path, look in seen.items() if not _is_young(look)}

    @property
    def seen(self) -> Mapping[str, Any]:
        """What documents looked like when the table was made, by path of the array; empty where looking has a price."""
        return self._first

    def check(self, columns: Iterable[Column]) -> None:
        """Raise `StoreError` (``STORE_CHANGED``) if the arrays of columns are not what they were; local stores only."""
        for array in arrays_of(columns) if self._first else ():
            if array.path in self._first:
                self._check(array)

    def _check(self, array: ArrayMetadata) -> None:
        look = self._look(array)  # before the documents are read, so that a later change shows
        if look != self._known.get(array.path):
            with self._lock:
                self._compare(array)
                if not _is_young(look):
                    self._known[array.path] = look

    def for_scan(self) -> Callable[[ArrayMetadata], None]:
        """What one scan calls where a chunk of an array is missing or damaged: the array is looked at once."""
        found: dict[str, StoreError | None] = {}
        lock = threading.Lock()

        def missing(array: ArrayMetadata) -> None:
            if array.documents is None:
                return
            with lock:  # others wait: nothing is handed out before it is known
                if array.path not in found:
                    try:
                        (self._check if array.path in self._first else self._compare)(array)
                    except StoreError as error:
                        found[array.path] = error
                        raise
                    found[array.path] = None
                failed = found[array.path]
            if failed is not None:
                raise failed.located() from failed

        return missing

    def _look(self, array: ArrayMetadata) -> tuple[Any, ...]:
        """What shows that documents were written again, cheaply; None for one that is not there."""
        version = getattr(self._store, "version", None)
        if version is not None:
            return tuple(version(key) for key in document_keys(array))
        contents = (self._store.get(key) for key in document_keys(array))
        return tuple(None if data is None else hashlib.blake2b(data, digest_size=16).digest() for data in contents)

    def _first_looks(self) -> dict[str, tuple[Any, ...]]:
        """As `_look` of each array, of the documents that were read to make the table, as far as the store remembers them.

        Of others (consolidated metadata were read instead) it is what they look like now. If the groups' documents are not those
        that were read any more, neither may these be: then they look like nothing, and are compared when first asked for.
        """
        remembered = getattr(self._store, "seen_version", None)
        version = getattr(self._store, "version", None)
        if remembered is None or version is None:
            return {array.path: self._look(array) for array in self._arrays}
        found: dict[str, tuple[Any, ...]] = {}
        guessed: list[ArrayMetadata] = []
        for array in self._arrays:
            seen = {key: remembered(key) for key in document_keys(array)}
            found[array.path] = tuple(version(key) if at is None else at for key, at in seen.items())
            if None in seen.values():
                guessed.append(array)
        above = {key: remembered(key) for array in guessed for key in keys_above(array)}
        if any(at is not None and at != version(key) for key, at in above.items()):
            for array in guessed:
                found[array.path] = tuple(None if at is None else "unknown" for at in found[array.path])
        return found

    def _compare(self, array: ArrayMetadata) -> None:
        old, now = as_opened(array, self._limits), read_again(self._store, array, self._limits)
        first = self._first.get(array.path)
        if now is None:
            was_there = None if first is None else first[0] is not None
            if was_there or not self._is_only_consolidated(array, old, sure=was_there is False):
                raise self._changed(array, "the array was deleted")
            return
        changes = changed_layout(old, now)
        if not changes and (changes := changed_attributes(old, now)):
            listed = array_in_group(self._store, array, self._limits)
            if listed is not None and not changed_layout(old, listed) and not changed_attributes(old, listed):
                changes = []  # the table was made from consolidated metadata, which still say the same
        if changes:
            raise self._changed(array, "; ".join(changes))
        if first is not None:
            other = self._coordinates_differ()
            if other is not None:
                raise self._changed(array, f"the coordinate {other!r} has other values")

    def _is_only_consolidated(self, array: ArrayMetadata, old: ArrayMetadata, *, sure: bool) -> bool:
        """Whether an array without documents of its own still is what consolidated metadata say.

        These outlive an array that is deleted. Where it is not ``sure`` that the array never had documents, one is taken
        for deleted if others of the table have theirs, or if nothing is stored below its path.
        """
        listed = array_in_group(self._store, array, self._limits)
        if listed is None or changed_layout(old, listed) or changed_attributes(old, listed):
            return False
        if sure:
            return True
        others = [other for other in self._arrays if other.path != array.path][:_SIBLINGS]
        if any(self._store.size(document_keys(other)[0]) is not None for other in others):
            return False
        try:
            return any(self._store.list_dir(array.path))
        except StoreError:  # it cannot list
            return True

    def _changed(self, array: ArrayMetadata, what: str) -> StoreError:
        self._on_change()
        return StoreError(
            f"The store was changed after the table was made from it: {what}. Open it again with scan_zarr.",
            kind=Kind.STORE_CHANGED,
            array=array.path,
            key=document_keys(array)[0],
            store=self._store.label,
        )


def same_values(one: tuple[np.ndarray, np.ndarray | None], two: tuple[np.ndarray, np.ndarray | None]) -> bool:
    """Whether decoded values and their validity are equal; NaN is equal to itself."""
    (values, valid), (others, also_valid) = one, two
    if values.shape != others.shape or values.dtype != others.dtype or (valid is None) != (also_valid is None):
        return False
    if valid is not None and also_valid is not None:
        if not np.array_equal(valid, also_valid):
            return False
        values, others = values[valid], others[valid]
    return np.array_equal(values, others, equal_nan=values.dtype.kind in "fc")


def _is_young(look: Any) -> bool:
    """Whether files were written so recently that their time may not tell the next change; see `LocalByteStore.version`."""
    times = [version[0] for version in look if isinstance(version, tuple)]
    return bool(times) and max(times) > time.time_ns() - _YOUNG_NS
