"""The gather kernels: geometry against numpy indexing, decoding against the host's, C++ against numpy twins."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support_kernels import (
    address,
    aligned,
    as_bits,
    assert_same,
    kernels_fixture,  # noqa: F401
    needs_compiler,
    run_both,
    table,
)
from support_stores import MemoryStore

from gpuzarr.cf import Decoding, decoding_for
from gpuzarr.errors import DataError
from gpuzarr.kernels import launch
from gpuzarr.kernels.cf_program import (
    INSTANCES,
    ColumnProgram,
    column_program,
    column_program_plain,
    value_bits,
)
from gpuzarr.kernels.descriptors import TILE_ROWS, ChunkSource, Decode, dtype_of
from gpuzarr.kernels.gather_tables import ArrayAxis, GatherTables, PieceBox, divider, gather_tables
from gpuzarr.metadata import open_node

pytestmark = needs_compiler


# -- a column gathered from chunks ---------------------------------------------------------------------------------


@dataclass
class Chunks:
    """An array cut into chunks in memory, and the table that says where they are."""

    sources: np.ndarray
    keep: list[np.ndarray]


def shuffled(chunk: np.ndarray, block: int) -> np.ndarray:
    """Byte-shuffled blocks of ``block`` elements."""
    flat = chunk.reshape(-1).view(np.uint8).reshape(-1, chunk.itemsize)
    return np.concatenate([flat[i : i + block].T.reshape(-1) for i in range(0, len(flat), block)])


def store_chunks(
    array: np.ndarray,
    chunk: tuple[int, ...],
    tables: GatherTables,
    rng: np.random.Generator,
    *,
    order: tuple[int, ...] | None = None,
    missing: Any = (),
    swap: bool = False,
    block: int = 0,
    mask: np.ndarray | None = None,
    misalign: bool = False,
) -> Chunks:
    """The chunks of ``tables`` in memory of their own, each stored with its axes in ``order``."""
    sources = np.zeros(len(tables.chunk_indices), dtype_of(ChunkSource))
    keep = []
    for i, index in enumerate(tables.chunk_indices.tolist()):
        if tuple(index) in missing:
            continue
        for name, source in (("address", array), ("mask", mask)):
            if source is None:
                continue
            full = np.zeros(chunk, source.dtype)
            part = source[(*(slice(n * c, (n + 1) * c) for n, c in zip(index, chunk, strict=True)), ...)]
            full[(*(slice(0, n) for n in part.shape), ...)] = part
            stored = np.ascontiguousarray(full.transpose(order) if order else full)
            if name == "address":
                stored = stored.byteswap() if swap else stored
                data = shuffled(stored, block) if block else stored.reshape(-1).view(np.uint8)
            else:
                data = stored.reshape(-1).view(np.uint8)
            shift = int(rng.integers(1, 8)) if misalign else 0
            memory = aligned(data.size, shift)
            memory[:] = data
            keep.append(memory)
            sources[name][i] = address(memory)
        sources["block"][i], sources["total"][i] = block, math.prod(chunk)
    return Chunks(sources, keep)


def gathered(
    kernels,
    program: ColumnProgram,
    tables: list[GatherTables],
    chunks: list[Chunks],
    frame_rows: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Values, validity, null count and status of the rows that the tables cover, the same from twin and C++."""
    values = aligned(frame_rows * program.out.itemsize + 16)
    valid, null_count, status = (
        aligned(launch.bitmap_nbytes(frame_rows)),
        np.zeros(1, np.uint64),
        np.zeros(1, np.uint32),
    )
    made = [
        (t, table(t.pieces), table(t.entries), table(c.sources), table(t.tile_piece))
        for t, c in zip(tables, chunks, strict=True)
    ]

    def make():
        return [
            launch.gather(
                program,
                t,
                pieces=address(pieces),
                entries=address(entries),
                chunks=address(sources),
                tile_piece=address(tile_piece),
                values=address(values),
                valid=address(valid),
                null_count=address(null_count),
                status=address(status),
                **options,
            )
            for t, pieces, entries, sources, tile_piece in made
        ]

    twin, native = run_both(kernels, [values, valid, null_count, status], make)
    size = frame_rows * program.out.itemsize
    bits = [np.unpackbits(found[1], bitorder="little")[:frame_rows].astype(bool) for found in (twin, native)]
    np.testing.assert_array_equal(*bits)
    a, b = (found[0][:size].view(program.out) for found in (twin, native))
    np.testing.assert_array_equal(as_bits(a[bits[0]]), as_bits(b[bits[0]]))
    assert_same(twin[2:], native[2:])
    assert not native[0][size:].any()
    assert not np.unpackbits(native[1], bitorder="little")[frame_rows:].any()
    return b, bits[0], int(native[2][0]), int(native[3][0])


