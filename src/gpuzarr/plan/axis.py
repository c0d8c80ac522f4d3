"""One dimension of a plan: which indices are selected, and how they fall into tiles and chunks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from gpuzarr.metadata.model import ceil_div

__all__ = ["Axis", "AxisPart", "Picks", "chunks_touched", "count", "parts", "span"]

Picks = slice | np.ndarray
"""Selected indices of a dimension: a slice with step 1, or ascending int64 indices."""


def count(picks: Picks) -> int:
    """Number of selected indices."""
    return picks.stop - picks.start if isinstance(picks, slice) else len(picks)


def span(picks: Picks) -> tuple[int, int]:
    """Smallest (start, stop) that holds the selection; it must not be empty."""
    return (picks.start, picks.stop) if isinstance(picks, slice) else (int(picks[0]), int(picks[-1]) + 1)


def simplify(indices: np.ndarray) -> Picks:
    """Ascending distinct indices as a slice where they are consecutive."""
    if len(indices) == 0:
        return slice(0, 0)
    first, last = int(indices[0]), int(indices[-1])
    return slice(first, last + 1) if last - first + 1 == len(indices) else indices


@dataclass(frozen=True, slots=True)
class AxisPart:
    """The selected cells of one chunk along one axis.

    Parameters
    ----------
    chunk
        Chunk number along the axis.
    inside
        Selected cells, relative to the chunk's first.
    at
        Where they go: positions relative to the first selected cell.
    whole
        Whether these are all cells that the chunk holds along the axis, those outside of the array included.
    """

    chunk: int
    inside: Picks
    at: slice
    whole: bool


def parts(picks: Picks, chunk: int) -> list[AxisPart]:
    """Split a selection at chunk boundaries."""
    if isinstance(picks, slice):
        start, stop = picks.start, picks.stop
        if start >= stop:
            return []
        out = []
        for number in range(start // chunk, ceil_div(stop, chunk)):
            low, high = max(start, number * chunk), min(stop, (number + 1) * chunk)
            inside = slice(low - number * chunk, high - number * chunk)
            out.append(AxisPart(number, inside, slice(low - start, high - start), high - low == chunk))
        return out
    numbers = picks // chunk
    cuts = np.flatnonzero(np.diff(numbers)) + 1
    bounds = [0, *cuts.tolist(), len(picks)]
    out = []
    for low, high in itertools.pairwise(bounds):
        if low < high:
            number = int(numbers[low])
            cells = simplify(picks[low:high] - number * chunk)
            out.append(AxisPart(number, cells, slice(low, high), high - low == chunk))
    return out


def chunks_touched(picks: Picks, chunk: int) -> int:
    """Number of chunks that hold at least one selected index."""
    if count(picks) == 0:
        return 0
    if isinstance(picks, slice):
        return ceil_div(picks.stop, chunk) - int(picks.start) // chunk
    return int(np.count_nonzero(np.diff(picks // chunk))) + 1


@dataclass(frozen=True)
class Axis:
    """Surviving tiles of one dimension.

    Parameters
    ----------
    size, tile
        Length of the dimension and cells of a tile along it.
    picked
        All selected indices of the dimension.
    tiles
        Numbers of the tiles that hold a selected index, ascending int64.
    starts
        Offset into the selection of each such tile's first index, shape ``(len(tiles),)``.
    """

    size: int
    tile: int
    picked: Picks
    tiles: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, size: int, tile: int, picked: Picks) -> Axis:
        """Axis of a selection."""
        if isinstance(picked, slice):
            if picked.start >= picked.stop:
                return cls(size, tile, slice(0, 0), np.empty(0, np.int64), np.empty(0, np.int64))
            tiles = np.arange(picked.start // tile, ceil_div(picked.stop, tile), dtype=np.int64)
            starts = np.maximum(tiles * tile - picked.start, 0)
            return cls(size, tile, picked, tiles, starts)
        if len(picked) == 0:
            return cls.of(size, tile, slice(0, 0))
        numbers = picked // tile
        starts = np.concatenate(([0], np.flatnonzero(np.diff(numbers)) + 1)).astype(np.int64)
        return cls(size, tile, picked, numbers[starts], starts)

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def selected(self) -> int:
        """Number of selected indices."""
        return count(self.picked)

    def counts(self) -> np.ndarray:
        """Selected indices of each surviving tile, int64."""
        return np.diff(self.starts, append=self.selected)

    def extent(self, number: int) -> int:
        """Cells of tile ``number`` along this dimension, selected or not."""
        return min(self.tile, self.size - number * self.tile)

    def picks(self, position: int) -> Picks:
        """Selected indices inside the surviving tile at ``position``, absolute."""
        low = int(self.starts[position])
        high = int(self.starts[position + 1]) if position + 1 < len(self.starts) else self.selected
        if isinstance(self.picked, slice):
            return slice(self.picked.start + low, self.picked.start + high)
        return simplify(self.picked[low:high])

    def before_tile(self, end: int) -> Axis:
        """The same axis without tiles numbered ``end`` or higher."""
        limit = min(self.size, end * self.tile)
        if isinstance(self.picked, slice):
            stop = max(self.picked.start, min(self.picked.stop, limit))
            return Axis.of(self.size, self.tile, slice(self.picked.start, stop))
        return Axis.of(self.size, self.tile, self.picked[: int(np.searchsorted(self.picked, limit))])

    def indices(self) -> np.ndarray:
        """All selected indices as an int64 array."""
        return (
            np.arange(self.picked.start, self.picked.stop, dtype=np.int64)
            if isinstance(self.picked, slice)
            else self.picked
        )
