"""The Blosc1 container: header, blocks, and a smaller container made of some of its blocks.

A container is a 16-byte header, one int32 offset per block, and the blocks; a block is one or several
(``typesize``) streams, each led by its int32 size. The rules follow what c-blosc 1.21 writes and reads, not its
format document, which is wrong about where offsets are counted from. Everything is checked against the bytes at hand
before a decoder sees them: `gpuzarr.codecs.blosc_streams` does so for the streams of many containers at once.

Reading some blocks only::

    header = parse_header(first_16_bytes, stored_nbytes=object_size, expected_nbytes=chunk_nbytes)
    offsets = parse_offsets(header, next_bytes)  # offsets_nbytes(header) bytes from byte 16 on
    blocks = header.blocks_for(start, stop)  # that hold the decoded bytes [start, stop)
    spans = block_spans(header, offsets)[blocks]  # what to fetch
    small = subset_container(header, blocks, pieces)  # a Blosc container for any Blosc decoder
    # byte b of the chunk is byte b - blocks.start * header.blocksize of the decoded small container
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gpuzarr.errors import ChunkError, Kind

__all__ = [
    "HEADER_NBYTES",
    "BloscHeader",
    "block_spans",
    "offsets_nbytes",
    "parse_header",
    "parse_offsets",
    "subset",
    "subset_container",
]

Buffer: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.uint8]
Int64Array: TypeAlias = npt.NDArray[np.int64]

HEADER_NBYTES = 16
FLAG_BYTE_SHUFFLE, FLAG_STORED, FLAG_BIT_SHUFFLE, FLAG_RESERVED, FLAG_NO_SPLIT = 0x01, 0x02, 0x04, 0x08, 0x10
VERSION, CODEC_VERSION = 2, 1
CODECS: tuple[str, ...] = ("blosclz", "lz4", "snappy", "zlib", "zstd")  # bits 5-7 of the flags
MIN_SPLIT_ELEMENTS = 128
MAX_SPLITS = 16
MAX_BLOCKSIZE = (2**31 - 1 - 255 * 4) // 3

_HEADER = struct.Struct("<BBBBiii")


@dataclass(frozen=True, slots=True)
class BloscHeader:
    """A checked header.

    Parameters
    ----------
    flags
        As stored.
    typesize
        Bytes of one element, for the shuffles and the splits.
    nbytes, blocksize, cbytes
        Decoded bytes, decoded bytes of a full block, stored bytes with the header.
    """

    flags: int
    typesize: int
    nbytes: int
    blocksize: int
    cbytes: int

    @property
    def is_stored(self) -> bool:
        """Whether the payload is a plain copy of the data ("memcpyed"); the shuffle flags mean nothing then."""
        return bool(self.flags & FLAG_STORED)

    @property
    def codec(self) -> str:
        """Name of the codec of the streams; "stored" for a plain copy."""
        return "stored" if self.is_stored else CODECS[self.flags >> 5]

    @property
    def shuffle(self) -> Literal["none", "byte", "bit"]:
        """The filter of the blocks."""
        if self.is_stored:
            return "none"
        if self.flags & FLAG_BYTE_SHUFFLE and self.typesize > 1:
            return "byte"
        return "bit" if self.flags & FLAG_BIT_SHUFFLE else "none"

    @property
    def nblocks(self) -> int:
        """Blocks of the container, a shorter last one included; a plain copy is cut the same way."""
        return -(-self.nbytes // self.blocksize) if self.nbytes else 0

    @property
    def splits(self) -> int:
        """Streams of a full block; a shorter last block has one."""
        if self.is_stored or self.flags & FLAG_NO_SPLIT or self.typesize > MAX_SPLITS:
            return 1
        return self.typesize if self.blocksize // self.typesize >= MIN_SPLIT_ELEMENTS else 1

    def blocks_for(self, start: int, stop: int) -> range:
        """Blocks that hold the decoded bytes ``[start, stop)``."""
        if not 0 <= start <= stop <= self.nbytes:
            raise ValueError(f"bytes {start}-{stop} of a chunk of {self.nbytes}")
        if start == stop:
            return range(0)
        return range(start // self.blocksize, (stop - 1) // self.blocksize + 1)

    def block_nbytes(self, blocks: npt.ArrayLike) -> Int64Array:
        """Decoded bytes of each of these blocks."""
        first = np.asarray(blocks, np.int64) * self.blocksize
        return np.minimum(self.blocksize, self.nbytes - first)


def parse_header(data: Buffer, *, stored_nbytes: int | None = None, expected_nbytes: int | None = None) -> BloscHeader:
    """Read and check the header of a container.

    Parameters
    ----------
    data
        The container, or at least its first 16 bytes.
    stored_nbytes
        Bytes of the whole container where they are known: must be what the header says.
    expected_nbytes
        Bytes of the decoded chunk where they are known: must be what the header says.

    Raises
    ------
    ChunkError
        Not a Blosc1 container, cut short, or of another size.
    """
    view = memoryview(data).cast("B")
    if len(view) < HEADER_NBYTES:
        raise _error("is shorter than its header", Kind.CHUNK_TRUNCATED, 0, len(view))
    version, codec_version, flags, typesize, nbytes, blocksize, cbytes = _HEADER.unpack_from(view)
    if version != VERSION or flags & FLAG_RESERVED:
        raise _error(f"has format version {version} and flags 0x{flags:02x}; Blosc1 is version 2")
    if not flags & FLAG_STORED and flags >> 5 >= len(CODECS):
        raise _error(f"names an unknown codec ({flags >> 5})")
    if not flags & FLAG_STORED and codec_version != CODEC_VERSION:
        raise _error(f"has streams of format version {codec_version}; c-blosc reads {CODEC_VERSION}")
    if nbytes < 0 or cbytes < HEADER_NBYTES:
        raise _error(f"claims {nbytes} bytes from {cbytes}")
    if expected_nbytes is not None and nbytes != expected_nbytes:
        raise _error(f"claims {nbytes} decoded bytes, the chunk has {expected_nbytes}", Kind.CHUNK_SIZE_MISMATCH)
    if stored_nbytes is not None and cbytes > stored_nbytes:
        raise _error(f"claims {cbytes} stored bytes, {stored_nbytes} are there", Kind.CHUNK_TRUNCATED)
    if stored_nbytes is not None and cbytes < stored_nbytes:
        message = f"is followed by {stored_nbytes - cbytes} bytes that do not belong to it"
        raise _error(message, Kind.CHUNK_SIZE_MISMATCH, cbytes, stored_nbytes)
    header = BloscHeader(flags, typesize, nbytes, blocksize, cbytes)
    if nbytes == 0:
        return header
    if not 0 < blocksize <= min(nbytes, MAX_BLOCKSIZE) or typesize == 0:
        raise _error(f"has block size {blocksize} and type size {typesize}")
    if header.is_stored:
        if cbytes != nbytes + HEADER_NBYTES:
            raise _error(f"stores {nbytes} bytes plainly in {cbytes - HEADER_NBYTES}", Kind.CHUNK_SIZE_MISMATCH)
    elif header.splits > 1 and blocksize % typesize:  # its splits would leave bytes of every block undefined
        raise _error(f"has blocks of {blocksize} bytes, no whole number of {typesize}-byte elements")
    elif offsets_nbytes(header) > cbytes - HEADER_NBYTES:
        raise _error(f"has no room for the offsets of its {header.nblocks} blocks")
    return header


def offsets_nbytes(header: BloscHeader) -> int:
    """Bytes of the block offsets, which follow the header; 0 where there are none (plain copy, empty)."""
    return 0 if header.is_stored else 4 * header.nblocks


def parse_offsets(header: BloscHeader, data: Buffer) -> Int64Array:
    """Where each block starts, counted from byte 0 of the container.

    Parameters
    ----------
    data
        ``offsets_nbytes(header)`` bytes (or more) from byte 16 of the container on.

    Raises
    ------
    ChunkError
        Cut short, or a block that starts outside of the container.
    """
    if header.is_stored or not header.nbytes:
        return HEADER_NBYTES + np.arange(header.nblocks, dtype=np.int64) * header.blocksize
    needed = offsets_nbytes(header)
    view = memoryview(data).cast("B")
    if len(view) < needed:
        raise _error("ends in its block offsets", Kind.CHUNK_TRUNCATED, HEADER_NBYTES, HEADER_NBYTES + needed)
    offsets = np.frombuffer(view, "<i4", header.nblocks).astype(np.int64)
    bad = np.flatnonzero((offsets < HEADER_NBYTES + needed) | (offsets > header.cbytes - 4))
    if bad.size:
        at = HEADER_NBYTES + 4 * int(bad[0])
        raise _error(f"puts block {bad[0]} at byte {offsets[bad[0]]} of {header.cbytes}", None, at, at + 4)
    return offsets


def block_spans(header: BloscHeader, offsets: Int64Array, blocks: Int64Array | None = None) -> Int64Array:
    """Bytes of the container to fetch for each block (of some, or of all): int64 ``(n, 2)`` of (start, stop).

    The size of a block is only written inside of it, so a span reaches to where the next block starts.
    """
    chosen = np.arange(header.nblocks) if blocks is None else blocks
    spans = np.empty((len(chosen), 2), np.int64)
    spans[:, 0] = offsets[chosen]
    if header.is_stored:
        spans[:, 1] = spans[:, 0] + header.block_nbytes(chosen)
        return spans
    if (offsets[1:] > offsets[:-1]).all():  # as one thread writes them
        stops = np.empty(len(offsets), np.int64)
        stops[:-1], stops[-1:] = offsets[1:], header.cbytes
        spans[:, 1] = stops[chosen]
        return spans
    starts = np.append(np.unique(offsets), header.cbytes)
    spans[:, 1] = starts[np.searchsorted(starts, spans[:, 0], side="right")]
    return spans


def subset_container(header: BloscHeader, blocks: Sequence[int], pieces: Sequence[Buffer]) -> bytes:
    """A container of some blocks, which every Blosc decoder reads; see `subset`."""
    return subset(header, blocks, pieces)[1]


def subset(header: BloscHeader, blocks: Sequence[int], pieces: Sequence[Buffer]) -> tuple[BloscHeader, bytes]:
    """A container of some blocks, which every Blosc decoder reads, and its header.

    Parameters
    ----------
    header
        Of the whole container.
    blocks
        Ascending block indices, at least one.
    pieces
        The stored bytes of each of them, as `block_spans` says.

    Returns
    -------
    BloscHeader, bytes
        A container whose decoded bytes are those of the blocks, one after the other.

    Raises
    ------
    ChunkError
        A piece that does not hold the streams of its block.
    """
    sizes = [min(header.blocksize, header.nbytes - block * header.blocksize) for block in blocks]
    nbytes = sum(sizes)
    blocksize = min(header.blocksize, nbytes)
    flags = header.flags
    views = [memoryview(piece).cast("B") for piece in pieces]
    if header.is_stored:
        for block, view, size in zip(blocks, views, sizes, strict=True):
            if len(view) != size:
                raise _error(f"has {len(view)} of the {size} bytes of block {block}", Kind.CHUNK_TRUNCATED)
        found = BloscHeader(flags, header.typesize, nbytes, blocksize, HEADER_NBYTES + nbytes)
        return found, b"".join([_packed(found), *views])
    if nbytes < header.blocksize:  # the shorter last block alone: as a full block it would count as split
        flags |= FLAG_NO_SPLIT
    offsets = []
    position = HEADER_NBYTES + 4 * len(views)
    for i, (block, size) in enumerate(zip(blocks, sizes, strict=True)):
        splits = header.splits if size == header.blocksize else 1
        views[i] = views[i][: _block_stored_nbytes(views[i], splits, block)]
        offsets.append(position)
        position += len(views[i])
    if position > 2**31 - 1:
        raise _error(f"has {position} bytes in {len(views)} blocks")
    found = BloscHeader(flags, header.typesize, nbytes, blocksize, position)
    return found, b"".join([_packed(found), struct.pack(f"<{len(offsets)}i", *offsets), *views])


def _packed(header: BloscHeader) -> bytes:
    return _HEADER.pack(
        VERSION, CODEC_VERSION, header.flags, header.typesize, header.nbytes, header.blocksize, header.cbytes
    )


def _block_stored_nbytes(view: memoryview, splits: int, block: int) -> int:
    position = 0
    for _ in range(splits):
        if position + 4 > len(view):
            raise _error(f"ends inside block {block}", Kind.CHUNK_TRUNCATED)
        (size,) = struct.unpack_from("<i", view, position)
        position += 4 + size
        if size < 0 or position > len(view):
            raise _error(f"has a stream of {size} bytes in block {block}, of which {len(view)} bytes are there")
    return position


def _error(what: str, kind: Kind | None = None, *span: int) -> ChunkError:
    byte_range: Any = span or (0, HEADER_NBYTES)
    return ChunkError(f"The Blosc container {what}. The chunk is damaged.", kind=kind, byte_range=byte_range)
