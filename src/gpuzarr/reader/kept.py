"""What a reader's chunks may be kept in besides host memory, by whoever decodes them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

__all__ = ["Keep", "KeptChunks"]

Keep = Callable[[Hashable, Any, int], None]
"""Keeps a chunk: in which place, what it is there, and the bytes that it takes."""


class KeptChunks(Protocol):
    """Decoded chunks of one array that outlive a scan, as one query may use them. Safe under threads."""

    def get(self, place: Hashable, index: tuple[int, ...]) -> Any | None:
        """What was kept of a chunk in a place (a device), if it is still what is stored; else None."""
        ...

    def reading(self, key: str) -> Callable[[tuple[int, ...]], Keep]:
        """To be called before an object is read.

        Returns
        -------
        callable
            To be called with the index of a chunk of it that has been read, before `check`; gives what keeps the chunk.
        """
        ...

    def check(self) -> None:
        """Raise if the store was changed while the query trusted what was kept."""
        ...

    def make_room(self) -> bool:
        """Forget everything; whether there was anything."""
        ...
