"""Headers of Zstandard frames: what the reference library reads from the same bytes is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import zstd

from gpuzarr.codecs.zstd_header import zstd_header

MAGIC = b"\x28\xb5\x2f\xfd"
UNKNOWN = zstandard.CONTENTSIZE_UNKNOWN
LARGEST = (
    21 << 3 | 7
)  # the reference library refuses windows beyond this descriptor; the format has none that is too large


def check(data: bytes) -> bool:
    """Compare with the oracle; returns whether there is a header."""
    found = zstd_header(np.frombuffer(data, np.uint8))
    assert zstd_header(data) == zstd_header(memoryview(data)) == zstd_header(bytearray(data)) == found
    try:
        expected = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError:
        assert found is None
        return False
    assert found is not None
    at = found.content_at
    assert found.blocks_at == zstandard.frame_header_size(data) == at + found.content_width
    size = None if expected.content_size == UNKNOWN else expected.content_size
    if found.content_nbytes != UNKNOWN:  # eight bytes of ones, which it takes for no size
        assert found.content_nbytes == size
    if found.content_nbytes is not None:
        stored = int.from_bytes(data[at : found.blocks_at], "little")
        assert stored == found.content_nbytes - 256 * (found.content_width == 2)
    window = found.content_nbytes if found.window_nbytes is None else found.window_nbytes
    assert window == expected.window_size
    assert found.has_checksum == expected.has_checksum
    assert found.has_dictionary or expected.dict_id == 0
    return True


def test_every_descriptor_with_any_fields_cut_short_anywhere() -> None:
    rng = np.random.default_rng(1)
    for descriptor in range(256):
        single = descriptor >> 5 & 1
        nbytes = 6 - single + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
        for rest in (bytes(16), b"\xff" * 16, *(rng.bytes(16) for _ in range(8))):
            data = MAGIC + bytes([descriptor, min(rest[0], LARGEST)]) + rest[1:]
            for length in range(len(data) + 1):
                assert check(data[:length]) == (length >= nbytes and not descriptor & 8)


@given(st.binary(max_size=20), st.booleans())
def test_any_bytes(data: bytes, framed: bool) -> None:
    data = MAGIC + data if framed else data
    if len(data) > 5 and not data[4] >> 5 & 1:
        data = data[:5] + bytes([min(data[5], LARGEST)]) + data[6:]
    if data[:4] == MAGIC or not 0x184D2A50 <= int.from_bytes(data[:4], "little") <= 0x184D2A5F:
        check(data)


def test_what_the_reference_library_does_not_read() -> None:
    widest = zstd_header(MAGIC + bytes([0, 0xFF]))
    assert widest is not None
    assert widest.window_nbytes == (1 << 41) + 7 * (1 << 38)  # RFC 8878, 3.1.1.1.2: 3.75 TiB
    for magic in (0x184D2A50, 0x184D2A5F, 0xFD2FB527, 0xFD2FB51E):  # skippable frames, older formats
        assert zstd_header(magic.to_bytes(4, "little") + bytes(20)) is None


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_791, 65_792, 300_000])
def test_frames_as_they_are_written(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 9, size, np.uint8).tobytes()
    frames = [bytes(zstd.compress(data, level, checksum)) for level in (-3, 1, 19) for checksum in (False, True)]
    for options in ({}, {"write_content_size": False}, {"write_checksum": True}):
        compressor = zstandard.ZstdCompressor(**options)
        stream = compressor.compressobj()
        frames += [compressor.compress(data), stream.compress(data) + stream.flush()]
    for frame in frames:
        assert check(frame)
        assert zstd_header(frame).content_nbytes in (size, None)
    assert zstd_header(frames[0]).content_nbytes == size
