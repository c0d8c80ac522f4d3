"""The table that a group of arrays becomes: columns, dimensions, row space, tiles."""

from __future__ import annotations

from gpuzarr.table.build import ReadRaw, build_table, build_tables
from gpuzarr.table.coordinates import Coordinates
from gpuzarr.table.model import TILE_ROWS, Column, Dimension, Role, Table
from gpuzarr.table.options import TableOptions
from gpuzarr.table.warning import GpuzarrWarning

__all__ = [
    "TILE_ROWS",
    "Column",
    "Coordinates",
    "Dimension",
    "GpuzarrWarning",
    "ReadRaw",
    "Role",
    "Table",
    "TableOptions",
    "build_table",
    "build_tables",
]
