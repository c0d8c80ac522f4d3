"""A scan plan: which tiles, which cells of them, in which order, in which frames. Known before any chunk is read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from gpuzarr.plan.axis import Axis, Picks, count, span
from gpuzarr.plan.limit import RowLimit, prefix_picks, rows_before
from gpuzarr.predicate import Node
from gpuzarr.table.model import Table

__all__ = [
    "FILTERED_CELLS",
    "FILTERED_FRAMES",
    "FRAME_ROWS",
    "MAX_FRAME_ROWS",
    "Filter",
    "Frame",
    "Piece",
    "ScanPlan",
    "Tile",
]

FRAME_ROWS = 2**18
"""Tiles are put together until a frame holds about this many selected rows."""

MAX_FRAME_ROWS = 2**20
"""A tile with more selected rows than this is handed out in several frames."""

FILTERED_FRAMES = 16
"""Frames of filtered scans are larger, as long as there are about as many of them: mostly only what the filter needs lies in
their memory, and what each costs besides its rows is paid less often. Enough of them for all workers."""

FILTERED_CELLS = 2**22
"""Most cells of such a larger frame if all of its rows pass, those of the filter and of every field of a struct among them:
several of them have to fit into a memory budget."""

_MOST_PICKS = 2**16
"""Tiles of all dimensions together up to which a plan keeps what they select; a grid of more is looked up tile by tile."""


@dataclass(frozen=True)
class Filter:
    """What remains of the predicate and must be evaluated on the cells of a tile.

    Parameters
    ----------
    expression
        Boolean expression over `columns` and one Boolean column per entry of `leaves`.
    leaves
        Coordinate-only parts, as outcome codes, by the column name that stands for them.
    columns
        Table columns that the expression needs as such, in table order.
    """

    expression: pl.Expr
    leaves: dict[str, Node]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A surviving tile: `position` in the grid of surviving tiles, absolute `picks` per dimension."""

    position: int
    picks: tuple[Picks, ...]
    filtered: bool
    limit: RowLimit | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A tile's selected cells, or a run of them along the leading dimensions, in C order.

    Parameters
    ----------
    tile
        Position of the tile in the grid of surviving tiles.
    picks, shape
        Selected indices per dimension of the table, absolute, and their numbers.
    first_row
        Row of the frame at which the piece begins.
    whole
        Whether it is the whole selection of its tile.
    """

    tile: int
    picks: tuple[Picks, ...]
    shape: tuple[int, ...]
    first_row: int
    whole: bool
    filtered: bool
    limit: RowLimit | None

    @property
    def rows(self) -> int:
        """Selected rows before filtering."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Frame:
    """A run of consecutive pieces that is handed out as one frame.

    Parameters
    ----------
    done
        Tiles at this position and before are complete once the frame is.
    """

    number: int
    pieces: tuple[Piece, ...]
    rows: int
    done: int

    @property
    def filtered(self) -> bool:
        """Whether rows have to be tested at all."""
        return any(p.filtered or p.limit is not None for p in self.pieces)


