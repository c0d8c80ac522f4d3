"""Outcome sets of the tiles of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gpuzarr.predicate.outcomes import ANY, Outcomes, combine
from gpuzarr.predicate.tree import Node

Indices = npt.NDArray[np.int64]


def codes_on(node: Node, picked: Mapping[str, Indices | slice]) -> Outcomes:
    """Codes of a ``coord`` leaf at the picked indices of its dimensions (all where a dimension is not named).

    Returns an array over ``node.dims``; a view where every pick is a slice.
    """
    codes = node.known_codes
    for axis, name in enumerate(node.dims):
        pick = picked.get(name)
        if isinstance(pick, slice):
            codes = codes[(slice(None),) * axis + (pick,)]
        elif pick is not None:
            codes = codes.take(pick, axis)
    return codes


def tile_outcomes(
    node: Node, order: Sequence[str], boundaries: Mapping[str, Indices], picked: Mapping[str, Indices]
) -> Outcomes:
    """What a predicate can be in the rows of every tile: skip it without ``T``, filter nothing if it is just ``T``.

    Parameters
    ----------
    node
        The predicate, usually the residual of a :class:`~gpuzarr.predicate.Selection`.
    order
        Dimensions of the grid; all of the predicate's are among them.
    boundaries
        Per dimension, the positions in `picked` at which the tiles begin, ascending; no tile is empty.
    picked
        Per dimension, the selected indices, ascending.

    Returns
    -------
    Outcomes
        Outcome sets (uint8) over the grid of tiles, ``len(boundaries[d])`` along dimension ``d``; a read-only
        broadcast view. It may hold outcomes that no row of the tile has, and lacks none that one has.
    """
    shape = tuple(len(boundaries[name]) for name in order)
    return np.broadcast_to(_tile_outcomes(node, order, boundaries, picked), shape)


def _tile_outcomes(
    node: Node, order: Sequence[str], boundaries: Mapping[str, Indices], picked: Mapping[str, Indices]
) -> Outcomes:
    if node.kind == "coord":
        outcomes = node.known_codes
        for axis, name in enumerate(node.dims):
            if len(picked[name]) < outcomes.shape[axis]:
                outcomes = outcomes.take(picked[name], axis)
            outcomes = np.bitwise_or.reduceat(outcomes, boundaries[name], axis)
        # both are in table order or not: the axes go where the grid has them
        axes = [node.dims.index(name) for name in order if name in node.dims]
        return outcomes.transpose(axes).reshape([len(boundaries[name]) if name in node.dims else 1 for name in order])
    if node.children:
        return combine(node.kind, [_tile_outcomes(child, order, boundaries, picked) for child in node.children])
    return np.full([1] * len(order), node.outcome if node.kind == "const" else ANY, np.uint8)
