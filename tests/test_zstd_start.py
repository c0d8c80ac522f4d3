"""The first blocks of a Zstandard frame decoded alone: what numcodecs makes of the whole frame is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr.codecs as zc
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd
from support_codecs import write

from gpuzarr.codecs.compressors import Zstd
from gpuzarr.codecs.zstd_start import zstd_start
from gpuzarr.errors import ChunkError
from gpuzarr.statistics import ScanStatistics

BLOCK = 128 << 10
POISON = 0xA5


def content(kind: str, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "noise":  # raw blocks
        return rng.integers(0, 256, size, np.uint8)
    if kind == "constant":  # RLE blocks
        return np.full(size, 7, np.uint8)
    if kind == "halves":
        return np.concatenate([content("noise", size // 2, seed), content("constant", size - size // 2)])
    return np.cumsum(rng.integers(-3, 4, -(-size // 4)), dtype=np.int32).view(np.uint8)[:size].copy()


def as_bytes(data: Any) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def block_count(frame: np.ndarray) -> int:
    """Of a frame with a size of four bytes."""
    at, count, last = 9 if frame[4] & 0b10_0000 else 10, 0, 0
    while not last:
        header = int.from_bytes(frame[at : at + 3].tobytes(), "little")
        at += 4 if header >> 1 & 3 == 1 else 3 + (header >> 3)
        last, count = header & 1, count + 1
    return count


def check(frame: np.ndarray, needed: int) -> int:
    """Decode the start of a frame; returns how many bytes that were."""
    whole = as_bytes(zstd.decompress(frame))
    out = np.full(len(whole), POISON, np.uint8)
    nbytes = Zstd().decode_start(frame, needed, out)
    if nbytes:
        assert max(needed, 1) <= nbytes <= needed + BLOCK
        assert (out[:nbytes] == whole[:nbytes]).all()
        assert (out[nbytes:] == POISON).all()
    return nbytes


@settings(max_examples=60)
@given(
    st.sampled_from(["noise", "constant", "halves", "smooth"]),
    st.integers(2 * BLOCK, 9 * BLOCK) | st.integers(2, 9).map(lambda n: n * BLOCK),
    st.sampled_from([-7, 0, 1, 3, 9]),
    st.booleans(),
    st.floats(0, 1),
    st.booleans(),
)
def test_the_start_is_the_start_of_the_whole(kind, size, level, checksum, share, arrow):
    data = content(kind, size, size)
    if arrow:
        frame = as_bytes(pa.Codec("zstd", compression_level=max(level, 1)).compress(data.tobytes(), asbytes=True))
    else:
        frame = as_bytes(zstd.compress(data, level, checksum))
    needed = max(1, int(size * share))
    nbytes = check(frame, needed)
    if checksum and not arrow:
        assert nbytes == 0  # it is over all of the frame
    elif 4 * -(-needed // BLOCK) > 3 * -(-size // BLOCK):
        assert nbytes == 0
    elif block_count(frame) * BLOCK == size:
        assert nbytes == -(-needed // BLOCK) * BLOCK
    else:  # whether blocks are full is up to the encoder: newer ones split them at any level
        assert nbytes in (0, -(-needed // BLOCK) * BLOCK)


@pytest.mark.parametrize("level", [13, 19, 22])
@pytest.mark.parametrize("kind", ["halves", "smooth"])
def test_blocks_that_the_encoder_has_split(kind, level):
    frame = as_bytes(zstd.compress(content(kind, 5 * BLOCK), level))
    for needed in (1, BLOCK, BLOCK + 1, 3 * BLOCK):
        check(frame, needed)


def block(data: bytes, kind: int, *, last: bool, length: int | None = None) -> bytes:
    return (int(last) | kind << 1 | (len(data) if length is None else length) << 3).to_bytes(3, "little") + data


def first_block(data: np.ndarray) -> bytes:
    """Content of the only block of a small frame, compressed."""
    frame = bytes(zstd.compress(data, 3))
    assert len(data) >= 65536 + 256  # a size of four bytes
    header = int.from_bytes(frame[9:12], "little")
    assert header & 0b111 == 0b101  # the last one, compressed
    return frame[12 : 12 + (header >> 3)]


def head(size: int, descriptor: int = 0b1010_0000, before_size: bytes = b"") -> bytes:
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + before_size + size.to_bytes(4, "little")


def tail(count: int) -> tuple[bytes, int]:
    """Full raw blocks that end a frame."""
    data = [content("noise", BLOCK, i).tobytes() for i in range(count)]
    return b"".join(block(d, 0, last=i == count - 1) for i, d in enumerate(data)), count * BLOCK


def test_a_block_that_is_not_full_is_noticed():
    """As many blocks as full ones would be, so that only the decoder can tell."""
    rest, nbytes = tail(4)
    small = content("smooth", 100_000)
    frame = as_bytes(head(nbytes + 100_000) + block(first_block(small), 2, last=False) + rest)
    assert zstd_start(frame, nbytes + 100_000, 10) is not None
    assert check(frame, 10) == 0
    frame = as_bytes(head(nbytes + 100_000) + block(small.tobytes(), 0, last=False) + rest)
    assert zstd_start(frame, nbytes + 100_000, 10) is None


def test_kinds_of_blocks_and_headers():
    rest, nbytes = tail(4)
    full = content("smooth", BLOCK)
    size = nbytes + BLOCK
    first = block(first_block(full), 2, last=False)
    rle = block(b"x", 1, last=False, length=BLOCK)
    window = bytes([(17 - 10) << 3])  # 128 KiB
    for frame in (head(size) + first + rest, head(size) + rle + rest, head(size, 0b1000_0000, window) + first + rest):
        assert check(as_bytes(frame), 5) == BLOCK
        assert check(as_bytes(frame), BLOCK + 1) == 2 * BLOCK
    wide = head(0, 0b1110_0000)[:5] + size.to_bytes(8, "little")
    assert check(as_bytes(wide + first + rest), 5) == BLOCK
    good = head(size) + first + rest
    skippable = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"abcd"
    for frame in (skippable + good, good + skippable, bytes(zstd.compress(b"", 1)) + good, good + b"\0"):
        assert zstd_start(as_bytes(frame), size, 5) is None
    for refused in (
        head(size, 0b1010_0100), head(size, 0b1010_1000), head(size, 0b1010_0001, b"\1"), head(size - 1),
        head(size, 0b1000_0000, bytes([0])),  # a window of 1 KiB
        b"\x28\xb5\x2f\xfd" + bytes([0, 7 << 3]),  # no size
        head(size)[:3] + b"\0" + head(size)[4:],
    ):  # fmt: skip
        assert zstd_start(as_bytes(refused + first + rest), size, 5) is None
    for length in [*range(30), len(first) + 8, len(good) // 2, len(good) - 1]:
        assert zstd_start(as_bytes(good[:length]), size, 5) is None


def chain_options(variant: str) -> dict[str, Any]:
    return {
        "plain": {"compressors": [zc.ZstdCodec(level=1)]},
        "big": {"compressors": [zc.ZstdCodec(level=1)], "serializer": zc.BytesCodec(endian="big")},
        "transposed": {"compressors": [zc.ZstdCodec(level=1)], "filters": [zc.TransposeCodec(order=(2, 0, 1))]},
        "sums": {"compressors": [zc.ZstdCodec(level=1), zc.Crc32cCodec()]},
        "checksum": {"compressors": [zc.ZstdCodec(level=1, checksum=True)]},
        "sharded": {"compressors": [zc.ZstdCodec(level=1)], "shards": (64, 120, 180)},
    }[variant]


@pytest.mark.parametrize("variant", ["plain", "big", "transposed", "sums", "checksum", "sharded"])
@pytest.mark.parametrize("offer", [False, True])
def test_cells_of_a_box_are_those_of_the_chunk(variant, offer):
    data = content("smooth", 4 * 64 * 120 * 90).view("<f4").copy().reshape(64, 120, 90)
    data[~np.isfinite(data)] = 1
    written = write(data, chunks=(64, 60, 90), fill_value=None, **chain_options(variant))
    indices = written.indices()
    rng = np.random.default_rng(2)
    statistics = ScanStatistics()
    reader = written.reader(statistics)
    for _ in range(40):
        low = np.array([[rng.integers(0, n) for n in (64, 60, 90)] for _ in indices])
        high = low + 1 + np.array([[rng.integers(0, n) for n in row] for row in (64, 60, 90) - low])
        boxes = np.stack([low, high], axis=2)

        def place(position: int, chunk: np.ndarray | None, boxes: np.ndarray = boxes) -> None:
            assert chunk is not None
            inside = tuple(slice(int(a), int(b)) for a, b in boxes[position])
            first = indices[position] * (64, 60, 90)
            expected = data[tuple(slice(s.start + int(o), s.stop + int(o)) for s, o in zip(inside, first, strict=True))]
            assert (chunk[inside] == expected).all()

        def out_for(_: int) -> np.ndarray:
            return np.full((64, 60, 90), np.nan, "f4")

        for group in reader.groups(indices):
            reader.read(group, indices, place, boxes=boxes, out_for=out_for if offer else None)
    assert (statistics.chunks_partial > 10) == (variant != "checksum")
    assert (statistics.bytes_decoded < statistics.chunks_read * written.chain.chunk_nbytes) == (variant != "checksum")


def test_damage_where_it_is_decoded_is_an_error():
    data = content("smooth", 4 * 64 * 60 * 90).view("<i4").copy().reshape(64, 60, 90)
    chain = (written := write(data, chunks=data.shape, fill_value=None, compressors=[zc.ZstdCodec(level=1)])).chain
    good = np.frombuffer(written.store.objects["c/0/0/0"], np.uint8)
    box = ((0, 1), (0, 60), (0, 90))
    rng = np.random.default_rng(6)
    _, nbytes = chain.decode_counted(good, None, box)
    assert nbytes == BLOCK
    for at in [4, 5, 9, 10, *rng.integers(0, 1000, 200).tolist()]:
        bad = good.copy()
        bad[at] ^= 1 << int(rng.integers(0, 8))
        try:
            whole = chain.decode(bad)
        except ChunkError:
            whole = None
        try:
            part = chain.decode(bad, box=box)
        except ChunkError:
            assert whole is None
            continue
        if whole is not None:
            assert (part[:1] == whole[:1]).all()
    cut_short = [good[:length] for length in (0, 1, 12, 100, len(good) // 2, len(good) - 1)]
    for bad in (*cut_short, np.concatenate([good, good[:1]])):  # noticed wherever the box is
        with pytest.raises(ChunkError) as found:
            chain.decode(bad, box=box)
        with pytest.raises(ChunkError) as expected:
            chain.decode(bad)
        assert (found.value.kind, str(found.value)) == (expected.value.kind, str(expected.value))
