"""The loop that runs a plan on a device: frames in order, several in flight, within a byte budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from gpuzarr.device.base import Device
from gpuzarr.plan.model import Frame

__all__ = ["DEFAULT_BUDGET", "MAX_IN_FLIGHT", "run"]

DEFAULT_BUDGET = 2**28
"""Bytes of frames in flight unless `memory_budget` says otherwise."""

MAX_IN_FLIGHT = 64

HEARTBEAT_SECONDS = 0.2

Result = TypeVar("Result")


def run(
    frames: Iterator[Frame],
    device: Device[Result],
    *,
    budget: int = DEFAULT_BUDGET,
    ahead: int = MAX_IN_FLIGHT,
    finished: Callable[[], None] | None = None,
    heartbeat: Result | None = None,
) -> Iterator[Result]:
    """Results of frames in order.

    Closing the iterator stops the work; so does any error.

    Parameters
    ----------
    frames
        In row order.
    device
        Closed when the iterator ends, however it ends.
    budget
        Bytes of frames in flight; one frame is always allowed.
    ahead
        Frames in flight at most.
    finished
        Called once at the end, however it comes.
    heartbeat
        Handed out about every `HEARTBEAT_SECONDS` while nothing else is there, so that a consumer who was interrupted
        gets a turn to close the iterator.
    """
    flying: deque[tuple[Frame, int, Future[list[Result]]]] = deque()
    used = 0
    waiting: Frame | None = next(frames, None)
    try:
        while waiting is not None or flying:
            while waiting is not None and len(flying) < ahead:
                size = device.nbytes(waiting)
                if flying and used + size > budget:
                    break
                flying.append((waiting, size, device.submit(waiting)))
                used += size
                waiting = next(frames, None)
            frame, size, future = flying.popleft()
            while not device.wait(future, HEARTBEAT_SECONDS):
                if heartbeat is not None:
                    yield heartbeat
            results = future.result()
            device.retire(frame)
            used -= size
            del future
            results.reverse()
            while results:
                yield results.pop()
    finally:
        try:
            device.close()
        except KeyboardInterrupt:  # a second one, or the same one that the engine and Python both report
            device.close()
            raise
        if finished is not None:
            finished()
