"""The structures that kernels take, as ctypes and as numpy types; ``common.cuh`` has the same in C++.

Every field has a fixed width and a natural alignment, padding is spelled out, and addresses are unsigned 64-bit
numbers, so that the compilers of host and device and ctypes agree. A test compares sizes and offsets with C++.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np

__all__ = [
    "MAX_COLUMNS",
    "MAX_DIMS",
    "MAX_FILLS",
    "MAX_INSTRUCTIONS",
    "SCAN_THREADS",
    "STRUCTURES",
    "THREADS",
    "TILE_ROWS",
    "ChecksumItem",
    "ChecksumItemsArgs",
    "ChecksumSpan",
    "ChecksumSpansArgs",
    "ChunkSource",
    "CodeFlag",
    "CopyArgs",
    "CopyItem",
    "Decode",
    "Entry32",
    "Entry64",
    "FilterArgs",
    "FilterItem",
    "GatherArgs",
    "GatherDim",
    "GatherFlag",
    "GatherPiece",
    "GatherStatus",
    "Instruction",
    "MaskArgs",
    "PredicateArgs",
    "PredicateColumn",
    "ScanArgs",
    "StatusArgs",
    "Summary",
    "TakeArgs",
    "TimeDecode",
    "TimeKind",
    "TimePost",
    "dtype_of",
]

THREADS = 256
"""Threads per block of every kernel except ``scan_counts``, which runs in one block of `SCAN_THREADS`."""

SCAN_THREADS = 1024
TILE_ROWS = 4096
"""Rows that one block of a row kernel works on; tiles begin at multiples of it."""

MAX_DIMS = 8
MAX_FILLS = 8
MAX_COLUMNS = 16
MAX_INSTRUCTIONS = 64

u8, u32, i32, u64, i64, f64 = (
    ctypes.c_uint8,
    ctypes.c_uint32,
    ctypes.c_int32,
    ctypes.c_uint64,
    ctypes.c_int64,
    ctypes.c_double,
)


class CopyItem(ctypes.Structure):
    """Bytes to copy: ``dst[:nbytes] = src[:nbytes]``; the two do not overlap."""

    _fields_ = (("src", u64), ("dst", u64), ("nbytes", u64))


class CopyArgs(ctypes.Structure):
    """``copy``: `CopyItem` table, one block per item."""

    _fields_ = (("items", u64), ("count", u64))


class FilterItem(ctypes.Structure):
    """A run of elements of one block of bytes.

    ``src`` and ``dst`` are where the block begins; ``elements`` it has in all, ``first`` and ``count`` say which of
    them this item does (multiples of 8 for a bit unshuffle); ``tail`` bytes after the last element are copied too.
    """

    _fields_ = (
        ("src", u64),
        ("dst", u64),
        ("elements", u64),
        ("first", u64),
        ("count", u32),
        ("tail", u32),
    )


class FilterArgs(ctypes.Structure):
    """``byte_unshuffle<N>``, ``bit_unshuffle<N>``, ``byte_swap<N>``: `FilterItem` table; ``itemsize`` counts where N is 0."""

    _fields_ = (("items", u64), ("count", u64), ("itemsize", u32), ("pad", u32))


class GatherDim(ctypes.Structure):
    """A dimension of the row space of a piece.

    ``magic`` and ``shift`` divide numbers below 2^31 by ``extent``; ``entries`` is the first `Entry32` or `Entry64` of
    this dimension, -1 where the column lacks the dimension and repeats.
    """

    _fields_ = (("extent", u32), ("magic", u32), ("shift", u32), ("entries", i32))


class GatherPiece(ctypes.Structure):
    """Consecutive rows that are a box in C order: the first of them and their number, and the box."""

    _fields_ = (("first_row", i64), ("rows", i64), ("dims", GatherDim * MAX_DIMS))


class Entry32(ctypes.Structure):
    """What an index along a dimension adds to the number of the chunk and to the element's offset inside of it."""

    _fields_ = (("chunk", i32), ("offset", i32))


class Entry64(ctypes.Structure):
    """`Entry32` for chunks of 2^31 elements or more."""

    _fields_ = (("chunk", i64), ("offset", i64))


class ChunkSource(ctypes.Structure):
    """Where the elements of a chunk are.

    Parameters
    ----------
    address
        Of element 0, any alignment; 0 for a chunk that is not stored: its cells are the fill value.
    mask
        Address of one byte per element, zero where the value is missing; 0 where none is.
    block, total
        Elements per block of byte-shuffled data (blocks follow each other) and elements of the chunk; ``block`` is 0
        where the bytes are in order.
    """

    _fields_ = (("address", u64), ("mask", u64), ("block", u32), ("total", u32))


