"""The boolean tree of a predicate: its nodes, and how an expression is taken apart.

Only public calls are used: ``meta.pop`` gives the operands of an expression, and an expression that ``meta.eq`` the
one rebuilt from them with ``&``, ``|``, ``^`` or ``~`` is that connective. Its text and its serialised form differ
between Polars versions (and the latter loses NaN), so neither is looked at. What is no connective is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from gpuzarr.predicate.outcomes import ANY, Outcomes

NodeKind = Literal["and", "or", "xor", "not", "coord", "const", "data"]
Connective = Literal["and", "or", "xor", "not"]

MAX_DEPTH = 100
"""Connectives nested deeper than this (chains of one connective count once) are left together as a leaf."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node of the boolean tree of a predicate.

    Parameters
    ----------
    kind
        ``and``, ``or`` (two or more children), ``xor`` (two), ``not`` (one, a ``data`` leaf); ``coord``: a leaf, or
        several leaves combined, that depends on coordinates alone and is known in every cell of their grid; ``const``:
        the same outcome in every row; ``data``: depends on variables (or could not be evaluated beforehand).
    expr
        The Polars expression of this subtree, Boolean.
    dims
        Dimensions that the coordinates of the subtree vary along, in table order.
    codes
        For ``coord``: the outcome (1 true, 2 false, 4 null) in every cell of the grid of `dims`, uint8.
    outcome
        For ``const``: the outcome.
    columns
        Names of the columns that `expr` refers to.
    """

    kind: NodeKind
    children: tuple[Node, ...] = ()
    expr: pl.Expr = field(default_factory=lambda: pl.lit(True))
    dims: tuple[str, ...] = ()
    codes: Outcomes | None = None
    outcome: int = ANY
    columns: frozenset[str] = frozenset()

    @property
    def known_codes(self) -> Outcomes:
        """`codes` of a ``coord`` leaf."""
        assert self.codes is not None
        return self.codes


def conjuncts(node: Node) -> tuple[Node, ...]:
    """The operands of the AND at the top, or the node itself."""
    return node.children if node.kind == "and" else (node,)


def leaves(node: Node) -> Iterator[Node]:
    """The leaves of a tree, from left to right."""
    if node.children:
        for child in node.children:
            yield from leaves(child)
    else:
        yield node


@dataclass(frozen=True, eq=False)
class Syntax:
    """A connective (chains of ``and`` and of ``or`` are flat) or a ``leaf`` of an expression not looked into yet."""

    kind: Connective | Literal["leaf"]
    expr: pl.Expr
    operands: tuple[Syntax, ...] = ()


_Found = tuple[Connective | Literal["alias"], list[pl.Expr]]
_BINARY: dict[Connective, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
_HORIZONTAL: dict[Connective, Callable[[list[pl.Expr]], pl.Expr]] = {"and": pl.all_horizontal, "or": pl.any_horizontal}
_POPS_LAST_FIRST = (pl.col("a") & pl.col("b")).meta.pop()[0].meta.eq(pl.col("b"))  # not documented, so asked


def _connective(expr: pl.Expr) -> _Found | None:
    try:
        operands = expr.meta.pop()
    except (Exception, pl.exceptions.PanicException):  # some root expressions cannot be popped
        return None
    if not operands:
        return None
    if _POPS_LAST_FIRST:
        operands.reverse()
    if len(operands) == 2:
        for kind, build in _BINARY.items():
            if build(*operands).meta.eq(expr):
                return kind, operands
    if len(operands) == 1:
        if (~operands[0]).meta.eq(expr):
            return "not", operands
        name = expr.meta.output_name(raise_if_undetermined=False)
        if name is not None and operands[0].alias(name).meta.eq(expr):
            return "alias", operands
    for kind, combine in _HORIZONTAL.items():
        if combine(operands).meta.eq(expr):
            return kind, operands
    return None


def parse(expr: pl.Expr) -> Syntax:
    """Take an expression apart at ``&``, ``|``, ``^``, ``~``, ``all_horizontal``, ``any_horizontal`` and aliases."""
    return _parsed(expr, _connective(expr), 0)


def _parsed(expr: pl.Expr, found: _Found | None, depth: int) -> Syntax:
    if found is None or depth >= MAX_DEPTH:
        return Syntax("leaf", expr)
    kind, operands = found
    if kind == "alias":
        return _parsed(operands[0], _connective(operands[0]), depth + 1)
    parts: list[Syntax] = []
    waiting = operands[::-1]
    while waiting:  # a loop, because chains of thousands of alternatives exist
        operand = waiting.pop()
        inner = _connective(operand)
        if inner is not None and inner[0] == kind and kind in ("and", "or"):
            waiting.extend(inner[1][::-1])
        else:
            parts.append(_parsed(operand, inner, depth + 1))
    return Syntax(kind, expr, tuple(parts))
