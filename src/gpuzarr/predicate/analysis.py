"""From a Polars expression to the boolean tree that planning works on."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from gpuzarr.predicate.coordinates import CoordinateGrids, CoordinateProvider, evaluate_constant
from gpuzarr.predicate.elementwise import is_elementwise
from gpuzarr.predicate.outcomes import N
from gpuzarr.predicate.simplify import connective, constant, known, unknown
from gpuzarr.predicate.tree import Node, Syntax, parse

MAX_CELLS = 2**22
"""Largest grid of several coordinates on which a leaf is evaluated while planning (one byte per cell is kept)."""


def analyse(
    predicate: pl.Expr,
    schema: pl.Schema,
    coordinates: CoordinateProvider,
    *,
    max_cells: int = MAX_CELLS,
    elementwise: bool = False,
) -> Node:
    """Split a predicate at its connectives and let Polars evaluate the leaves that only need coordinates.

    Parameters
    ----------
    predicate
        A Boolean expression over the columns of `schema`. Any expression is accepted: what cannot be split or
        evaluated beforehand becomes a ``data`` leaf, to be evaluated after reading.
    schema
        Names and dtypes of the table's columns.
    coordinates
        Gives the values of coordinate columns; asked only for those that a leaf needs, once each.
    max_cells
        A leaf over several coordinates is evaluated on a grid of at most this many cells.
    elementwise
        It is known that every row of the predicate depends on that row alone, as of one that Polars pushed down.

    Returns
    -------
    Node
        Negations are pushed down to the leaves, chains of ``and`` and ``or`` are flat, leaves that are the same in all
        cells are constants, neighbouring leaves on one grid are one leaf.

    Notes
    -----
    A Python function in a coordinate leaf is called here, once per coordinate value, instead of once per row.
    Errors of `coordinates` pass through.
    """
    grids = CoordinateGrids(coordinates, max_cells)
    syntax = parse(predicate)
    nodes = _searched(_leaves(syntax), grids)
    syntax = _typed(syntax, schema, nodes)
    others = [leaf for leaf in _leaves(syntax) if leaf not in nodes]
    nodes |= _leaf_nodes(others, schema, grids, elementwise=elementwise)
    return _build(syntax, nodes, tuple(coordinates.sizes))


def _searched(leaves: list[Syntax], grids: CoordinateGrids) -> dict[Syntax, Node]:
    """The leaves that need no query."""
    nodes = {}
    for leaf in leaves:
        found = grids.searched(leaf.expr)
        if found is not None:
            dims, codes = found
            nodes[leaf] = known(codes, leaf.expr, dims, frozenset(leaf.expr.meta.root_names()))
    return nodes


def _leaves(syntax: Syntax) -> list[Syntax]:
    if syntax.kind == "leaf":
        return [syntax]
    return [leaf for operand in syntax.operands for leaf in _leaves(operand)]


def _build(syntax: Syntax, nodes: Mapping[Syntax, Node], order: tuple[str, ...]) -> Node:
    if syntax.kind == "leaf":
        return nodes[syntax]
    return connective(syntax.kind, [_build(operand, nodes, order) for operand in syntax.operands], order)


def _typed(syntax: Syntax, schema: pl.Schema, sure: Mapping[Syntax, Node]) -> Syntax:
    """The same tree, in which ``&``, ``|``, ``^`` and ``~`` of anything but booleans (bit operations) are leaves.

    The leaves that are ``sure`` are booleans.
    """
    if syntax.kind == "leaf":
        return syntax
    asked = [leaf.expr for leaf in _leaves(syntax) if leaf not in sure]
    dtypes = _dtypes(asked, schema) if asked else []
    if dtypes is not None and all(dtype == pl.Boolean for dtype in dtypes):
        return syntax
    return _pruned(syntax, schema)


def _pruned(syntax: Syntax, schema: pl.Schema) -> Syntax:
    operands = tuple(_pruned(operand, schema) for operand in syntax.operands)
    for operand in operands:
        # a bare null among booleans is a null boolean
        if _dtypes([operand.expr], schema) not in ([pl.Boolean()], [pl.Null()]):
            return Syntax("leaf", syntax.expr)
    return Syntax(syntax.kind, syntax.expr, operands)


def _dtypes(exprs: list[pl.Expr], schema: pl.Schema) -> list[pl.DataType] | None:
    named = [expr.alias(str(position)) for position, expr in enumerate(exprs)]
    try:
        found = pl.LazyFrame(schema=schema).select(named).collect_schema()
    except (Exception, pl.exceptions.PanicException):
        return None
    return found.dtypes() if len(found) == len(exprs) else None


def _leaf_nodes(
    leaves: list[Syntax], schema: pl.Schema, grids: CoordinateGrids, *, elementwise: bool
) -> dict[Syntax, Node]:
    nodes: dict[Syntax, Node] = {}
    candidates: dict[Syntax, tuple[str, ...]] = {}
    for leaf in leaves:
        columns = frozenset(leaf.expr.meta.root_names())
        nodes[leaf] = unknown(leaf.expr, columns)
        dims = grids.dims(columns) if columns <= schema.keys() else None
        if dims is not None:
            candidates[leaf] = dims
    by_grid: dict[tuple[str, ...], list[Syntax]] = {}
    for leaf in candidates if elementwise else _elementwise(list(candidates), schema):
        if nodes[leaf].columns:
            by_grid.setdefault(candidates[leaf], []).append(leaf)
        elif (outcome := _constant_outcome(leaf.expr, schema)) is not None:
            nodes[leaf] = constant(outcome)
    for dims, together in by_grid.items():
        outcomes = grids.evaluate(
            [leaf.expr for leaf in together], {c for leaf in together for c in nodes[leaf].columns}, dims
        )
        for leaf, codes in zip(together, outcomes, strict=True):
            if codes is not None:
                nodes[leaf] = known(codes, leaf.expr, dims, nodes[leaf].columns)
    return nodes


def _elementwise(leaves: list[Syntax], schema: pl.Schema) -> list[Syntax]:
    if len(leaves) > 1 and is_elementwise(pl.all_horizontal([leaf.expr for leaf in leaves]), schema):
        return leaves
    return [leaf for leaf in leaves if is_elementwise(leaf.expr, schema)]


def _constant_outcome(expr: pl.Expr, schema: pl.Schema) -> int | None:
    return N if _dtypes([expr], schema) == [pl.Null()] else evaluate_constant(expr)
