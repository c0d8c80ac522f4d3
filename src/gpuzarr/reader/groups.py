"""Chunks grouped by the stored object that holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.chain import CodecChain
from gpuzarr.metadata.model import ArrayMetadata

__all__ = ["ChunkGroup", "group_chunks"]


@dataclass(frozen=True, eq=False)
class ChunkGroup:
    """Chunks of one stored object.

    Parameters
    ----------
    key
        Of the object.
    object_index
        Its index in the grid of stored objects.
    positions
        Which of the indices given to `ChunkReader.groups` it holds, ascending.
    """

    key: str
    object_index: tuple[int, ...]
    positions: npt.NDArray[np.int64]


def group_chunks(array: ArrayMetadata, chain: CodecChain, indices: npt.NDArray[np.int64]) -> list[ChunkGroup]:
    """Group inner-chunk indices ``(n, ndim)`` by object, objects in the order of their first chunk."""
    n, ndim = indices.shape
    if not chain.is_sharded:
        return [
            ChunkGroup(array.key(tuple(row)), tuple(row), np.array([position], np.int64))
            for position, row in enumerate(indices.tolist())
        ]
    if ndim == 0 or n == 0:
        return [ChunkGroup(array.key(()), (), np.arange(n, dtype=np.int64))] if n else []
    per_object = np.array([s // c for s, c in zip(array.chunk_shape, chain.chunk_shape, strict=True)], np.int64)
    rows = indices // per_object
    if math.prod(array.grid_shape) < 2**63:  # one number per object sorts faster than a row
        labels = np.ravel_multi_index(tuple(rows.T), array.grid_shape)
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    else:
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    groups = []
    for i in np.argsort(first, kind="stable").tolist():
        index = tuple(rows[first[i]].tolist())
        groups.append(ChunkGroup(array.key(index), index, pieces[i].astype(np.int64)))
    return groups
