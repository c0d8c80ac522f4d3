"""Small chunks that are decoded together: how whoever wants them receives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Joined"]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Joined:
    """Where chunks go that are decoded in one call.

    Parameters
    ----------
    room
        Offers an uninitialised C-contiguous array for so many chunks, shape ``(n, *chunk_shape)``.
    place
        Called with each position and its chunk, a part of the room; see `ChunkReader.read`.
    done
        Called once they are placed: nobody looks at the room any more, unless ``place`` kept parts of it.
    """

    room: Callable[[int], np.ndarray]
    place: Callable[[int, np.ndarray | None], None]
    done: Callable[[], None] = _nothing
