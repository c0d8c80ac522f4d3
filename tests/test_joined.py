"""Small chunks that are decoded together: the same as one by one, for whatever is stored."""

from __future__ import annotations

import random
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr.codecs as zc
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support_codecs import Written, write
from support_counting import CountingStore

from gpuzarr.codecs.zstd_joined import decode_joined, is_one_frame
from gpuzarr.errors import ChunkError
from gpuzarr.reader import ChunkReader, Joined
from gpuzarr.reader.needs import NeedsMemory
from gpuzarr.statistics import ScanStatistics

SIZES = [1, 255, 256, 300, 4096, 65_791, 65_792, 140_000]


def skippable(nbytes: int) -> bytes:
    return (0x184D2A50).to_bytes(4, "little") + nbytes.to_bytes(4, "little") + bytes(nbytes)


def stored(size: int, rng: random.Random) -> bytes:
    """A chunk of ``size`` decoded bytes as somebody might write it, or damage."""
    kind = rng.choice(["zeros", "noise", "steps"])
    numbers = np.random.default_rng(rng.randrange(100))
    data = {
        "zeros": np.zeros(size, "u1"),
        "noise": numbers.integers(0, 256, size).astype("u1"),
        "steps": np.cumsum(numbers.integers(0, 2, size)).astype("u1"),
    }[kind].tobytes()
    match rng.randrange(12):
        case 0:
            return zstandard.ZstdCompressor(write_content_size=False).compress(data)
        case 1:
            compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
            return compressor.compress(data) + compressor.flush()
        case 2:
            half = size // 2
            return bytes(numcodecs.Zstd(1).encode(data[:half])) + bytes(numcodecs.Zstd(1).encode(data[half:]))
        case 3:
            return bytes(numcodecs.Zstd(1).encode(data)) + rng.choice(
                [skippable(3), b"\0", zstandard.compress(b""), skippable(10**6)[:8]]
            )
        case 4:
            return skippable(5) + bytes(numcodecs.Zstd(1).encode(data))
        case 5:
            frame = bytes(numcodecs.Zstd(1).encode(data))
            return frame[: rng.randrange(len(frame))]
        case 6:
            frame = bytearray(numcodecs.Zstd(1, checksum=rng.random() < 0.5).encode(data))
            frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            return bytes(frame)
        case 7:
            return bytes(numcodecs.Zstd(1).encode(data + b"x"))
        case _:
            return bytes(numcodecs.Zstd(rng.choice([1, 3, 9]), checksum=rng.random() < 0.5).encode(data))  # fmt: skip


def alone(chunk: bytes, size: int) -> bytes | None:
    """The chunk, decoded by another library; None where that fails."""
    try:
        decoder = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
        data = decoder.decompress(chunk)
    except zstandard.ZstdError:
        return None
    return data if len(data) == size and not decoder.unused_data else None


@given(st.randoms(use_true_random=False), st.sampled_from(SIZES))
def test_frames(rng, size):
    chunks = [stored(size, rng) for _ in range(rng.randrange(1, 6))]
    out = np.full((len(chunks), size), 0xAB, np.uint8)
    if decode_joined([rng.choice([bytes, memoryview])(c) for c in chunks], out):
        assert [row.tobytes() for row in out] == [alone(chunk, size) for chunk in chunks]
    else:  # some chunk is not one frame of the size, or is damaged
        assert not all(is_one_frame(c, size) for c in chunks) or any(alone(c, size) is None for c in chunks)
    for chunk in chunks:
        if is_one_frame(chunk, size) and (decoded := alone(chunk, size)) is not None:
            assert zstandard.frame_content_size(chunk) == size == len(decoded)
            assert decode_joined([chunk], out[:1])


def test_usual_frames_are_joined():
    for size in SIZES:
        data = np.random.default_rng(size).integers(0, 3, size).astype("u1")
        for codec in (numcodecs.Zstd(1), numcodecs.Zstd(5, checksum=True)):
            frame = bytes(codec.encode(data))
            assert is_one_frame(frame, size)
            assert not is_one_frame(frame, size + 1)
            assert not is_one_frame(frame[:-1], size)
            assert not is_one_frame(frame + b"\0", size)


def read(written: Written, how: str) -> tuple[dict[int, bytes | None], ChunkError | None, dict[str, int], list[Any]]:
    """All chunks: what was placed, the error, what was counted and what was requested."""
    store, statistics = CountingStore(written.store), ScanStatistics()
    reader: ChunkReader = written.reader(statistics, store)
    placed: dict[int, bytes | None] = {}
    rooms: list[int] = []

    def place(position: int, chunk: np.ndarray | None) -> None:
        assert position not in placed
        placed[position] = None if chunk is None else chunk.tobytes()

    def room(n: int) -> np.ndarray:
        rooms.append(n)
        return np.empty((n, *written.chain.chunk_shape), written.chain.dtype.numpy)

    indices = written.indices()
    joined = Joined(room, place, lambda: rooms.append(0))
    error = None
    try:
        if how == "objects":
            assert reader.joins_objects
            reader.read_joined(reader.groups(indices), joined)
        else:
            for group in reader.groups(indices):
                reader.read(group, indices, place, joined=joined if how == "shards" else None)
    except ChunkError as raised:
        error = raised
    assert rooms if how != "alone" else not rooms
    return placed, error, statistics.as_dict(), store.requests


