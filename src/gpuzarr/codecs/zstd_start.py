"""The first blocks of a Zstandard frame as a frame of its own (RFC 8878, section 3.1.1).

A block refers to nothing behind it, so a frame may end after any of them once its header says the smaller size.
"""

from __future__ import annotations

from gpuzarr.codecs.steps import Bytes

__all__ = ["zstd_start"]

_MAGIC = 0xFD2FB528
_BLOCK_NBYTES = 128 << 10
_RAW, _RLE, _COMPRESSED = range(3)
_SIZE_WIDTHS = {2: 4, 3: 8}  # narrower fields are of frames that are too small to be divided


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
    if 4 * wanted > 3 * count or len(data) < 18 or int.from_bytes(data[:4].tobytes(), "little") != _MAGIC:
        return None
    view = memoryview(data)
    descriptor = view[4]
    width = _SIZE_WIDTHS.get(descriptor >> 6)
    if width is None or descriptor & 0b1111:  # bits: reserved, checksum, dictionary (two)
        return None
    at = 5
    if not descriptor >> 5 & 1:  # more than one segment: the window is named
        base = 1 << 10 + (view[5] >> 3)
        if base + (base >> 3) * (view[5] & 7) < _BLOCK_NBYTES:
            return None
        at = 6
    size_at, at = at, at + width
    if int.from_bytes(view[size_at:at], "little") != size:
        return None
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
    frame[size_at : size_at + width] = list((wanted * _BLOCK_NBYTES).to_bytes(width, "little"))
    return frame, wanted * _BLOCK_NBYTES
