"""Copies, shuffles, checksums, statuses and compaction: C++ on the host against numpy twins, twins against libraries."""

from __future__ import annotations

import ctypes
import zlib

import google_crc32c
import numpy as np
import pytest
from kernel_host.build import COOPERATIVE, sizes_in_cpp
from support_kernels import (
    address,
    aligned,
    assert_same,
    kernels_fixture,  # noqa: F401
    needs_compiler,
    run_both,
    table,
)

from gpuzarr.codecs import unfilter
from gpuzarr.codecs.checksums import ALGORITHMS
from gpuzarr.codecs.tables import ChecksumKind, FilterKind
from gpuzarr.kernels import launch, loader, twins
from gpuzarr.kernels.descriptors import SCAN_THREADS, STRUCTURES, Summary
from gpuzarr.kernels.tables import ITEM_NBYTES, TableBuffer, checksum_items, copy_items, filter_items

pytestmark = needs_compiler


def test_structures_have_the_same_layout_in_cpp():
    found = sizes_in_cpp()
    assert set(found) == {s.__name__ for s in STRUCTURES}
    for structure in STRUCTURES:
        offsets = [getattr(structure, f[0]).offset for f in structure._fields_]
        assert found[structure.__name__] == (ctypes.sizeof(structure), *offsets)
        ends = [getattr(structure, f[0]).offset + ctypes.sizeof(f[1]) for f in structure._fields_]
        assert offsets == [0, *ends[:-1]], f"{structure.__name__} has hidden padding"
        assert ends[-1] == ctypes.sizeof(structure)


def test_sources_and_symbols():
    assert set(loader.SOURCES) == set(twins._TWINS)
    assert set(loader.SOURCES) >= COOPERATIVE
    text = loader.source("gather.cu")
    assert "#include" not in text
    assert '#line 1 "common.cuh"' in text
    assert "gather_rows<float16, float, float, int32_t>" in loader.symbols("gather.cu")


@pytest.mark.parametrize("shift", range(5))
def test_copy(kernels, shift):
    rng = np.random.default_rng(shift)
    sizes = [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 1000, 4099, ITEM_NBYTES, 2 * ITEM_NBYTES + 5]
    sources = [aligned(n, int(rng.integers(0, 17))) for n in sizes for _ in range(4)]
    for source in sources:
        source[:] = rng.integers(0, 256, source.size)
    starts, total = [], 0
    for source in sources:  # two bytes of guard between outputs
        total += int(rng.integers(2, 19))
        starts.append(total)
        total += source.size
    out = aligned(total + 64, 0)
    out[:] = 0xEE
    items = copy_items([address(s) for s in sources], [address(out) + s for s in starts], [s.size for s in sources])
    assert int(items["nbytes"].sum()) == sum(s.size for s in sources)
    rows = table(items)
    twin, native = run_both(kernels, [out], lambda: [launch.copy(address(rows), len(items))])
    assert_same(twin, native)
    expected = np.full_like(out, 0xEE)
    for source, start in zip(sources, starts, strict=True):
        expected[start : start + source.size] = source
    np.testing.assert_array_equal(native[0], expected)


