"""What is known of the rows of a plan before any read: shares of several readers, and numbers of frames.

A plan's tiles are numbered by their position in row order, so a share is a range of positions: shares of all ranks put
together in order are the scan, and a row limit, which ends the scan at one tile, holds over all of them.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from gpuzarr.plan.axis import count
from gpuzarr.plan.model import ScanPlan, split

__all__ = ["Run", "end_position", "frame_count", "shares", "tile_rows"]

BLOCK = 2**18
"""Positions looked at together."""


def end_position(plan: ScanPlan) -> int:
    """Position behind the last tile that the row limit leaves; all tiles at it and after give no row."""
    if plan.n_rows == 0 or plan.grid_size == 0:
        return 0
    if plan.boundary is None:
        return plan.grid_size
    position = 0
    for d, (axis, last) in enumerate(zip(plan.axes, plan.boundary[0], strict=True)):
        at = int(np.searchsorted(axis.tiles, last))
        position += at * math.prod(plan.grid_shape[d + 1 :])
        if at == len(axis) or axis.tiles[at] != last:
            return position
    return position + 1


def tile_rows(plan: ScanPlan, start: int, stop: int) -> np.ndarray:
    """Selected rows of the tiles at positions ``start`` to ``stop``, int64; 0 where the filter cannot hold.

    Counted without the row limit, which only the last tile before `end_position` notices.
    """
    at = np.unravel_index(np.arange(start, stop), plan.grid_shape) if plan.grid_shape else ()
    rows: np.ndarray = np.ones(max(0, stop - start), np.int64)
    for axis, index in zip(plan.axes, at, strict=True):
        rows *= axis.counts()[index]
    if plan.keep is not None:
        rows *= plan.keep.reshape(-1)[start:stop]
    return rows


class _RowsBefore:
    """Selected rows before a position, for any position up to an end."""

    def __init__(self, plan: ScanPlan, end: int) -> None:
        self.plan = plan
        self.cumulative = [np.concatenate(([0], np.cumsum(axis.counts()))) for axis in plan.axes]
        self.blocks: list[int] | None = None
        if plan.keep is not None:
            self.blocks = [0]
            for low in range(0, end, BLOCK):
                self.blocks.append(self.blocks[-1] + int(tile_rows(plan, low, min(low + BLOCK, end)).sum()))

    def __call__(self, position: int) -> int:
        if self.blocks is not None:
            block, rest = divmod(position, BLOCK)
            low = block * BLOCK
            return self.blocks[block] + (int(tile_rows(self.plan, low, low + rest).sum()) if rest else 0)
        if position >= self.plan.grid_size:
            return math.prod(a.selected for a in self.plan.axes)
        before, under = 0, 1
        at = np.unravel_index(position, self.plan.grid_shape) if self.plan.grid_shape else ()
        for d, (index, cumulative) in enumerate(zip(at, self.cumulative, strict=True)):
            inner = math.prod(a.selected for a in self.plan.axes[d + 1 :])
            before += under * int(cumulative[index]) * inner
            under *= int(cumulative[index + 1] - cumulative[index])
        return before


class Run:
    """The tiles of several plans, one plan after the other, cut into contiguous shares.

    A tile belongs to the rank in whose part of the rows its middle lies. Ranks may be left without a tile.
    """

    def __init__(self, plans: Sequence[ScanPlan]) -> None:
        self._ends = [end_position(plan) for plan in plans]
        self._before = [_RowsBefore(plan, end) for plan, end in zip(plans, self._ends, strict=True)]
        rows = [before(end) for before, end in zip(self._before, self._ends, strict=True)]
        self._offsets = [0, *itertools.accumulate(rows)]

    def share(self, rank: int, nranks: int) -> list[tuple[int, int]]:
        """(start, stop) positions of a rank's tiles in each plan.

        Shares of all ranks put together in order are all tiles, balanced by rows.
        """
        starts, stops = self._cuts(rank, nranks), self._cuts(rank + 1, nranks)
        return list(zip(starts, stops, strict=True))

    def rows(self, number: int, start: int, stop: int) -> int:
        """Selected rows of some tiles of a plan, without its row limit."""
        return self._before[number](stop) - self._before[number](start)

    def _cuts(self, rank: int, nranks: int) -> list[int]:
        """In each plan, the position of the first tile that belongs to a rank or to one after it."""
        if rank == 0:
            return [0] * len(self._ends)
        if rank == nranks:
            return list(self._ends)
        return [self._cut(number, rank, nranks) for number in range(len(self._ends))]

    def _cut(self, number: int, rank: int, nranks: int) -> int:
        before, first, wanted = self._before[number], self._offsets[number], self._offsets[-1] * rank
        if first * nranks >= wanted:
            return 0
        if self._offsets[number + 1] * nranks <= wanted:
            return self._ends[number]

        def middle(position: int) -> int:  # times 2 and nranks, to stay with integers
            return nranks * (2 * first + before(position) + before(position + 1))

        return bisect.bisect_left(range(self._ends[number]), 2 * wanted, key=middle)


def shares(plan: ScanPlan, nranks: int) -> list[tuple[int, int]]:
    """(start, stop) positions of every rank's tiles in one plan, see `Run`.

    Parameters
    ----------
    nranks
        At least 1.
    """
    run = Run([plan])
    return [run.share(rank, nranks)[0] for rank in range(nranks)]


def frame_count(plan: ScanPlan, start: int, stop: int, *, rows_wanted: int, rows_most: int) -> int:
    """How many frames `ScanPlan.frames` makes of the same arguments, without making them."""
    number = rows = 0
    for size, together in _runs(plan, start, min(stop, end_position(plan)), rows_wanted, rows_most):
        if rows and rows + together > rows_most:
            number, rows = number + 1, 0
        rows += size
        if rows >= rows_wanted:
            number, rows = number + 1, 0
    return number + (rows > 0)


def _runs(plan: ScanPlan, start: int, stop: int, wanted: int, most: int) -> Iterator[tuple[int, int]]:
    """Rows of the pieces that frames are made of, and for how many a frame must have room, or end before the piece."""
    last = stop - 1 if plan.boundary is not None and stop == end_position(plan) else stop
    for low in range(start, stop, BLOCK):
        high = min(low + BLOCK, stop)
        for position, size in enumerate(tile_rows(plan, low, high).tolist(), low):
            if size == 0:
                continue
            if size <= most and position < last:
                yield size, size
                continue
            tile = plan.tile_at(position)  # large, or cut by the row limit
            if tile is None:
                continue
            size = math.prod(count(p) for p in tile.picks)
            if size <= most:
                yield size, size
                continue
            for number, run in enumerate(split(tile, wanted, most)):
                rows = math.prod(count(p) for p in run)
                yield rows, size if number == 0 else rows
