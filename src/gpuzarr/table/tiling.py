"""How the row space is cut into tiles: a pure function of metadata, the same whatever is projected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpuzarr.metadata.model import ceil_div
from gpuzarr.table.model import TILE_ROWS, Dimension

__all__ = ["tile_shape"]


def tile_shape(
    dims: Sequence[Dimension], grids: Iterable[Mapping[str, int]], *, tile_rows: int = TILE_ROWS
) -> tuple[int, ...]:
    """Cells per dimension of one tile.

    A tile is one chunk of the first grid; neighbours are merged along the trailing dimensions while the tile holds at most
    `tile_rows` rows. A chunk is never split, so a tile can hold more rows than that, and never merged beyond the dimension.

    Parameters
    ----------
    dims
        Row space.
    grids
        Inner chunk length by dimension name, one mapping per array in order of precedence. Each dimension takes the first
        that has it, so an array that spans the row space decides alone. A dimension in no grid is one chunk.

    Returns
    -------
    tuple of int
        At least 1 everywhere, also where a dimension is empty.
    """
    chunk: dict[str, int] = {}
    for grid in grids:
        for name, length in grid.items():
            chunk.setdefault(name, length)
    tile = [max(1, min(d.size, chunk.get(d.name, d.size))) for d in dims]
    rows = 1
    for length in tile:
        rows *= length
    for axis in reversed(range(len(tile))):
        chunks = ceil_div(max(1, dims[axis].size), tile[axis])
        merged = min(chunks, max(1, tile_rows // rows))
        length = min(max(1, dims[axis].size), merged * tile[axis])
        rows = rows // tile[axis] * length
        tile[axis] = length
        if merged < chunks:
            break
    return tuple(tile)
