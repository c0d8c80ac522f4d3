"""The table that a group of arrays becomes: dimensions, columns, tiles. Frozen, and free of Polars' call conventions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import polars as pl

from gpuzarr.cf import Decoding
from gpuzarr.codecs import CodecChain
from gpuzarr.metadata.model import ArrayMetadata, ceil_div

__all__ = ["TILE_ROWS", "Column", "Dimension", "Role", "Table"]

TILE_ROWS = 2**17
"""Neighbouring chunks are merged along the trailing dimensions until a tile holds about this many rows."""

Role = Literal["dimension", "index", "auxiliary", "variable", "struct"]


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension of the row space."""

    name: str
    size: int


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Parameters
    ----------
    name
        That of the array, or of the child group. That of an index is its dimension's, unless a stored array has it
        (``lat(lat, lon)``): then ``lat_index``. So never look a dimension up by column name; `dims` says which one it is.
    role
        ``dimension``: the 1-D coordinate of a dimension; ``index``: a dimension without coordinate array (Int64 0..n-1);
        ``auxiliary``: another coordinate; ``variable``; ``struct``: child group as a Struct, its columns in `fields`.
    dims
        Dimensions of the array in the array's own axis order, all of them dimensions of the table; () for a constant.
    array, chain, decoding
        None for ``index`` and ``struct``.
    """

    name: str
    role: Role
    dims: tuple[str, ...]
    dtype: pl.DataType
    array: ArrayMetadata | None = None
    chain: CodecChain | None = None
    decoding: Decoding | None = None
    fields: tuple[Column, ...] = ()

    @property
    def is_coordinate(self) -> bool:
        """Whether the column is a dimension, an index or an auxiliary coordinate."""
        return self.role in ("dimension", "index", "auxiliary")

    @property
    def leaves(self) -> tuple[Column, ...]:
        """The columns that it is made of: itself, or the leaves of a struct."""
        return tuple(leaf for f in self.fields for leaf in f.leaves) if self.role == "struct" else (self,)


@dataclass(frozen=True)
class Table:
    """One tidy table: a row per cell of the grid of `dims`.

    Parameters
    ----------
    store, group
        Redacted location of the store and path of the group (or root array) in it.
    dims
        Row space, in row order (C order of this tuple inside a tile). Empty for a table of constants: one row.
    columns
        Dimensions in order, then auxiliary coordinates, then variables and structs, the latter two by name.
    tile_shape
        Cells per dimension of one tile; a pure function of metadata.
    attributes
        Attributes of the group.
    """

    store: str
    group: str
    dims: tuple[Dimension, ...]
    columns: tuple[Column, ...]
    tile_shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def rows(self) -> int:
        """Number of rows, unfiltered."""
        return math.prod(d.size for d in self.dims)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Size by dimension name."""
        return {d.name: d.size for d in self.dims}

    @cached_property
    def grid_shape(self) -> tuple[int, ...]:
        """Tiles per dimension."""
        return tuple(ceil_div(d.size, t) for d, t in zip(self.dims, self.tile_shape, strict=True))

    def repeats(self, column: Column) -> int:
        """How often each value of a column occurs in the full table: 1 for a spanning variable; 0 if there are no rows."""
        return math.prod(d.size for d in self.dims if d.name not in column.dims) if self.rows else 0

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Column by name."""
        return {c.name: c for c in self.columns}

    @cached_property
    def schema(self) -> pl.Schema:
        """Column dtypes in order."""
        return pl.Schema({c.name: c.dtype for c in self.columns})
