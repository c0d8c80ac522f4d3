"""``n_rows``: the first rows of the table in emitted order, counted before any filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpuzarr.plan.axis import Axis, Picks, simplify

__all__ = ["RowLimit", "boundary_tile", "prefix_picks", "rows_before"]


@dataclass(frozen=True, slots=True)
class RowLimit:
    """The first `rows` rows of one tile, counted in C order over all its cells.

    Parameters
    ----------
    rows
        At least 1 and less than the cells of the tile.
    origin, extent
        First index and number of cells of the tile, per dimension.
    """

    rows: int
    origin: tuple[int, ...]
    extent: tuple[int, ...]

    def mask(self, picks: tuple[Picks, ...]) -> np.ndarray:
        """Which selected cells are among the first rows: bool, shape = selected cells per dimension."""
        position: np.ndarray = np.zeros((1,) * len(picks), np.int64)
        for d, pick in enumerate(picks):
            indices = np.arange(pick.start, pick.stop, dtype=np.int64) if isinstance(pick, slice) else pick
            stride = math.prod(self.extent[d + 1 :])
            offset = (indices - self.origin[d]) * stride
            position = position + offset.reshape([-1 if k == d else 1 for k in range(len(picks))])
        return position < self.rows


def rows_before(sizes: tuple[int, ...], tile: tuple[int, ...], number: tuple[int, ...]) -> int:
    """Rows of all tiles that come before tile ``number``; tiles are in C order of their numbers."""
    before, block = 0, 1
    for d, (size, cells, at) in enumerate(zip(sizes, tile, number, strict=True)):
        before += block * at * cells * math.prod(sizes[d + 1 :])
        block *= min(cells, size - at * cells)
    return before


def boundary_tile(sizes: tuple[int, ...], tile: tuple[int, ...], n_rows: int) -> tuple[tuple[int, ...], int] | None:
    """The tile that holds row ``n_rows - 1``, and how many of its rows are wanted; None if all rows are.

    ``n_rows`` is at least 1.
    """
    if n_rows >= math.prod(sizes):
        return None
    number, left, block = [], n_rows - 1, 1
    for d, (size, cells) in enumerate(zip(sizes, tile, strict=True)):
        per_tile = block * cells * math.prod(sizes[d + 1 :])
        at = left // per_tile
        left -= at * per_tile
        number.append(at)
        block *= min(cells, size - at * cells)
    return tuple(number), left + 1


def prefix_picks(picks: tuple[Picks, ...], limit: RowLimit) -> tuple[Picks, ...]:
    """Selection without the cells outside the smallest box around the first rows."""
    out, rows = list(picks), limit.rows
    for d in range(len(picks)):
        inner = math.prod(limit.extent[d + 1 :])
        leading = -(-rows // inner)
        stop = limit.origin[d] + leading
        pick = out[d]
        if isinstance(pick, slice):
            out[d] = slice(pick.start, max(pick.start, min(pick.stop, stop)))
        else:
            out[d] = simplify(pick[: int(np.searchsorted(pick, stop))])
        if leading > 1:
            break
    return tuple(out)


def before_boundary(axes: tuple[Axis, ...], number: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes without tiles that lie after the boundary tile whatever the other dimensions are."""
    out = list(axes)
    for d, at in enumerate(number):
        out[d] = axes[d].before_tile(at + 1)
        if at > 0:
            break
    return tuple(out)
