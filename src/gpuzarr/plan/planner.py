"""From table, projection, predicate and row limit to a `ScanPlan`. Reads coordinates, never a variable's chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from gpuzarr.errors import PlanLimitError, RequestError
from gpuzarr.options import Order
from gpuzarr.plan.axis import Axis, Picks, simplify
from gpuzarr.plan.limit import before_boundary, boundary_tile
from gpuzarr.plan.model import Filter, ScanPlan
from gpuzarr.predicate import CoordinateProvider, Node, T, analyse, box_of, residual_expression, select, tile_outcomes
from gpuzarr.table.model import Table

__all__ = ["MAX_GRID", "MAX_TILES", "in_order", "make_plan"]

MAX_GRID = 5 * 10**7
"""Surviving tiles up to which outcome sets are looked at tile by tile; above, tiles are read and filtered."""

MAX_TILES = 2**25
"""Tiles along one dimension that a plan lists; they take 16 bytes each."""

_LEAF = "__gpuzarr_leaf_"


def in_order(table: Table, order: Order) -> Table:
    """The table with the tiles of an emitted order: for ``"C"`` slabs of the leading dimension."""
    if order == "tile" or not table.dims:
        return table
    return replace(table, tile_shape=(table.tile_shape[0], *(max(1, d.size) for d in table.dims[1:])))


def make_plan(
    table: Table,
    coordinates: CoordinateProvider,
    *,
    with_columns: Sequence[str] | None = None,
    predicate: pl.Expr | None = None,
    n_rows: int | None = None,
    elementwise: bool = False,
) -> ScanPlan:
    """Plan one scan.

    Parameters
    ----------
    table
        With the tile shape of the emitted order, see `in_order`.
    coordinates
        Values of the coordinates; read only where the predicate names them.
    with_columns
        Columns to hand out; None: all. Emitted in table order, as Polars expects.
    predicate
        Rows to keep; any Boolean Polars expression over the table's columns.
    n_rows
        Only the first rows of the table, **before** the predicate.
    elementwise
        The predicate is known to look at one row at a time, as those that Polars pushes down.

    Raises
    ------
    RequestError
        A column that the table does not have.
    """
    projection = _projection(table, with_columns)
    sizes = tuple(d.size for d in table.dims)
    boundary = None
    if n_rows is not None and n_rows > 0:
        boundary = boundary_tile(sizes, table.tile_shape, n_rows)
    if n_rows is not None and n_rows >= math.prod(sizes):
        n_rows = None

    picked: dict[str, Picks] = {d.name: slice(0, d.size) for d in table.dims}
    residual: Node | None = None
    if predicate is not None and n_rows != 0:
        selected = _selected(predicate, table, coordinates, elementwise=elementwise)
        if selected is None:
            picked = dict.fromkeys(picked, slice(0, 0))
            n_rows = 0
        else:
            picked |= selected[0]
            residual = selected[1]
    if boundary is not None:
        picked = _before(picked, table, boundary[0])
    for dimension, cells in zip(table.dims, table.tile_shape, strict=True):
        pick = picked[dimension.name]
        if isinstance(pick, slice) and (pick.stop - pick.start) // cells > MAX_TILES:
            raise PlanLimitError(
                f"{(pick.stop - pick.start) // cells} tiles along dimension {dimension.name!r} are more than the "
                f"{MAX_TILES} that one scan can hold; filter on {dimension.name!r}, or read a part with head().",
                store=table.store,
                array=table.group or None,
            )
    axes = tuple(Axis.of(d.size, t, picked[d.name]) for d, t in zip(table.dims, table.tile_shape, strict=True))
    if boundary is not None:
        axes = before_boundary(axes, boundary[0])
    plan = ScanPlan(table, projection, axes, n_rows=n_rows, boundary=boundary)
    if residual is None or n_rows == 0 or any(len(a) == 0 for a in axes):
        return plan
    return _with_residual(plan, residual)


def _selected(
    predicate: pl.Expr, table: Table, coordinates: CoordinateProvider, *, elementwise: bool
) -> tuple[dict[str, Picks], Node | None] | None:
    """What a predicate selects per dimension, and what is still to be asked of the rows; None if no row can pass."""
    box = box_of(predicate, coordinates)
    if box is not None:
        ranges: dict[str, Picks] = {name: slice(*found) for name, found in box.items()}
        is_empty = 0 in table.sizes.values() or any(start >= stop for start, stop in box.values())
        return None if is_empty else (ranges, None)
    selection = select(analyse(predicate, table.schema, coordinates, elementwise=elementwise), coordinates.sizes)
    if selection.impossible:
        return None
    return {name: simplify(np.flatnonzero(keep)) for name, keep in selection.keep.items()}, selection.residual


def _before(picked: dict[str, Picks], table: Table, last: tuple[int, ...]) -> dict[str, Picks]:
    """The selection without what lies behind tile ``last`` of a row limit, as far as one dimension tells."""
    out = dict(picked)
    for dimension, cells, at in zip(table.dims, table.tile_shape, last, strict=True):
        pick = out[dimension.name]
        if isinstance(pick, slice):
            out[dimension.name] = slice(pick.start, max(pick.start, min(pick.stop, (at + 1) * cells)))
        if at > 0:
            break
    return out


def _with_residual(plan: ScanPlan, residual: Node) -> ScanPlan:
    """Drop the tiles where the residual cannot hold, and say which of the rest need no filter."""
    filter_ = _filter(plan.table, residual)
    if plan.grid_size > MAX_GRID:
        note = f"{plan.grid_size} tiles survive the selection per dimension; above {MAX_GRID} they are not looked at one by one"
        return replace(plan, filter=filter_, notes=(*plan.notes, note))
    names = [d.name for d in plan.table.dims]
    sets = tile_outcomes(
        residual,
        names,
        {n: a.starts for n, a in zip(names, plan.axes, strict=True)},
        {n: a.indices() for n, a in zip(names, plan.axes, strict=True) if n in residual.dims},
    )
    sets = np.broadcast_to(sets, plan.grid_shape)
    possible = (sets & T) != 0
    if not possible.all():
        plan = replace(plan, keep=possible)
    needs = sets != T
    if not (needs & possible).any():
        return plan
    return replace(plan, filter=filter_, needs_filter=None if needs.all() else needs)


def _filter(table: Table, residual: Node) -> Filter:
    prefix = _LEAF
    while any(name.startswith(prefix) for name in table.by_name):
        prefix += "_"
    expression, leaves = residual_expression(residual, lambda i: f"{prefix}{i}")
    named = {f"{prefix}{i}": leaf for i, leaf in enumerate(leaves)}
    needed = set(expression.meta.root_names()) - named.keys()
    return Filter(expression, named, tuple(c.name for c in table.columns if c.name in needed))


def _projection(table: Table, with_columns: Sequence[str] | None) -> tuple[str, ...]:
    if with_columns is None:
        return tuple(c.name for c in table.columns)
    unknown = [name for name in with_columns if name not in table.by_name]
    if unknown:
        have = ", ".join(c.name for c in table.columns)
        raise RequestError(
            f"There is no column {unknown[0]!r}; the table has {have}.", store=table.store, array=table.group
        )
    wanted = set(with_columns)
    return tuple(c.name for c in table.columns if c.name in wanted)
