"""Constructors of tree nodes that keep the tree small: constants folded, negations pushed down, equal grids merged."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import polars as pl

from gpuzarr.predicate.outcomes import F, N, Outcomes, T, combine, negate
from gpuzarr.predicate.tree import Node, NodeKind

_LITERALS: dict[int, bool | None] = {T: True, F: False, N: None}
_OPERATORS: dict[NodeKind, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
}


def expression(kind: NodeKind, operands: Sequence[pl.Expr]) -> pl.Expr:
    """The Polars expression of a connective."""
    return ~operands[0] if kind == "not" else reduce(_OPERATORS[kind], operands)


def constant(outcome: int) -> Node:
    """The predicate that has this outcome in every row."""
    return Node("const", expr=pl.lit(_LITERALS[outcome], dtype=pl.Boolean), outcome=outcome)


def known(codes: Outcomes, expr: pl.Expr, dims: tuple[str, ...], columns: frozenset[str]) -> Node:
    """A leaf whose outcome in every cell of the grid of `dims` is known; constant if it is the same in all."""
    if codes.size and (codes == codes.flat[0]).all():
        return constant(int(codes.flat[0]))
    return Node("coord", expr=expr, dims=dims, codes=codes, columns=columns)


def unknown(expr: pl.Expr, columns: frozenset[str]) -> Node:
    """A leaf that depends on variables."""
    return Node("data", expr=expr, columns=columns)


def negation(node: Node) -> Node:
    """``~node``, pushed down to the leaves (De Morgan's laws hold in Kleene's logic)."""
    if node.kind == "const":
        return constant(int(negate(np.array(node.outcome, np.uint8))))
    if node.kind == "coord":
        return Node("coord", expr=~node.expr, dims=node.dims, codes=negate(node.known_codes), columns=node.columns)
    if node.kind == "not":
        return node.children[0]
    if node.kind == "and":
        return disjunction([negation(child) for child in node.children], node.dims)
    if node.kind == "or":
        return conjunction([negation(child) for child in node.children], node.dims)
    if node.kind == "xor":
        return exclusive(negation(node.children[0]), node.children[1], node.dims)
    return Node("not", (node,), ~node.expr, columns=node.columns)


def conjunction(operands: Sequence[Node], order: Sequence[str]) -> Node:
    """``&`` of any number of nodes; `order` holds all their dimensions in table order.

    Chains are flat, and coordinate leaves on the same grid become one leaf: ``(x > 1) & (x < 5)`` is exact.
    """
    return _chain("and", operands, order)


def disjunction(operands: Sequence[Node], order: Sequence[str]) -> Node:
    """``|`` of any number of nodes, in the manner of :func:`conjunction`."""
    return _chain("or", operands, order)


def exclusive(a: Node, b: Node, order: Sequence[str]) -> Node:
    """``^`` of two nodes, in the manner of :func:`conjunction`."""
    if a.kind == "const":
        a, b = b, a
    if b.kind == "const":
        return b if b.outcome == N else negation(a) if b.outcome == T else a
    if a.kind == b.kind == "coord" and a.dims == b.dims:
        return _merged("xor", [a, b])
    return _joined("xor", [a, b], order)


def connective(kind: NodeKind, operands: Sequence[Node], order: Sequence[str]) -> Node:
    """The node of a connective named by its kind: ``and``, ``or``, ``xor`` (two operands) or ``not`` (one)."""
    if kind == "not":
        return negation(operands[0])
    return exclusive(operands[0], operands[1], order) if kind == "xor" else _chain(kind, operands, order)


def _chain(kind: NodeKind, operands: Sequence[Node], order: Sequence[str]) -> Node:
    neutral, absorbing = (T, F) if kind == "and" else (F, T)
    grids: dict[tuple[str, ...], list[Node]] = {}
    others: list[Node] = []
    for node in operands:
        for part in node.children if node.kind == kind else (node,):
            if part.kind == "coord":
                grids.setdefault(part.dims, []).append(part)
            else:
                others.append(part)
    parts = [_merged(kind, leaves) for leaves in grids.values()] + others
    constants = {part.outcome for part in parts if part.kind == "const"}
    if absorbing in constants:
        return constant(absorbing)
    parts = [part for part in parts if part.kind != "const"]
    if N in constants:
        parts.append(constant(N))
    if not parts:
        return constant(neutral)
    return parts[0] if len(parts) == 1 else _joined(kind, parts, order)


def _merged(kind: NodeKind, leaves: Sequence[Node]) -> Node:
    if len(leaves) == 1:
        return leaves[0]
    codes = combine(kind, [leaf.known_codes for leaf in leaves])
    return known(codes, expression(kind, [leaf.expr for leaf in leaves]), leaves[0].dims, _columns(leaves))


def _joined(kind: NodeKind, children: Sequence[Node], order: Sequence[str]) -> Node:
    used = {name for child in children for name in child.dims}
    dims = tuple(name for name in order if name in used)
    return Node(
        kind, tuple(children), expression(kind, [child.expr for child in children]), dims, columns=_columns(children)
    )


def _columns(children: Sequence[Node]) -> frozenset[str]:
    return frozenset(name for child in children for name in child.columns)
