"""Stores around a store, for tests: count the requests, add latency, inject faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuzarr.store.base import Buffer, ByteStore, Listing


@dataclass(frozen=True)
class Request:
    """One call that reached the store. ``start`` and ``length`` in bytes; None for whole objects and listings."""

    method: str
    key: str
    start: int | None = None
    length: int | None = None


class WrappedStore:
    """Passes every call on; subclasses override `before`."""

    def __init__(self, inner: ByteStore) -> None:
        self.inner = inner

    @property
    def label(self) -> str:
        return self.inner.label

    @property
    def is_local(self) -> bool:
        return self.inner.is_local

    def before(self, request: Request) -> None:
        """Called ahead of every request."""

    def get(self, key: str) -> Buffer | None:
        self.before(Request("get", key))
        return self.inner.get(key)

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        self.before(Request("get_range", key, start, length))
        return self.inner.get_range(key, start, length)

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        self.before(Request("get_suffix", key, None, length))
        return self.inner.get_suffix(key, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        for start, length in ranges:
            self.before(Request("get_ranges", key, start, length))
        return self.inner.get_ranges(key, ranges)

    def size(self, key: str) -> int | None:
        self.before(Request("size", key))
        return self.inner.size(key)

    def list_dir(self, prefix: str) -> Listing:
        self.before(Request("list_dir", prefix))
        return self.inner.list_dir(prefix)

    def close(self) -> None:
        self.inner.close()


class CountingStore(WrappedStore):
    """Records every request, safe under threads."""

    def __init__(self, inner: ByteStore) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._requests: list[Request] = []

    def before(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order."""
        with self._lock:
            return list(self._requests)

    def keys(self, *methods: str) -> list[str]:
        """Keys asked for, in order, of the given methods (all if none are named)."""
        return [request.key for request in self.requests if not methods or request.method in methods]

    def clear(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests.clear()


class LatencyStore(WrappedStore):
    """Waits before every call (once per call, also for several ranges), as a remote store would make one wait."""

    def __init__(self, inner: ByteStore, seconds: float) -> None:
        super().__init__(inner)
        self.seconds = seconds

    @property
    def is_local(self) -> bool:
        return False

    def before(self, request: Request) -> None:
        if request.method != "get_ranges":
            time.sleep(self.seconds)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        time.sleep(self.seconds)
        return self.inner.get_ranges(key, ranges)


class FaultyStore(WrappedStore):
    """Raises what ``fault(request)`` returns, where it returns an exception."""

    def __init__(self, inner: ByteStore, fault: Callable[[Request], Exception | None]) -> None:
        super().__init__(inner)
        self.fault = fault

    def before(self, request: Request) -> None:
        error = self.fault(request)
        if error is not None:
            raise error