def one_chunk(program: ColumnProgram, raw: np.ndarray) -> tuple[GatherTables, Chunks]:
    tables = gather_tables([ArrayAxis(0, raw.size, 1)], [PieceBox(0, (slice(0, raw.size),))])
    return tables, store_chunks(raw, (raw.size,), tables, np.random.default_rng(0))


# -- geometry ------------------------------------------------------------------------------------------------------


def random_pick(rng: np.random.Generator, size: int) -> Any:
    kind = rng.integers(0, 5)
    start = int(rng.integers(0, size))
    stop = int(rng.integers(start + 1, size + 1))
    if kind == 0:
        return slice(0, size)
    if kind <= 2:
        return slice(start, stop)
    if kind == 3:
        return np.flatnonzero(rng.random(size) < 0.5).astype(np.int64) if size > 1 else np.zeros(1, np.int64)
    return rng.integers(0, size, int(rng.integers(1, size + 1)))  # any order, repeated


def picked(array: np.ndarray, picks: tuple[Any, ...]) -> np.ndarray:
    for axis, pick in enumerate(picks):
        index = np.arange(pick.start, pick.stop) if isinstance(pick, slice) else pick
        array = array.take(index, axis=axis)
    return array


@pytest.mark.parametrize("seed", range(60))
def test_geometry(kernels, seed):
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(0, 5))
    sizes = tuple(int(rng.integers(1, 12 if ndim > 2 else 80)) for _ in range(ndim))
    own = sorted(rng.permutation(ndim)[: int(rng.integers(0, ndim + 1))].tolist())
    axis_dims = rng.permutation(own).tolist()  # the array's dimensions in its own order
    shape = tuple(sizes[d] for d in axis_dims)
    chunk = tuple(int(rng.integers(1, n + 3)) for n in shape)
    stored_order = tuple(int(i) for i in rng.permutation(len(shape)))
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(stored_order):
        strides[axis], step = step, step * chunk[axis]
    name = ["u1", "u2", "u4", "u8"][seed % 4]
    array = np.asarray(rng.integers(0, 200, shape), name)
    axes = [ArrayAxis(d, c, s) for d, c, s in zip(axis_dims, chunk, strides, strict=True)]

    pieces, expected, expected_valid, row = [], [], [], int(rng.integers(0, 3)) * 17
    first_row = row
    mask = np.asarray(rng.random(shape) < 0.8) if seed % 3 == 0 else None
    grid = [range(-(-n // c)) for n, c in zip(shape, chunk, strict=True)]
    missing = {index for index in itertools.product(*grid) if rng.random() < 0.2}
    values, valid = array.copy(), np.ones(shape, bool) if mask is None else mask.copy()
    for index in missing:
        at = tuple(slice(n * c, (n + 1) * c) for n, c in zip(index, chunk, strict=True))
        values[(*at, ...)], valid[(*at, ...)] = 77, seed % 2 == 0
    for _ in range(int(rng.integers(1, 6))):
        picks = tuple(random_pick(rng, n) for n in sizes)
        if any(not isinstance(p, slice) and not len(p) for p in picks):
            continue
        pieces.append(PieceBox(row, picks))
        counts = [len(np.arange(n)[p]) for n, p in zip(sizes, picks, strict=True)]
        for source, out in ((values, expected), (valid, expected_valid)):
            cells = picked(source, tuple(picks[d] for d in axis_dims))
            cells = cells.transpose(np.argsort(axis_dims)).reshape([c if d in own else 1 for d, c in enumerate(counts)])
            out.append(np.broadcast_to(cells, counts).reshape(-1))
        row += math.prod(counts)
    if not pieces:
        return
    # two launches into one frame, as two waves make them
    cut = int(rng.integers(1, len(pieces))) if len(pieces) > 1 else 1
    runs = [run for run in (pieces[:cut], pieces[cut:]) if run]
    tables = [
        gather_tables(axes, run, wide=(seed % 4 == 3 and seed % 8 > 3) or (seed % 4 == 2 and seed % 3 == 1))
        for run in runs
    ]
    block = int(rng.integers(1, 40)) if seed % 5 == 0 else 0
    swap = seed % 7 == 0
    chunks = [
        store_chunks(
            array,
            chunk,
            t,
            rng,
            order=stored_order,
            missing=missing,
            swap=swap,
            block=block,
            mask=mask,
            misalign=seed % 2 == 1,
        )
        for t in tables
    ]
    program = column_program_plain(name)
    found, found_valid, null_count, status = gathered(
        kernels, program, tables, chunks, row, fill=(77, seed % 2 == 0), swap=swap
    )
    want, want_valid = np.concatenate(expected), np.concatenate(expected_valid)
    np.testing.assert_array_equal(found_valid[first_row:], want_valid)
    np.testing.assert_array_equal(found[first_row:][want_valid], want[want_valid])
    assert not found[:first_row].any()
    assert null_count == (~want_valid).sum()
    assert status == 0

    # the same rows one by one
    rows = np.sort(rng.choice(row - first_row, min(row - first_row, 50), replace=False)).astype(np.int32) + first_row
    rows = rows[rows < tables[0].row_end]
    out, bits, missing_count = (
        aligned(len(rows) * program.out.itemsize),
        aligned(launch.bitmap_nbytes(len(rows))),
        np.zeros(1, np.uint64),
    )
    pieces_, entries_, sources_ = table(tables[0].pieces), table(tables[0].entries), table(chunks[0].sources)

    def make():
        return [
            launch.gather_rows(
                program,
                tables[0],
                pieces=address(pieces_),
                entries=address(entries_),
                chunks=address(sources_),
                rows=address(rows),
                count=len(rows),
                values=address(out),
                valid=address(bits),
                null_count=address(missing_count),
                fill=(77, seed % 2 == 0),
                swap=swap,
            )
        ]

    if len(rows):
        twin, native = run_both(kernels, [out, bits, missing_count], make)
        assert_same(twin, native)
        good = want_valid[rows - first_row]
        np.testing.assert_array_equal(np.unpackbits(native[1], bitorder="little")[: len(rows)].astype(bool), good)
        np.testing.assert_array_equal(native[0].view(program.out)[good], want[rows - first_row][good])
        assert int(native[2][0]) == (~good).sum()


@pytest.mark.parametrize("name", ["u1", "u2", "u4", "u8"])
def test_many_rows_over_tiles(kernels, name):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 250, (3, 41, 101)).astype(name)
    axes = [ArrayAxis(0, 2, 20 * 101), ArrayAxis(1, 20, 101), ArrayAxis(2, 101, 1)]
    pieces, row = [], 0
    for i in range(3):
        pieces.append(PieceBox(row, (slice(i, i + 1), slice(0, 41), slice(0, 101))))
        row += 41 * 101
    tables = gather_tables(axes, pieces)
    assert len(tables.tile_piece) == -(-row // TILE_ROWS)
    chunks = store_chunks(array, (2, 20, 101), tables, rng)
    found, valid, null_count, _ = gathered(kernels, column_program_plain(name), [tables], [chunks], row)
    np.testing.assert_array_equal(found, array.reshape(-1))
    assert valid.all()
    assert null_count == 0


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097])
def test_sizes_around_a_warp(kernels, rows):
    array = np.arange(rows, dtype="u4") * 3
    program = column_program_plain("u4")
    if not rows:
        tables = gather_tables([ArrayAxis(0, 4, 1)], [])
        args = {"pieces": 0, "entries": 0, "chunks": 0, "tile_piece": 0, "values": 0}
        assert launch.gather(program, tables, **args).blocks == 0
        return
    tables, chunks = one_chunk(program, array)
    found, valid, _, _ = gathered(kernels, program, [tables], [chunks], rows)
    np.testing.assert_array_equal(found, array)
    assert valid.all()


def test_offsets_beyond_32_bits(kernels):
    """Two cells of a chunk of 2^33 elements: the address is chosen so that only they lie in memory."""
    far = 2**33
    memory = aligned(64)
    memory[:] = np.arange(64)
    wide = gather_tables([ArrayAxis(0, far + 8, 1)], [PieceBox(0, (np.array([far, far + 3, far + 7]),))])
    assert wide.index_type == "int64_t"
    program = column_program_plain("u4")
    sources = np.zeros(1, dtype_of(ChunkSource))
    sources["address"] = (address(memory) - 4 * far) % 2**64
    found, _, _, _ = gathered(kernels, program, [wide], [Chunks(sources, [memory])], 3)
    np.testing.assert_array_equal(found, memory.view("u4")[[0, 3, 7]])
    strided = gather_tables([ArrayAxis(0, 4, 2**32), ArrayAxis(1, 2, 1)], [PieceBox(0, (slice(2, 3), slice(0, 2)))])
    assert strided.index_type == "int64_t"
    sources["address"] = (address(memory) - 4 * 2 * 2**32) % 2**64
    found, _, _, _ = gathered(kernels, program, [strided], [Chunks(sources, [memory])], 2)
    np.testing.assert_array_equal(found, memory.view("u4")[:2])


def test_rows_beyond_32_bits(kernels):
    """Rows 2^33 and on of a frame: only their part of the values is in memory."""
    first = 2**33
    tables = gather_tables([ArrayAxis(0, 100, 1)], [PieceBox(first, (slice(10, 60),))])
    assert tables.index_type == "int64_t"
    program = column_program_plain("u4")
    array = np.arange(100, dtype="u4")
    chunks = store_chunks(array, (100,), tables, np.random.default_rng(0))
    values = aligned(200)
    arrays = [table(t) for t in (tables.pieces, tables.entries, chunks.sources, tables.tile_piece)]
    names = ("pieces", "entries", "chunks", "tile_piece")

    def make():
        addresses = dict(zip(names, map(address, arrays), strict=True))
        return [launch.gather(program, tables, **addresses, values=(address(values) - 4 * first) % 2**64)]

    twin, native = run_both(kernels, [values], make)
    assert_same(twin, native)
    np.testing.assert_array_equal(native[0].view("u4"), array[10:60])


def test_divider():
    rng = np.random.default_rng(0)
    for d in [1, 2, 3, 5, 7, 10, 4096, 4097, 2**16 + 1, 2**30, 2**31 - 1, *rng.integers(1, 2**31, 200).tolist()]:
        magic, shift = divider(d)
        assert magic < 2**32
        for n in [0, 1, d - 1, d, min(2 * d, 2**31 - 1), 2**31 - 1, *rng.integers(0, 2**31, 20).tolist()]:
            assert ((n * magic >> 32) >> shift if magic else n) == n // d


def test_refusals():
    with pytest.raises(ValueError, match="dimensions"):
        gather_tables([ArrayAxis(d, 1, 1) for d in range(9)], [PieceBox(0, (slice(0, 1),) * 9)])
    with pytest.raises(ValueError, match="begins at row"):
        gather_tables([ArrayAxis(0, 4, 1)], [PieceBox(0, (slice(0, 4),)), PieceBox(5, (slice(0, 4),))])
    with pytest.raises(TypeError, match="complex"):
        column_program_plain("c16")


# -- decoding ------------------------------------------------------------------------------------------------------


def decoding(dtype: str, attributes: dict[str, Any], fill: Any = "none", **options: Any) -> Decoding:
    """The decoding of a v2 array with these attributes."""
    document = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": dtype,
        "order": "C",
        "compressor": None,
        "filters": None,
        "fill_value": None if fill == "none" else fill,
    }
    objects = {
        "a/.zarray": document,
        "a/.zattrs": {"_ARRAY_DIMENSIONS": ["x"], **attributes},
        ".zgroup": {"zarr_format": 2},
    }
    node = open_node(MemoryStore({k: json.dumps(v).encode() for k, v in objects.items()}))
    return decoding_for(node.arrays["a"], **{"decode_cf": True, "time_unit": "ns", "nan_to_null": False, **options})


