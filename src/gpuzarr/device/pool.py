"""Worker threads of one scan: tasks of earlier frames first, stopped as a whole when the scan ends."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable

from gpuzarr.errors import ResourceError

__all__ = ["FEWER_THREADS", "InlinePool", "WorkPool"]

FEWER_THREADS = "the system started fewer threads than were wanted: it may have run out of them"


class WorkPool:
    """Daemon threads that run tasks in the order of a priority, ties first come first served.

    Parameters
    ----------
    workers
        Threads at most; they are started as work arrives.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.refused = False  # whether the system would not start as many
        self._tasks: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def submit(self, priority: int, task: Callable[[], None]) -> None:
        """Run ``task`` on a worker, lower priority numbers first. It must not raise. Ignored once the pool is closed."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._tasks, (priority, next(self._order), task))
            if len(self._tasks) > self._idle and len(self._threads) < self.workers:  # woken threads still count as idle
                thread = threading.Thread(target=self._run, name=f"gpuzarr-worker-{len(self._threads)}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no more of them: those that run do the work
                    if not self._threads:
                        self._tasks.clear()
                        message = f"The system starts no thread to read in; raise its limit of threads. {error}"
                        raise ResourceError(message) from error
                    self.workers, self.refused = len(self._threads), True
                else:
                    self._threads.append(thread)
                    return
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._tasks and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if self._closed:
                    return
                task = heapq.heappop(self._tasks)[2]
            task()
            del task

    @property
    def closed(self) -> bool:
        """Whether `close` was called; long tasks look at it between steps."""
        return self._closed

    def close(self, timeout: float = 1.0) -> None:
        """Drop waiting tasks and let the threads end after their current one; wait for them for ``timeout`` seconds."""
        with self._changed:
            self._closed = True
            self._tasks.clear()
            busy = self._idle < len(self._threads)
            self._changed.notify_all()
        if not busy:  # they end by themselves, and nothing runs any more
            return
        deadline = time.monotonic() + timeout  # of all together
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))


class InlinePool:
    """The same, without threads: tasks run in the thread that submits the first of them, one after the other."""

    refused = False

    def __init__(self) -> None:
        self._tasks: deque[Callable[[], None]] = deque()
        self._running = False
        self._closed = False

    def submit(self, priority: int, task: Callable[[], None]) -> None:
        """Run ``task``, and what it submits, before returning; from within a task, after that one."""
        if self._closed:
            return
        self._tasks.append(task)
        if self._running:
            return
        self._running = True
        try:
            while self._tasks:
                self._tasks.popleft()()
        finally:
            self._running = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, timeout: float = 1.0) -> None:
        """Drop waiting tasks."""
        self._closed = True
        self._tasks.clear()