def split(tile: Tile, wanted: int, most: int) -> Iterator[tuple[Picks, ...]]:
    """Runs of a large tile's cells, in C order: ``wanted`` rows at least, unless one were of more than ``most`` then.

    Each is a frame then, and its cells lie together in a chunk that is as large as the tile.
    """
    shape = [count(p) for p in tile.picks]
    axis, inner = 0, math.prod(shape)
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        if inner <= wanted:
            break
    length, longest = shape[axis], max(1, most // max(1, inner))
    runs = max(1, length // -(-wanted // max(1, inner)))
    if -(-length // runs) > longest:
        runs = -(-length // longest)

    def cut(pick: Picks, low: int, high: int) -> Picks:
        return slice(pick.start + low, pick.start + high) if isinstance(pick, slice) else pick[low:high]

    for lead in itertools.product(*(range(n) for n in shape[:axis])):
        head = tuple(cut(p, i, i + 1) for p, i in zip(tile.picks, lead, strict=False))
        for number in range(runs):
            run = cut(tile.picks[axis], length * number // runs, length * (number + 1) // runs)
            yield (*head, run, *tile.picks[axis + 1 :])


@dataclass(frozen=True)
class ScanPlan:
    """The plan of one scan.

    Parameters
    ----------
    table
        With the tile shape of the order asked for.
    projection
        Columns to hand out, in order.
    axes
        Surviving tiles per dimension, in row order.
    keep
        Which tiles of the grid of `axes` survive, bool, shape ``grid_shape``; None: all of them.
    needs_filter
        Which of them must be filtered, bool, shape ``grid_shape``; None: all, if there is a filter.
    filter
        The residual predicate, None where the selection of `axes` is exact.
    n_rows, boundary
        Row limit before filtering; the tile it ends in and how many of its rows are wanted.
    """

    table: Table
    projection: tuple[str, ...]
    axes: tuple[Axis, ...]
    keep: np.ndarray | None = None
    needs_filter: np.ndarray | None = None
    filter: Filter | None = None
    n_rows: int | None = None
    boundary: tuple[tuple[int, ...], int] | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @cached_property
    def grid_shape(self) -> tuple[int, ...]:
        """Surviving tiles per dimension, before `keep`."""
        return tuple(len(a) for a in self.axes)

    @cached_property
    def grid_size(self) -> int:
        """Product of `grid_shape`; tile positions are below it."""
        return math.prod(self.grid_shape)

    def _unravelled(self, position: int) -> tuple[int, ...]:
        """`numpy.unravel_index` of one position in the grid of surviving tiles, faster."""
        at = []
        for extent in reversed(self.grid_shape):
            position, inside = divmod(position, extent)
            at.append(inside)
        return tuple(at[::-1])

    def _sizes(self) -> tuple[int, ...]:
        return tuple(d.size for d in self.table.dims)

    def tile_at(self, position: int) -> Tile | None:
        """The tile at a position of the grid of surviving tiles; None if the row limit excludes it."""
        at = self._unravelled(position)
        number = tuple([int(a.tiles[i]) for a, i in zip(self.axes, at, strict=True)])
        picks = tuple([a.picks(i) for a, i in zip(self.axes, at, strict=True)])
        filtered = self.filter is not None and (self.needs_filter is None or bool(self.needs_filter[at]))
        limit = None
        if self.boundary is not None:
            last, rows = self.boundary
            if number > last:
                return None
            if number == last:
                extent = tuple(a.extent(n) for a, n in zip(self.axes, number, strict=True))
                if rows < math.prod(extent):
                    origin = tuple(a.tile * n for a, n in zip(self.axes, number, strict=True))
                    limit = RowLimit(rows, origin, extent)
                    picks = prefix_picks(picks, limit)
                    if any(count(p) == 0 for p in picks):
                        return None
                    if _is_box(picks, limit):
                        limit = None
        return Tile(position, picks, filtered, limit)

    def tiles(self, start: int = 0, stop: int | None = None) -> Iterator[Tile]:
        """Surviving tiles in row order, optionally those at positions ``start`` to ``stop`` only."""
        if any(len(a) == 0 for a in self.axes) or self.n_rows == 0:
            return
        stop = self.grid_size if stop is None else min(stop, self.grid_size)
        if start == 0 and self.keep is None and self.boundary is None and sum(self.grid_shape) <= _MOST_PICKS:
            yield from itertools.islice(self._all_tiles(), stop)
            return
        positions: Iterator[int]
        if self.keep is None:
            positions = iter(range(start, stop))
        else:
            positions = iter((np.flatnonzero(self.keep.reshape(-1)[start:stop]) + start).tolist())
        for position in positions:
            tile = self.tile_at(position)
            if tile is not None:
                yield tile
            elif self.boundary is not None and self._after_boundary(position):
                return

    def _all_tiles(self) -> Iterator[Tile]:
        """Every tile of the grid of `axes`: as `tile_at`, with what they share along a dimension looked up once."""
        along = [[axis.picks(i) for i in range(len(axis))] for axis in self.axes]
        needs: Iterable[bool] = itertools.repeat(self.filter is not None)
        if self.filter is not None and self.needs_filter is not None:
            needs = self.needs_filter.reshape(-1).tolist()
        for position, (picks, filtered) in enumerate(zip(itertools.product(*along), needs, strict=False)):
            yield Tile(position, picks, filtered, None)

    def _after_boundary(self, position: int) -> bool:
        assert self.boundary is not None
        at = self._unravelled(position)
        return tuple(int(a.tiles[i]) for a, i in zip(self.axes, at, strict=True)) > self.boundary[0]

    def frames(
        self, start: int = 0, stop: int | None = None, *, rows_wanted: int | None = None, rows_most: int | None = None
    ) -> Iterator[Frame]:
        """Frames in row order: runs of pieces of about ``rows_wanted`` selected rows, ``rows_most`` at most.

        Unless given, their numbers are `FRAME_ROWS` (more for filtered scans, see `FILTERED_FRAMES`) and `MAX_FRAME_ROWS`.
        Only tiles at positions ``start`` to ``stop``.
        """
        most = MAX_FRAME_ROWS if rows_most is None else rows_most
        wanted = self._usual_rows(most) if rows_wanted is None else rows_wanted
        pieces: list[Piece] = []
        number, rows, done = 0, 0, start - 1

        def close() -> Frame:
            nonlocal number, pieces, rows
            frame = Frame(number, tuple(pieces), rows, done)
            number, pieces, rows = number + 1, [], 0
            return frame

        for tile in self.tiles(start, stop):
            shape = tuple([count(p) for p in tile.picks])
            size = math.prod(shape)
            if pieces and rows + size > most:
                yield close()
            if size <= most:
                pieces.append(Piece(tile.position, tile.picks, shape, rows, True, tile.filtered, tile.limit))
                rows, done = rows + size, tile.position
                if rows >= wanted:
                    yield close()
                continue
            runs = split(tile, wanted, most)
            pending: tuple[Picks, ...] | None = None
            for run in itertools.chain(runs, (None,)):  # one run behind, so that the last one is known
                if pending is not None:
                    shape = tuple(count(p) for p in pending)
                    if pieces and rows + math.prod(shape) > most:
                        yield close()
                    pieces.append(Piece(tile.position, pending, shape, rows, False, tile.filtered, tile.limit))
                    rows += math.prod(shape)
                    if run is None:
                        done = tile.position
                    if rows >= wanted:
                        yield close()
                pending = run
        if pieces:
            yield close()

    def _usual_rows(self, most: int) -> int:
        """Selected rows that a frame should hold."""
        if self.filter is None:
            return FRAME_ROWS
        names = {*self.projection, *self.filter.columns}
        cells = sum(len(self.table.by_name[name].leaves) for name in names)
        most = min(most, FILTERED_CELLS // max(1, cells))
        return max(FRAME_ROWS, min(self.selected_rows // FILTERED_FRAMES, most))

    @cached_property
    def tile_count(self) -> int:
        """Number of surviving tiles."""
        if self.n_rows == 0:
            return 0
        if self.boundary is None:
            return self.grid_size if self.keep is None else int(np.count_nonzero(self.keep))
        return sum(1 for _ in self.tiles())

    @cached_property
    def selected_rows(self) -> int:
        """Rows of the surviving tiles' selections; the exact answer where there is no filter, else an upper bound."""
        if self.n_rows == 0:
            return 0
        if self.boundary is not None:
            return sum(_rows(t) for t in self.tiles())
        if self.keep is None:
            return math.prod(a.selected for a in self.axes)
        total: np.ndarray = self.keep.astype(np.int64)
        for axis in reversed(self.axes):
            total = total @ axis.counts()
        return int(total)

    @property
    def is_exact(self) -> bool:
        """Whether `selected_rows` is exact: nothing remains to be filtered."""
        return self.filter is None or (self.needs_filter is not None and not self.needs_filter.any())

    def row_offset(self, tile: Tile) -> int:
        """Rows of the unfiltered table before the tile, in emitted order."""
        number = tuple(span(p)[0] // a.tile for p, a in zip(tile.picks, self.axes, strict=True))
        return rows_before(self._sizes(), self.table.tile_shape, number)


def _is_box(picks: tuple[Picks, ...], limit: RowLimit) -> bool:
    """Whether every selected cell is among the first rows, so that nothing has to be cut."""
    last = tuple(span(p)[1] - 1 - o for p, o in zip(picks, limit.origin, strict=True))
    position = 0
    for at, extent in zip(last, limit.extent, strict=True):
        position = position * extent + at
    return position < limit.rows


def _rows(tile: Tile) -> int:
    if tile.limit is None:
        return math.prod(count(p) for p in tile.picks)
    return int(np.count_nonzero(tile.limit.mask(tile.picks)))