SINCE = "days since 1970-01-01"
DECODINGS: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    *((f"<{k}", {}, "none", {}) for k in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "f2")),
    ("|b1", {}, "none", {}),
    ("|b1", {}, True, {}),
    *((f"<{k}", {}, 7, {}) for k in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "f2")),
    *((f"<{k}", {}, "NaN", {}) for k in ("f2", "f4", "f8")),
    *((f"<{k}", {}, "none", {"nan_to_null": True}) for k in ("f2", "f4", "f8")),
    *(
        (f"<{k}", {"scale_factor": 0.1, "add_offset": -3.5}, 7, {})
        for k in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
    ),
    *((f"<{k}", {"scale_factor": 0.01}, "none", {}) for k in ("i2", "i4", "i8", "u8", "f4", "f8", "f2")),
    *((f"<{k}", {"scale_factor": 3}, "none", {}) for k in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")),
    *(
        (f"<{k}", {"add_offset": 273.15, "missing_value": [1, 2, 3]}, 7, {"nan_to_null": True})
        for k in ("i2", "f4", "f8")
    ),
    ("<f4", {"scale_factor": 3, "_FillValue": 7.0}, 7, {"nan_to_null": True}),
    ("<f4", {"scale_factor": 0.3}, "NaN", {}),
    ("<i1", {"_Unsigned": "true", "scale_factor": 0.5}, -1, {}),
    ("<u1", {"_Unsigned": "false"}, 255, {}),
    ("|i1", {"dtype": "bool"}, "none", {}),
    ("|i1", {"dtype": "bool"}, -1, {}),
    ("|u1", {"dtype": "bool"}, 9, {}),
    *((f"<{k}", {"units": SINCE}, "none", {}) for k in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")),
    *((f"<{k}", {"units": SINCE}, 7, {}) for k in ("i4", "i8", "f8")),
    *(("<i8", {"units": "hours since 1900-01-01 06:30"}, -9999, {"time_unit": u}) for u in ("ns", "us", "ms")),
    *(("<f8", {"units": "hours since 1900-01-01"}, "NaN", {"time_unit": u}) for u in ("ns", "us", "ms")),
    *(("<f4", {"units": "seconds since 2000-01-01 12:00"}, "none", {"time_unit": u}) for u in ("ns", "us", "ms")),
    *(("<f8", {"units": "microseconds since 2000-01-01"}, "none", {"time_unit": u}) for u in ("ns", "us")),
    *(("<i8", {"units": "microseconds since 2000-01-01"}, "none", {"time_unit": u}) for u in ("ns", "us", "ms")),
    ("<f8", {"units": "hours", "dtype": "timedelta64[ns]"}, "none", {}),
    ("<f8", {"units": "hours", "dtype": "timedelta64[ns]"}, "none", {"time_unit": "us"}),
    ("<i8", {"units": "milliseconds", "dtype": "timedelta64[ns]"}, -1, {}),
    ("<M8[ns]", {}, "none", {}),
    ("<M8[ns]", {}, "none", {"time_unit": "ms"}),
    ("<M8[D]", {}, "none", {}),
    ("<M8[s]", {}, "none", {"time_unit": "us"}),
    ("<m8[us]", {}, "none", {}),
    ("<M8[ps]", {}, "none", {}),
    ("<i4", {"units": "seconds since 0001-01-01", "calendar": "proleptic_gregorian"}, "none", {"time_unit": "us"}),
]


def raw_values(dtype: np.dtype, rng: np.random.Generator, spread: int) -> np.ndarray:
    if dtype.kind == "b":
        return rng.random(200) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = max(info.min, -spread), min(info.max, spread)
        values = rng.integers(low, high, 300, endpoint=True).astype(dtype)
        values[:12] = [1, 2, 3, 7, 9, 0, 1, 7, 7, 7, 3, 2]
        return values
    if dtype.kind in "Mm":
        values = rng.integers(-spread, spread, 300)
        values[::17] = -(2**63)
        return values.view(dtype)
    values = np.concatenate(
        [
            rng.normal(0, 50, 100),
            np.round(rng.normal(0, 500, 100)),
            [7, 1, 2, 3, 7.5, -0.0, 0.0, np.nan, np.inf, -np.inf, 6e-8, 65504],
        ]
    )
    return values.astype(dtype)


@pytest.mark.parametrize("number", range(len(DECODINGS)))
def test_decoding(kernels, number):
    dtype, attributes, fill, options = DECODINGS[number]
    plan = decoding(dtype, attributes, fill, **options)
    program = column_program(plan)
    assert program is not None
    assert program.names in INSTANCES
    assert program.out.itemsize == plan.numpy.itemsize
    rng = np.random.default_rng(number)
    is_time = plan.time is not None
    raw = raw_values(plan.raw, rng, 20_000 if is_time else 2**40)
    if is_time and raw.dtype.kind == "f":
        raw = np.where(np.isinf(raw), raw.dtype.type(3), raw)
    want, want_valid = np.empty(raw.shape, plan.numpy), np.empty(raw.shape, bool)
    plan.apply(raw, want, want_valid)
    stored = raw.view(program.stored) if raw.dtype != program.stored else raw
    symbol = launch.Launch("gather", (*program.types, "int32_t"), 1, 1, Decode()).symbol
    tables, chunks = one_chunk(program, stored)
    if kernels.has(symbol):
        found, valid, null_count, status = gathered(kernels, program, [tables], [chunks], raw.size)
    else:
        found, valid, null_count, status = gathered(_TwinOnly(), program, [tables], [chunks], raw.size)
    assert status == 0
    np.testing.assert_array_equal(valid, want_valid)
    assert null_count == (~want_valid).sum()
    assert program.nullable or valid.all()
    np.testing.assert_array_equal(as_bits(found[valid]), as_bits(want[valid]))
    if fill != "none" and fill != "NaN":
        value, is_valid = plan.scalar(fill)
        empty = Chunks(np.zeros(1, dtype_of(ChunkSource)), [])
        runner = kernels if kernels.has(symbol) else _TwinOnly()
        found, valid, _, _ = gathered(
            runner, program, [tables], [empty], raw.size, fill=(value_bits(value, program.out), is_valid)
        )
        assert (valid == is_valid).all()
        if is_valid:
            assert (found == value).all()


class _TwinOnly:
    """For instances that only the device compiles: the twin stands for both."""

    def run(self, made, *, threads=None):
        from gpuzarr.kernels import twins

        twins.run(made)


@pytest.mark.parametrize(
    ("dtype", "attributes", "options", "good", "bad"),
    [
        ("<i8", {"units": SINCE}, {}, [0, 106751, -106751], [106752, -106752, 2**62]),
        ("<u8", {"units": SINCE}, {}, [0, 106751], [106752, 2**63, 2**64 - 1]),
        ("<i4", {"units": "hours since 1900-01-01"}, {"time_unit": "ns"}, [0, 2_000_000], [2**31 - 1, -(2**31)]),
        ("<f8", {"units": SINCE}, {}, [0.5, 1e5], [1e6, -1e6, 1e300, np.inf]),
        ("<f8", {"units": SINCE}, {"time_unit": "us"}, [0.5, 1e8], [2e8, -2e8, np.inf]),
        (
            "<i8",
            {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"},
            {"time_unit": "ms"},
            [5, -5, 2**62, -(2**62)],
            [],
        ),
        ("<M8[D]", {}, {}, [5, -5], [10**9, -(10**9)]),
        ("<i8", {"units": SINCE}, {"time_unit": "us"}, [-141427, 10**7], [10**12]),
        ("<f8", {"units": "hours", "dtype": "timedelta64[ns]"}, {}, [1.5, 0.1, 1 / 3], [1e8, -1e8]),
    ],
)
def test_times_out_of_range(kernels, dtype, attributes, options, good, bad):
    plan = decoding(dtype, attributes, **options)
    program = column_program(plan)
    assert program is not None
    assert program.is_time
    for values, is_bad in [(good, False), *(([v], True) for v in bad)]:
        raw = np.array(values, np.dtype(dtype).str.replace("M8[D]", "i8")).view(program.stored)
        tables, chunks = one_chunk(program, raw)
        symbol = launch.Launch("gather", (*program.types, "int32_t"), 1, 1, Decode()).symbol
        runner = kernels if kernels.has(symbol) else _TwinOnly()
        found, valid, _, status = gathered(runner, program, [tables], [chunks], raw.size)
        want, want_valid = np.empty(raw.shape, plan.numpy), np.empty(raw.shape, bool)
        if is_bad:
            assert status == 1, values
            with pytest.raises(DataError):
                plan.apply(raw.view(plan.raw), want, want_valid)
        else:
            assert status == 0
            plan.apply(raw.view(plan.raw), want, want_valid)
            np.testing.assert_array_equal(valid, want_valid)
            np.testing.assert_array_equal(found[valid], want[valid])


def test_decodings_left_to_the_host():
    assert column_program(decoding("<f2", {"scale_factor": 0.5}, "NaN")) is None  # half precision arithmetic
    assert column_program(decoding("<c8", {})) is None
    assert column_program(decoding("<i4", {"units": SINCE, "calendar": "noleap"})) is None
    assert column_program(decoding("|S4", {})) is None
    assert column_program(decoding("<i2", {"missing_value": list(range(9))})) is None


def test_half_precision_is_exact(kernels):
    raw = np.arange(2**16, dtype=np.uint16).view("f2")
    program = column_program(decoding("<f2", {}))
    assert program is not None
    tables, chunks = one_chunk(program, raw)
    found, valid, _, _ = gathered(kernels, program, [tables], [chunks], raw.size)
    np.testing.assert_array_equal(as_bits(found), as_bits(raw.astype("f4")))
    assert valid.all()


@pytest.mark.parametrize("dtype", ["<i8", "<f8"])
def test_dates_before_the_reform_go_to_the_host(kernels, dtype):
    plan = decoding(dtype, {"units": SINCE}, time_unit="us")
    program = column_program(plan)
    assert program is not None
    for days, status in ((-141427, 0), (-141428, 1)):  # 1582-10-15 and the day before
        raw = np.array([days], dtype)
        tables, chunks = one_chunk(program, raw)
        assert gathered(kernels, program, [tables], [chunks], 1)[3] == status
