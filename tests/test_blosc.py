"""Blosc containers: header rules, block spans and subsets, against the library that writes them."""

from __future__ import annotations

import struct
from itertools import product

import numpy as np
import pytest
from numcodecs import blosc

from gpuzarr.codecs.blosc import (
    BloscHeader,
    block_spans,
    offsets_nbytes,
    parse_header,
    parse_offsets,
    subset_container,
)
from gpuzarr.errors import ChunkError, Kind

CODECS = ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
SPLIT_MODES = ("FORWARD_COMPAT", "AUTO", "NEVER")  # ALWAYS writes containers that its own reader refuses


def walk(n: int, seed: int = 0) -> bytes:
    steps = np.random.default_rng(seed).integers(-3, 4, n // 4 + 1)
    return np.cumsum(steps).astype("<i4").tobytes()[:n]


@pytest.fixture(params=SPLIT_MODES)
def split_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BLOSC_SPLITMODE", request.param)
    return str(request.param)


def read_part(container: bytes, start: int, stop: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Decode ``[start, stop)`` by fetching header, offsets and the touched blocks, as a remote reader does."""
    fetched = [(0, 16)]
    header = parse_header(container[:16], stored_nbytes=len(container))
    fetched.append((16, 16 + offsets_nbytes(header)))
    offsets = parse_offsets(header, container[slice(*fetched[-1])])
    blocks = header.blocks_for(start, stop)
    if not blocks:
        return b"", fetched
    spans = [(int(a), int(b)) for a, b in block_spans(header, offsets)[blocks]]
    decoded = blosc.decompress(subset_container(header, blocks, [container[a:b] for a, b in spans]))
    skip = blocks.start * header.blocksize
    return decoded[start - skip : stop - skip], fetched + spans


@pytest.mark.parametrize("codec", CODECS)
def test_any_part_decodes_from_the_touched_blocks_alone(codec: str, split_mode: str) -> None:
    rng = np.random.default_rng(0)
    partial = 0
    for n, typesize, shuffle, blocksize in product((1, 127, 129, 5000, 150_001), (1, 2, 4, 8, 17), (0, 1, 2), (0, 700)):
        for payload, level in ((walk(n), 5), (bytes(n), 5), (rng.bytes(n), 5), (walk(n), 0)):
            container = blosc.compress(payload, codec.encode(), level, shuffle, blocksize, typesize)
            ends = [(0, n), (n - 1, n), (0, 1), (n // 3, n // 2), tuple(sorted(rng.integers(0, n + 1, 2).tolist()))]
            for start, stop in ends:
                part, fetched = read_part(container, start, stop)
                assert part == payload[start:stop], (codec, n, typesize, shuffle, blocksize, level, start, stop)
                assert all(0 <= a <= b <= len(container) for a, b in fetched)
                partial += sum(b - a for a, b in fetched) < len(container)
    assert partial > 500


def test_blocks_in_any_order() -> None:
    payload = walk(50_000)
    container = blosc.compress(payload, b"zstd", 5, 1, 4096, 4)
    header = parse_header(container)
    spans = block_spans(header, parse_offsets(header, container[16:]))
    order = np.random.default_rng(1).permutation(header.nblocks)
    offsets, body = np.empty(header.nblocks, "<i4"), b""
    for block in order:
        offsets[block] = 16 + offsets_nbytes(header) + len(body)
        body += container[slice(*spans[block])]
    shuffled = container[:16] + offsets.tobytes() + body
    assert blosc.decompress(shuffled) == payload
    for start, stop in ((0, 50_000), (49_990, 50_000), (20_000, 20_001)):
        assert read_part(shuffled, start, stop)[0] == payload[start:stop]


def test_header_of_every_kind_of_container() -> None:
    header = parse_header(blosc.compress(walk(400_000), b"lz4", 5, 1, 16384, 4), expected_nbytes=400_000)
    assert (header.codec, header.shuffle, header.splits, header.blocksize) == ("lz4", "byte", 4, 65536)
    assert header.nblocks == 7
    assert header.block_nbytes([0, 6]).tolist() == [65536, 400_000 - 6 * 65536]
    assert header.blocks_for(65535, 65537) == range(2)
    assert header.blocks_for(5, 5) == range(0)
    zstd = parse_header(blosc.compress(walk(100_000), b"zstd", 5, 2, 8192, 4))
    assert (zstd.codec, zstd.shuffle, zstd.splits) == ("zstd", "bit", 1)
    stored = parse_header(blosc.compress(walk(100), b"lz4", 5, 1, 0, 4))
    assert (stored.codec, stored.shuffle, stored.is_stored, offsets_nbytes(stored)) == ("stored", "none", True, 0)
    with pytest.raises(ValueError, match="bytes 3-2 of a chunk"):
        header.blocks_for(3, 2)


def _header(**changes: int) -> bytes:
    fields = {"version": 2, "codec_version": 1, "flags": 0x21, "typesize": 4, "nbytes": 4096, "blocksize": 4096}
    fields |= {"cbytes": 500} | changes
    return struct.pack("<BBBBiii", *fields.values())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Kind.CHUNK_TRUNCATED),
        (_header()[:15], Kind.CHUNK_TRUNCATED),
        (_header(version=1), Kind.CHUNK_DECODE),
        (_header(version=5), Kind.CHUNK_DECODE),
        (_header(codec_version=2), Kind.CHUNK_DECODE),
        (_header(flags=0x29), Kind.CHUNK_DECODE),
        (_header(flags=0xA1), Kind.CHUNK_DECODE),
        (_header(typesize=0), Kind.CHUNK_DECODE),
        (_header(nbytes=-1), Kind.CHUNK_DECODE),
        (_header(nbytes=2**31 - 1), Kind.CHUNK_SIZE_MISMATCH),
        (_header(nbytes=4095), Kind.CHUNK_SIZE_MISMATCH),
        (_header(blocksize=0), Kind.CHUNK_DECODE),
        (_header(blocksize=-5), Kind.CHUNK_DECODE),
        (_header(blocksize=4097), Kind.CHUNK_DECODE),
        (_header(blocksize=1), Kind.CHUNK_DECODE),  # 4096 offsets do not fit
        (_header(cbytes=15), Kind.CHUNK_DECODE),
        (_header(cbytes=501), Kind.CHUNK_TRUNCATED),
        (_header(cbytes=499), Kind.CHUNK_SIZE_MISMATCH),
        (_header(flags=0x02), Kind.CHUNK_SIZE_MISMATCH),
        (_header(blocksize=4095), Kind.CHUNK_DECODE),  # split into four streams of 1023 bytes
    ],
)
def test_lying_headers_are_refused(data: bytes, kind: Kind) -> None:
    with pytest.raises(ChunkError) as caught:
        parse_header(data, stored_nbytes=500, expected_nbytes=4096)
    assert caught.value.kind is kind
    assert caught.value.byte_range is not None


def test_damaged_offsets_and_pieces_are_refused() -> None:
    container = blosc.compress(walk(50_000), b"zstd", 5, 1, 4096, 4)
    header = parse_header(container)
    offsets = parse_offsets(header, container[16:])
    for value in (-1, 0, 16 + 4 * header.nblocks - 1, len(container) - 3, 2**31 - 1):
        damaged = bytearray(container)
        damaged[20:24] = struct.pack("<i", value)
        with pytest.raises(ChunkError, match="block 1 at byte") as caught:
            parse_offsets(header, damaged[16:])
        assert caught.value.byte_range == (20, 24)
    with pytest.raises(ChunkError, match="ends in its block offsets"):
        parse_offsets(header, container[16:40])
    start, stop = block_spans(header, offsets)[2]
    piece = bytearray(container[start:stop])
    for cut in (0, 3, 10, len(piece) - 1):
        with pytest.raises(ChunkError):
            subset_container(header, [2], [piece[:cut]])
    piece[:4] = struct.pack("<i", -2)
    with pytest.raises(ChunkError, match="stream of -2 bytes"):
        subset_container(header, [2], [piece])
    stored = BloscHeader(0x02, 4, 1000, 1000, 1016)
    with pytest.raises(ChunkError, match="of the 1000 bytes of block 0"):
        subset_container(stored, [0], [b"short"])
