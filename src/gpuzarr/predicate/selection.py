"""Selections per dimension: which indices of every dimension can hold a row that passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gpuzarr.predicate.outcomes import ANY, F, N, Outcomes, T, combine
from gpuzarr.predicate.simplify import conjunction, connective, constant
from gpuzarr.predicate.tree import Node, conjuncts

Mask = npt.NDArray[np.bool_]

_MAX_PASSES = 8  # every pass is sound by itself; more than three are rare


@dataclass(frozen=True, eq=False)
class Selection:
    """What a predicate leaves of every dimension.

    Parameters
    ----------
    keep
        Per restricted dimension, which of its indices are kept. Every row that passes lies at kept indices.
    residual
        What is still to be asked of the rows at kept indices; None if all of them pass.
    impossible
        No row passes. `keep` and `residual` then say nothing.
    """

    keep: Mapping[str, Mask] = field(default_factory=dict)
    residual: Node | None = None
    impossible: bool = False


def select(node: Node, sizes: Mapping[str, int]) -> Selection:
    """Turn a predicate into an orthogonal selection and a residual predicate.

    Conjuncts on one dimension are selected exactly and vanish. The others stay, but an index of a dimension at which
    they can be true for no kept index of the other dimensions is dropped, whatever the tree looks like:
    ``(lat > 30) & (lon < 5) | (lat > 60) & (lon > 100)`` keeps exactly ``lat > 30``. What becomes certain at the
    kept indices is folded away. The cost grows with the sum of the sizes (and with the cells of leaves on a grid).

    Parameters
    ----------
    node
        A tree made by :func:`gpuzarr.predicate.analyse`.
    sizes
        Size of every dimension of the table, in row order.
    """
    keep: dict[str, Mask] = {}
    order = tuple(sizes)
    if 0 in sizes.values():
        return Selection(impossible=True)
    for _ in range(_MAX_PASSES):
        node = _fold(node, keep, order)
        exact = [part for part in conjuncts(node) if part.kind == "coord" and len(part.dims) == 1]
        rest = [part for part in conjuncts(node) if part not in exact]
        changed = False
        for part in exact:
            changed |= _restrict(keep, part.dims[0], part.known_codes == T)
        node = conjunction(rest, order)
        for dimension in node.dims:
            changed |= _restrict(keep, dimension, (_projected(node, dimension, keep) & T).astype(bool))
        if any(not mask.any() for mask in keep.values()) or not _projected(node, None, keep)[0] & T:
            return Selection(impossible=True)
        if not changed:
            break
    restricted = {name: keep[name] for name in order if name in keep}
    return Selection(restricted, None if node.kind == "const" else node)


def _restrict(keep: dict[str, Mask], dimension: str, mask: Mask) -> bool:
    """Narrow one dimension; whether that dropped an index."""
    before = keep.get(dimension)
    if before is not None:
        mask = before & mask
        if np.array_equal(mask, before):
            return False
    elif mask.all():
        return False
    keep[dimension] = mask
    return True


def _fold(node: Node, keep: Mapping[str, Mask], order: Sequence[str]) -> Node:
    """The same predicate on the kept indices, with what is certain there made constant."""
    if node.kind == "coord":
        outcomes = _everywhere(node, keep)
        return constant(outcomes) if outcomes in (T, F, N) else node
    if node.children:
        children = [_fold(child, keep, order) for child in node.children]
        if any(new is not old for new, old in zip(children, node.children, strict=True)):
            return connective(node.kind, children, order)
    return node


def _everywhere(node: Node, keep: Mapping[str, Mask]) -> int:
    return int(np.bitwise_or.reduce(_kept(node, keep, None), axis=None))


def _kept(node: Node, keep: Mapping[str, Mask], but: str | None) -> Outcomes:
    codes = node.known_codes
    for axis, name in enumerate(node.dims):
        if name in keep and name != but:
            codes = codes.compress(keep[name], axis)
    return codes


def _projected(node: Node, dimension: str | None, keep: Mapping[str, Mask]) -> Outcomes:
    """Outcome set at every index of a dimension over all kept indices of the others; length 1 if the dimension is
    not among the node's, or None is asked for.
    """
    if node.kind == "coord":
        if dimension not in node.dims:
            return np.array([_everywhere(node, keep)], np.uint8)
        others = tuple(axis for axis, name in enumerate(node.dims) if name != dimension)
        projected: Outcomes = np.bitwise_or.reduce(_kept(node, keep, dimension), axis=others)
        return projected
    if node.children:
        return combine(node.kind, [_projected(child, dimension, keep) for child in node.children])
    return np.array([node.outcome if node.kind == "const" else ANY], np.uint8)
