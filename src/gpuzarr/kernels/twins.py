"""What each kernel does, with numpy on host memory: for tests, and to run the wave engine where there is no GPU."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuzarr.codecs.checksums import ALGORITHMS
from gpuzarr.codecs.tables import ChecksumKind
from gpuzarr.codecs.unfilter import bit_unshuffle, byte_swap, byte_unshuffle
from gpuzarr.kernels.descriptors import (
    TILE_ROWS,
    ChecksumItem,
    ChecksumItemsArgs,
    ChecksumSpan,
    ChecksumSpansArgs,
    CopyArgs,
    CopyItem,
    FilterArgs,
    FilterItem,
    MaskArgs,
    ScanArgs,
    StatusArgs,
    Summary,
    TakeArgs,
)
from gpuzarr.kernels.launch import Launch
from gpuzarr.kernels.memory import bytes_at, table_at, values_at
from gpuzarr.kernels.twin_gather import run_gather, run_gather_rows
from gpuzarr.kernels.twin_predicate import run_predicate

__all__ = ["run"]


def run(launch: Launch) -> None:
    """Do what the kernel of a launch does; its addresses are of host memory."""
    if launch.blocks > 0:
        _TWINS[launch.kernel](launch, launch.args)


def _copy(_: Launch, args: CopyArgs) -> None:
    for src, dst, nbytes in table_at(args.items, CopyItem, args.count).tolist():
        bytes_at(dst, nbytes)[:] = bytes_at(src, nbytes)


def _filter(function: Callable[[Any, int], None]) -> Callable[[Launch, FilterArgs], None]:
    """Whole blocks are filtered, then the item's elements of them copied."""

    def apply(_: Launch, args: FilterArgs) -> None:
        size = args.itemsize
        done: tuple[int, Any] = (0, None)
        for src, dst, elements, first, count, tail in table_at(args.items, FilterItem, args.count).tolist():
            if src == dst:
                function(bytes_at(src + first * size, count * size)[None], size)
                continue
            if done[0] != src or done[1].size != elements * size:
                block = bytes_at(src, elements * size).copy()
                function(block[None], size)
                done = (src, block)
            low, high = first * size, (first + count) * size
            bytes_at(dst + low, high - low)[:] = done[1][low:high]
            bytes_at(dst + elements * size, tail)[:] = bytes_at(src + elements * size, tail)

    return apply


def _mask_counts(_: Launch, args: MaskArgs) -> None:
    kept = bytes_at(args.mask, args.rows) != 0
    counts = np.add.reduceat(kept, np.arange(0, args.rows, TILE_ROWS), dtype=np.uint32)
    values_at(args.counts, np.uint32, len(counts))[:] = counts


def _scan_counts(_: Launch, args: ScanArgs) -> None:
    counts = values_at(args.counts, np.uint32, args.tiles)
    sums = np.cumsum(counts, dtype=np.uint64)
    values_at(args.offsets, np.uint32, args.tiles)[:] = (sums - counts).astype(np.uint32)
    values_at(args.total, np.uint64, 1)[:] = sums[-1] if args.tiles else 0


def _survivors(_: Launch, args: MaskArgs) -> None:
    rows = np.flatnonzero(bytes_at(args.mask, args.rows))
    values_at(args.out, np.int32, len(rows))[:] = rows


