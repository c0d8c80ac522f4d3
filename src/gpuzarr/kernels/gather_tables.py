"""Tables of the gather kernel: which chunk and which element every row of some pieces comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.kernels.descriptors import MAX_DIMS, TILE_ROWS, Entry32, Entry64, GatherPiece, dtype_of

__all__ = ["ArrayAxis", "GatherTables", "PieceBox", "gather_tables", "number_rows"]

Selection = slice | npt.NDArray[np.int64]
"""Absolute indices along a dimension: a slice (any positive step) or an array in any order."""


@dataclass(frozen=True)
class ArrayAxis:
    """A dimension of the array whose cells are gathered, the same for all pieces.

    Parameters
    ----------
    dim
        Position of the dimension in the table.
    chunk
        Cells of a chunk along it.
    stride
        Distance of neighbours inside of a chunk, in elements.
    """

    dim: int
    chunk: int
    stride: int


@dataclass(frozen=True)
class PieceBox:
    """A piece of a frame.

    Parameters
    ----------
    first_row
        Its first row in the frame.
    picks
        Selected absolute indices per dimension of the table, all of them, slices with a step of 1 or arrays.
    """

    first_row: int
    picks: tuple[Selection, ...]


@dataclass(frozen=True, eq=False)
class GatherTables:
    """Tables for one column and consecutive pieces.

    Parameters
    ----------
    pieces
        `GatherPiece` table.
    entries
        `Entry32` or `Entry64` table.
    tile_piece
        int32, see `GatherArgs`.
    chunk_indices
        Grid index of every chunk in the order of the `ChunkSource` table, int64 ``(n, array ndim)``.
    chunk_starts
        Chunks before each piece, and their number: int64 ``(pieces + 1,)``.
    dims
        Dimensions of the pieces' row space that the kernel walks.
    row_begin, row_end
        Rows of the frame.
    ascending
        Whether offsets ascend strictly along the last dimension.
    index_type
        Template argument.
    """

    pieces: npt.NDArray[Any]
    entries: npt.NDArray[Any]
    tile_piece: npt.NDArray[np.int32]
    chunk_indices: npt.NDArray[np.int64]
    chunk_starts: npt.NDArray[np.int64]
    dims: int
    row_begin: int
    row_end: int
    ascending: bool
    index_type: str


@dataclass(frozen=True, eq=False)
class _Along:
    """A selection along one axis of the array: parts (chunks) it falls into, and offsets inside of them."""

    part: npt.NDArray[np.int64]  # per index: which of `chunks`
    offset: npt.NDArray[np.int64]
    chunks: npt.NDArray[np.int64]
    ascending: bool


def gather_tables(
    axes: Sequence[ArrayAxis],
    pieces: Sequence[PieceBox],
    *,
    cells_per_chunk: int | None = None,
    wide: bool = False,
) -> GatherTables:
    """Tables for consecutive pieces of a frame.

    Parameters
    ----------
    axes
        The array's dimensions in its own order.
    pieces
        Without gaps, in the order of their rows.
    cells_per_chunk
        Of a whole chunk, to choose the width of offsets; by default computed from strides.
    wide
        Choose the 64-bit variant whatever the sizes are.

    Raises
    ------
    ValueError
        More dimensions than the kernel has, or pieces with gaps.
    """
    along_cache: dict[Any, _Along] = {}
    entry_cache: dict[Any, int] = {}
    entry_parts: list[npt.NDArray[np.int64]] = []
    entry_count = 0
    table = np.zeros(len(pieces), dtype_of(GatherPiece))
    grids: list[npt.NDArray[np.int64]] = []
    starts = np.zeros(len(pieces) + 1, np.int64)
    own = {axis.dim: i for i, axis in enumerate(axes)}
    ndim = len(pieces[0].picks) if pieces else 0
    runs = _walked(ndim, own)
    if len(runs) > MAX_DIMS:
        raise ValueError(f"{len(runs)} dimensions; the gather kernel has {MAX_DIMS}")
    ascending = bool(runs) and len(runs[-1]) == 1 and runs[-1][0] in own
    row = pieces[0].first_row if pieces else 0
    row_begin = row
    for number, piece in enumerate(pieces):
        if piece.first_row != row:
            raise ValueError(f"piece {number} begins at row {piece.first_row}, not at {row}")
        along = [_along(along_cache, axis, piece.picks[axis.dim]) for axis in axes]
        parts = [len(a.chunks) for a in along]
        grid = np.meshgrid(*(a.chunks for a in along), indexing="ij")
        grids.append(np.stack([g.reshape(-1) for g in grid], axis=1) if grid else np.zeros((1, 0), np.int64))
        starts[number + 1] = starts[number] + math.prod(parts)
        rows = 1
        first_own = min((i for i, run in enumerate(runs) if run[0] in own), default=None)
        for i, run in enumerate(runs):
            extent = math.prod(_count(piece.picks[d]) for d in run)
            rows *= extent
            first = -1
            if run[0] in own:
                at = own[run[0]]
                stride = math.prod(parts[at + 1 :])
                base = int(starts[number]) if i == first_own else 0  # one dimension carries the piece's first chunk
                key = (at, _key(piece.picks[run[0]]), stride, base)
                if key not in entry_cache:
                    entry_cache[key] = entry_count
                    entry_parts.append(np.stack([along[at].part * stride + base, along[at].offset], axis=1))
                    entry_count += extent
                first = entry_cache[key]
                if i == len(runs) - 1:
                    ascending &= along[at].ascending
            magic, shift = divider(extent)
            table["dims"][number, i] = (extent, magic, shift, first)
        table["first_row"][number], table["rows"][number] = row, rows
        row += rows
    entries = np.concatenate([np.zeros((0, 2), np.int64), *entry_parts])
    wide = wide or row >= 2**31 or _largest(axes) >= 2**31 or (cells_per_chunk or 0) >= 2**31
    return GatherTables(
        table,
        _packed(entries, wide),
        number_rows(table["first_row"], row_begin, row),
        np.concatenate([np.zeros((0, len(axes)), np.int64), *grids]),
        starts,
        len(runs),
        row_begin,
        row,
        ascending,
        "int64_t" if wide else "int32_t",
    )


def number_rows(first_rows: npt.NDArray[np.int64], row_begin: int, row_end: int) -> npt.NDArray[np.int32]:
    """Per tile from that of ``row_begin`` on: the piece of its first row that is not before ``row_begin``."""
    tile = np.arange(row_begin // TILE_ROWS, max(-(-row_end // TILE_ROWS), row_begin // TILE_ROWS), dtype=np.int64)
    rows = np.maximum(tile * TILE_ROWS, row_begin)
    return (np.searchsorted(first_rows, rows, side="right") - 1).astype(np.int32)


def divider(divisor: int) -> tuple[int, int]:
    """Multiplier and shift: ``n // divisor == (n * magic >> 32) >> shift`` for n below 2^31; a divisor of 1 has magic 0."""
    if divisor <= 1:
        return 0, 0
    power = 31 + (divisor - 1).bit_length()
    return -(-(1 << power) // divisor), power - 32


def _walked(ndim: int, own: dict[int, int]) -> list[list[int]]:
    """Dimensions of the table in runs: each of the column's own alone, neighbours that it lacks together."""
    runs: list[list[int]] = []
    for dim in range(ndim):
        if dim not in own and runs and runs[-1][0] not in own:
            runs[-1].append(dim)
        else:
            runs.append([dim])
    return runs


def _along(cache: dict[Any, _Along], axis: ArrayAxis, pick: Selection) -> _Along:
    key = (axis, _key(pick))
    if key not in cache:
        indices = np.arange(pick.start, pick.stop, pick.step or 1, dtype=np.int64) if isinstance(pick, slice) else pick
        number = indices // axis.chunk
        chunks, part = np.unique(number, return_inverse=True)
        ascending = axis.stride > 0 and bool((np.diff(indices) > 0).all())
        cache[key] = _Along(part.reshape(-1), (indices - number * axis.chunk) * axis.stride, chunks, ascending)
    return cache[key]


def _key(pick: Selection) -> Any:
    return (pick.start, pick.stop, pick.step) if isinstance(pick, slice) else pick.tobytes()


def _count(pick: Selection) -> int:
    return len(range(pick.start, pick.stop, pick.step or 1)) if isinstance(pick, slice) else len(pick)


def _largest(axes: Sequence[ArrayAxis]) -> int:
    return sum((axis.chunk - 1) * abs(axis.stride) for axis in axes)


def _packed(entries: npt.NDArray[np.int64], wide: bool) -> npt.NDArray[Any]:
    out = np.zeros(len(entries), dtype_of(Entry64 if wide else Entry32))
    out["chunk"], out["offset"] = entries[:, 0], entries[:, 1]
    return out
