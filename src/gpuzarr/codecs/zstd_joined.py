"""Many small Zstandard chunks decoded in one call, which leaves the interpreter's lock once for all of them.

A decoder takes frames that follow one another for one stream (RFC 8878, 3.1), so chunks may be put together, if each is
exactly one frame that says how much it holds: then every chunk comes out at its own place or the call fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numcodecs import zstd as numcodecs_zstd

from gpuzarr.codecs.zstd_header import zstd_header

__all__ = ["decode_joined", "is_one_frame"]


def is_one_frame(data: bytes | memoryview, size: int) -> bool:
    """Whether the bytes are one frame from the first to the last, which declares to hold ``size`` bytes.

    Looks at headers only: what is in the blocks is for the decoder.
    """
    frame = zstd_header(data)
    if frame is None or frame.content_nbytes != size:
        return False
    at, end = frame.blocks_at, len(data)
    while at + 3 <= end:
        header = data[at] | data[at + 1] << 8 | data[at + 2] << 16
        at += 4 if header & 6 == 2 else 3 + (header >> 3)  # a repeated byte is stored once
        if header & 1:
            return at + 4 * frame.has_checksum == end
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
