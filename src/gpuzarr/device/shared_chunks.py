"""Chunks that more than one tile takes cells from: read once, kept until the last of those tiles is done."""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

import numpy as np

__all__ = ["ChunkKey", "SharedChunks"]

ChunkKey = tuple[str, tuple[int, ...]]
"""Column name and chunk grid index."""


class SharedChunks:
    """Decoded chunks by key, each with the position of the last tile that can need it."""

    def __init__(self) -> None:
        self._futures: dict[ChunkKey, Future[np.ndarray | None]] = {}
        self._last: list[tuple[int, ChunkKey]] = []
        self._lock = threading.Lock()

    def claim(self, key: ChunkKey, last: Callable[[], int]) -> tuple[Future[np.ndarray | None], bool]:
        """The future of a chunk, and whether the caller is the first and so has to read it."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                return future, False
            future = Future()
            self._futures[key] = future
            heapq.heappush(self._last, (last(), key))
            return future, True

    def done_before(self, tile: int) -> None:
        """Forget chunks that no tile after position ``tile`` needs."""
        with self._lock:
            while self._last and self._last[0][0] <= tile:
                self._futures.pop(heapq.heappop(self._last)[1], None)

    def fail(self, error: BaseException) -> None:
        """Let nobody wait for a chunk that will not come."""
        with self._lock:
            pending = [f for f in self._futures.values() if not f.done()]
        for future in pending:
            with contextlib.suppress(InvalidStateError):  # a worker was faster
                future.set_exception(error)

    def __len__(self) -> int:
        return len(self._futures)
