"""Stream plans: whatever the chain, carrying out the plan gives the bytes that numcodecs wrote."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import Zstd
from numcodecs import blosc as numcodecs_blosc
from support_chains import Chain, blosc, build_container, payload

from gpuzarr.codecs import parse_chain
from gpuzarr.codecs.batch_host import HostBatchDecoder
from gpuzarr.codecs.blosc import block_spans, parse_header, parse_offsets, subset_container
from gpuzarr.codecs.compressor_streams import COMPRESSORS
from gpuzarr.codecs.decode_plan import DecodeReport, batches, decode_plan, host_chunks
from gpuzarr.codecs.plan_summary import summarise
from gpuzarr.codecs.stream_plan import ChunkLabel, StoredChunks, StreamPlan, plan_streams
from gpuzarr.codecs.tables import Algorithm, ChecksumKind, FilterKind, HostReason
from gpuzarr.errors import ChunkError, Kind
from gpuzarr.metadata import open_node
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.store import open_store

ZSTD, GZIP, ZLIB = {"id": "zstd", "level": 1}, {"id": "gzip", "level": 1}, {"id": "zlib", "level": 1}
LZ4, BZ2, LZMA = {"id": "lz4"}, {"id": "bz2"}, {"id": "lzma"}
BLOSC = tuple(
    blosc(cname, shuffle, blocksize)
    for cname in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
    for shuffle in (0, 1, 2)
    for blocksize in (0, 512)
)


def shuffle(elementsize: int) -> dict[str, Any]:
    return {"id": "shuffle", "elementsize": elementsize}


CODECS: tuple[tuple[dict[str, Any], ...], ...] = (
    (),
    (ZSTD,),
    ({"id": "zstd", "level": 3, "checksum": True},),
    (GZIP,),
    (ZLIB,),
    (LZ4,),
    (BZ2,),
    (LZMA,),
    *((codec,) for codec in BLOSC),
    (blosc("lz4", 1, clevel=0),),
    (shuffle(4), ZSTD),
    (shuffle(2), shuffle(4), LZ4),
    (shuffle(4), blosc("lz4", 1)),
    ({"id": "delta", "dtype": "<f4"}, ZSTD),
    (shuffle(4),),
    (ZSTD, {"id": "crc32"}),
    (blosc("zstd", 2), {"id": "crc32c"}),
    (ZLIB, {"id": "adler32"}),
    (ZLIB, {"id": "crc32", "location": "end"}, {"id": "adler32", "location": "end"}),
    (GZIP, {"id": "fletcher32"}),
    (LZ4, {"id": "jenkins_lookup3"}),
    ({"id": "crc32c"},),
    ({"id": "crc32"}, {"id": "crc32c"}),
    ({"id": "crc32c"}, ZSTD),
    (ZLIB, ZSTD),
    (ZSTD, shuffle(1), GZIP, {"id": "crc32c"}),
)
HOST_REASONS = {
    "bz2": HostReason.CODEC,
    "lzma": HostReason.CODEC,
    "lz4+jenkins_lookup3": HostReason.CHECKSUM,
    "crc32c+zstd": HostReason.NESTED,
    "zlib+zstd": HostReason.NESTED,
    "zstd+shuffle+gzip+crc32c": HostReason.NESTED,
}
GUARD = 0x5C


def carry_out(plan: StreamPlan, decoder: Any = None) -> tuple[np.ndarray, DecodeReport]:
    """Decode into an arena with guards around it and between the chunks."""
    arena = np.full(plan.out_nbytes + 128, GUARD, np.uint8)
    out = arena[64 : 64 + plan.out_nbytes]
    report = decode_plan(plan, out, HostBatchDecoder() if decoder is None else decoder)
    untouched = np.ones(len(arena), np.bool_)
    for start, nbytes in zip(plan.dst.tolist(), plan.dst_nbytes.tolist(), strict=True):
        untouched[64 + start : 64 + start + nbytes] = False
    assert (arena[untouched] == GUARD).all()
    return out, report


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2", ">f8", "|u1", "<c16", "<U2", "|S3", "|b1", "<M8[ns]"])
def test_every_chain_together_gives_what_was_written(dtype: str) -> None:
    chains, cases = [], []
    for codecs in CODECS:
        for shape, order in (((1,), "C"), ((4, 5, 8), "F"), ((3000,), "C")):
            if any(c["id"] == "delta" for c in codecs) and dtype != "<f4":
                continue
            chain = Chain(codecs, dtype, shape, order)
            if sum(c.get("elementsize", 1) > 1 for c in codecs) and np.dtype(dtype).itemsize * shape[0] % 4:
                continue
            chains.append(chain)
            cases += [
                (len(chains) - 1, payload(kind, dtype, shape, i)) for i, kind in enumerate(("walk", "zeros", "noise"))
            ]
    stored = StoredChunks.of_bytes([chains[i].encode(values) for i, values in cases], [i for i, _ in cases])
    parsed = [chain.parse() for chain in chains]
    plan = plan_streams(parsed, stored)
    out, report = carry_out(plan)
    assert not report.retried.size
    for chunk, (i, values) in enumerate(cases):
        decoded = plan.array(chunk, out)
        expected = chains[i].decode(stored.data(chunk).tobytes())
        assert decoded.dtype == values.dtype
        assert decoded.tobytes() == expected.tobytes(), (chains[i], chunk)
        assert expected.tobytes() == values.tobytes() or "delta" in chains[i].name
        assert decoded.tobytes() == parsed[i].decode(stored.data(chunk)).tobytes()
        reasons = set(plan.streams.reason[plan.streams.chunk == chunk].tolist())
        assert reasons == {HOST_REASONS.get(chains[i].name, HostReason.NONE)}, chains[i].name
    # in two buffers, without a decoder of batches, with one that refuses everything: the same bytes
    half = len(cases) // 2
    moved = np.arange(len(cases)) >= half
    split = stored.start[half]
    buffers = (stored.buffers[0][:split], stored.buffers[0][split:])
    apart = replace(
        stored, buffers=buffers, buffer=moved.astype(np.int64), start=stored.start - np.where(moved, split, 0)
    )
    for decoder in (HostBatchDecoder(), HostBatchDecoder(frozenset()), HostBatchDecoder(verifies=frozenset())):
        again, _ = carry_out(plan_streams(parsed, apart), decoder)
        assert (again == out).all()


@given(data=st.data())
def test_random_chains_sizes_and_values(data: st.DataObject) -> None:
    codecs = data.draw(st.lists(st.sampled_from(CODECS), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from(["<f4", ">i4", "<u2", "|i1", "<f8"]))
    chains, chunks, values = [], [], []
    for listed in codecs:
        if any(c["id"] == "delta" for c in listed) and dtype != "<f4":
            continue
        shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 8, 31, 128]), min_size=1, max_size=3)))
        chain = Chain(listed, dtype, shape, data.draw(st.sampled_from("CF")))
        if any(np.prod(shape) * np.dtype(dtype).itemsize % c.get("elementsize", 1) for c in listed):
            continue
        chains.append(chain)
        kind = data.draw(st.sampled_from(["walk", "zeros", "noise"]))
        chunks.append(chain.encode(payload(kind, dtype, shape, data.draw(st.integers(0, 99)))))
        values.append(chain.decode(chunks[-1]))
    plan = plan_streams([chain.parse() for chain in chains], StoredChunks.of_bytes(chunks, np.arange(len(chunks))))
    out, _ = carry_out(plan)
    for i, expected in enumerate(values):
        assert plan.array(i, out).tobytes() == expected.tobytes(), chains[i]


def test_what_remains_is_layout_or_a_short_chain() -> None:
    plain = Chain((blosc("lz4", 1),), ">f4", (4, 6)).parse()
    plan = plan_streams(
        [plain], StoredChunks.of_bytes([Chain((blosc("lz4", 1),), ">f4", (4, 6)).encode(np.ones((4, 6)))])
    )
    assert plan.routes[0].remainder.identity
    rounded = Chain(({"id": "bitround", "keepbits": 10}, ZSTD), "<f4", (4, 6)).parse()
    fixed = {"id": "fixedscaleoffset", "offset": 0, "scale": 10, "dtype": "<f4", "astype": "<i2"}
    packed = Chain((fixed, ZSTD), "<f4", (4, 6))
    plan = plan_streams([rounded, packed.parse()], StoredChunks.of_bytes([]))
    assert plan.routes[0].remainder.identity
    assert plan.routes[1].nbytes == 48
    assert [step.name for step in plan.routes[1].remainder.byte_steps] == ["fixedscaleoffset"]
    assert summarise(plan).text == "nothing to decode"
    values = np.arange(24, dtype="f4").reshape(4, 6) / 10
    plan = plan_streams([packed.parse()], StoredChunks.of_bytes([packed.encode(values)]))
    np.testing.assert_array_equal(plan.array(0, carry_out(plan)[0]), packed.parse().decode(packed.encode(values)))


def _zstd_without_size(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def test_zstd_frames() -> None:
    first, second = bytes(range(250)) * 8, b"abcd" * 500
    sized = Zstd(1, checksum=True)
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"xxxxx"
    whole = _zstd_without_size(first + second)
    empty = Zstd(1).encode(b"")
    cases = {
        sized.encode(first + second): 1,
        whole: 1,
        skippable + whole + skippable: 1,
        bytes(sized.encode(first)) + skippable + bytes(sized.encode(second)): 2,
        bytes(sized.encode(first)) + bytes(empty) + bytes(sized.encode(second)): 2,
        bytes(sized.encode(first)) + _zstd_without_size(second): HostReason.FRAMES,
        _zstd_without_size(first) + _zstd_without_size(second): HostReason.FRAMES,
    }
    chain = Chain((ZSTD,), "|u1", (4000,)).parse()
    plan = plan_streams([chain], StoredChunks.of_bytes(list(cases)))
    out, report = carry_out(plan)
    for chunk, expected in enumerate(cases.values()):
        rows = plan.streams.chunk == chunk
        if isinstance(expected, HostReason):
            assert plan.streams.reason[rows].tolist() == [expected]
        else:
            assert plan.streams.algorithm[rows].tolist() == [Algorithm.ZSTD] * expected
        assert plan.array(chunk, out).tobytes() == first + second
    assert report.host.tolist() == [5, 6]
    assert not report.retried.size
    assert (plan.checksums.kind == ChecksumKind.XXH64).all()
    assert len(plan.checksums) == 5
    # a decoder that cannot check XXH64 leaves those streams to the host
    again, report = carry_out(plan, HostBatchDecoder(verifies=frozenset()))
    assert (again == out).all()
    assert report.host.tolist() == [0, 3, 4, 5, 6]
    with pytest.raises(ChunkError) as caught:
        plan_streams([chain], StoredChunks.of_bytes([bytes(sized.encode(first)) * 3]))
    assert caught.value.kind is Kind.CHUNK_SIZE_MISMATCH
    many = b"".join([skippable] * 5000) + bytes(sized.encode(first + second))
    plan = plan_streams([chain], StoredChunks.of_bytes([many]))
    assert plan.streams.reason.tolist() == [HostReason.FRAMES]
    assert plan.array(0, carry_out(plan)[0]).tobytes() == first + second


def test_many_frames_are_walked_in_lockstep_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    chunks = []
    for i in range(300):
        data = rng.integers(0, 4, 300_000 if i % 50 == 0 else 4000, np.uint8).tobytes()
        chunks.append((data, bytes(Zstd(1 + i % 3, checksum=bool(i % 2)).encode(data))))
    chains = [Chain((ZSTD,), "|u1", (n,)).parse() for n in (4000, 300_000)]
    stored = StoredChunks.of_bytes([c for _, c in chunks], [int(len(d) > 4000) for d, _ in chunks])
    plan = plan_streams(chains, stored)
    assert plan.streams.src.tolist() == stored.start.tolist()
    assert plan.streams.src_nbytes.tolist() == stored.nbytes.tolist()
    out, _ = carry_out(plan)
    assert all(plan.array(i, out).tobytes() == data for i, (data, _) in enumerate(chunks))


def test_gzip_members() -> None:
    data = b"gpuzarr " * 500
    named = (
        gzip.compress(data, 1)[:3] + b"\x08" + gzip.compress(data, 1)[4:10] + b"name\0" + gzip.compress(data, 1)[10:]
    )
    cases = {
        gzip.compress(data): HostReason.NONE,
        named: HostReason.NONE,
        gzip.compress(data[:1000]) + gzip.compress(data[1000:]): HostReason.MEMBERS,
        gzip.compress(b"") + gzip.compress(data): HostReason.NONE,  # looks like one member; found out by the decoder
    }
    chain = Chain((GZIP,), "|u1", (4000,)).parse()
    plan = plan_streams([chain], StoredChunks.of_bytes(list(cases)))
    assert plan.streams.reason.tolist() == list(cases.values())
    out, report = carry_out(plan)
    assert report.retried.tolist() == [3]
    assert all(plan.array(i, out).tobytes() == data for i in range(len(cases)))


@pytest.mark.parametrize("split", [True, False])
def test_blosc_containers_that_numcodecs_cannot_write(split: bool) -> None:
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.integers(-3, 4, 5000)).astype("<i4").tobytes()
    for n in (1, 130, 4096, 20_000):
        containers, expected = [], []
        for typesize in (1, 2, 4, 8, 16, 17):
            for filtered in (0, 1, 2):
                for data in (walk[:n], bytes(n), rng.bytes(n)):
                    known = build_container(data, 1, typesize=typesize, shuffle=filtered, split=split)
                    assert numcodecs_blosc.decompress(known) == data  # the builder writes what c-blosc reads
                    for codec in (1, 2, 4):
                        containers.append(
                            build_container(data, codec, typesize=typesize, shuffle=filtered, split=split)
                        )
                        expected.append(data)
        chain = Chain((blosc("lz4", 1),), "|u1", (n,)).parse()
        plan = plan_streams([chain], StoredChunks.of_bytes(containers))
        out, report = carry_out(plan)
        assert not report.retried.size
        assert not report.host.size
        assert Algorithm.SNAPPY in plan.streams.algorithm or n < 100
        for i, data in enumerate(expected):
            assert plan.array(i, out).tobytes() == data
            assert chain.decode(containers[i]).tobytes() == data


@given(st.data())
def test_needed_bytes_are_decoded_and_little_else(data: st.DataObject) -> None:
    codecs = data.draw(
        st.sampled_from([(), (blosc("lz4", 1, 512),), (blosc("zstd", 2, 512),), (ZSTD,), (GZIP,), (shuffle(4), LZ4)])
    )
    chain = Chain(codecs, ">f4", (40_000,))
    values = [payload("walk", ">f4", (40_000,), i) for i in range(3)]
    ends = [sorted(data.draw(st.lists(st.integers(0, 160_000), min_size=2, max_size=2))) for _ in values]
    stored = StoredChunks.of_bytes([chain.encode(v) for v in values])
    plan = plan_streams([chain.parse()], stored, needed=np.array(ends))
    out = np.empty(plan.out_nbytes, np.uint8)
    decode_plan(plan, out, HostBatchDecoder())
    for i, (start, stop) in enumerate(ends):
        whole = -(-start // 4) * 4, stop // 4 * 4
        if whole[0] < whole[1]:
            got = plan.array(i, out).reshape(-1)[whole[0] // 4 : whole[1] // 4]
            np.testing.assert_array_equal(got, values[i][whole[0] // 4 : whole[1] // 4])
        decoded = int(plan.streams.dst_nbytes[plan.streams.chunk == i].sum())
        if not codecs:
            assert decoded == stop - start
        if start == stop and len(codecs) < 2:  # a shuffle of the whole chunk needs all of it
            assert decoded == 0
    if codecs and codecs[0]["id"] == "blosc":
        blocks = plan.filters.take(plan.filters.kind != FilterKind.BYTE_SWAP)
        largest = int(blocks.dst_nbytes.max(initial=0))
        for i, (start, stop) in enumerate(ends):
            rows = plan.streams.chunk == i
            assert int(plan.streams.dst_nbytes[rows].sum()) < stop - start + 2 * largest or largest == 0


def test_parts_of_chunks() -> None:
    chain = Chain((blosc("zstd", 1, 4096),), ">f4", (40_000,))
    values = payload("walk", ">f4", (40_000,))
    data = chain.encode(values)
    header = parse_header(data)
    spans = block_spans(header, parse_offsets(header, data[16:]))
    parts, expected = [data], [values.tobytes()]
    for first, stop in ((0, 1), (3, 7), (header.nblocks - 1, header.nblocks)):
        parts.append(subset_container(header, range(first, stop), [data[a:b] for a, b in spans[first:stop].tolist()]))
        expected.append(values.tobytes()[first * header.blocksize : stop * header.blocksize])
    sizes = np.array([-1, *map(len, expected[1:])])
    stored = replace(StoredChunks.of_bytes(parts), part_nbytes=sizes)
    plan = plan_streams([chain.parse()], stored)
    for on_host in (None, np.array([True, False, True, True])):
        out = np.empty(plan.out_nbytes, np.uint8)
        report = decode_plan(plan, out, HostBatchDecoder(), on_host=on_host)
        assert report.host.tolist() == ([] if on_host is None else [0, 2, 3])
        for start, nbytes, wanted in zip(plan.dst.tolist(), plan.dst_nbytes.tolist(), expected, strict=True):
            assert out[start : start + nbytes].tobytes() == wanted
    with pytest.raises(ChunkError):
        plan_streams([chain.parse()], replace(stored, part_nbytes=sizes - 1))
    summed = Chain((blosc("zstd", 1, 4096), {"id": "crc32"}), ">f4", (40_000,))
    with pytest.raises(ValueError, match="need the whole"):
        plan_streams([summed.parse()], stored)


def test_arrays_that_zarr_writes(tmp_path: Path) -> None:
    import zarr
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

    values = np.cumsum(np.random.default_rng(0).normal(size=(8, 12, 10)), axis=2).astype("f4")
    big, turned = BytesCodec(endian="big"), TransposeCodec(order=(2, 0, 1))
    lists: list[list[Any]] = [
        [BytesCodec()],
        [big, ZstdCodec(level=3, checksum=True), Crc32cCodec()],
        [turned, big, BloscCodec(cname="lz4", shuffle="shuffle", typesize=4)],
        [turned, BytesCodec(), GzipCodec()],
        [
            ShardingCodec(
                chunk_shape=(4, 6, 5), codecs=[turned, big, BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=4)]
            )
        ],
    ]
    chains, data, chain_of, expected = [], [], [], []
    for i, codecs in enumerate(lists):
        array = zarr.create_array(
            tmp_path / str(i),
            shape=values.shape,
            chunks=values.shape if i < 4 else (4, 6, 5),
            shards=None if i < 4 else values.shape,
            dtype="f4",
            filters=[c for c in codecs if isinstance(c, TransposeCodec)] if i < 4 else [turned],
            serializer=next(c for c in codecs if isinstance(c, BytesCodec)) if i < 4 else big,
            compressors=[c for c in codecs if not isinstance(c, BytesCodec | TransposeCodec)]
            if i < 4
            else codecs[0].codecs[2],
        )
        array[...] = values
        opened = open_store(tmp_path / str(i))
        found = open_node(opened.store, opened.path)
        assert isinstance(found, ArrayMetadata)
        chains.append(parse_chain(found))
        stored = (tmp_path / str(i) / "c" / "0" / "0" / "0").read_bytes()
        if i < 4:
            pieces, parts = [stored], [values]
        else:
            layout = chains[-1].shards[0]
            index = layout.read_index(np.frombuffer(stored[-layout.index_nbytes :], np.uint8), len(stored))
            pieces = [stored[a : a + n] for a, n in zip(index.offsets.tolist(), index.lengths.tolist(), strict=True)]
            parts = [values[a * 4 : a * 4 + 4, b * 6 : b * 6 + 6, c * 5 : c * 5 + 5] for a, b, c in np.ndindex(2, 2, 2)]
        data += pieces
        expected += parts
        chain_of += [i] * len(pieces)
    plan = plan_streams(chains, StoredChunks.of_bytes(data, chain_of))
    out, report = carry_out(plan)
    assert not report.host.size
    for i, part in enumerate(expected):
        np.testing.assert_array_equal(plan.array(i, out), part)
    assert plan.routes[2].remainder.array_steps
    assert plan.routes[0].remainder.identity


class _Faulty(HostBatchDecoder):
    """Fails, shortens or damages some streams, as a device might."""

    def decompress(self, *arguments: Any) -> int:
        import ctypes

        code = super().decompress(*arguments)
        n = arguments[5]
        actual = np.ctypeslib.as_array((ctypes.c_uint64 * n).from_address(arguments[4]))
        status = np.ctypeslib.as_array((ctypes.c_int32 * n).from_address(arguments[9]))
        status[::7], actual[3::7] = 12, 1
        return code


def test_streams_that_fail_are_decoded_again_on_the_host() -> None:
    chains = [Chain((codec,), "<f4", (20_000,)) for codec in (blosc("lz4", 1, 512), ZSTD, ZLIB)]
    values = [payload("walk", "<f4", (20_000,), i) for i in range(12)]
    stored = StoredChunks.of_bytes([chains[i % 3].encode(v) for i, v in enumerate(values)], np.arange(12) % 3)
    plan = plan_streams([chain.parse() for chain in chains], stored)
    out, report = carry_out(plan, _Faulty())
    assert 0 < report.retried.size <= 12
    assert all((plan.array(i, out) == v).all() for i, v in enumerate(values))
    # decoded bytes with the wrong checksum are decoded again too
    sums = replace(plan.checksums, expected=plan.checksums.expected ^ np.uint32(1))
    out, report = carry_out(replace(plan, checksums=sums))
    assert report.retried.tolist() == [2, 5, 8, 11]  # zlib
    assert all((plan.array(i, out) == v).all() for i, v in enumerate(values))


def test_streams_larger_than_a_batch_takes_go_through_the_host() -> None:
    chain = Chain((ZSTD,), "|u1", (10,))
    plan = plan_streams([chain.parse()], StoredChunks.of_bytes([chain.encode(np.zeros(10))] * 3))
    sizes = np.array([2**31 - 1, 2**31, 10])
    large = replace(plan, streams=replace(plan.streams, dst_nbytes=sizes))
    host = host_chunks(large, HostBatchDecoder())
    assert host.tolist() == [False, True, False]
    assert [batch.streams.tolist() for batch in batches(large, host)] == [[0, 2]]  # the largest first


def test_errors_name_the_chunk_and_its_bytes() -> None:
    chain = Chain((ZLIB, {"id": "crc32"}), "<f4", (1000,))
    good = chain.encode(payload("walk", "<f4", (1000,)))
    flipped = bytearray(good)
    flipped[40] ^= 1
    labels = [ChunkLabel("t2m", f"t2m/0.{i}", 100) for i in range(3)]
    plan = plan_streams([chain.parse()], StoredChunks.of_bytes([good, bytes(flipped), good], labels=labels))
    with pytest.raises(ChunkError) as caught:
        carry_out(plan)
    error = caught.value
    assert (error.kind, error.array, error.key) == (Kind.CHUNK_CHECKSUM, "t2m", "t2m/0.1")
    assert error.byte_range == (100, 100 + len(good))
    lz4 = Chain((LZ4, {"id": "crc32"}), "<f4", (1000,))
    other = Chain((LZ4, {"id": "crc32"}), "<f4", (999,)).encode(payload("walk", "<f4", (999,)))
    with pytest.raises(
        ChunkError, match="Chunk 1 of the batch: lz4: the stream claims 3996 bytes, the chunk has 4000"
    ) as caught:
        plan_streams([lz4.parse()], StoredChunks.of_bytes([lz4.encode(np.zeros(1000)), other]))
    assert caught.value.kind is Kind.CHUNK_TRUNCATED
    for nbytes, kind in ((0, Kind.CHUNK_TRUNCATED), (3, Kind.CHUNK_TRUNCATED)):
        with pytest.raises(ChunkError) as caught:
            plan_streams([lz4.parse()], StoredChunks.of_bytes([bytes(nbytes)]))
        assert caught.value.kind is kind
    outside = replace(StoredChunks.of_bytes([good]), nbytes=np.array([len(good) + 1]))
    with pytest.raises(ChunkError, match="not all there"):
        plan_streams([chain.parse()], outside)


def test_summary_counts_streams_bytes_and_reasons() -> None:
    chains = [Chain((codec,), "<f4", (50_000,)) for codec in (blosc("lz4", 1), BZ2)]
    values = payload("noise", "<f4", (50_000,))
    stored = StoredChunks.of_bytes([chain.encode(values) for chain in chains], [0, 1])
    summary = summarise(plan_streams([chain.parse() for chain in chains], stored))
    assert (summary.chunks, summary.decoded_nbytes) == (2, 400_000)
    assert summary.stored_nbytes == int(stored.nbytes.sum())
    assert summary.streams[Algorithm.LZ4].count + summary.streams[Algorithm.STORED].count == summary.stream_count == 4
    assert summary.streams[Algorithm.LZ4].decoded_nbytes + summary.streams[Algorithm.STORED].decoded_nbytes == 200_000
    assert 0 < summary.stored_share < 0.5
    assert summary.host[HostReason.CODEC].stored_nbytes == int(stored.nbytes[1])
    assert summary.filters[FilterKind.BYTE_UNSHUFFLE].decoded_nbytes == 200_000
    assert "1 chunks on the host: 1 × no batch decoder for this codec" in summary.text
    assert not summary.checksums


def test_the_page_on_codecs_names_every_reason() -> None:
    page = (Path(__file__).parents[1] / "docs" / "codecs.md").read_text()
    for reason in HostReason:
        assert f"| {reason.text} |" in page or reason is HostReason.NONE
    for algorithm in COMPRESSORS:
        assert f"`{algorithm}`" in page
