"""The residual predicate as an expression in which what is known of coordinates is already a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from gpuzarr.predicate.analysis import MAX_CELLS
from gpuzarr.predicate.outcomes import Outcomes, combine
from gpuzarr.predicate.simplify import expression
from gpuzarr.predicate.tree import Node, NodeKind


def residual_expression(
    node: Node, leaf_name: Callable[[int], str], *, max_cells: int = MAX_CELLS
) -> tuple[pl.Expr, tuple[Node, ...]]:
    """Rebuild a predicate over variables and nullable Boolean columns of known outcomes.

    Every largest part that depends on coordinates alone is combined, on the grid of its dimensions, into one column of
    outcomes, as long as that grid has at most `max_cells` cells. Polars' ``&``, ``|``, ``^`` and ``~`` do the rest, so the
    result equals the predicate in every row.

    Parameters
    ----------
    node
        The predicate.
    leaf_name
        Names the column of the i-th part; must not clash with a column of the table.
    max_cells
        Largest grid of a combined part (one byte per cell).

    Returns
    -------
    expression
        Over variables and ``leaf_name(0)``, ``leaf_name(1)``, …
    parts
        The ``coord`` nodes of these columns, in order. Their values in a row are
        :func:`~gpuzarr.predicate.codes_on` its indices, broadcast over the other dimensions.
    """
    parts: list[Node] = []

    def rebuild(part: Node) -> pl.Expr:
        if part.kind == "coord":
            parts.append(part)
            return pl.col(leaf_name(len(parts) - 1))
        if part.children:
            return expression(part.kind, [rebuild(child) for child in part.children])
        return part.expr

    rebuilt = rebuild(_compact(node, node.dims, max_cells))
    return rebuilt, tuple(parts)


def _compact(node: Node, order: Sequence[str], max_cells: int) -> Node:
    """The tree with what is known joined: chains by groups of leaves that share a grid of at most `max_cells`."""
    if not node.children:
        return node
    children = [_compact(child, order, max_cells) for child in node.children]
    groups: list[list[Node]] = []
    for child in sorted(filter(_is_known, children), key=lambda child: _outcomes(child).size):
        fitting = (group for group in groups if math.prod(_sizes([*group, child], order).values()) <= max_cells)
        group = next(fitting, None)
        if group is None:
            groups.append([child])
        else:
            group.append(child)
    compacted = [_joint(node.kind, group, order) for group in groups]
    compacted += [child for child in children if not _is_known(child)]
    if len(compacted) == 1 and node.kind != "not":
        return compacted[0]
    return replace(node, children=tuple(compacted))


def _is_known(node: Node) -> bool:
    return node.kind in ("coord", "const")


def _outcomes(node: Node) -> Outcomes:
    return np.array(node.outcome, np.uint8) if node.kind == "const" else node.known_codes


def _sizes(nodes: Sequence[Node], order: Sequence[str]) -> dict[str, int]:
    sizes = {name: size for node in nodes for name, size in zip(node.dims, _outcomes(node).shape, strict=True)}
    return {name: sizes[name] for name in order if name in sizes}


def _joint(kind: NodeKind, nodes: Sequence[Node], order: Sequence[str]) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    sizes = _sizes(nodes, order)
    aligned = [_outcomes(node).reshape([sizes[d] if d in node.dims else 1 for d in sizes]) for node in nodes]
    codes = np.broadcast_to(combine(kind, aligned), tuple(sizes.values()))
    columns = frozenset(name for node in nodes for name in node.columns)
    return Node(
        "coord", expr=expression(kind, [node.expr for node in nodes]), dims=tuple(sizes), codes=codes, columns=columns
    )
