"""The header of a Zstandard frame (RFC 8878, section 3.1.1.1)."""

from __future__ import annotations

from typing import NamedTuple

from gpuzarr.codecs.steps import Bytes

__all__ = ["ZstdHeader", "zstd_header"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_LONGEST = 18
_SIZE_WIDTHS = (0, 2, 4, 8)
_DICTIONARY_WIDTHS = (0, 1, 2, 4)


class ZstdHeader(NamedTuple):
    """What a frame says before its first block.

    Attributes
    ----------
    content_nbytes
        Decoded bytes; None where the writer left it out.
    content_at, content_width
        Where that stands in the frame, and in how many bytes. Two of them count from 256.
    window_nbytes
        Bytes that a block may refer back to and be long; None where it is the content (a single segment).
    has_checksum, has_dictionary
        Whether four bytes of checksum follow the last block; whether there is a field for the number of a dictionary.
    blocks_at
        First byte of the first block's header.
    """

    content_nbytes: int | None
    content_at: int
    content_width: int
    window_nbytes: int | None
    has_checksum: bool
    has_dictionary: bool
    blocks_at: int


def zstd_header(data: Bytes | bytes | memoryview) -> ZstdHeader | None:
    """The header at the start of some bytes; None if they do not begin with a whole one, or it has the reserved bit."""
    head = bytes(data[:_LONGEST])
    if len(head) < 6 or head[:4] != _MAGIC or head[4] & 8:
        return None
    descriptor = head[4]
    single = descriptor >> 5 & 1
    width = _SIZE_WIDTHS[descriptor >> 6] or single
    at = 6 - single + _DICTIONARY_WIDTHS[descriptor & 3]
    stop = at + width
    if len(head) < stop:
        return None
    window = None
    if not single:
        base = 1 << 10 + (head[5] >> 3)
        window = base + (base >> 3) * (head[5] & 7)
    content = int.from_bytes(head[at:stop], "little") + (256 if width == 2 else 0) if width else None
    return ZstdHeader(content, at, width, window, bool(descriptor & 4), bool(descriptor & 3), stop)