CODECS: dict[str, Any] = {
    "zstd": zc.ZstdCodec(level=1),
    "zstd-checksum": zc.ZstdCodec(level=1, checksum=True),
    "blosc-lz4": zc.BloscCodec(cname="lz4"),
    "blosc-zstd": zc.BloscCodec(cname="zstd", shuffle="bitshuffle"),
    "blosc-stored": zc.BloscCodec(clevel=0),
    "gzip": zc.GzipCodec(level=1),
}


@pytest.mark.parametrize("shards", [None, (40, 40), (20, 30)], ids=str)
@pytest.mark.parametrize("codec", CODECS)
def test_readers(shards, codec):
    data = np.cumsum(np.random.default_rng(3).integers(0, 3, (90, 70)), axis=0).astype("<f4")
    data[20:30, :40] = 0  # not stored
    written = write(
        data,
        chunks=(10, 10),
        shards=None if shards is None else {"shape": shards, "index_location": "end"},
        fill_value=0,
        compressors=[CODECS[codec]],
    )
    how = "objects" if shards is None else "shards"
    slow, fast = read(written, "alone"), read(written, how)
    assert fast == slow
    assert any(chunk is None for chunk in fast[0].values())
    assert fast[1] is None


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("damage", ["cut", "flip", "longer"])
@pytest.mark.parametrize("codec", ["zstd-checksum", "blosc-lz4", "gzip"])
def test_the_error_is_that_of_the_damaged_chunk(sharded, damage, codec):
    data = np.random.default_rng(4).integers(0, 9, (40, 40)).astype("<i4")
    written = write(
        data,
        chunks=(10, 10),
        shards={"shape": (40, 40), "index_location": "end"} if sharded else None,
        fill_value=-1,
        compressors=[CODECS[codec]],
    )
    objects = written.store.objects
    key = next(k for k in sorted(objects) if "c/" in k)
    raw = bytearray(objects[key])
    if damage == "flip" or sharded:
        raw[40] ^= 0x10
    elif damage == "cut":
        del raw[-3:]
    else:
        raw += b"123"
    objects[key] = bytes(raw)
    slow, fast = read(written, "alone"), read(written, "shards" if sharded else "objects")
    if slow[1] is None:  # it has no checksum
        assert codec == "blosc-lz4"
        assert damage == "flip" or sharded
        assert fast == slow
        return
    assert fast[1] is not None
    assert (fast[1].kind, fast[1].key, fast[1].byte_range, str(fast[1])) == (
        slow[1].kind,
        slow[1].key,
        slow[1].byte_range,
        str(slow[1]),
    )


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("side", [100, 128, 160, 181, 222, 256, 512])
def test_chunks_that_are_joined_would_not_be_divided(side, is_local, monkeypatch):
    """What is known of all chunks of an array beforehand is what plans chunk by chunk come to."""
    rng = np.random.default_rng(side)
    data = rng.integers(0, 1 << 12, (2 * side, side)).astype("<f4")
    options = {"compressors": [zc.BloscCodec(cname="lz4", blocksize=8192)], "fill_value": None, "is_local": is_local}
    written = write(data, chunks=(side, side), **options)
    indices = written.indices()
    boxes = np.array([[(5, 6), (0, side)], [(0, side), (3, 5)]], np.int64)

    def requests() -> tuple[list[Any], list[Any], bool]:
        store = CountingStore(written.store)
        reader = written.reader(ScanStatistics(), store)
        bills = [reader.stored_bytes(group, indices, boxes) for group in reader.groups(indices)]
        asked = [(r.method, r.key, r.start, r.length) for r in store.requests if r.method != "size"]
        store.requests.clear()
        for group in reader.groups(indices):
            reader.read(group, indices, lambda _p, _a: None, boxes=boxes)
        asked += [(r.method, r.key, r.start, r.length) for r in store.requests]
        assert not (reader.joins_objects and reader._needs.divides)
        return bills, asked, not reader._needs.divides

    found = requests()
    monkeypatch.setattr(NeedsMemory, "divides", True)
    planned = requests()
    assert found[0] == planned[0]
    assert found[2] == (side < 222 or not is_local)
    if found[2]:
        assert not any(start for _, _, start, _ in planned[1])
        assert found[1] == planned[1]
