"""Several small chunks decoded in one go: what a chunk costs besides its bytes is paid once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuzarr.codecs import zstd_joined
from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.compressors import Zstd
from gpuzarr.codecs.steps import as_bytes
from gpuzarr.errors import ChunkError

__all__ = ["decode_joined"]


def decode_joined(chain: CodecChain, chunks: Sequence[bytes | memoryview], out: np.ndarray) -> bool:
    """Decode chunks into the rows of an array.

    Parameters
    ----------
    chain
        Their codecs, `CodecChain.is_joinable`.
    chunks
        The stored bytes of each.
    out
        C-contiguous, native dtype, shape ``(len(chunks), *chunk_shape)``.

    Returns
    -------
    bool
        Whether that worked. If not, ``out`` holds anything: the chunks must be decoded one by one, which tells what is wrong.
    """
    step = chain.byte_steps[0]
    if isinstance(step, Zstd):
        return zstd_joined.decode_joined(chunks, out)
    size = chain.chunk_nbytes
    try:
        for chunk, row in zip(chunks, out.reshape(len(chunks), -1).view(np.uint8), strict=True):
            decoded = step.decode(as_bytes(chunk), size, size, row)
            if len(decoded) != size:
                return False
            if decoded is not row:
                row[...] = decoded
    except (ChunkError, ValueError, TypeError, IndexError, OverflowError, RuntimeError, OSError, EOFError):
        return False
    return True
