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

    def runs(self, box: Box) -> npt.NDArray[np.int64]:
        """Bytes that hold a box: int64 ``(n, 2)`` of (start, stop), ascending, apart from each other.

        More than `MAX_RUNS` are replaced by fewer that include what lies between.
        """
        stored = [box[axis] for axis in self.axes]
        lows = [max(0, start) for start, _ in stored]
        highs = [min(n, stop) for (_, stop), n in zip(stored, self.shape, strict=True)]
        if any(low >= high for low, high in zip(lows, highs, strict=True)):
            return np.empty((0, 2), np.int64)
        strides = [self.dtype.itemsize] * len(self.shape)
        for i in range(len(self.shape) - 2, -1, -1):
            strides[i] = strides[i + 1] * self.shape[i + 1]
        # dimensions before `split` are enumerated, the others make one run
        split, count = 0, 1
        full_behind = [True] * (len(self.shape) + 1)  # whether all dimensions from i on are whole
        for i in range(len(self.shape) - 1, -1, -1):
            full_behind[i] = full_behind[i + 1] and lows[i] == 0 and highs[i] == self.shape[i]
        while (
            split < len(self.shape) and not full_behind[split + 1] and count * (highs[split] - lows[split]) <= MAX_RUNS
        ):
            count *= highs[split] - lows[split]
            split += 1
        starts = np.zeros(1, np.int64)
        for i in range(split):
            steps = np.arange(lows[i], highs[i], dtype=np.int64) * strides[i]
            starts = (starts[:, None] + steps).reshape(-1)
        inner = range(split, len(self.shape))
        first = sum(lows[i] * strides[i] for i in inner)
        last = sum((highs[i] - 1) * strides[i] for i in inner) + self.dtype.itemsize
        return _joined(starts + first, starts + last)


def _joined(starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Ascending runs with those joined that touch or overlap."""
    begins = np.concatenate([[True], starts[1:] > stops[:-1]])
    ends = np.concatenate([begins[1:], [True]])
    return np.stack([starts[begins], stops[ends]], axis=1)
