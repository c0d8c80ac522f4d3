"""BloscLZ, the codec that only Blosc has: one stream through the native library.

Nobody offers a decoder of bare streams, so a stream is wrapped in a container of one block without a filter.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from numcodecs import blosc as numcodecs_blosc

from gpuzarr.codecs import blosc

__all__ = ["decode_blosclz"]

_WRAPPER = struct.Struct("<BBBBiiiii")
_BLOSCLZ = 0  # the codec's number in the flags


def decode_blosclz(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
    """Decode a stream that fills ``target`` exactly.

    Raises
    ------
    ValueError, RuntimeError
        The stream is damaged, or of another size.
    """
    if len(source) == len(target):
        raise ValueError("blosclz: a stream as long as its data is a stored one")
    if not len(source) or not 0 < len(target) <= blosc.MAX_BLOCKSIZE:
        raise ValueError("blosclz: nothing to decode, or too large")
    head = _WRAPPER.size
    flags = _BLOSCLZ << 5 | blosc.FLAG_NO_SPLIT
    size = len(target)
    container = np.empty(head + len(source), np.uint8)
    fields = (blosc.VERSION, blosc.CODEC_VERSION, flags, 1, size, size, len(container), head - 4, len(source))
    container[:head] = np.frombuffer(_WRAPPER.pack(*fields), np.uint8)
    container[head:] = source
    numcodecs_blosc.decompress(container, target)
