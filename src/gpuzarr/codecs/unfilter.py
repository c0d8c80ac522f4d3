"""Filters of decoded bytes with numpy: equal blocks at equal distances are done at once, in place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.tables import FilterKind, FilterTable

__all__ = ["apply_filters", "bit_unshuffle", "byte_swap", "byte_unshuffle"]

Bytes = npt.NDArray[np.uint8]

AT_ONCE_NBYTES = 4 << 20  # the temporary copies stay in cache, and a bit unshuffle needs two of them
MANY_PLANES = 64


def byte_unshuffle(blocks: Bytes, itemsize: int) -> None:
    """Undo the byte shuffle of each row of ``blocks`` (m, nbytes) in place; a tail shorter than an element stays."""
    m, nbytes = blocks.shape
    count = nbytes // itemsize
    body = blocks[:, : count * itemsize]
    planes = body.reshape(m, itemsize, count).copy()
    elements = body.reshape(m, count, itemsize)
    if itemsize > MANY_PLANES:
        elements[...] = planes.transpose(0, 2, 1)
        return
    for j in range(itemsize):  # three times faster than the transposed copy
        elements[:, :, j] = planes[:, j]


def bit_unshuffle(blocks: Bytes, itemsize: int) -> None:
    """Undo Blosc's bit shuffle of each row of ``blocks`` (m, nbytes) in place; elements are a multiple of 8."""
    m, nbytes = blocks.shape
    groups = nbytes // itemsize // 8
    body = blocks[:, : groups * 8 * itemsize]
    planes = body.reshape(m, itemsize, 8, groups)
    square = np.empty((m, itemsize, groups, 8), np.uint8)  # byte k: bit k of eight elements
    for k in range(8):
        square[..., k] = planes[:, :, k]
    turned = _transposed(square.reshape(-1).view("<u8")).view(np.uint8).reshape(m, itemsize, groups, 8)
    elements = body.reshape(m, groups, 8, itemsize)
    for j in range(itemsize):
        elements[..., j] = turned[:, j]


def _transposed(squares: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Each 8 × 8 square of bits with rows and columns exchanged (Hacker's Delight, 7-3), in place."""
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        by = np.uint64(shift)
        moved = squares >> by
        moved ^= squares
        moved &= np.uint64(mask)
        squares ^= moved
        moved <<= by
        squares ^= moved
    return squares


def byte_swap(blocks: Bytes, itemsize: int) -> None:
    """Reverse the bytes of every element of each row of ``blocks`` (m, nbytes) in place."""
    m, nbytes = blocks.shape
    body = blocks[:, : nbytes // itemsize * itemsize].reshape(m, -1, itemsize)
    body[...] = body[:, :, ::-1].copy()


_FUNCTIONS = {
    FilterKind.BYTE_UNSHUFFLE: byte_unshuffle,
    FilterKind.BIT_UNSHUFFLE: bit_unshuffle,
    FilterKind.BYTE_SWAP: byte_swap,
}


def apply_filters(filters: FilterTable, out: Bytes) -> None:
    """Apply filters to the output arena, stage by stage."""
    for kind, itemsize, nbytes, dst in _runs(filters):
        step = max(1, AT_ONCE_NBYTES // max(nbytes, 1))
        distance = int(dst[1] - dst[0]) if len(dst) > 1 else nbytes
        for i in range(0, len(dst), step):
            first, count = int(dst[i]), min(step, len(dst) - i)
            stop = first + (count - 1) * distance + nbytes
            part = out[first:stop]
            blocks = np.lib.stride_tricks.as_strided(part, (count, nbytes), (distance, 1))
            _FUNCTIONS[FilterKind(kind)](blocks, itemsize)


def _runs(filters: FilterTable) -> Iterator[tuple[int, int, int, npt.NDArray[np.int64]]]:
    """Equal rows at equal distances, in the order of the stages."""
    order = np.lexsort((filters.dst, filters.dst_nbytes, filters.itemsize, filters.kind, filters.stage))
    table = filters.take(order)
    if not len(table):
        return
    same = np.ones(len(table) - 1, np.bool_)
    for column in (table.stage, table.kind, table.itemsize, table.dst_nbytes):
        same &= column[1:] == column[:-1]
    gap = np.diff(table.dst)
    first = np.ones(len(table), np.bool_)
    first[1:] = ~same
    first[2:] |= same[1:] & same[:-1] & (gap[1:] != gap[:-1])
    starts = np.flatnonzero(first)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(table)], strict=True):
        yield (
            int(table.kind[start]),
            int(table.itemsize[start]),
            int(table.dst_nbytes[start]),
            table.dst[start:stop],
        )
