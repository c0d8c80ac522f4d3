"""Every codec chain, byte for byte against zarr-python and numcodecs."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import struct
import warnings
import zlib
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa
import pytest
import zarr
import zarr.codecs as zc
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import blosc as numcodecs_blosc
from support_codecs import DictStore, Written, document_v2, document_v3, write, zarr_reads

from gpuzarr.codecs.blosc import parse_header
from gpuzarr.codecs.bytes_blosc import Blosc, predicted_blocksize
from gpuzarr.codecs.cast_value import cast_values
from gpuzarr.codecs.compressors import Bz2, Gzip, Lzma, Zlib
from gpuzarr.errors import ChunkError, Kind

ZARR = tuple(int(part) for part in zarr.__version__.split(".")[:2])

DTYPES = ["bool", "<i1", "<u1", "<i2", ">i2", "<u4", ">u4", "<i8", "<f2", "<f4", ">f4", "<f8", ">f8", "<c8", "<c16"]
DTYPES_V2 = [*DTYPES, "<M8[s]", "<m8[ns]", "<U5", ">U3", "|S7"]


def values(dtype: str, shape: tuple[int, ...], seed: int, kind: str) -> np.ndarray:
    """Smooth, constant or random data of any dtype."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if kind == "zero":
        raw = np.zeros(count, np.int64)
    elif kind == "smooth":
        raw = np.cumsum(rng.integers(-2, 4, count))
    else:
        raw = rng.integers(-(2**40), 2**40, count)
    kind_ = np.dtype(dtype).kind
    if kind_ in "US":
        return raw.astype(str).astype(dtype).reshape(shape)
    with np.errstate(all="ignore"):
        data = raw.astype("<i8") % 2 == 1 if kind_ == "b" else raw.astype(dtype)
    if kind_ == "c":
        data = data * np.array(1 + 2j, dtype)
    return data.astype(dtype).reshape(shape)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ndim = draw(st.integers(0, 3))
    shape = tuple(draw(st.lists(st.integers(1, 40 if ndim < 3 else 14), min_size=ndim, max_size=ndim)))
    chunks = tuple(draw(st.integers(1, n + 3)) for n in shape)
    return shape, chunks