class CodeFlag(IntFlag):
    """Steps of `Decode`."""

    FILLS_COMPUTED = 1  # fills are compared after the conversion to the computed type
    NAN = 2  # NaN is missing as stored
    NAN_COMPUTED = 4  # NaN is missing after scale and offset
    SCALE = 8
    OFFSET = 16


class TimeKind(IntEnum):
    """How numbers become ticks; see `gpuzarr.cf.times.TimeCode`."""

    NONE = 0
    LINEAR = 1  # integers: n * factor + offset
    FLOOR = 2  # integers: n // step + (n % step + rest) // step + offset
    TRUNCATE = 3  # floats: int(n * a) + offset
    ROUND = 4  # floats: floor(n) * factor + rint((n - floor(n)) * b) + offset
    ROUND_FINE = 5  # floats: rint(n / b) + offset
    STEPS = 6  # floats: times 1000 until no fraction is left


class TimePost(IntEnum):
    """What follows `TimeKind`."""

    NONE = 0
    US_TO_NS = 1
    US_TO_MS = 2


class TimeDecode(ctypes.Structure):
    """Numbers to ticks.

    ``low`` and ``high`` are bounds of integer input, as the bits of int64 or uint64 (for `TimeKind.ROUND` and
    `TimeKind.ROUND_FINE`, ``low`` is the offset as a double). Ticks below ``early``, before ``post``, are left to the host:
    dates of the Julian calendar.
    """

    _fields_ = (
        ("kind", i32),
        ("post", i32),
        ("factor", i64),
        ("offset", i64),
        ("low", u64),
        ("high", u64),
        ("step", i64),
        ("rest", i64),
        ("early", i64),
        ("a", f64),
        ("b", f64),
    )


class Decode(ctypes.Structure):
    """The steps from a stored number to a value, as `gpuzarr.cf.decoding.Decoding` has them.

    ``fills`` are bits of the stored type (or the computed one, see `CodeFlag.FILLS_COMPUTED`), ``scale`` and ``offset``
    bits of the computed type.
    """

    _fields_ = (
        ("flags", u32),
        ("fill_count", u32),
        ("fills", u64 * MAX_FILLS),
        ("scale", u64),
        ("offset", u64),
        ("time", TimeDecode),
    )


class GatherFlag(IntFlag):
    """Of `GatherArgs`."""

    SWAP = 1  # stored numbers have the other byte order
    ASCENDING = 2  # offsets ascend strictly along the last dimension, so equal distance means adjacent


class GatherStatus(IntFlag):
    """Bits of `GatherArgs.status`, all of which mean: look at the column on the host."""

    OUT_OF_RANGE = 1  # a time that does not fit, or that this decoder leaves to the host


class GatherArgs(ctypes.Structure):
    """``gather<Stored, Computed, Out, Index>`` and ``gather_rows<…>``.

    Parameters
    ----------
    pieces, entries, chunks
        Tables of `GatherPiece` (ascending, without gaps between row_begin and row_end), `Entry32` or `Entry64`, and
        `ChunkSource`.
    tile_piece
        int32 per tile of `TILE_ROWS` rows, from the tile of ``row_begin`` on: number of the piece of the first row of the
        tile that is not before ``row_begin``. Not used by ``gather_rows``.
    rows
        int32 row numbers, of ``gather_rows`` only.
    values
        Out array of the frame, 16-byte aligned; row r goes to ``values[r]`` (``gather_rows``: i-th row to ``values[i]``).
    valid
        Validity bitmap of the frame, zeroed beforehand, 4-byte aligned; 0 if nobody wants it.
    null_count
        uint64 that the number of missing rows is added to; 0 if nobody wants it.
    status
        uint32 that `GatherStatus` bits are or-ed into.
    row_begin, row_end
        Rows of the frame (``gather_rows``: positions in ``rows``) that this launch does.
    fill_value, fill_valid
        Value of cells of chunks that are not stored, as bits of Out, and whether it is one.
    """

    _fields_ = (
        ("pieces", u64),
        ("entries", u64),
        ("chunks", u64),
        ("tile_piece", u64),
        ("rows", u64),
        ("values", u64),
        ("valid", u64),
        ("null_count", u64),
        ("status", u64),
        ("row_begin", i64),
        ("row_end", i64),
        ("fill_value", u64),
        ("fill_valid", u32),
        ("piece_count", i32),
        ("dims", i32),
        ("flags", u32),
        ("decode", Decode),
    )


class PredicateColumn(ctypes.Structure):
    """Values of the rows of a frame, 16-byte aligned, and their validity bitmap (0: all valid).

    Boolean columns have one byte per row, columns of outcomes (1 true, 2 false, 4 null) as well.
    """

    _fields_ = (("values", u64), ("valid", u64))


