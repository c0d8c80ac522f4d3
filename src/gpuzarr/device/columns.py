"""Assembly of one column of a frame in host memory: place chunks, expand over missing dimensions, gather survivors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from gpuzarr.cf import Decoding
from gpuzarr.device.frame_memory import FrameMemory
from gpuzarr.plan.axis import Picks
from gpuzarr.plan.chunks import ChunkPart
from gpuzarr.plan.model import Frame, Piece
from gpuzarr.table.model import Column

__all__ = [
    "CellBuffer",
    "Places",
    "axis_map",
    "constant",
    "expand",
    "expand_indices",
    "flat_picks",
    "place",
    "positions",
    "series_of",
    "take",
    "without_columns",
]


Places = list[tuple[Piece, slice, tuple[np.ndarray, ...]]]
"""Some rows of a frame: per piece, where they are among these rows, and their absolute index per dimension of the table."""


@dataclass(frozen=True)
class CellBuffer:
    """Decoded values of a column, flat, with validity where the column can be null.

    Parameters
    ----------
    values
        1-D, dtype of the decoding.
    valid
        bool, same shape; None where nothing can be null.
    """

    values: np.ndarray
    valid: np.ndarray | None

    @classmethod
    def empty(cls, size: int, dtype: np.dtype, nullable: bool, memory: FrameMemory | None = None) -> CellBuffer:
        """Uninitialised buffer of ``size`` cells."""
        new = np.empty if memory is None else memory.array
        return cls(new(size, dtype), new(size, np.dtype(np.bool_)) if nullable else None)

    def window(self, start: int, shape: tuple[int, ...]) -> CellBuffer:
        """N-dimensional view of ``prod(shape)`` cells from ``start``."""
        stop = start + math.prod(shape)
        valid = None if self.valid is None else self.valid[start:stop].reshape(shape)
        return CellBuffer(self.values[start:stop].reshape(shape), valid)


def take(raw: np.ndarray, inside: tuple[Picks, ...]) -> np.ndarray:
    """Selected cells of a chunk, a view where the selection is made of slices."""
    at: Any = (*(p if isinstance(p, slice) else slice(None) for p in inside), ...)
    cells: np.ndarray = raw[at]
    for axis, pick in enumerate(inside):
        if not isinstance(pick, slice):
            cells = cells.take(pick, axis=axis)
    return cells


def place(
    decoding: Decoding,
    raw: np.ndarray,
    part: ChunkPart,
    order: tuple[int, ...],
    window: CellBuffer,
    axes: tuple[int, ...],
) -> None:
    """Decode the cells that a piece takes from a chunk into their place.

    Parameters
    ----------
    order
        Permutation of the array's axes into table order.
    window
        The piece's cells, over the dimensions of the array only, in table order.
    axes
        Positions of the array's dimensions in the table, ascending.
    """
    at: Any = (*(part.at[d] for d in axes), ...)  # the ellipsis keeps a 0-D array an array
    cells = take(raw, part.inside)
    if order != tuple(range(len(order))):
        cells = cells.transpose(order)
    decoding.apply(cells, window.values[at], None if window.valid is None else window.valid[at])


def expand(source: CellBuffer, axes: tuple[int, ...], piece: Piece, out: CellBuffer) -> None:
    """Repeat cells over the dimensions that the column lacks; ``source`` is N-d over ``axes``, ``out`` flat over the frame."""
    shape = [n if d in axes else 1 for d, n in enumerate(piece.shape)]
    window = out.window(piece.first_row, piece.shape)
    window.values[...] = source.values.reshape(shape)
    if window.valid is not None:
        window.valid[...] = True if source.valid is None else source.valid.reshape(shape)


def expand_indices(numbers: list[np.ndarray], axes: tuple[int, ...], frame: Frame) -> np.ndarray:
    """Row -> number of the cell it shows, int64 over the frame; ``numbers`` gives one N-d array over ``axes`` per piece."""
    out = CellBuffer.empty(frame.rows, np.dtype(np.int64), nullable=False)
    for piece, cells in zip(frame.pieces, numbers, strict=True):
        expand(CellBuffer(cells, None), axes, piece, out)
    return out.values


def flat_picks(picks: tuple[Picks, ...], sizes: tuple[int, ...]) -> np.ndarray:
    """C-order numbers of the selected cells of an array of shape ``sizes``, N-d, int64."""
    number = np.zeros((1,) * len(picks), np.int64)
    for d, pick in enumerate(picks):
        indices = np.arange(pick.start, pick.stop, dtype=np.int64) if isinstance(pick, slice) else pick
        number = number + (indices * math.prod(sizes[d + 1 :])).reshape(
            [-1 if k == d else 1 for k in range(len(picks))]
        )
    return number


def series_of(column: Column, values: np.ndarray, valid: np.ndarray | None) -> pl.Series:
    """Polars column over the buffers, without a copy where the type allows."""
    if column.decoding is not None:
        return column.decoding.to_series(column.name, values, valid)
    array = pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])
    return pl.Series(column.name, array)


def constant(value: pl.Series) -> pl.Expr:
    """Expression for a column that holds one value in every row; Polars keeps it as a scalar."""
    return pl.lit(value).first().alias(value.name)


_HAS_HEIGHT = "height" in signature(pl.DataFrame).parameters


def without_columns(height: int) -> pl.DataFrame:
    """Rows of no column, which Polars asks for to count them; before 1.38 it has no such data frame, and asks for a column."""
    return pl.DataFrame(height=height) if _HAS_HEIGHT else pl.DataFrame()


def positions(rows: np.ndarray, frame: Frame) -> Places:
    """Surviving rows per piece: where they are in ``rows``, and their absolute index per dimension of the table."""
    out = []
    bounds = np.searchsorted(rows, [p.first_row for p in frame.pieces] + [frame.rows])
    for piece, low, high in zip(frame.pieces, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if low == high:
            continue
        local = rows[low:high] - piece.first_row
        index = np.unravel_index(local, piece.shape) if piece.shape else ()
        absolute = tuple(i + p.start if isinstance(p, slice) else p[i] for i, p in zip(index, piece.picks, strict=True))
        out.append((piece, slice(low, high), absolute))
    return out


def axis_map(column: Column, dims: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(permutation of the array's axes into table order, positions of its dimensions in the table, ascending)."""
    at = [dims[name] for name in column.dims]
    order = tuple(sorted(range(len(at)), key=at.__getitem__))
    return order, tuple(sorted(at))