def _take(launch: Launch, args: TakeArgs) -> None:
    kind = np.dtype(f"u{launch.types[0]}")
    rows = values_at(args.rows, np.int32, args.count)
    size = int(rows.max()) + 1
    values_at(args.out_values, kind, args.count)[:] = values_at(args.values, kind, size)[rows]
    if args.valid:
        valid = np.unpackbits(bytes_at(args.valid, -(-size // 8)), bitorder="little")[rows]
        padded = np.zeros(-(-args.count // 32) * 32, np.uint8)
        padded[: args.count] = valid
        bytes_at(args.out_valid, len(padded) // 8)[:] = np.packbits(padded, bitorder="little")
        if args.null_count:
            values_at(args.null_count, np.uint64, 1)[:] += np.uint64(args.count - int(valid.sum()))


def _checksum_items(launch: Launch, args: ChecksumItemsArgs) -> None:
    """Sums without the usual start and end: CRCs from 0 and not inverted, Adler from 0."""
    kind = ChecksumKind(int(launch.types[0]))
    partials = values_at(args.partials, np.uint32, 2 * args.count).reshape(-1, 2)
    for i, (src, nbytes) in enumerate(table_at(args.items, ChecksumItem, args.count).tolist()):
        data = bytes_at(src, nbytes)
        if kind == ChecksumKind.CRC32:
            partials[i] = zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF, 0
        elif kind == ChecksumKind.CRC32C:
            import google_crc32c  # a dependency of zarr

            partials[i] = google_crc32c.extend(0xFFFFFFFF, data.tobytes()) ^ 0xFFFFFFFF, 0
        else:
            sums = zlib.adler32(data, 0) if kind == ChecksumKind.ADLER32 else ALGORITHMS["fletcher32"](data)
            partials[i] = sums & 0xFFFF, sums >> 16


def _checksum_spans(launch: Launch, args: ChecksumSpansArgs) -> None:
    kind = ChecksumKind(int(launch.types[0]))
    spans = table_at(args.spans, ChecksumSpan, args.count)
    found = np.zeros(args.count, np.uint32)
    for i, (src, nbytes, first, count, _) in enumerate(spans.tolist()):
        if kind == ChecksumKind.XXH64:
            found[i] = xxh64(bytes_at(src, nbytes).tobytes()) & 0xFFFFFFFF
            continue
        items = table_at(args.items, ChecksumItem, first + count)[first:].tolist()
        data = np.concatenate([np.zeros(0, np.uint8), *(bytes_at(*item) for item in items)])
        found[i] = ALGORITHMS[kind.name.lower()](data)
    if args.found:
        values_at(args.found, np.uint32, args.count)[:] = found
    _report(found != spans["expected"], args.failures, args.summary)


def _check_status(_: Launch, args: StatusArgs) -> None:
    wrong = values_at(args.statuses, np.int32, args.count) != 0
    wrong |= values_at(args.actual, np.uint64, args.count) != values_at(args.expected, np.uint64, args.count)
    _report(wrong, args.failures, args.summary)


def _report(wrong: Any, failures: int, summary: int) -> None:
    if failures:
        bytes_at(failures, len(wrong))[:] = wrong
    rows = np.flatnonzero(wrong)
    if rows.size:
        total = table_at(summary, Summary, 1)
        total["failed"] += np.uint32(rows.size)
        total["first_inverted"] = np.maximum(total["first_inverted"], np.uint32(0xFFFFFFFF - int(rows[0])))


_MASK = 2**64 - 1
_P1, _P2, _P3, _P4, _P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)


def _rotated(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & _MASK


def _round(lane: int, word: int) -> int:
    return _rotated((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0 (xxHash's specification); slow, for tests and small frames."""
    at, n = 0, len(data)
    if n >= 32:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        words = np.frombuffer(data, "<u8", n // 32 * 4).reshape(-1, 4).tolist()
        for row in words:
            lanes = [_round(lane, word) for lane, word in zip(lanes, row, strict=True)]
        at = n // 32 * 32
        h = sum(_rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            h = ((h ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        h = _P5
    h = (h + n) & _MASK
    while n - at >= 8:
        h = (_rotated(h ^ _round(0, int.from_bytes(data[at : at + 8], "little")), 27) * _P1 + _P4) & _MASK
        at += 8
    if n - at >= 4:
        h = (_rotated(h ^ int.from_bytes(data[at : at + 4], "little") * _P1 & _MASK, 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        h = _rotated(h ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    h = (h ^ h >> 33) * _P2 & _MASK
    h = (h ^ h >> 29) * _P3 & _MASK
    return h ^ h >> 32


_TWINS: dict[str, Callable[[Launch, Any], None]] = {
    "copy": _copy,
    "byte_unshuffle": _filter(byte_unshuffle),
    "bit_unshuffle": _filter(bit_unshuffle),
    "byte_swap": _filter(byte_swap),
    "gather": run_gather,
    "gather_rows": run_gather_rows,
    "predicate": run_predicate,
    "mask_counts": _mask_counts,
    "scan_counts": _scan_counts,
    "survivors": _survivors,
    "take": _take,
    "checksum_items": _checksum_items,
    "checksum_spans": _checksum_spans,
    "check_status": _check_status,
}
