"""What a scan asks the reader of a column for, call by call, without reading: the ground of the bill."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuzarr.device.columns import positions
from gpuzarr.device.loading import ChunkedColumn, rows_by_chunk
from gpuzarr.plan.chunks import piece_chunks
from gpuzarr.plan.model import Frame, ScanPlan

__all__ = ["calls"]

Box = list[tuple[int, int]] | tuple[tuple[int, int], ...]


def calls(source: ChunkedColumn, plan: ScanPlan, *, for_filter: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The calls of `ChunkReader.read` for one column of a plan, if every frame reads it.

    Chunks that several tiles share are read by the first frame that needs them. What the filter needs is read for whole
    frames; of other columns a row limit takes the chunks that hold a wanted row.

    Yields
    ------
    indices : int64, shape ``(n, array ndim)``
    boxes : int64, shape ``(n, array ndim, 2)``
        (start, stop) of the needed cells per array axis, relative to the chunk.
    """
    claimed: set[tuple[int, ...]] = set()
    for frame in plan.frames():
        own: list[tuple[tuple[int, ...], Box]] = []
        fresh: dict[tuple[int, ...], None] = {}
        for index, box, is_shared in _needed(source, frame, for_filter=for_filter):
            if not is_shared:
                own.append((index, box))
            elif index not in claimed:
                fresh[index] = None
        claimed.update(fresh)
        ndim = len(source.column.dims)
        if fresh:
            indices = np.array(list(fresh), np.int64).reshape(len(fresh), ndim)
            yield indices, np.stack([source.shared_box(index) for index in fresh])
        if own:
            indices = np.array([index for index, _ in own], np.int64).reshape(len(own), ndim)
            yield indices, np.array([box for _, box in own], np.int64).reshape(len(own), ndim, 2)


def _needed(source: ChunkedColumn, frame: Frame, *, for_filter: bool) -> Iterator[tuple[tuple[int, ...], Box, bool]]:
    rows = None if for_filter else _limited_rows(frame)
    if rows is None:
        for piece in frame.pieces:
            chunks = piece_chunks(source.column, source.dims, piece)
            for row, part in zip(chunks.indices.tolist(), chunks.parts, strict=True):
                yield tuple(row), part.box(), not (source.is_direct and piece.whole)
        return
    for piece, at, absolute in positions(rows, frame):
        for index, _, box in rows_by_chunk(source, at, absolute):
            yield index, box, not (source.is_direct and piece.whole)


def _limited_rows(frame: Frame) -> np.ndarray | None:
    """Rows of a frame inside the row limit; None if all are."""
    if all(p.limit is None for p in frame.pieces):
        return None
    wanted = [np.ones(p.rows, np.bool_) if p.limit is None else p.limit.mask(p.picks).reshape(-1) for p in frame.pieces]
    rows = np.flatnonzero(np.concatenate(wanted))
    return None if len(rows) == frame.rows else rows