@pytest.mark.parametrize("kind", list(FilterKind))
@pytest.mark.parametrize("itemsize", [1, 2, 3, 4, 6, 8, 12, 16, 17])
def test_filters(kernels, kind, itemsize):
    rng = np.random.default_rng(itemsize)
    counts = [0, 1, 7, 8, 31, 32, 33, 255, 256, 1000, ITEM_NBYTES // itemsize + 8]
    blocks = []
    for count in counts:
        if kind == FilterKind.BIT_UNSHUFFLE:
            count = count // 8 * 8
        for offset in (0, 1, 4):
            data = aligned(count * itemsize + int(rng.integers(0, itemsize)), offset)
            data[:] = rng.integers(0, 256, data.size)
            blocks.append(data)
    out = [aligned(b.size, int(rng.integers(0, 3)) * 8) for b in blocks]
    items = filter_items(
        kind, itemsize, [address(b) for b in blocks], [address(o) for o in out], [b.size for b in blocks]
    )
    rows = table(items)
    twin, native = run_both(kernels, out, lambda: [launch.byte_filter(kind, itemsize, address(rows), len(items))])
    assert_same(twin, native)
    for block, found in zip(blocks, native, strict=True):
        if block.size < itemsize:
            continue  # the planner makes no filter of a block without elements
        expected = block.copy()
        unfilter._FUNCTIONS[kind](expected[None], itemsize)
        np.testing.assert_array_equal(found, expected)
    if kind == FilterKind.BYTE_SWAP:
        place = blocks[-1].copy()
        items = filter_items(kind, itemsize, address(place), address(place), place.size)
        rows = table(items)
        twin, native = run_both(
            kernels, [place], lambda: [launch.byte_filter(kind, itemsize, address(rows), len(items))]
        )
        assert_same(twin, native)
        np.testing.assert_array_equal(
            twin[0][: place.size // itemsize * itemsize], expected[: place.size // itemsize * itemsize]
        )


def test_bit_unshuffle_takes_multiples_of_eight():
    with pytest.raises(ValueError, match="multiple of 8"):
        filter_items(FilterKind.BIT_UNSHUFFLE, 4, 0, 0, 28)


CHECKSUMS = {
    ChecksumKind.CRC32C: lambda d: google_crc32c.value(d),
    ChecksumKind.CRC32: zlib.crc32,
    ChecksumKind.ADLER32: zlib.adler32,
    ChecksumKind.FLETCHER32: lambda d: ALGORITHMS["fletcher32"](np.frombuffer(d, np.uint8)),
    ChecksumKind.XXH64: lambda d: twins.xxh64(d) & 0xFFFFFFFF,
}


@pytest.mark.parametrize("kind", list(ChecksumKind))
def test_checksums(kernels, kind):
    rng = np.random.default_rng(int(kind))
    sizes = [
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        31,
        32,
        33,
        63,
        255,
        256,
        257,
        513,
        5000,
        ITEM_NBYTES,
        ITEM_NBYTES + 1,
        3 * ITEM_NBYTES + 777,
    ]
    spans = [aligned(n, i % 5) for i, n in enumerate(sizes)] + [aligned(1000), aligned(1000)]
    for span in spans[:-2]:
        span[:] = rng.integers(0, 256, span.size)
    spans[-1][:] = 255  # sums that are multiples of their modulus, and zero
    right = np.array([CHECKSUMS[kind](s.tobytes()) for s in spans], np.uint32)
    expected = right.copy()
    expected[[3, 9]] ^= 1
    items, rows = checksum_items([address(s) for s in spans], [s.size for s in spans], expected)
    item_table, span_table = table(items), table(rows)
    partials = aligned(8 * len(items)).view(np.uint32)
    found, failures, summary = aligned(4 * len(spans)).view(np.uint32), aligned(len(spans)), aligned(8)

    def make():
        return launch.checksums(
            kind,
            items=address(item_table),
            item_count=len(items),
            partials=address(partials),
            spans=address(span_table),
            span_count=len(spans),
            found=address(found),
            failures=address(failures),
            summary=address(summary),
        )

    twin, native = run_both(kernels, [partials, found, failures, summary], make)
    assert_same(twin, native)
    np.testing.assert_array_equal(native[1], right)
    assert np.flatnonzero(native[2]).tolist() == [3, 9]
    result = Summary.from_buffer_copy(native[3].tobytes())
    assert (result.failed, result.first) == (2, 3)


def test_xxh64_of_the_reference():
    # values of the reference implementation (xxHash 0.8)
    assert twins.xxh64(b"") == 0xEF46DB3751D8E999
    assert twins.xxh64(b"a") == 0xD24EC4F1A98C6E5B
    assert twins.xxh64(b"abc") == 0x44BC2CF5AD770999
    data = bytes(range(256)) * 3
    xxhash = pytest.importorskip("xxhash")
    for n in (4, 8, 31, 32, 33, 64, 100, 768):
        assert twins.xxh64(data[:n]) == xxhash.xxh64(data[:n]).intdigest()


@pytest.mark.parametrize("count", [1, 31, 33, 1000])
@pytest.mark.parametrize("bad", [(), (0,), (5, 17, 30)])
def test_status(kernels, count, bad):
    bad = tuple(i for i in bad if i < count)
    statuses, actual = np.zeros(count, np.int32), np.arange(count, dtype=np.uint64)
    expected = actual.copy()
    for n, i in enumerate(bad):
        if n % 2:
            statuses[i] = 12
        else:
            actual[i] += 1
    failures, summary = aligned(count), aligned(8)

    def make():
        return [
            launch.check_status(
                statuses=address(statuses),
                actual=address(actual),
                expected=address(expected),
                count=count,
                failures=address(failures),
                summary=address(summary),
            )
        ]

    twin, native = run_both(kernels, [failures, summary], make)
    assert_same(twin, native)
    result = Summary.from_buffer_copy(native[1].tobytes())
    assert result.failed == len(bad)
    assert result.first == (bad[0] if bad else None)
    assert np.flatnonzero(native[0]).tolist() == list(bad)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 4095, 4096, 4097, 20_000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_survivors_and_take(kernels, rows, share):
    rng = np.random.default_rng(rows)
    mask = aligned(rows)
    mask[:] = rng.random(rows) < share
    kept = np.flatnonzero(mask)
    tiles = launch.tiles(rows)
    counts, offsets = np.zeros(tiles + 1, np.uint32), np.zeros(tiles + 1, np.uint32)
    total, out = np.zeros(1, np.uint64), np.zeros(len(kept) + 1, np.int32)
    out[-1] = -7

    def make():
        return [
            launch.mask_counts(address(mask), rows, address(counts)),
            launch.scan_counts(address(counts), address(offsets), address(total), rows),
            launch.survivors(address(mask), rows, address(offsets), address(out)),
        ]

    twin, native = run_both(kernels, [counts, offsets, total, out], make)
    assert_same(twin, native)
    assert int(native[2][0]) == len(kept)
    np.testing.assert_array_equal(native[3][:-1], kept)
    assert native[3][-1] == -7
    if not len(kept):
        return
    numbers = native[3][:-1].copy()
    valid = rng.random(rows) < 0.8
    bitmap = aligned(launch.bitmap_nbytes(rows))
    bitmap[: -(-rows // 8)] = np.packbits(valid, bitorder="little")
    for itemsize in (1, 2, 4, 8):
        values = aligned(rows * itemsize)
        values[:] = rng.integers(0, 256, values.size)
        words = values.view(f"u{itemsize}")
        picked, bits = aligned(len(kept) * itemsize), aligned(launch.bitmap_nbytes(len(kept)))
        missing = np.full(1, 100, np.uint64)

        def make_take(with_valid, itemsize=itemsize, values=values, picked=picked, bits=bits, missing=missing):
            return [
                launch.take(
                    itemsize,
                    rows=address(numbers),
                    count=len(kept),
                    values=address(values),
                    out_values=address(picked),
                    valid=address(bitmap) if with_valid else 0,
                    out_valid=address(bits),
                    null_count=address(missing),
                )
            ]

        for with_valid in (False, True):
            twin, native = run_both(kernels, [picked, bits, missing], lambda w=with_valid: make_take(w))
            assert_same(twin, native)
            np.testing.assert_array_equal(native[0].view(words.dtype), words[kept])
        found = np.unpackbits(native[1], bitorder="little")[: len(kept)].astype(bool)
        np.testing.assert_array_equal(found, valid[kept])
        assert int(native[2][0]) == 100 + int((~valid[kept]).sum())


def test_scan_of_more_tiles_than_threads(kernels):
    tiles = 2 * SCAN_THREADS + 77
    counts = np.random.default_rng(0).integers(0, 4097, tiles).astype(np.uint32)
    offsets, total = np.zeros(tiles, np.uint32), np.zeros(1, np.uint64)
    make = lambda: [launch.scan_counts(address(counts), address(offsets), address(total), tiles * 4096)]  # noqa: E731
    twin, native = run_both(kernels, [offsets, total], make)
    assert_same(twin, native)
    assert int(native[1][0]) == int(counts.sum())


def test_tables_in_one_buffer():
    buffer = TableBuffer()
    first, second = np.arange(5, dtype=np.uint8), np.arange(3, dtype=np.int64)
    offsets = [buffer.add(first), buffer.add(second), buffer.reserve(8)]
    assert offsets == [0, 16, 48]
    assert buffer.nbytes == 64
    out = np.full(buffer.nbytes, 7, np.uint8)
    buffer.write(out)
    assert out[:5].tolist() == [0, 1, 2, 3, 4]
    assert out[16:40].view(np.int64).tolist() == [0, 1, 2]
    assert not out[48:56].any()
