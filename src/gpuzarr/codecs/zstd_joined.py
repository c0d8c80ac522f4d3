"""Many small Zstandard chunks decoded in one call, which leaves the interpreter's lock once for all of them.

A decoder takes frames that follow one another for one stream (RFC 8878, 3.1), so chunks may be put together, if each is
exactly one frame that says how much it holds: then every chunk comes out at its own place or the call fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numcodecs import zstd as numcodecs_zstd

__all__ = ["decode_joined", "is_one_frame"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_SIZE_WIDTHS = (0, 2, 4, 8)
_DICTIONARY_WIDTHS = (0, 1, 2, 4)


def is_one_frame(data: bytes | memoryview, size: int) -> bool:
    """Whether the bytes are one frame from the first to the last, which declares to hold ``size`` bytes.

    Looks at headers only: what is in the blocks is for the decoder.
    """
    end = len(data)
    if end < 9 or data[:4] != _MAGIC:
        return False
    descriptor = data[4]
    single = descriptor >> 5 & 1
    width = _SIZE_WIDTHS[descriptor >> 6] or single
    at = 6 - single + _DICTIONARY_WIDTHS[descriptor & 3]
    if width == 0 or int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0) != size:
        return False
    at += width
    while at + 3 <= end:
        header = data[at] | data[at + 1] << 8 | data[at + 2] << 16
        at += 4 if header & 6 == 2 else 3 + (header >> 3)  # a repeated byte is stored once
        if header & 1:
            return at + (descriptor & 4) == end  # four bytes of checksum, where bit 2 says so
    return False


def decode_joined(chunks: Sequence[bytes | memoryview], out: np.ndarray) -> bool:
    """Decode chunks of one size into the rows of an array.

    Parameters
    ----------
    chunks
        The stored bytes of each.
    out
        C-contiguous, first dimension ``len(chunks)``.

    Returns
    -------
    bool
        Whether that worked. If not, ``out`` holds anything: the chunks must be decoded one by one, which tells what is wrong.
    """
    size = out.nbytes // len(chunks)
    if not all(is_one_frame(chunk, size) for chunk in chunks):
        return False
    try:
        numcodecs_zstd.decompress(b"".join(chunks), out.reshape(-1).view(np.uint8))
    except (RuntimeError, ValueError):
        return False
    return True
