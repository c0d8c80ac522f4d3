"""A cache bounded in bytes: least recently used first out, and nobody makes a value that somebody else is making."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

__all__ = ["ByteCache", "CacheStatistics", "Entry", "Key", "Ticket"]


class Key:
    """A key of many parts, whose hash is computed once."""

    __slots__ = ("_hash", "parts")

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Key) and self.parts == other.parts)


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept value.

    Attributes
    ----------
    value, nbytes
        The value and the bytes that it takes.
    objects
        Stored objects that it was made from, each with the version it had: ``(key, version)``.
    read_at
        When they were read, seconds of `time.monotonic`.
    """

    value: Any
    nbytes: int
    objects: tuple[tuple[str, Any], ...] = ()
    read_at: float = 0.0


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache holds and did so far.

    Attributes
    ----------
    entries, nbytes, max_bytes
        Values and bytes kept, bytes kept at most.
    hits, misses, joined
        Values found, made, and waited for because another thread was making them.
    evictions, stale
        Values dropped for room, and because what they were made from changed.
    """

    entries: int
    nbytes: int
    max_bytes: int
    hits: int
    misses: int
    joined: int
    evictions: int
    stale: int


@dataclass(eq=False, slots=True)
class Ticket:
    """The duty to make the value of a key; given to one thread at a time."""

    key: Hashable
    future: Future[Entry]
    epoch: int


class ByteCache:
    """Values by key, safe under threads.

    Parameters
    ----------
    max_bytes
        Values together; one that is larger by itself is not kept. 0 keeps nothing.
    max_entries
        Values at most; 0 for any number.
    """

    def __init__(self, max_bytes: int, max_entries: int = 0) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._tickets: dict[Hashable, Ticket] = {}
        self._lock = threading.Lock()
        self._nbytes = self._epoch = 0
        self._hits = self._misses = self._joined = self._evictions = self._stale = 0

    def peek(self, key: Hashable) -> Entry | None:
        """The value, without counting or touching it."""
        return self._entries.get(key)

    def claim(self, key: Hashable) -> Entry | Future[Entry] | Ticket:
        """The value; what to wait for while another thread makes it; or the duty to make it (`settle` or `abandon`)."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._hits += 1
                self._entries.move_to_end(key)
                return entry
            ticket = self._tickets.get(key)
            if ticket is not None:
                self._joined += 1
                return ticket.future
            self._misses += 1
            ticket = self._tickets[key] = Ticket(key, Future(), self._epoch)
            return ticket

    def settle(self, ticket: Ticket, entry: Entry) -> None:
        """Keep a value and hand it to those who wait."""
        with self._lock:
            if self._tickets.get(ticket.key) is ticket:
                del self._tickets[ticket.key]
            if ticket.epoch == self._epoch:  # not cleared meanwhile
                self._keep(ticket.key, entry)
        ticket.future.set_result(entry)

    def abandon(self, ticket: Ticket, error: BaseException) -> None:
        """The value cannot be made here; those who wait try for themselves."""
        with self._lock:
            if self._tickets.get(ticket.key) is ticket:
                del self._tickets[ticket.key]
        ticket.future.set_exception(error)

    def load(self, key: Hashable, make: Callable[[], Entry]) -> Entry:
        """The value, made if need be. A failure to make it is raised to the one who made it only; others try again."""
        while True:
            found = self.claim(key)
            if isinstance(found, Entry):
                return found
            if isinstance(found, Ticket):
                try:
                    entry = make()
                except BaseException as error:
                    self.abandon(found, error)
                    raise
                self.settle(found, entry)
                return entry
            if found.exception() is None:
                return found.result()

    def put(self, key: Hashable, entry: Entry) -> None:
        """Keep a value."""
        with self._lock:
            self._keep(key, entry)

    def drop(self, key: Hashable, entry: Entry) -> None:
        """Forget a value that is out of date, unless it has been replaced."""
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]
                self._nbytes -= entry.nbytes
                self._stale += 1

    def clear(self) -> None:
        """Forget everything, also what is being made now."""
        with self._lock:
            self._entries.clear()
            self._tickets.clear()
            self._nbytes = 0
            self._epoch += 1

    def statistics(self) -> CacheStatistics:
        """What it holds and did."""
        with self._lock:
            return CacheStatistics(
                len(self._entries),
                self._nbytes,
                self.max_bytes,
                self._hits,
                self._misses,
                self._joined,
                self._evictions,
                self._stale,
            )

    def _keep(self, key: Hashable, entry: Entry) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._nbytes -= old.nbytes
        if entry.nbytes > self.max_bytes:
            return
        self._entries[key] = entry
        self._nbytes += entry.nbytes
        while self._nbytes > self.max_bytes or 0 < self.max_entries < len(self._entries):
            _, dropped = self._entries.popitem(last=False)
            self._nbytes -= dropped.nbytes
            self._evictions += 1
