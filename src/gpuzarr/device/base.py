"""What the executor asks of a device: turn the frames of a plan into data frames, several at a time."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol, TypeVar

from gpuzarr.plan.model import Frame

__all__ = ["Device"]

Result = TypeVar("Result")


class Device(Protocol[Result]):
    """Fetches, decodes, assembles and filters frames. One object per scan.

    The executor submits frames in order and takes the results in order; how a frame's work is spread over threads,
    streams and batches is the device's own affair. What is read and what is kept is decided by the plan alone.
    """

    def submit(self, frame: Frame) -> Future[list[Result]]:
        """Begin a frame; the future gives its data in one or several parts, none if no row of it is left."""
        ...

    def wait(self, future: Future[list[Result]], seconds: float) -> bool:
        """Wait for a frame for some time; whether it is there. The device may use the waiting thread."""
        ...

    def nbytes(self, frame: Frame) -> int:
        """Bytes that a frame takes while it is in flight, an estimate from above."""
        ...

    def retire(self, frame: Frame) -> None:
        """The frame and all before it have been taken; what only they needed may be freed."""
        ...

    def close(self) -> None:
        """Stop all work and free everything. Idempotent; called also after errors and cancellation."""
        ...