V2_COMPRESSORS: list[Any] = [
    None,
    *(numcodecs.Zstd(level, checksum=check) for level, check in ((1, False), (9, True))),
    numcodecs.GZip(1),
    numcodecs.Zlib(6),
    numcodecs.LZ4(),
    numcodecs.BZ2(1),
    numcodecs.LZMA(preset=0),
    numcodecs.LZMA(format=2, preset=0),
    numcodecs.LZMA(format=3, filters=[{"id": 33, "preset": 0}]),
    *(
        numcodecs.Blosc(name, level, shuffle, blocksize)
        for name, level, shuffle, blocksize in (
            ("lz4", 5, 1, 0),
            ("lz4hc", 9, 2, 0),
            ("zstd", 1, 2, 256),
            ("zlib", 3, 0, 1000),
            ("blosclz", 9, 1, 300),
            ("lz4", 0, 1, 0),
        )
    ),
]
V2_BYTE_FILTERS: list[Any] = [
    None,
    numcodecs.Shuffle(4),
    numcodecs.CRC32(),
    numcodecs.CRC32(location="end"),
    numcodecs.CRC32C(),
    numcodecs.Adler32(),
    numcodecs.Fletcher32(),
    numcodecs.JenkinsLookup3(initval=7),
]


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Bit for bit."""
    assert got.shape == expected.shape
    expected = np.ascontiguousarray(expected.astype(got.dtype))
    assert np.ascontiguousarray(got).tobytes() == expected.tobytes()


@given(
    grids(),
    st.sampled_from(DTYPES_V2),
    st.sampled_from("CF"),
    st.sampled_from(V2_COMPRESSORS),
    st.sampled_from(V2_BYTE_FILTERS),
    st.sampled_from(["zero", "smooth", "random"]),
    st.integers(0, 2**32),
)
def test_v2_chains(grid, dtype, order, compressor, byte_filter, kind, seed):
    shape, chunks = grid
    if isinstance(byte_filter, numcodecs.Shuffle) and np.dtype(dtype).itemsize % 4:
        byte_filter = numcodecs.Shuffle(1)
    data = values(dtype, shape, seed, kind)
    filters = [] if byte_filter is None else [byte_filter]
    written = write(
        data, chunks=chunks, zarr_format=2, order=order, compressors=compressor, filters=filters, fill_value=None
    )
    same(written.read(), data)
    same(written.read(out=True), data)


V2_VALUE_FILTERS: list[tuple[str, list[Any]]] = [
    ("<i4", [numcodecs.Delta("<i4")]),
    ("<i4", [numcodecs.Delta("<i4", "<i2")]),
    (">i4", [numcodecs.Delta(">i4", ">i8")]),
    ("<f4", [numcodecs.Delta("<f4")]),
    ("<f8", [numcodecs.FixedScaleOffset(-3, 10, "<f8", "<i4")]),
    (">f8", [numcodecs.FixedScaleOffset(1.5, 2.5, ">f8", "<u1")]),
    ("<f4", [numcodecs.FixedScaleOffset(0.1, 100, "<f4", "<i2"), numcodecs.Delta("<i2")]),
    ("<i8", [numcodecs.AsType("<i2", "<i8")]),
    ("<f8", [numcodecs.Quantize(3, "<f8", "<f4")]),
    ("<f4", [numcodecs.Quantize(1, "<f4")]),
    ("<f4", [numcodecs.BitRound(5)]),
    ("|b1", [numcodecs.PackBits()]),
    ("<i2", [numcodecs.Delta("<i2"), numcodecs.Shuffle(2), numcodecs.CRC32()]),
]


@pytest.mark.parametrize(("dtype", "filters"), V2_VALUE_FILTERS, ids=lambda x: str(x)[:60])
@pytest.mark.parametrize("order", "CF")
def test_v2_filters_on_values(dtype, filters, order):
    data = values(dtype, (23, 17), 3, "smooth") if dtype != "|b1" else values(dtype, (23, 17), 3, "random")
    for compressor in (None, numcodecs.Blosc("lz4"), numcodecs.Zlib(1)):
        written = write(
            data, chunks=(9, 7), zarr_format=2, order=order, compressors=compressor, filters=filters, fill_value=None
        )
        same(written.read(), zarr_reads(written))
        same(written.read(out=True), zarr_reads(written))


V3_BYTE_CODECS: list[list[Any]] = [
    [],
    [zc.ZstdCodec(level=3)],
    [zc.ZstdCodec(level=1, checksum=True)],
    [zc.GzipCodec(level=1)],
    [zc.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")],
    [zc.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", blocksize=512)],
    [zc.BloscCodec(cname="zlib", clevel=3, shuffle="noshuffle"), zc.Crc32cCodec()],
    [zc.Crc32cCodec()],
    [zc.Crc32cCodec(), zc.ZstdCodec(level=1), zc.Crc32cCodec()],
]


@given(
    grids(),
    st.sampled_from([d for d in DTYPES if d[0] != ">"]),
    st.sampled_from(["little", "big"]),
    st.booleans(),
    st.sampled_from(V3_BYTE_CODECS),
    st.sampled_from(["none", "start", "end"]),
    st.sampled_from(["zero", "smooth", "random"]),
    st.integers(0, 2**32),
)
def test_v3_chains(grid, dtype, endian, transposed, byte_codecs, shard_index, kind, seed):
    shape, chunks = grid
    data = values(dtype, shape, seed, kind)
    order = tuple(np.random.default_rng(seed).permutation(len(shape)).tolist())
    filters = [zc.TransposeCodec(order=order)] if transposed and shape else []
    shards: Any = None
    if shard_index != "none" and shape:
        shards = {
            "shape": tuple(2 * c for c in chunks),
            "index_location": shard_index,
            "index_codecs": [zc.BytesCodec(endian=endian), *([zc.Crc32cCodec()] if seed % 2 else [])],
        }
    written = write(
        data,
        chunks=chunks,
        shards=shards,
        filters=filters,
        serializer=zc.BytesCodec(endian=endian),
        compressors=byte_codecs,
        fill_value=None,
        config={"write_empty_chunks": bool(seed % 3)},
    )
    assert written.chain.is_sharded == (shards is not None)
    same(written.read(), data)
    same(written.read(out=True), data)


def numcodecs_v3(name: str, **configuration: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "numcodecs codecs are not in the Zarr version 3 specification"
        try:
            from zarr.codecs import numcodecs as module
        except ImportError:
            from numcodecs import zarr3 as module
        return getattr(module, name)(**configuration)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("dtype", "filters", "compressors"),
    [
        ("<i4", [("Delta", {"dtype": "<i4"})], []),
        ("<i4", [("Delta", {"dtype": "<i4", "astype": "<i2"})], [("Zlib", {"level": 1})]),
        (
            "<f8",
            [("FixedScaleOffset", {"offset": 1, "scale": 8, "dtype": "<f8", "astype": "<i4"})],
            [("BZ2", {"level": 1})],
        ),
        ("<f4", [("BitRound", {"keepbits": 4})], [("LZ4", {"acceleration": 1})]),
        ("<f8", [("Quantize", {"digits": 2, "dtype": "<f8"})], [("LZMA", {"preset": 0})]),
        ("<i8", [("AsType", {"encode_dtype": "<i2", "decode_dtype": "<i8"})], [("Zstd", {"level": 1})]),
        ("bool", [("PackBits", {})], [("GZip", {"level": 1})]),
        (
            "<i4",
            [],
            [("Shuffle", {"elementsize": 4}), ("Blosc", {"cname": "lz4", "clevel": 5, "shuffle": 0, "blocksize": 0})],
        ),
        ("<i4", [], [("CRC32", {}), ("Adler32", {})]),
        ("<i4", [], [("CRC32", {"location": "end"}), ("Fletcher32", {}), ("JenkinsLookup3", {})]),
        ("<i4", [], [("CRC32C", {"location": "start"})]),
    ],
    ids=str,
)
def test_v3_numcodecs(dtype, filters, compressors):
    data = values(dtype, (23, 17), 5, "smooth")
    written = write(
        data,
        chunks=(9, 7),
        filters=[numcodecs_v3(name, **c) for name, c in filters],
        compressors=[numcodecs_v3(name, **c) for name, c in compressors],
        fill_value=None,
    )
    same(written.read(), zarr_reads(written))
    same(written.read(out=True), zarr_reads(written))


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec:UserWarning")
def test_nested_shards_and_shards_inside_other_codecs():
    data = values("<i4", (48, 36), 1, "smooth")
    inner = zc.ShardingCodec(
        chunk_shape=(4, 3), codecs=[zc.BytesCodec(), zc.ZstdCodec(level=1)], index_location="start"
    )
    outer = zc.ShardingCodec(chunk_shape=(8, 9), codecs=[inner])
    nested = write(data, chunks=(24, 18), serializer=outer, compressors=[], fill_value=0)
    assert len(nested.chain.shards) == 2
    assert nested.chain.chunk_shape == (4, 3)
    same(nested.read(), data)
    options = {
        "chunks": (24, 18),
        "filters": [zc.TransposeCodec(order=(1, 0))],
        "serializer": zc.ShardingCodec(chunk_shape=(6, 6), codecs=[zc.BytesCodec()]),
        "compressors": [],
        "fill_value": 0,
    }
    whole = write(data, **options)
    assert not whole.chain.is_sharded
    same(whole.read(), data)
    document = json.loads(whole.store.objects["zarr.json"])
    document["codecs"].append({"name": "gzip", "configuration": {"level": 1}})
    packed = {key: numcodecs.GZip(1).encode(value) for key, value in whole.store.objects.items()}
    outside = Written.open(DictStore({**packed, "zarr.json": json.dumps(document).encode()}))
    assert outside.chain.describe() == "transpose+whole-shard(uncompressed)+gzip"
    same(outside.read(), data)
    data[:24, :18] = 0  # fill value: inner chunks that are not stored, in a chain that reads shards as a whole
    data[3, 3] = 1
    sparse = write(data, **options)
    same(sparse.read(), data)


@pytest.mark.parametrize("kind", ["utf8", "bytes"])
def test_variable_length(kind):
    rng = np.random.default_rng(0)
    words = ["", "a", "größe", "日本語", "x" * 300, "\0zero"]
    data = np.array([words[i] for i in rng.integers(0, len(words), 35)], object).reshape(7, 5)
    if kind == "bytes":
        data = np.array([w.encode() for w in data.flat], object).reshape(7, 5)
    codec = {"id": f"vlen-{kind}"}
    for order, compressor in itertools.product(
        "CF", (None, numcodecs.Zstd(1), numcodecs.Blosc("lz4"), numcodecs.GZip(1))
    ):
        objects = {
            ".zarray": document_v2(
                compressor and compressor.get_config(), [codec], shape=(7, 5), chunks=(4, 3), dtype="|O", order=order
            )
        }
        encoder = numcodecs.VLenUTF8() if kind == "utf8" else numcodecs.VLenBytes()
        for i, j in itertools.product(range(2), range(2)):
            chunk = np.full((4, 3), "" if kind == "utf8" else b"", object)
            piece = data[i * 4 : i * 4 + 4, j * 3 : j * 3 + 3]
            chunk[: piece.shape[0], : piece.shape[1]] = piece
            raw = encoder.encode(chunk.reshape(-1, order=order))
            objects[f"{i}.{j}"] = bytes(compressor.encode(raw) if compressor else raw)
        assert Written.open(DictStore(objects)).read().tolist() == data.tolist()
    if kind == "utf8":
        v3 = write(data.astype(np.dtypes.StringDType()), chunks=(4, 3), dtype="str", fill_value="")
        assert v3.chain.describe() == "vlen-utf8+zstd"
        assert v3.read().tolist() == data.tolist()


def one_chunk(document: bytes, stored: bytes) -> Written:
    key = "0" if b'"zarr_format": 2' in document else "c/0"
    name = ".zarray" if key == "0" else "zarr.json"
    return Written.open(DictStore({name: document, key: stored}))


def test_zstd_frames_of_every_kind():
    data = np.arange(5000, dtype="<f4")
    raw = data.tobytes()
    plain = zstandard.ZstdCompressor().compress(raw)
    unsized = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(raw)
    half = zstandard.ZstdCompressor().compress(raw[:9999])
    rest = zstandard.ZstdCompressor(write_content_size=False).compress(raw[9999:])
    skip = struct.pack("<II", 0x184D2A55, 5) + b"notes"
    empty = zstandard.ZstdCompressor().compress(b"")
    document = document_v3([{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}], shape=(5000,))
    for stored in (
        plain,
        unsized,
        half + rest,
        skip + plain,
        plain + skip,
        skip + half + skip + rest,
        empty + plain + empty,
    ):
        written = one_chunk(document, stored)
        same(written.read(), data)
        same(written.read(out=True), data)
    for stored in (half, rest, plain + plain, skip, empty, plain + b"\0", b"", plain[:-1], unsized[:-1]):
        with pytest.raises(ChunkError):
            one_chunk(document, stored).read()
    broken = bytearray(unsized)
    broken[-1] ^= 1
    with pytest.raises(ChunkError, match="checksum"):
        one_chunk(document, bytes(broken)).read()


def test_gzip_members_and_trailing_bytes():
    data = np.arange(5000, dtype="<f4")
    raw = data.tobytes()
    encode = numcodecs.GZip(5).encode
    document = document_v2({"id": "gzip", "level": 1}, shape=(5000,))
    same(one_chunk(document, encode(raw)).read(), data)
    same(one_chunk(document, encode(raw[:1]) + encode(b"") + encode(raw[1:])).read(out=True), data)
    for stored in (
        encode(raw) + b"\0" * 16,
        encode(raw) + b"x",
        encode(raw[:-1]),
        encode(raw)[:-1],
        encode(raw + b"x"),
        b"",
    ):
        with pytest.raises(ChunkError):
            one_chunk(document, stored).read()
    for big in (b"\0" * (40 << 20), np.random.default_rng(0).bytes(40 << 20)):  # several pieces of input and of output
        document = document_v2({"id": "zlib", "level": 1}, shape=(40 << 20,), dtype="|u1")
        assert one_chunk(document, numcodecs.Zlib(1).encode(big)).read().tobytes() == big


def with_snappy(container: bytes) -> bytes:
    """The same Blosc container with its LZ4 streams replaced by snappy ones."""
    header = parse_header(container)
    snappy, lz4 = pa.Codec("snappy"), pa.Codec("lz4_raw")
    out = bytearray(container[:16])
    out[2] = header.flags & 0x1F | 2 << 5
    offsets = struct.unpack_from(f"<{header.nblocks}i", container, 16)
    starts, body = [], b""
    for block, at in enumerate(offsets):
        size = min(header.blocksize, header.nbytes - block * header.blocksize)
        splits = header.splits if size == header.blocksize else 1
        starts.append(16 + 4 * header.nblocks + len(body))
        for _ in range(splits):
            (n,) = struct.unpack_from("<i", container, at)
            stream = container[at + 4 : at + 4 + n]
            plain = stream if n == size // splits else lz4.decompress(stream, size // splits, asbytes=True)
            packed = snappy.compress(plain, asbytes=True)
            packed = plain if len(packed) >= len(plain) else packed
            body += struct.pack("<i", len(packed)) + packed
            at += 4 + n
    struct.pack_into("<i", out, 12, 16 + 4 * header.nblocks + len(body))
    return bytes(out) + struct.pack(f"<{len(starts)}i", *starts) + body


@pytest.mark.parametrize("cname", ["lz4", "lz4hc", "zstd", "zlib", "blosclz", "snappy"])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_blosc_whole_and_in_part(cname, shuffle):
    rng = np.random.default_rng(9)
    for typesize, blocksize, n in itertools.product(
        (1, 2, 3, 4, 8, 16, 17), (0, 128, 1000, 4096), (0, 1, 127, 129, 5000, 70001, 140003)
    ):
        raw = (np.cumsum(rng.integers(-1, 3, n)) % 251).astype("u1").tobytes()
        name = "lz4" if cname == "snappy" else cname
        container = numcodecs_blosc.compress(raw, name.encode(), 5, shuffle, blocksize, typesize)
        if cname == "snappy" and n and not container[2] & 2:
            container = with_snappy(container)
        if n == 0:
            continue
        written = one_chunk(document_v2({"id": "blosc"}, shape=(n,), dtype="|u1"), container)
        assert written.read().tobytes() == raw
        assert written.read(out=True).tobytes() == raw
        for _ in range(3):
            low, high = sorted(int(x) for x in rng.integers(0, n + 1, 2))
            got = written.chain.decode(container, box=((low, high),))
            assert got[low:high].tobytes() == raw[low:high]
            out = np.zeros(n, "u1")
            assert written.chain.decode(container, out, box=((low, high),)) is out
            assert out[low:high].tobytes() == raw[low:high]


@pytest.mark.parametrize("cname", ["lz4", "lz4hc", "zstd", "zlib", "blosclz"])
def test_block_size_is_foreseen(cname):
    for level, typesize, n in itertools.product(range(10), (1, 2, 4, 8, 20), (5000, 40_000, 700_000, 5_000_000)):
        container = numcodecs_blosc.compress(bytes(n), cname.encode(), level, 1, 0, typesize)
        foreseen = predicted_blocksize(Blosc(cname, level, 0, typesize), n)
        assert foreseen == parse_header(container).blocksize, (level, typesize, n)


@pytest.mark.skipif(ZARR < (3, 2), reason="zarr-python has the codecs since 3.2")
def test_scale_offset_against_zarr():
    for dtype, offset, scale in (
        ("float64", 5, 0.1), ("float32", -3.5, 8), ("float16", 1, 2), ("int32", 7, 3), ("uint8", 0, 1), ("int64", -5, -2),
        ("uint64", 3, 2), ("int16", 100, -1), ("float32", "NaN", 2), ("float32", "0x40490fdb", "Infinity"),
    ):  # fmt: skip
        data = np.arange(8, 20).astype(dtype).reshape(3, 4)
        codec = zc.ScaleOffset(offset=offset, scale=scale)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = write(data, chunks=(2, 3), filters=[codec], compressors=[], fill_value=8)
            expected = zarr_reads(written)
        assert written.chain.describe() == "scale_offset"
        got = written.read()
        assert np.array_equal(got, expected, equal_nan=got.dtype.kind == "f")
    for dtype, stored in (("int8", [100, 3]), ("uint8", [255, 1])):
        codecs = [{"name": "scale_offset", "configuration": {"offset": 100, "scale": 2}}, "bytes"]
        written = one_chunk(document_v3(codecs, shape=(2,), data_type=dtype), np.array(stored, dtype).tobytes())
        with pytest.raises(ChunkError):
            written.read()


def test_scale_offset_limits():
    def read(dtype, offset, scale, stored):
        configuration = {"offset": offset, "scale": scale}
        codecs = [
            {"name": "scale_offset", "configuration": configuration},
            {"name": "bytes", "configuration": {"endian": "little"}},
        ]
        raw = np.array(stored, dtype)
        return one_chunk(document_v3(codecs, shape=raw.shape, data_type=dtype), raw.tobytes()).read().tolist()

    top = 2**63 - 1
    assert read("int64", 1, 1, [top - 1, -(2**63)]) == [top, -(2**63) + 1]
    assert read("int64", -1, -1, [5, -7]) == [-6, 6]
    assert read("uint64", 2**63, 1, [2**63 - 1]) == [2**64 - 1]
    assert read("int8", -1, -1, [-128]) == [127]
    for dtype, offset, scale, stored in (
        ("int64", 1, 1, [top]), ("int64", 0, -1, [-(2**63)]), ("uint64", 2**63, 1, [2**63]), ("int8", 0, -1, [-128]), ("uint8", 0, 2, [3]),
    ):  # fmt: skip
        with pytest.raises(ChunkError) as caught:
            read(dtype, offset, scale, stored)
        assert caught.value.kind is Kind.CHUNK_DECODE


CASTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]


@given(
    st.sampled_from(CASTS),
    st.sampled_from(CASTS),
    st.sampled_from(["nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away"]),
    st.sampled_from([None, "clamp", "wrap"]),
    st.data(),
)
def test_cast_value_against_its_library(source, target, rounding, out_of_range, data):
    library = pytest.importorskip("cast_value_rs")
    dtype = np.dtype(source)
    if dtype.kind == "f":
        special = [
            0.5,
            -0.5,
            1.5,
            2.5,
            127.5,
            255.5,
            65519.0,
            65520.0,
            65536.0,
            2.0**24 + 1,
            2.0**31,
            2.0**63,
            2.0**64,
            1e300,
            -1e300,
        ]
        element = st.floats(width=64) | st.sampled_from(special) | st.integers(-300, 300).map(lambda n: n / 4)
    else:
        info = np.iinfo(dtype)
        near = st.integers(0, dtype.itemsize * 8).flatmap(lambda k: st.integers(2**k - 3, 2**k + 3))
        element = st.integers(int(info.min), int(info.max)) | near | near.map(int.__neg__)
        element = element.map(lambda n: min(max(n, int(info.min)), int(info.max)))
    with np.errstate(all="ignore"):
        given_values = np.array(data.draw(st.lists(element, min_size=1, max_size=6))).astype(dtype)
    mapped = {given_values[0].item(): 7} if data.draw(st.booleans()) else {}
    try:
        expected = library.cast_array(
            given_values,
            target_dtype=np.dtype(target),
            rounding_mode=rounding,
            out_of_range_mode=out_of_range,
            scalar_map_entries=mapped or None,
        )
    except ValueError:
        with pytest.raises(ChunkError):
            cast_values(given_values, np.dtype(target), rounding, out_of_range or "error", tuple(mapped.items()))
        return
    got = cast_values(given_values, np.dtype(target), rounding, out_of_range or "error", tuple(mapped.items()))
    assert got.dtype == expected.dtype
    if got.dtype.kind == "f":
        assert np.array_equal(got, expected, equal_nan=True)
        assert (np.signbit(got) == np.signbit(expected))[~np.isnan(got)].all()
    else:
        assert got.tolist() == expected.tolist()


@pytest.mark.skipif(ZARR < (3, 2), reason="zarr-python has the codecs since 3.2")
def test_cast_value_against_zarr():
    pytest.importorskip("cast_value_rs")
    data = np.array([[1.2, 2.5, np.nan], [-3.5, 200, 7]], "f8")
    cast = zc.CastValue(
        data_type="uint8", rounding="nearest-even", out_of_range="clamp",
        scalar_map={"encode": [("NaN", 255)], "decode": [(255, "NaN")]},
    )  # fmt: skip
    written = write(
        data, chunks=(2, 2), filters=[zc.ScaleOffset(offset=-10, scale=1), cast], compressors=[], fill_value=0
    )
    got = written.read()
    assert np.array_equal(got, zarr_reads(written), equal_nan=True)
    assert np.isnan(got[0, 2])
    wide = write(np.arange(6, dtype="f4"), chunks=(4,), filters=[zc.CastValue(data_type="int64")], fill_value=0)
    same(wide.read(), np.arange(6, dtype="f4"))


@pytest.mark.parametrize("codec", [Gzip(), Zlib(), Bz2(), Lzma()], ids=lambda c: c.name)
@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_small_streams_decoded_at_once_equal_those_decoded_in_pieces(codec, size, monkeypatch):
    """Values or errors: one member, several, damage anywhere, bytes missing, bytes too many, another size."""
    encode = {"gzip": gzip.compress, "zlib": zlib.compress, "bz2": bz2.compress, "lzma": lzma.compress}[codec.name]
    plain = np.random.default_rng(size).integers(0, 7, size, np.uint8).tobytes()
    good = encode(plain)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    stored = [good, good + b"\0", good[:-1], good[: len(good) // 2], bytes(flipped), b"", good[:-1] + b"\0"]
    stored += [encode(plain[:10]) + encode(plain[10:]), encode(plain + b"x"), encode(plain[1:]), encode(bytes(10**6))]

    def results() -> list[object]:
        found: list[object] = []
        for data in stored:
            for out in (None, np.empty(size, np.uint8)):
                try:
                    found.append(codec.decode(np.frombuffer(data, np.uint8), size, size, out).tobytes())
                except ChunkError as error:
                    found.append((error.kind, str(error)))
        return found

    at_once = results()
    monkeypatch.setattr(type(codec), "_decode_at_once", lambda *_: None)
    assert at_once == results()
    assert at_once[:2] == [plain, plain]
