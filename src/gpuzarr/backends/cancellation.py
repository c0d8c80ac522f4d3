"""Stopping a scan from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Cancellation"]


class Cancellation:
    """A flag that is raised once; whoever works under it is called then."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._raised = False

    @property
    def is_raised(self) -> bool:
        """Whether `cancel` was called."""
        return self._raised

    def cancel(self) -> None:
        """Raise the flag. Idempotent."""
        with self._lock:
            if self._raised:
                return
            self._raised = True
            calls = list(self._calls)
        for call in calls:
            call()

    @contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """While in here, ``call`` is called when the flag is raised; at once if it is."""
        with self._lock:
            raised = self._raised
            self._calls.append(call)
        try:
            if raised:
                call()
            yield
        finally:
            with self._lock:
                self._calls.remove(call)
