"""Launches: a kernel, its template arguments, its grid and its one argument. Pure arithmetic, no device needed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpuzarr.codecs.tables import ChecksumKind, FilterKind
from gpuzarr.kernels.cf_program import ColumnProgram
from gpuzarr.kernels.descriptors import (
    MAX_COLUMNS,
    SCAN_THREADS,
    THREADS,
    TILE_ROWS,
    ChecksumItemsArgs,
    ChecksumSpansArgs,
    CopyArgs,
    Decode,
    FilterArgs,
    GatherArgs,
    GatherFlag,
    Instruction,
    MaskArgs,
    PredicateArgs,
    PredicateColumn,
    ScanArgs,
    StatusArgs,
    TakeArgs,
)
from gpuzarr.kernels.gather_tables import GatherTables
from gpuzarr.kernels.program import Program

__all__ = [
    "Launch",
    "bitmap_nbytes",
    "byte_filter",
    "check_status",
    "checksums",
    "copy",
    "gather",
    "gather_rows",
    "mask_counts",
    "predicate",
    "scan_counts",
    "survivors",
    "take",
    "tiles",
]

MAX_BLOCKS = 2**31 - 1
_SPECIAL_SIZES = {
    FilterKind.BYTE_UNSHUFFLE: ("byte_unshuffle", (2, 4, 8, 16)),
    FilterKind.BIT_UNSHUFFLE: ("bit_unshuffle", (1, 2, 4, 8)),
    FilterKind.BYTE_SWAP: ("byte_swap", (2, 4, 8)),
}


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel launch.

    Parameters
    ----------
    kernel
        Name of the function.
    types
        Template arguments, as C++ spells them.
    blocks, threads
        Grid, one-dimensional; launches with no blocks are to be left out.
    args
        The one argument.
    """

    kernel: str
    types: tuple[str, ...]
    blocks: int
    threads: int
    args: ctypes.Structure = field(repr=False)

    @property
    def symbol(self) -> str:
        """Name expression, such as ``take<4>``."""
        return f"{self.kernel}<{', '.join(self.types)}>" if self.types else self.kernel


