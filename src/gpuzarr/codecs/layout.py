"""Where the cells of a chunk lie among its uncompressed bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Box", "StoredLayout", "covers"]

Box = tuple[tuple[int, int], ...]
"""(start, stop) per dimension of a chunk."""

MAX_RUNS = 1 << 14  # more are read as fewer, longer ones: planning must stay cheaper than reading


def covers(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box is the whole chunk."""
    return all(start <= 0 and stop >= n for (start, stop), n in zip(box, shape, strict=True))


@dataclass(frozen=True)
class StoredLayout:
    """The elements of a chunk as they are stored before compression.

    Parameters
    ----------
    shape
        Of the chunk in the order of storage: C order, the last dimension fastest.
    dtype
        Of one element, with its byte order.
    axes
        Stored dimension ``i`` is dimension ``axes[i]`` of the chunk.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[int, ...]

    @cached_property
    def is_c_order(self) -> bool:
        """Whether the chunk itself is in C order."""
        return self.axes == tuple(range(len(self.axes)))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the chunk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, flat: np.ndarray) -> np.ndarray:
        """The chunk as a view of its elements in stored order."""
        inverse = [0] * len(self.axes)
        for stored, axis in enumerate(self.axes):
            inverse[axis] = stored
        return flat.reshape(self.shape).transpose(inverse)

    def end(self, box: Box) -> int:
        """The byte after the last one that a box needs: what lies behind it does not matter. 0 for an empty box."""
        stride, end = self.dtype.itemsize, self.dtype.itemsize
        for axis, n in zip(reversed(self.axes), reversed(self.shape), strict=True):
            start, stop = max(0, box[axis][0]), min(n, box[axis][1])
            if stop <= start:
                return 0
            end += (stop - 1) * stride
            stride *= n
        return end

    def runs(self, box: Box, gap: int = 0) -> npt.NDArray[np.int64]:
        """Bytes that hold a box: int64 ``(n, 2)`` of (start, stop) at elements, ascending, more than ``gap`` bytes apart.

        What lies between is included where it is not more than ``gap`` bytes, and where there were more than `MAX_RUNS`.
        """
        stored = [box[axis] for axis in self.axes]
        lows = [max(0, start) for start, _ in stored]
        counts = [min(n, stop) - low for (_, stop), n, low in zip(stored, self.shape, lows, strict=True)]
        if any(count <= 0 for count in counts):
            return np.empty((0, 2), np.int64)
        strides = [self.dtype.itemsize] * len(self.shape)
        for i in range(len(self.shape) - 2, -1, -1):
            strides[i] = strides[i + 1] * self.shape[i + 1]
        first = sum(low * stride for low, stride in zip(lows, strides, strict=True))
        # bytes between neighbours along a dimension never become fewer from the last one to the first: those of which
        # there are more than `gap` come first, and every step along one of them begins a run
        split, length = len(self.shape), self.dtype.itemsize
        while split and strides[split - 1] - length <= gap:
            split -= 1
            length += (counts[split] - 1) * strides[split]
        while math.prod(counts[:split]) > MAX_RUNS:
            split -= 1
            length += (counts[split] - 1) * strides[split]
        starts = np.full(1, first, np.int64)
        for count, stride in zip(counts[:split], strides[:split], strict=True):
            starts = (starts[:, None] + np.arange(count, dtype=np.int64) * stride).reshape(-1)
        return np.stack([starts, starts + length], axis=1)
