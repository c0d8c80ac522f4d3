"""What a predicate says before any variable is read.

A Polars expression is split at its boolean connectives; Polars itself evaluates the leaves that need only coordinates.
What comes out are selections per dimension, outcome sets of tiles, and a residual predicate for the rows.
"""

from __future__ import annotations

from gpuzarr.predicate.analysis import MAX_CELLS, analyse
from gpuzarr.predicate.coordinates import CoordinateProvider
from gpuzarr.predicate.elementwise import is_elementwise
from gpuzarr.predicate.outcomes import ANY, F, N, T, outcomes_to_series
from gpuzarr.predicate.ranges import OrderedProvider, box_of
from gpuzarr.predicate.residual import residual_expression
from gpuzarr.predicate.selection import Selection, select
from gpuzarr.predicate.tiles import codes_on, tile_outcomes
from gpuzarr.predicate.tree import Node, conjuncts

__all__ = [
    "ANY",
    "MAX_CELLS",
    "CoordinateProvider",
    "F",
    "N",
    "Node",
    "OrderedProvider",
    "Selection",
    "T",
    "analyse",
    "box_of",
    "codes_on",
    "conjuncts",
    "is_elementwise",
    "outcomes_to_series",
    "residual_expression",
    "select",
    "tile_outcomes",
]