def tiles(rows: int) -> int:
    """Tiles of `TILE_ROWS` rows."""
    return -(-rows // TILE_ROWS)


def bitmap_nbytes(rows: int) -> int:
    """Bytes of a validity bitmap, padded to 64."""
    return -(-rows // 512) * 64


def copy(items: int, count: int) -> Launch:
    """Copy ``count`` `CopyItem` at address ``items``."""
    return Launch("copy", (), count, THREADS, CopyArgs(items, count))


def byte_filter(kind: FilterKind, itemsize: int, items: int, count: int) -> Launch:
    """Undo one kind of filter on ``count`` `FilterItem` at address ``items``, all of one item size."""
    name, special = _SPECIAL_SIZES[kind]
    size = itemsize if itemsize in special else 0
    return Launch(name, (str(size),), count, THREADS, FilterArgs(items, count, itemsize, 0))


def gather(
    program: ColumnProgram,
    tables: GatherTables,
    *,
    pieces: int,
    entries: int,
    chunks: int,
    tile_piece: int,
    values: int,
    valid: int = 0,
    null_count: int = 0,
    status: int = 0,
    fill: tuple[int, bool] = (0, True),
    swap: bool = False,
) -> Launch:
    """Gather all rows of the tables' pieces.

    Parameters
    ----------
    pieces, entries, chunks, tile_piece
        Addresses of the tables (`GatherTables` and the `ChunkSource` of its chunks).
    values, valid, null_count, status
        Addresses of the results, see `GatherArgs`; ``status`` is required for times.
    fill
        Bits and validity of cells of chunks that are not stored, see `cf_program.value_bits`.
    swap
        Stored numbers have the other byte order.
    """
    args = _gather_args(program, tables, fill, swap)
    args.pieces, args.entries, args.chunks, args.tile_piece = pieces, entries, chunks, tile_piece
    args.values, args.valid, args.null_count, args.status = values, valid, null_count, status
    args.row_begin, args.row_end = tables.row_begin, tables.row_end
    blocks = tiles(tables.row_end) - tables.row_begin // TILE_ROWS if tables.row_end > tables.row_begin else 0
    return Launch("gather", (*program.types, tables.index_type), blocks, THREADS, args)


def gather_rows(
    program: ColumnProgram,
    tables: GatherTables,
    *,
    pieces: int,
    entries: int,
    chunks: int,
    rows: int,
    count: int,
    values: int,
    valid: int = 0,
    null_count: int = 0,
    status: int = 0,
    fill: tuple[int, bool] = (0, True),
    swap: bool = False,
    first: int = 0,
) -> Launch:
    """Gather the rows whose int32 numbers are at address ``rows``, from ``first`` on up to ``count``.

    Every one of them must lie in one of the tables' pieces.
    """
    args = _gather_args(program, tables, fill, swap)
    args.pieces, args.entries, args.chunks, args.rows = pieces, entries, chunks, rows
    args.values, args.valid, args.null_count, args.status = values, valid, null_count, status
    args.row_begin, args.row_end = first, count
    blocks = tiles(count) - first // TILE_ROWS if count > first else 0
    return Launch("gather_rows", (*program.types, tables.index_type), blocks, THREADS, args)


def _gather_args(program: ColumnProgram, tables: GatherTables, fill: tuple[int, bool], swap: bool) -> GatherArgs:
    flags = (GatherFlag.SWAP if swap else GatherFlag(0)) | (GatherFlag.ASCENDING if tables.ascending else GatherFlag(0))
    args = GatherArgs()
    args.fill_value, args.fill_valid = fill[0], int(fill[1])
    args.piece_count, args.dims, args.flags = len(tables.pieces), tables.dims, int(flags)
    args.decode = Decode.from_buffer_copy(program.decode)
    return args


def predicate(program: Program, columns: Sequence[tuple[int, int]], mask: int, row_begin: int, row_end: int) -> Launch:
    """Evaluate a program.

    Parameters
    ----------
    columns
        Addresses of values and validity bitmap (0: none) of ``program.columns``, in that order.
    mask
        Address of one byte per row of the frame.
    row_begin, row_end
        Rows to do; ``row_begin`` must be a multiple of 32.
    """
    if len(columns) != len(program.columns) or len(columns) > MAX_COLUMNS:
        raise ValueError(f"the program needs {len(program.columns)} columns, not {len(columns)}")
    if row_begin % 32:
        raise ValueError("row_begin must be a multiple of 32")
    args = PredicateArgs(mask, row_begin, row_end, len(program.instructions), len(columns))
    for i, (values, valid) in enumerate(columns):
        args.columns[i] = PredicateColumn(values, valid)
    for i, instruction in enumerate(program.instructions):
        args.program[i] = Instruction.from_buffer_copy(instruction)
    rows = row_end - row_begin
    return Launch("predicate", (), tiles(rows), THREADS, args)


def mask_counts(mask: int, rows: int, counts: int) -> Launch:
    """Kept rows per tile."""
    return Launch("mask_counts", (), tiles(rows), THREADS, MaskArgs(mask, rows, counts, 0, 0))


def scan_counts(counts: int, offsets: int, total: int, rows: int) -> Launch:
    """Exclusive sums of the counts of ``tiles(rows)`` tiles; 0 tiles write a total of 0."""
    return Launch("scan_counts", (), 1, SCAN_THREADS, ScanArgs(counts, offsets, total, tiles(rows)))


def survivors(mask: int, rows: int, offsets: int, out: int) -> Launch:
    """Numbers of the kept rows."""
    return Launch("survivors", (), tiles(rows), THREADS, MaskArgs(mask, rows, 0, offsets, out))


def take(
    itemsize: int,
    *,
    rows: int,
    count: int,
    values: int,
    out_values: int,
    valid: int = 0,
    out_valid: int = 0,
    null_count: int = 0,
) -> Launch:
    """Values of some rows; item sizes 1, 2, 4, 8."""
    args = TakeArgs(rows, count, values, valid, out_values, out_valid, null_count)
    return Launch("take", (str(itemsize),), tiles(count), THREADS, args)


def checksums(
    kind: ChecksumKind,
    *,
    items: int,
    item_count: int,
    partials: int,
    spans: int,
    span_count: int,
    found: int,
    failures: int = 0,
    summary: int,
) -> tuple[Launch, ...]:
    """Compute and compare checksums, see `tables.checksum_items`; ``partials`` has 8 bytes per item."""
    types = (str(int(kind)),)
    join = ChecksumSpansArgs(spans, span_count, items, partials, found, failures, summary)
    second = Launch("checksum_spans", types, -(-span_count // THREADS), THREADS, join)
    if kind == ChecksumKind.XXH64:
        return (second,)
    first = Launch("checksum_items", types, item_count, THREADS, ChecksumItemsArgs(items, item_count, partials))
    return first, second


def check_status(*, statuses: int, actual: int, expected: int, count: int, summary: int, failures: int = 0) -> Launch:
    """Whether every stream of a batch came out right."""
    args = StatusArgs(statuses, actual, expected, count, failures, summary)
    return Launch("check_status", (), min(-(-count // THREADS), 1024), THREADS, args)
