"""The fast DEFLATE decoder agrees with zlib, on what is sound and on what is not."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuzarr.codecs.compressors import Gzip, Zlib
from gpuzarr.codecs.inflate import INFLATE_LIBRARY
from gpuzarr.errors import ChunkError, Kind


def _data(seed: int, size: int, kind: str) -> bytes:
    rng = np.random.default_rng(seed)
    match kind:
        case "noise":
            return rng.bytes(size)
        case "zeros":
            return bytes(size)
        case _:
            return np.cumsum(rng.integers(-3, 4, size // 4 + 1)).astype(np.int32).tobytes()[:size]


def _by_zlib(packed: bytes, wbits: int) -> bytes | None:
    """What zlib makes of all members; None if it refuses."""
    out = b""
    if not packed:
        return None
    try:
        while packed:
            inner = zlib.decompressobj(wbits)
            out += inner.decompress(packed)
            if not inner.eof:
                return None
            packed = inner.unused_data
    except zlib.error:
        return None
    return out


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.one_of(st.integers(0, 300), st.integers(0, 700_000)),
    kind=st.sampled_from(["noise", "zeros", "steps"]),
    level=st.integers(0, 9),
    members=st.integers(1, 3),
    is_gzip=st.booleans(),
    damage=st.sampled_from(["none", "flip", "cut", "append"]),
)
def test_equals_zlib(seed, size, kind, level, members, is_gzip, damage):
    data = _data(seed, size, kind)
    if is_gzip:
        packed = b"".join(gzip.compress(part, level) for part in np.array_split(np.frombuffer(data, np.uint8), members))
        codec, wbits = Gzip(), 31
    else:
        packer = zlib.compressobj(level, zlib.DEFLATED, 9 + seed % 7)
        packed, codec, wbits = packer.compress(data) + packer.flush(), Zlib(), 15
    rng = np.random.default_rng(seed)
    at = int(rng.integers(len(packed)))
    match damage:
        case "flip":
            packed = packed[:at] + bytes([packed[at] ^ (1 << int(rng.integers(8)))]) + packed[at + 1 :]
        case "cut":
            packed = packed[:at]
        case "append":
            packed += rng.bytes(int(rng.integers(1, 9)))
    expected = _by_zlib(packed, wbits)
    if damage == "append" and not is_gzip:
        expected = None  # zlib leaves what follows to the caller; a chunk is one stream
    try:
        decoded = bytes(codec.decode(np.frombuffer(packed, np.uint8), len(data), len(data) + 16, None))
    except ChunkError:
        assert expected is None or len(expected) != len(data), "zlib reads it"
    else:
        assert decoded == expected or (damage == "flip" and decoded == data)


@pytest.mark.parametrize("codec", [Gzip(), Zlib()])
def test_every_damaged_checksum_is_told(codec):
    data = _data(1, 5000, "steps")
    packed = gzip.compress(data) if codec.name == "gzip" else zlib.compress(data)
    for at in range(len(packed) - (8 if codec.name == "gzip" else 4), len(packed)):
        damaged = np.frombuffer(packed, np.uint8).copy()
        damaged[at] ^= 1
        with pytest.raises(ChunkError) as caught:
            codec.decode(damaged, len(data), len(data), None)
        assert caught.value.kind == Kind.CHUNK_CHECKSUM


def test_the_fast_decoder_is_in_use():
    pytest.importorskip("isal")
    assert INFLATE_LIBRARY == "isal.isal_zlib"
