"""The first blocks of a Zstandard frame as a frame of its own (RFC 8878, section 3.1.1).

A block refers to nothing behind it, so a frame may end after any of them once its header says the smaller size.
"""

from __future__ import annotations

from gpuzarr.codecs.steps import Bytes
from gpuzarr.codecs.zstd_header import zstd_header

__all__ = ["zstd_start"]

_BLOCK_NBYTES = 128 << 10
_RAW, _RLE, _COMPRESSED = range(3)


def zstd_start(data: Bytes, size: int, needed: int) -> tuple[Bytes, int] | None:
    """A frame that decodes to the first bytes of another one.

    Parameters
    ----------
    data
        One frame and nothing else.
    size
        Bytes that it decodes to.
    needed
        How many of them are wanted.

    Returns
    -------
    (Bytes, int) or None
        The frame and the bytes that it decodes to if the writer filled all blocks but the last, which no rule says: the
        size in its header makes the decoder refuse anything else. None where a frame cannot be divided (a checksum,
        which is over all of it; a dictionary; no size or another one; blocks that are not full; bytes missing or left
        over), and where more than three quarters of it are wanted.
    """
    count = -(-size // _BLOCK_NBYTES)
    wanted = max(1, -(-needed // _BLOCK_NBYTES))
    found = None if 4 * wanted > 3 * count else zstd_header(data)
    if (
        found is None
        or found.content_nbytes != size
        or found.content_width < 4
        or found.has_checksum
        or found.has_dictionary
    ):
        return None  # a narrower size is of a frame that is too small to be divided
    if found.window_nbytes is not None and found.window_nbytes < _BLOCK_NBYTES:
        return None
    view, at = memoryview(data), found.blocks_at
    last_at = stop = 0
    for number in range(count):
        if at + 3 > len(view):
            return None
        header = view[at] | view[at + 1] << 8 | view[at + 2] << 16
        kind, length = header >> 1 & 3, header >> 3
        if kind > _COMPRESSED or bool(header & 1) != (number == count - 1):
            return None
        if number < wanted:
            if kind != _COMPRESSED and length != _BLOCK_NBYTES:
                return None
            last_at = at
        at += 4 if kind == _RLE else 3 + length
        if number == wanted - 1:
            stop = at
    if at != len(view):
        return None
    frame = data[:stop].copy()
    frame[last_at] |= 1
    declared = (wanted * _BLOCK_NBYTES).to_bytes(found.content_width, "little")
    frame[found.content_at : found.content_at + found.content_width] = list(declared)
    return frame, wanted * _BLOCK_NBYTES
