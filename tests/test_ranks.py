"""Shares of ranks: together the whole scan, in its order, with no overlap; and the number of frames before they are made."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuzarr.plan.axis import Axis, count, simplify
from gpuzarr.plan.limit import before_boundary, boundary_tile
from gpuzarr.plan.model import ScanPlan
from gpuzarr.plan.ranks import Run, end_position, frame_count, shares, tile_rows
from gpuzarr.table.model import Dimension, Table


@st.composite
def plans(draw: Any) -> ScanPlan:
    """Plans over tables of up to three dimensions: selections with holes, tiles left out, row limits."""
    shape = draw(st.lists(st.integers(0, 13), max_size=3))
    tiles = [draw(st.integers(1, 6)) for _ in shape]
    dims = tuple(Dimension(f"d{i}", n) for i, n in enumerate(shape))
    table = Table("memory", "", dims, (), tuple(tiles))
    axes = []
    for size, tile in zip(shape, tiles, strict=True):
        kept = draw(st.lists(st.booleans(), min_size=size, max_size=size)) if draw(st.booleans()) else [True] * size
        axes.append(Axis.of(size, tile, simplify(np.flatnonzero(np.array(kept, np.bool_)))))
    n_rows = draw(st.none() | st.integers(0, math.prod(shape) + 2))
    boundary = boundary_tile(tuple(shape), tuple(tiles), n_rows) if n_rows else None
    if n_rows is not None and n_rows >= math.prod(shape):
        n_rows = None
    made = tuple(axes) if boundary is None else before_boundary(tuple(axes), boundary[0])
    keep = None
    if draw(st.booleans()):
        grid = tuple(len(a) for a in made)
        keep = np.array(draw(st.lists(st.booleans(), min_size=math.prod(grid), max_size=math.prod(grid))), np.bool_)
        keep = keep.reshape(grid)
    return ScanPlan(table, (), made, keep=keep, n_rows=n_rows, boundary=boundary)


def cells(plan: ScanPlan, start: int, stop: int) -> list[tuple[int, ...]]:
    """Indices of the rows of a share, in row order, with the row limit applied."""
    out: list[tuple[int, ...]] = []
    for tile in plan.tiles(start, stop):
        indices = [np.arange(p.start, p.stop) if isinstance(p, slice) else p for p in tile.picks]
        rows = list(itertools.product(*(i.tolist() for i in indices)))
        if tile.limit is not None:
            rows = list(itertools.compress(rows, tile.limit.mask(tile.picks).reshape(-1)))
        out += rows
    return out


@given(plans(), st.integers(1, 64))
def test_shares_are_the_whole_scan(plan: ScanPlan, nranks: int) -> None:
    parts = shares(plan, nranks)
    assert len(parts) == nranks
    assert parts[0][0] == 0
    assert parts[-1][1] == end_position(plan)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    assert all(start <= stop for start, stop in parts)
    assert [row for part in parts for row in cells(plan, *part)] == cells(plan, 0, plan.grid_size)


@given(st.lists(plans(), max_size=5), st.integers(1, 64))
def test_shares_of_several_plans_are_the_whole_of_them(several: list[ScanPlan], nranks: int) -> None:
    run = Run(several)
    parts = [run.share(rank, nranks) for rank in range(nranks)]
    got = [
        (i, row)
        for part in parts
        for i, (at, plan) in enumerate(zip(part, several, strict=True))
        for row in cells(plan, *at)
    ]
    assert got == [(i, row) for i, plan in enumerate(several) for row in cells(plan, 0, plan.grid_size)]
    for i, plan in enumerate(several):
        assert parts[0][i][0] == 0
        assert parts[-1][i][1] == end_position(plan)
        assert all(a[i][1] == b[i][0] for a, b in itertools.pairwise(parts))
    ends = [end_position(plan) for plan in several]
    total = sum(run.rows(i, 0, end) for i, end in enumerate(ends))
    largest = max((int(tile_rows(p, 0, e).max(initial=0)) for p, e in zip(several, ends, strict=True)), default=0)
    for part in parts:  # balanced: half a tile too much at either end, at most
        assert abs(sum(run.rows(i, *at) for i, at in enumerate(part)) - total / nranks) <= largest


@given(plans(), st.integers(1, 64), st.integers(1, 40), st.integers(0, 40))
def test_numbers_of_frames_are_known(plan: ScanPlan, nranks: int, wanted: int, more: int) -> None:
    sizes = {"rows_wanted": wanted, "rows_most": wanted + more}
    for start, stop in shares(plan, nranks):
        frames = list(plan.frames(start, stop, **sizes))
        assert frame_count(plan, start, stop, **sizes) == len(frames)
        assert [f.number for f in frames] == list(range(len(frames)))
        widest = max((f.rows for f in frames), default=0)
        innermost = max((p.shape[-1] for f in frames for p in f.pieces if p.shape), default=1)
        assert widest <= max(wanted + more, innermost)


@given(plans())
def test_rows_of_tiles(plan: ScanPlan) -> None:
    assert tile_rows(plan, 0, plan.grid_size).tolist() == [
        0 if plan.keep is not None and not plan.keep.reshape(-1)[p] else math.prod(count(x) for x in _picks(plan, p))
        for p in range(plan.grid_size)
    ]


def _picks(plan: ScanPlan, position: int) -> tuple[Any, ...]:
    at = np.unravel_index(position, plan.grid_shape) if plan.grid_shape else ()
    return tuple(axis.picks(int(i)) for axis, i in zip(plan.axes, at, strict=True))


@pytest.mark.parametrize("nranks", [3, 64])
def test_shares_are_balanced_by_rows(nranks: int) -> None:
    """3.5 million tiles of uneven selections: no rank has more than a tile too much, and nothing walks over all tiles."""
    dims = (Dimension("time", 350_000), Dimension("lat", 721), Dimension("lon", 1440))
    table = Table("memory", "", dims, (), (1, 721, 144))
    box = np.flatnonzero(np.arange(1440) % 7 != 0)
    axes = (Axis.of(350_000, 1, slice(0, 350_000)), Axis.of(721, 721, slice(10, 100)), Axis.of(1440, 144, box))
    plan = ScanPlan(table, (), axes)
    total = plan.selected_rows
    rows = [int(tile_rows(plan, *part).sum()) for part in shares(plan, nranks)]
    assert sum(rows) == total
    assert max(abs(r - total / nranks) for r in rows) <= 90 * 144
    start, stop = shares(plan, nranks)[-1]
    assert frame_count(plan, start, stop, rows_wanted=10**8, rows_most=10**8) == -(-rows[-1] // 10**8)