class Instruction(ctypes.Structure):
    """One step of a predicate in postfix order; see `gpuzarr.kernels.program`."""

    _fields_ = (("op", u8), ("type", u8), ("column", u8), ("pad", u8), ("extra", u32), ("constant", u64))


class PredicateArgs(ctypes.Structure):
    """``predicate``: writes one byte per row, 1 where the predicate is true, else 0."""

    _fields_ = (
        ("mask", u64),
        ("row_begin", i64),
        ("row_end", i64),
        ("instruction_count", i32),
        ("column_count", i32),
        ("columns", PredicateColumn * MAX_COLUMNS),
        ("program", Instruction * MAX_INSTRUCTIONS),
    )


class MaskArgs(ctypes.Structure):
    """``mask_counts`` (fills ``counts``) and ``survivors`` (reads ``offsets``, fills ``out``).

    Parameters
    ----------
    mask
        One byte per row, not 0 where the row is kept; 16-byte aligned.
    counts, offsets
        uint32 per tile of `TILE_ROWS` rows.
    out
        int32: numbers of the kept rows, ascending.
    """

    _fields_ = (("mask", u64), ("rows", i64), ("counts", u64), ("offsets", u64), ("out", u64))


class ScanArgs(ctypes.Structure):
    """``scan_counts``: exclusive sums of uint32 ``counts`` to uint32 ``offsets``, their sum to the uint64 ``total``."""

    _fields_ = (("counts", u64), ("offsets", u64), ("total", u64), ("tiles", i64))


class TakeArgs(ctypes.Structure):
    """``take<N>``: ``out_values[i] = values[rows[i]]`` for items of N bytes, and the validity likewise.

    ``valid`` is 0 where every value is valid; then ``out_valid`` and ``null_count`` are not touched. ``out_valid`` need not
    be zeroed: whole 32-bit words are written.
    """

    _fields_ = (
        ("rows", u64),
        ("count", i64),
        ("values", u64),
        ("valid", u64),
        ("out_values", u64),
        ("out_valid", u64),
        ("null_count", u64),
    )


class ChecksumItem(ctypes.Structure):
    """A piece of a span, at most `CHECKSUM_ITEM_NBYTES`."""

    _fields_ = (("src", u64), ("nbytes", u64))


class ChecksumItemsArgs(ctypes.Structure):
    """``checksum_items<KIND>``: `ChecksumItem` table, one block per item, to two uint32 ``partials`` per item."""

    _fields_ = (("items", u64), ("count", u64), ("partials", u64))


class ChecksumSpan(ctypes.Structure):
    """A span made of consecutive items and what its checksum must be; ``src`` counts for XXH64 only."""

    _fields_ = (("src", u64), ("nbytes", u64), ("first_item", u64), ("items", u32), ("expected", u32))


class ChecksumSpansArgs(ctypes.Structure):
    """``checksum_spans<KIND>``: joins the partial sums and compares.

    Parameters
    ----------
    spans, count
        `ChecksumSpan` table.
    items, partials
        As for ``checksum_items``; not used for XXH64.
    found
        uint32 per span: the checksum of the bytes.
    failures
        uint8 per span, set to 1 where it differs from what is expected; 0 if nobody wants it.
    summary
        `Summary`, zeroed beforehand.
    """

    _fields_ = (
        ("spans", u64),
        ("count", u64),
        ("items", u64),
        ("partials", u64),
        ("found", u64),
        ("failures", u64),
        ("summary", u64),
    )


class Summary(ctypes.Structure):
    """How many failed, and ``2**32 - 1 - index`` of the first of them (0 while none has): zeroed memory says none."""

    _fields_ = (("failed", u32), ("first_inverted", u32))

    @property
    def first(self) -> int | None:
        """Index of the first that failed."""
        return 0xFFFFFFFF - self.first_inverted if self.failed else None


class StatusArgs(ctypes.Structure):
    """``check_status``: int32 ``statuses`` must be 0 and uint64 ``actual`` equal ``expected`` for every stream."""

    _fields_ = (
        ("statuses", u64),
        ("actual", u64),
        ("expected", u64),
        ("count", u64),
        ("failures", u64),
        ("summary", u64),
    )


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    CopyItem,
    CopyArgs,
    FilterItem,
    FilterArgs,
    GatherDim,
    GatherPiece,
    Entry32,
    Entry64,
    ChunkSource,
    TimeDecode,
    Decode,
    GatherArgs,
    PredicateColumn,
    Instruction,
    PredicateArgs,
    MaskArgs,
    ScanArgs,
    TakeArgs,
    ChecksumItem,
    ChecksumItemsArgs,
    ChecksumSpan,
    ChecksumSpansArgs,
    Summary,
    StatusArgs,
)


def dtype_of(structure: type[ctypes.Structure]) -> np.dtype[Any]:
    """The numpy type of a table of a structure."""
    return np.dtype(structure)
