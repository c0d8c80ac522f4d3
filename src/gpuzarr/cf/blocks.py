"""Cutting N-dimensional work into pieces that stay in the processor's cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_CELLS", "blocks", "flattened"]

BLOCK_CELLS = 2**17
"""Cells per piece: 1 MiB of float64; smaller ones pay numpy's overhead per call, larger ones leave the cache."""

Index = tuple[int | slice, ...]


def blocks(shape: tuple[int, ...]) -> Iterator[Index]:
    """Indices that cut an array of `shape` into slabs of about `BLOCK_CELLS` cells, trailing dimensions whole where they fit."""
    if math.prod(shape) <= BLOCK_CELLS:
        yield (slice(None),) * len(shape)
        return
    axis, trailing = len(shape) - 1, 1
    while trailing * shape[axis] <= BLOCK_CELLS:
        trailing *= shape[axis]
        axis -= 1
    rows = max(1, BLOCK_CELLS // trailing)
    for leading in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], rows):
            yield (*leading, slice(start, start + rows))


def flattened(arrays: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
    """Views of the same cells with one dimension where all arrays are C-contiguous, else at least one dimension."""
    if all(array.flags.c_contiguous for array in arrays):
        return tuple(array.reshape(-1) for array in arrays)
    return tuple(array[None] if array.ndim == 0 else array for array in arrays)
