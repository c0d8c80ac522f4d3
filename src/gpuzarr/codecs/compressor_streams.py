"""From the stored bytes of a compressor to streams: one function per compressor, each for many chunks at once.

Each takes the chunks and the decoded bytes that each of them must hold (int64), and returns `Streams`. Whatever a batch
decoder could not be trusted with goes to the host; what cannot be right raises `ChunkError`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.blosc_streams import plan_containers
from gpuzarr.codecs.chunk_set import ChunkSet
from gpuzarr.codecs.tables import (
    Algorithm,
    ChecksumKind,
    ChecksumTable,
    FilterTable,
    HostReason,
    Streams,
    StreamTable,
)
from gpuzarr.codecs.zstd_frames import UNKNOWN, walk_frames
from gpuzarr.errors import Kind

__all__ = ["COMPRESSORS", "Planner", "stored_streams"]

Int64Array = npt.NDArray[np.int64]
Planner = Callable[[ChunkSet, Int64Array, "Int64Array | None"], Streams]

ZLIB_NBYTES = (2, 4)  # header, Adler-32
GZIP_NBYTES = (10, 8)  # the shortest header, CRC-32 and size
LZ4_PREFIX = 4
GZIP_RESERVED = 0xE0


def stored_streams(chunks: ChunkSet, expected: Int64Array, needed: Int64Array | None) -> Streams:
    """Chunks without a compressor: a plain copy, of the needed bytes alone."""
    _refuse_size(chunks, chunks.nbytes, expected, "The chunk has {} bytes, its array's document says {}.")
    start = np.zeros(len(chunks), np.int64) if needed is None else needed[:, 0]
    nbytes = expected if needed is None else needed[:, 1] - needed[:, 0]
    rows = np.flatnonzero(nbytes > 0)
    streams = StreamTable.make(
        rows,
        algorithm=Algorithm.STORED,
        src=(chunks.start + start)[rows],
        src_nbytes=nbytes[rows],
        dst=start[rows],
        dst_nbytes=nbytes[rows],
    )
    return _unfiltered(chunks, streams, ChecksumTable.empty())


def _blosc(chunks: ChunkSet, expected: Int64Array, needed: Int64Array | None) -> Streams:
    return plan_containers(chunks, expected, needed)


def _zstd(chunks: ChunkSet, expected: Int64Array, needed: Int64Array | None) -> Streams:
    frames = walk_frames(chunks, chunks.start, chunks.nbytes)
    n = len(chunks)
    count = np.bincount(frames.row, minlength=n)
    unknown = np.bincount(frames.row, frames.content_nbytes == UNKNOWN, minlength=n)
    dictionary = np.bincount(frames.row, frames.has_dictionary, minlength=n)
    odd = frames.odd | (dictionary > 0) | ((unknown > 0) & (count > 1))
    # one frame without a size holds the chunk, or its decoder says that it does not
    content = np.where((frames.content_nbytes == UNKNOWN), expected[frames.row], frames.content_nbytes)
    total = np.bincount(frames.row, content.astype(np.float64), minlength=n)
    wrong = ~odd & (total != expected)
    chunks.refuse_first(
        wrong,
        np.arange(n),
        lambda i: f"zstd: frames of {int(total[i])} bytes, the chunk has {expected[i]}. The chunk is damaged.",
        Kind.CHUNK_SIZE_MISMATCH,
    )
    before = np.cumsum(content) - content
    first = np.searchsorted(frames.row, np.arange(n))
    dst = before - np.append(before, 0)[first][frames.row]
    wanted = ~odd[frames.row] & (content > 0)
    if needed is not None:
        start, stop = needed[frames.row].T
        wanted &= (start < stop) & (dst < stop) & (dst + content > start)
    rows = np.flatnonzero(wanted)
    streams = StreamTable.make(
        frames.row[rows],
        algorithm=Algorithm.ZSTD,
        src=frames.start[rows],
        src_nbytes=frames.nbytes[rows],
        dst=dst[rows],
        dst_nbytes=content[rows],
    )
    marked = np.flatnonzero(frames.has_checksum[rows])
    stored = chunks.read((frames.start + frames.nbytes - 4)[rows[marked]], "<u4")
    checksums = ChecksumTable.of_streams(streams, marked, ChecksumKind.XXH64, stored)
    return _unfiltered(chunks, streams, checksums, np.where(odd, np.uint8(HostReason.FRAMES), np.uint8(0)))


def _gzip(chunks: ChunkSet, expected: Int64Array, needed: Int64Array | None) -> Streams:
    _refuse_short(chunks, sum(GZIP_NBYTES) + 1, "gzip")
    head = chunks.read(chunks.start, "<u4").astype(np.int64)
    _refuse(chunks, head & 0xFFFFFF != 0x088B1F, "gzip: not a gzip member.")
    stop = chunks.start + chunks.nbytes
    size = chunks.read(stop - 4, "<u4").astype(np.int64)
    # several members end with the size of the last one: a host decoder reads those, or finds the damage
    single = (size == expected & 0xFFFFFFFF) & (head >> 24 & GZIP_RESERVED == 0)
    return _one_stream_each(
        chunks,
        expected,
        Algorithm.GZIP,
        (0, 0),
        ChecksumKind.CRC32,
        chunks.read(stop - 8, "<u4"),
        np.where(single, np.uint8(0), np.uint8(HostReason.MEMBERS)),
        needed=needed,
    )


def _zlib(chunks: ChunkSet, expected: Int64Array, needed: Int64Array | None) -> Streams:
    _refuse_short(chunks, sum(ZLIB_NBYTES) + 1, "zlib")
    head = chunks.read(chunks.start, ">u2").astype(np.int64)
    _refuse(chunks, (head >> 8 & 15 != 8) | (head % 31 != 0) | (head & 32 != 0), "zlib: the header is damaged.")
    adler = chunks.read(chunks.start + chunks.nbytes - 4, ">u4")
    return _one_stream_each(
        chunks, expected, Algorithm.DEFLATE, ZLIB_NBYTES, ChecksumKind.ADLER32, adler, needed=needed
    )


def _lz4(chunks: ChunkSet, expected: Int64Array, needed: Int64Array | None) -> Streams:
    _refuse_short(chunks, LZ4_PREFIX + 1, "lz4")
    size = chunks.read(chunks.start, "<i4").astype(np.int64)
    _refuse_size(chunks, size, expected, "lz4: the stream claims {} bytes, the chunk has {}.")
    return _one_stream_each(chunks, expected, Algorithm.LZ4, (LZ4_PREFIX, 0), needed=needed)


COMPRESSORS: dict[str, Planner] = {"blosc": _blosc, "zstd": _zstd, "gzip": _gzip, "zlib": _zlib, "lz4": _lz4}
"""By the name of the byte step."""


def _one_stream_each(
    chunks: ChunkSet,
    expected: Int64Array,
    algorithm: Algorithm,
    around: tuple[int, int],
    kind: ChecksumKind | None = None,
    stored: npt.NDArray[np.integer] | None = None,
    host: npt.NDArray[np.uint8] | None = None,
    *,
    needed: Int64Array | None,
) -> Streams:
    wanted = np.ones(len(chunks), np.bool_) if needed is None else needed[:, 0] < needed[:, 1]
    rows = np.flatnonzero(wanted if host is None else wanted & (host == HostReason.NONE))
    streams = StreamTable.make(
        rows,
        algorithm=algorithm,
        src=chunks.start[rows] + around[0],
        src_nbytes=chunks.nbytes[rows] - sum(around),
        dst=0,
        dst_nbytes=expected[rows],
    )
    checksums = ChecksumTable.empty()
    if kind is not None and stored is not None:
        checksums = ChecksumTable.of_streams(streams, np.arange(len(rows)), kind, stored[rows])
    return _unfiltered(chunks, streams, checksums, host)


def _unfiltered(
    chunks: ChunkSet, streams: StreamTable, checksums: ChecksumTable, host: npt.NDArray[np.uint8] | None = None
) -> Streams:
    return Streams(streams, FilterTable.empty(), checksums, np.zeros(len(chunks), np.uint8) if host is None else host)


def _refuse(chunks: ChunkSet, bad: npt.NDArray[np.bool_], what: str, kind: Kind = Kind.CHUNK_DECODE) -> None:
    chunks.refuse_first(bad, np.arange(len(chunks)), lambda _: f"{what} The chunk is damaged.", kind)


def _refuse_short(chunks: ChunkSet, least: int, name: str) -> None:
    _refuse(chunks, chunks.nbytes < least, f"{name}: shorter than any stream.", Kind.CHUNK_TRUNCATED)


def _refuse_size(chunks: ChunkSet, found: Int64Array, expected: Int64Array, what: str) -> None:
    rows = np.arange(len(chunks))
    chunks.refuse_first(
        found < expected,
        rows,
        lambda i: what.format(found[i], expected[i]) + " It was cut short.",
        Kind.CHUNK_TRUNCATED,
    )
    chunks.refuse_first(
        found > expected,
        rows,
        lambda i: what.format(found[i], expected[i]) + " It does not fit.",
        Kind.CHUNK_SIZE_MISMATCH,
    )
