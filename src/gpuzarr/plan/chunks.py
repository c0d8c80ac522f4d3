"""Which chunks of an array a selection touches, and which cells of each: pure index arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpuzarr.plan.axis import AxisPart, Picks, chunks_touched, parts, span
from gpuzarr.plan.model import Piece, ScanPlan
from gpuzarr.table.model import Column

__all__ = [
    "ChunkPart",
    "PieceChunks",
    "chunk_count",
    "is_direct",
    "last_tile",
    "piece_chunks",
    "touched",
    "touched_boxes",
]


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """What a piece takes from one chunk.

    Parameters
    ----------
    inside
        Selected cells per array axis, relative to the chunk.
    at
        Where they go in the piece, per table dimension; full slices for dimensions the array lacks.
    whole
        Whether every cell of the chunk is taken.
    """

    inside: tuple[Picks, ...]
    at: tuple[slice, ...]
    whole: bool

    def box(self) -> tuple[tuple[int, int], ...]:
        """Smallest (start, stop) per array axis that holds the cells."""
        return tuple(span(p) for p in self.inside)


@dataclass(frozen=True)
class PieceChunks:
    """Chunks of one array that a piece takes cells from.

    Parameters
    ----------
    indices
        Grid index of every chunk, int64, shape ``(n, array ndim)``, in C order.
    parts
        What is taken from each, same order.
    """

    indices: np.ndarray
    parts: tuple[ChunkPart, ...]


def _axis_parts(column: Column, dims: Mapping[str, int], picks: tuple[Picks, ...]) -> list[list[AxisPart]]:
    assert column.chain is not None
    return [parts(picks[dims[name]], c) for name, c in zip(column.dims, column.chain.chunk_shape, strict=True)]


def piece_chunks(column: Column, dims: Mapping[str, int], piece: Piece) -> PieceChunks:
    """Chunks of ``column`` under a piece; ``dims`` gives the position of each dimension in the table."""
    per_axis = _axis_parts(column, dims, piece.picks)
    indices = np.array(list(itertools.product(*([p.chunk for p in axis] for axis in per_axis))), np.int64)
    everywhere = [slice(0, n) for n in piece.shape]
    places = [dims[name] for name in column.dims]
    out = []
    for combination in itertools.product(*per_axis):
        at = everywhere.copy()
        for place, part in zip(places, combination, strict=True):
            at[place] = part.at
        whole = all(p.whole for p in combination)
        out.append(ChunkPart(tuple([p.inside for p in combination]), tuple(at), whole))
    return PieceChunks(indices.reshape(len(out), len(column.dims)), tuple(out))


def is_direct(column: Column, plan: ScanPlan) -> bool:
    """Whether each chunk of the column belongs to one tile only, so that no tile has to share it.

    True if the array has all dimensions of the table and tiles begin and end at its chunk boundaries.
    """
    if column.chain is None or len(column.dims) != len(plan.table.dims):
        return False
    cells = dict(zip(plan.table.sizes, plan.table.tile_shape, strict=True))
    sizes = plan.table.sizes
    return all(
        cells[d] % c == 0 or cells[d] >= sizes[d] for d, c in zip(column.dims, column.chain.chunk_shape, strict=True)
    )


def last_tile(column: Column, plan: ScanPlan, index: tuple[int, ...]) -> int:
    """Position of the last tile of the plan's grid that can take cells from the chunk at ``index``."""
    assert column.chain is not None
    chunk = dict(zip(column.dims, zip(index, column.chain.chunk_shape, strict=True), strict=True))
    position = 0
    for dimension, axis in zip(plan.table.dims, plan.axes, strict=True):
        at = len(axis) - 1
        if dimension.name in chunk:
            number, cells = chunk[dimension.name]
            last = min(dimension.size, (number + 1) * cells) - 1
            at = int(np.searchsorted(axis.tiles, last // axis.tile, side="right")) - 1
        position = position * len(axis) + max(at, 0)
    return position


def chunk_count(column: Column, plan: ScanPlan) -> int:
    """Distinct chunks of a column that the plan's surviving tiles touch, before late materialisation."""
    if column.chain is None or plan.tile_count == 0:
        return 0
    dims = {d.name: i for i, d in enumerate(plan.table.dims)}
    if plan.keep is None and plan.boundary is None:
        return math.prod(
            chunks_touched(plan.axes[dims[name]].picked, c)
            for name, c in zip(column.dims, column.chain.chunk_shape, strict=True)
        )
    return len(touched(column, plan))


def touched(column: Column, plan: ScanPlan) -> np.ndarray:
    """Distinct grid indices of the chunks that the surviving tiles touch, int64, shape ``(n, array ndim)``, C order."""
    assert column.chain is not None
    dims = {d.name: i for i, d in enumerate(plan.table.dims)}
    shape = tuple(
        max(1, -(-plan.table.sizes[name] // c)) for name, c in zip(column.dims, column.chain.chunk_shape, strict=True)
    )
    if plan.tile_count == 0:
        return np.empty((0, len(shape)), np.int64)
    if plan.keep is None and plan.boundary is None:
        per_axis = [
            np.array([p.chunk for p in parts(plan.axes[dims[name]].picked, c)], np.int64)
            for name, c in zip(column.dims, column.chain.chunk_shape, strict=True)
        ]
        return _grid(per_axis)
    seen: list[np.ndarray] = []
    for tile in plan.tiles():
        per_axis = [
            np.array([p.chunk for p in parts(tile.picks[dims[name]], c)], np.int64)
            for name, c in zip(column.dims, column.chain.chunk_shape, strict=True)
        ]
        seen.append(np.ravel_multi_index(tuple(_grid(per_axis).T), shape) if shape else np.zeros(1, np.int64))
    unique = np.unique(np.concatenate(seen))
    return np.stack(np.unravel_index(unique, shape), axis=1).astype(np.int64) if shape else np.empty((1, 0), np.int64)


def _grid(per_axis: list[np.ndarray]) -> np.ndarray:
    if not per_axis:
        return np.empty((1, 0), np.int64)
    return np.stack([g.reshape(-1) for g in np.meshgrid(*per_axis, indexing="ij")], axis=1)


def touched_boxes(column: Column, plan: ScanPlan) -> tuple[np.ndarray, np.ndarray]:
    """Chunks that the surviving tiles touch, and the needed cells of each: what a scan asks the reader for.

    Returns
    -------
    indices : int64, shape ``(n, array ndim)``
    boxes : int64, shape ``(n, array ndim, 2)``
        (start, stop) per array axis, relative to the chunk.
    """
    assert column.chain is not None
    dims = {d.name: i for i, d in enumerate(plan.table.dims)}
    if plan.boundary is not None and is_direct(column, plan):
        return _by_tile(column, plan, dims)
    indices = touched(column, plan)
    boxes = np.empty((len(indices), len(column.dims), 2), np.int64)
    for axis, (name, cells) in enumerate(zip(column.dims, column.chain.chunk_shape, strict=True)):
        there = parts(plan.axes[dims[name]].picked, cells)
        numbers = np.array([p.chunk for p in there], np.int64)
        spans = np.array([span(p.inside) for p in there], np.int64).reshape(len(there), 2)
        boxes[:, axis] = spans[np.searchsorted(numbers, indices[:, axis])]
    return indices, boxes


def _by_tile(column: Column, plan: ScanPlan, dims: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """As `touched_boxes`, tile by tile: the last tile of a row limit takes less of its chunks."""
    assert column.chain is not None
    seen: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {}
    for tile in plan.tiles():
        per_axis = [
            parts(tile.picks[dims[name]], c) for name, c in zip(column.dims, column.chain.chunk_shape, strict=True)
        ]
        for combination in itertools.product(*per_axis):
            seen[tuple(p.chunk for p in combination)] = tuple(span(p.inside) for p in combination)
    shape = (len(seen), len(column.dims))
    return np.array(list(seen), np.int64).reshape(shape), np.array(list(seen.values()), np.int64).reshape(*shape, 2)
