"""The inner streams of many Blosc containers: what a batch decoder gets, checked span by span.

The rules are those of `gpuzarr.codecs.blosc`. There is no Python loop over containers, blocks or streams; the streams of
one block follow each other by their sizes, so the loop is over at most 16 splits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs import blosc
from gpuzarr.codecs.chunk_set import ChunkSet
from gpuzarr.codecs.tables import (
    Algorithm,
    ChecksumKind,
    ChecksumTable,
    FilterKind,
    FilterTable,
    HostReason,
    Streams,
    StreamTable,
)
from gpuzarr.codecs.zstd_frames import walk_frames
from gpuzarr.errors import ChunkError, Kind

__all__ = ["plan_containers", "snappy_nbytes"]

Int64Array = npt.NDArray[np.int64]

_HEADER = np.dtype(
    [
        ("version", "u1"),
        ("codec_version", "u1"),
        ("flags", "u1"),
        ("typesize", "u1"),
        ("nbytes", "<i4"),
        ("blocksize", "<i4"),
        ("cbytes", "<i4"),
    ]
)
_ALGORITHMS = np.array(
    [Algorithm.BLOSCLZ, Algorithm.LZ4, Algorithm.SNAPPY, Algorithm.DEFLATE, Algorithm.ZSTD, 0, 0, 0], np.uint8
)
ZLIB_HEADER, ZLIB_TRAILER = 2, 4
# Blocks of a container that is split into streams: at most so many, and one more per so many bytes. The tables take a few
# hundred bytes per block, a lying header must not make them larger than the chunk.
FREE_BLOCKS, BLOCK_NBYTES = 1024, 4096


def plan_containers(chunks: ChunkSet, expected: Int64Array | None, needed: Int64Array | None = None) -> Streams:
    """Split containers into their streams.

    Parameters
    ----------
    chunks
        Each chunk is one whole container.
    expected
        Decoded bytes that each container must hold; None to take what the headers say.
    needed
        int64 ``(n, 2)``: (start, stop) of the decoded bytes that are needed of each container. Blocks that hold none of
        them are left out.

    Raises
    ------
    ChunkError
        The first container that is damaged or of another size, with its byte range.
    """
    header = _headers(chunks, expected)
    nbytes = header["nbytes"].astype(np.int64)
    if needed is None:
        needed = np.stack([np.zeros_like(nbytes), nbytes], axis=1)
    plain = (header["flags"] & blosc.FLAG_STORED) != 0
    copies = np.flatnonzero(plain & (nbytes > 0) & (needed[:, 0] < needed[:, 1]))
    nblocks = -(-nbytes // np.maximum(header["blocksize"], 1))
    host = np.where(~plain & (nblocks > FREE_BLOCKS + nbytes // BLOCK_NBYTES), np.uint8(HostReason.BLOCKS), np.uint8(0))
    blocks = _Blocks.of(chunks, header, np.where(host[:, None] == HostReason.NONE, needed, 0))
    streams = blocks.streams(chunks)
    checks = _check_streams(chunks, streams)
    host[streams.chunk[checks.to_host]] = HostReason.FRAMES

    deflate = streams.algorithm == Algorithm.DEFLATE
    streams = replace(
        streams,
        src=streams.src + ZLIB_HEADER * deflate,
        src_nbytes=streams.src_nbytes - (ZLIB_HEADER + ZLIB_TRAILER) * deflate,
    )
    checksums = ChecksumTable.of_streams(streams, checks.stream, checks.kind, checks.expected)
    if host.any():
        keep = host[streams.chunk] == HostReason.NONE
        checksums = checksums.take(keep[checksums.stream])
        checksums = replace(checksums, stream=(np.cumsum(keep) - 1)[checksums.stream])
        streams = streams.take(keep)
    copied = StreamTable.make(
        copies,
        algorithm=Algorithm.STORED,
        src=chunks.start[copies] + blosc.HEADER_NBYTES,
        src_nbytes=nbytes[copies],
        dst=0,
        dst_nbytes=nbytes[copies],
    )
    return Streams(StreamTable.concatenate([streams, copied]), blocks.filters(host), checksums, host)


def _headers(chunks: ChunkSet, expected: Int64Array | None) -> npt.NDArray[Any]:
    """Headers of all containers, checked by the rules of `blosc.parse_header`."""
    long_enough = chunks.nbytes >= blosc.HEADER_NBYTES
    if not long_enough.all():
        _refuse_header(chunks, int(np.flatnonzero(~long_enough)[0]), expected)
    lines = chunks.buffer[chunks.start[:, None] + np.arange(blosc.HEADER_NBYTES)] if len(chunks) else chunks.buffer[:0]
    header = lines.reshape(-1).view(_HEADER)
    flags, nbytes, blocksize, cbytes = (
        header[name].astype(np.int64) for name in ("flags", "nbytes", "blocksize", "cbytes")
    )
    plain = flags & blosc.FLAG_STORED != 0
    good = (header["version"] == blosc.VERSION) & (flags & blosc.FLAG_RESERVED == 0) & (cbytes == chunks.nbytes)
    good &= (nbytes >= 0) if expected is None else (nbytes == expected)
    good &= plain | ((header["codec_version"] == blosc.CODEC_VERSION) & (flags >> 5 < len(blosc.CODECS)))
    sized = (blocksize > 0) & (blocksize <= np.minimum(nbytes, blosc.MAX_BLOCKSIZE)) & (header["typesize"] > 0)
    nblocks = np.where(sized, -(-nbytes // np.maximum(blocksize, 1)), 0)
    room = np.where(plain, cbytes == nbytes + blosc.HEADER_NBYTES, 4 * nblocks <= cbytes - blosc.HEADER_NBYTES)
    typesize = np.maximum(header["typesize"].astype(np.int64), 1)
    split = _splits(flags, blocksize, typesize)
    room &= plain | ~split | (blocksize % typesize == 0)
    good &= (nbytes == 0) | (sized & room)
    if not good.all():
        _refuse_header(chunks, int(np.flatnonzero(~good)[0]), expected)
    return header


def _splits(flags: Int64Array, blocksize: Int64Array, typesize: Int64Array) -> npt.NDArray[np.bool_]:
    """Whether full blocks are cut into ``typesize`` streams."""
    split: npt.NDArray[np.bool_] = (flags & blosc.FLAG_NO_SPLIT == 0) & (typesize <= blosc.MAX_SPLITS)
    split &= blocksize // typesize >= blosc.MIN_SPLIT_ELEMENTS
    return split


def _refuse_header(chunks: ChunkSet, row: int, expected: Int64Array | None) -> NoReturn:
    size = None if expected is None else int(expected[row])
    try:
        blosc.parse_header(chunks.data(row), stored_nbytes=int(chunks.nbytes[row]), expected_nbytes=size)
    except ChunkError as error:
        raise chunks.locate(error, row) from None
    chunks.refuse(row, "The header of the Blosc container is damaged.", None, (0, blosc.HEADER_NBYTES))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The needed blocks of all coded containers, in order."""

    row: Int64Array
    start: Int64Array  # in the buffer
    dst: Int64Array
    nbytes: Int64Array
    splits: Int64Array
    codec: Int64Array
    flags: Int64Array
    typesize: Int64Array

    @classmethod
    def of(cls, chunks: ChunkSet, header: npt.NDArray[Any], needed: npt.NDArray[np.int64]) -> _Blocks:
        nbytes, blocksize = header["nbytes"].astype(np.int64), np.maximum(header["blocksize"].astype(np.int64), 1)
        coded = (header["flags"] & blosc.FLAG_STORED == 0) & (needed[:, 0] < needed[:, 1]) & (nbytes > 0)
        first = np.where(coded, needed[:, 0] // blocksize, 0)
        count = np.where(coded, (needed[:, 1] - 1) // blocksize + 1 - first, 0)
        row = np.repeat(np.arange(len(chunks)), count)
        block = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + first[row]
        flags, typesize = header["flags"].astype(np.int64)[row], header["typesize"].astype(np.int64)[row]
        full = blocksize[row]
        at = blosc.HEADER_NBYTES + 4 * block
        offset = chunks.read(chunks.start[row] + at, "<i4").astype(np.int64)
        low = blosc.HEADER_NBYTES + 4 * -(-nbytes // blocksize)
        chunks.refuse_first(
            (offset < low[row]) | (offset > chunks.nbytes[row] - 4),
            row,
            lambda i: f"The Blosc container puts block {block[i]} at byte {offset[i]}. The chunk is damaged.",
            Kind.CHUNK_DECODE,
            lambda i: (int(at[i]), int(at[i]) + 4),
        )
        dst = block * full
        size = np.minimum(full, nbytes[row] - dst)
        split = _splits(flags, full, typesize) & (size == full)
        return cls(
            row, chunks.start[row] + offset, dst, size, np.where(split, typesize, 1), flags >> 5, flags, typesize
        )

    def streams(self, chunks: ChunkSet) -> StreamTable:
        """Every stream by block and split; those of zlib with header and trailer."""
        most = int(self.splits.max(initial=0))
        shape = (len(self.row), most)
        src, size = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        stop = (chunks.start + chunks.nbytes)[self.row]
        at = self.start.copy()
        part = self.nbytes // self.splits
        for j in range(most):
            active = np.flatnonzero(self.splits > j)
            begin = at[active]
            found = chunks.read(begin, "<i4").astype(np.int64)
            room = stop[active] - begin - 4
            bad = (room < 0) | (found <= 0) | (found > room)
            if bad.any():
                self._refuse(chunks, active, bad, begin, found)
            src[active, j], size[active, j] = begin + 4, found
            at[active] = begin + 4 + found
        block, split = np.nonzero(np.arange(most) < self.splits[:, None])
        src_nbytes, dst_nbytes = size[block, split], part[block]
        algorithm = np.where(src_nbytes == dst_nbytes, np.uint8(Algorithm.STORED), _ALGORITHMS[self.codec[block]])
        return StreamTable.make(
            self.row[block],
            algorithm=algorithm,
            src=src[block, split],
            src_nbytes=src_nbytes,
            dst=self.dst[block] + split * dst_nbytes,
            dst_nbytes=dst_nbytes,
        )

    def _refuse(
        self, chunks: ChunkSet, active: Int64Array, bad: npt.NDArray[np.bool_], begin: Int64Array, found: Int64Array
    ) -> None:
        rows = self.row[active]
        origin = chunks.start[rows]

        def span(i: int) -> tuple[int, int]:
            at, end = int(begin[i] - origin[i]), int(chunks.nbytes[rows[i]])
            return min(at, end), min(at + 4, end)

        message = "The Blosc container has a stream of {} bytes that does not fit in. The chunk is damaged."
        chunks.refuse_first(bad, rows, lambda i: message.format(found[i]), Kind.CHUNK_DECODE, span)

    def filters(self, host: npt.NDArray[np.uint8]) -> FilterTable:
        """The blocks to unshuffle."""
        count = self.nbytes // self.typesize
        byte = (self.flags & blosc.FLAG_BYTE_SHUFFLE != 0) & (self.typesize > 1)
        bit = ~byte & (self.flags & blosc.FLAG_BIT_SHUFFLE != 0) & (count > 0) & (count % 8 == 0)
        moved = np.flatnonzero(((byte & (count > 1)) | bit) & (host[self.row] == HostReason.NONE))
        kind = np.where(byte, np.uint8(FilterKind.BYTE_UNSHUFFLE), np.uint8(FilterKind.BIT_UNSHUFFLE))
        return FilterTable.make(
            self.row[moved],
            stage=0,
            kind=kind[moved],
            dst=self.dst[moved],
            dst_nbytes=self.nbytes[moved],
            itemsize=self.typesize[moved],
        )


@dataclass(frozen=True, eq=False)
class _Checks:
    stream: Int64Array
    kind: Int64Array
    expected: Int64Array
    to_host: Int64Array  # streams that only a host decoder reads


def _check_streams(chunks: ChunkSet, streams: StreamTable) -> _Checks:
    """What the streams say about themselves: sizes, headers, checksums."""
    row, algorithm, src, src_nbytes = streams.chunk, streams.algorithm, streams.src, streams.src_nbytes
    dst_nbytes = streams.dst_nbytes
    coded = np.flatnonzero(algorithm != Algorithm.STORED)

    def refuse(these: Int64Array, bad: npt.NDArray[np.bool_], what: str, kind: Kind = Kind.CHUNK_DECODE) -> None:
        origin = chunks.start[row[these]]
        chunks.refuse_first(
            bad,
            row[these],
            lambda _: f"The Blosc container has a {what}. The chunk is damaged.",
            kind,
            lambda i: (int(src[these[i]] - origin[i]), int(src[these[i]] + src_nbytes[these[i]] - origin[i])),
        )

    used = set(np.unique(algorithm[coded]).tolist())
    none = np.zeros(0, np.int64)
    found: list[tuple[Int64Array, ChecksumKind, npt.NDArray[np.uint32]]] = []
    to_host = none
    if Algorithm.DEFLATE in used:
        these = coded[algorithm[coded] == Algorithm.DEFLATE]
        short = src_nbytes[these] < ZLIB_HEADER + ZLIB_TRAILER + 1
        refuse(these, short, "zlib stream without header and checksum", Kind.CHUNK_TRUNCATED)
        lead = chunks.read(src[these], ">u2").astype(np.int64)
        refuse(these, (lead >> 8 & 15 != 8) | (lead % 31 != 0) | (lead & 32 != 0), "zlib stream with a damaged header")
        stored = chunks.read(src[these] + src_nbytes[these] - ZLIB_TRAILER, ">u4")
        found.append((these, ChecksumKind.ADLER32, stored))
    if Algorithm.SNAPPY in used:
        these = coded[algorithm[coded] == Algorithm.SNAPPY]
        declared = snappy_nbytes(chunks, src[these], src_nbytes[these])
        refuse(these, declared != dst_nbytes[these], "snappy stream of another size", Kind.CHUNK_SIZE_MISMATCH)
    if Algorithm.ZSTD in used:
        these = coded[algorithm[coded] == Algorithm.ZSTD]
        frames = walk_frames(chunks, src[these], src_nbytes[these], row[these])
        count = np.bincount(frames.row, minlength=len(these))
        known = np.bincount(frames.row, frames.content_nbytes == dst_nbytes[these][frames.row], minlength=len(these))
        single = (count == 1) & (np.bincount(frames.row, frames.nbytes, minlength=len(these)) == src_nbytes[these])
        plain = single & (known == 1) & ~frames.odd
        plain &= np.bincount(frames.row, frames.has_dictionary, minlength=len(these)) == 0
        to_host = these[~plain]  # nothing that c-blosc writes
        marked = np.flatnonzero(frames.has_checksum & plain[frames.row])
        stored = chunks.read((frames.start + frames.nbytes - 4)[marked], "<u4")
        found.append((these[frames.row[marked]], ChecksumKind.XXH64, stored))
    return _Checks(
        np.concatenate([none, *(rows for rows, _, _ in found)]),
        np.concatenate([none, *(np.full(len(rows), kind) for rows, kind, _ in found)]),
        np.concatenate([none, *(values.astype(np.int64) for _, _, values in found)]),
        to_host,
    )


def snappy_nbytes(chunks: ChunkSet, src: Int64Array, src_nbytes: Int64Array) -> Int64Array:
    """Decoded size that raw snappy streams declare (a varint of at most 5 bytes); -1 where it is cut off."""
    size, going, ended = np.zeros(len(src), np.int64), np.ones(len(src), np.bool_), np.zeros(len(src), np.bool_)
    for i in range(5):
        byte = chunks.read(src + i, "u1").astype(np.int64)
        going &= src_nbytes > i
        size |= np.where(going, (byte & 127) << (7 * i), 0)
        ended |= going & (byte < 128)
        going &= byte >= 128
    return np.where(ended, size, -1)
