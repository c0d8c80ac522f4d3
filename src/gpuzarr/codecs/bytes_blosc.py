"""Blosc chunks on the host: the native decoder on a checked container, whole or only some inner blocks of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numcodecs import blosc as numcodecs_blosc

from gpuzarr.codecs import blosc
from gpuzarr.codecs.blosc_streams import BLOCK_NBYTES, FREE_BLOCKS
from gpuzarr.codecs.steps import Bytes, size_mismatch, too_large, truncated
from gpuzarr.errors import ChunkError, Kind

__all__ = ["Blosc", "block_runs", "decode_blocks", "is_divisible", "predicted_blocksize", "touched_blocks"]

_SMALL, _LARGE = 32 << 10, 1 << 20
_HIGH_RATIO = ("lz4hc", "zlib", "zstd")
_SPLIT = ("blosclz", "lz4", "lz4hc", "snappy", "zlib")
_SPLIT_LIMIT = 256 << 10


@dataclass(frozen=True)
class Blosc:
    """A Blosc1 container of any codec and shuffle; its own header says which.

    Parameters
    ----------
    cname, clevel, blocksize, typesize
        What the document says that the writer used: only guesses at how the container is divided.
    """

    cname: str = "lz4"
    clevel: int = 5
    blocksize: int = 0
    typesize: int = 4
    name: str = "blosc"
    is_verified: bool = False

    def encoded_size(self, size: int) -> None:
        """Depends on the data."""

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """See `ByteStep.decode`."""
        header = blosc.parse_header(data, stored_nbytes=len(data), expected_nbytes=size)
        if header.nbytes > limit:
            raise too_large(self.name, limit)
        if size is None:  # a lie about the size shows in the block table before memory is allocated
            blosc.parse_offsets(header, data[blosc.HEADER_NBYTES :])
        target = np.empty(header.nbytes, np.uint8) if out is None else out
        _decompress(header, data, target)
        return target


def predicted_blocksize(codec: Blosc, nbytes: int) -> int:
    """Block size that c-blosc chooses (``compute_blocksize`` of 1.21) for a chunk of ``nbytes``; a guess elsewhere."""
    if nbytes < max(codec.typesize, 1):
        return 1
    size = nbytes
    typesize = min(max(codec.typesize, 1), 255)
    if codec.blocksize > 0:
        size = min(max(codec.blocksize, 128), blosc.MAX_BLOCKSIZE)
    elif nbytes >= _SMALL:
        high = codec.cname in _HIGH_RATIO
        size = _SMALL * (2 if high else 1)
        level = min(max(codec.clevel, 0), 9)
        factors = (0.25, 0.5, 1, 2, 4, 4, 8, 8, 8, 16 if high else 8)
        size = int(size * factors[level])
    if codec.clevel > 0 and codec.cname in _SPLIT and typesize <= blosc.MAX_SPLITS and size // typesize >= 128:
        size = min(max(min(size, _SPLIT_LIMIT) * typesize, 64 << 10), _LARGE)
    size = min(size, nbytes)
    return size // typesize * typesize if size > typesize else size


def is_divisible(header: blosc.BloscHeader) -> bool:
    """Whether blocks of a container are decoded alone: not where they are so many that tables of them outgrow it."""
    return header.nblocks <= FREE_BLOCKS + header.nbytes // BLOCK_NBYTES


def touched_blocks(header_blocksize: int, runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Ascending numbers of the blocks that hold some ascending runs of bytes."""
    if not len(runs):
        return np.empty(0, np.int64)
    first, last = runs[:, 0] // header_blocksize, (runs[:, 1] - 1) // header_blocksize
    counts = last - first + 1
    repeated = np.repeat(first - np.cumsum(counts) + counts, counts)
    numbers = repeated + np.arange(int(counts.sum()))
    return numbers[np.diff(numbers, prepend=-1) > 0]  # a run may begin in the block that the one before it ends in


def decode_blocks(
    header: blosc.BloscHeader, blocks: npt.NDArray[np.int64], stored: Sequence[Bytes], target: Bytes
) -> list[tuple[int, int]]:
    """Decode some blocks of a container into their places.

    Parameters
    ----------
    header
        Of the container.
    blocks
        Ascending block numbers.
    stored
        The stored bytes of each of them.
    target
        Memory of the whole decoded container.

    Returns
    -------
    list
        The (start, stop) of the bytes that were decoded, ascending.
    """
    runs = block_runs(header, blocks, stored)
    for start, stop, part, container in runs:
        _decompress(part, container, target[start:stop])
    return [(start, stop) for start, stop, _, _ in runs]


def block_runs(
    header: blosc.BloscHeader, blocks: npt.NDArray[np.int64], stored: Sequence[Bytes]
) -> list[tuple[int, int, blosc.BloscHeader, Bytes]]:
    """Runs of neighbouring blocks as containers of their own; see `decode_blocks`.

    Returns
    -------
    list
        First decoded byte, last one + 1, header and bytes of the container.
    """
    numbers = blocks.tolist()
    runs = []
    first = 0
    for last in range(1, len(numbers) + 1):
        if last < len(numbers) and numbers[last] == numbers[last - 1] + 1:
            continue
        part, container = blosc.subset(header, numbers[first:last], stored[first:last])
        start = numbers[first] * header.blocksize
        runs.append((start, start + part.nbytes, part, np.frombuffer(container, np.uint8)))
        first = last
    return runs


def _decompress(header: blosc.BloscHeader, data: Bytes, target: Bytes) -> None:
    if header.nbytes == 0:
        return
    if header.is_stored:
        target[...] = data[blosc.HEADER_NBYTES : blosc.HEADER_NBYTES + header.nbytes]
        return
    if header.codec == "snappy":
        data = _without_snappy(header, data)
    try:
        numcodecs_blosc.decompress(data, target)
    except (RuntimeError, ValueError) as error:
        raise ChunkError(f"blosc: {error}; the chunk is damaged, write it again", kind=Kind.CHUNK_DECODE) from error


def _without_snappy(header: blosc.BloscHeader, data: Bytes) -> Bytes:
    """The same container with its snappy streams stored plainly: numcodecs has no snappy, but knows all else."""
    codec = pa.Codec("snappy")
    view = memoryview(data)
    offsets = blosc.parse_offsets(header, view[blosc.HEADER_NBYTES :])
    parts: list[bytes | memoryview] = []
    starts = []
    position = blosc.HEADER_NBYTES + 4 * header.nblocks
    for block, offset in enumerate(offsets.tolist()):
        size = min(header.blocksize, header.nbytes - block * header.blocksize)
        splits = header.splits if size == header.blocksize else 1
        starts.append(position)
        for _ in range(splits):
            if offset + 4 > len(view):
                raise truncated("blosc")
            (length,) = struct.unpack_from("<i", view, offset)
            stream = view[offset + 4 : offset + 4 + max(length, 0)]
            if length < 0 or len(stream) != length:
                raise truncated("blosc", f"a stream of {length} bytes reaches beyond the end")
            plain = stream if length == size // splits else _snappy(codec, stream, size // splits)
            parts += [struct.pack("<i", len(plain)), plain]
            position += 4 + len(plain)
            offset += 4 + length
    flags = header.flags & 0x1F | 1 << 5  # named LZ4: a stream of full size is copied whatever the name
    head = struct.pack("<BBBBiii", 2, 1, flags, header.typesize, header.nbytes, header.blocksize, position)
    return np.frombuffer(b"".join([head, np.array(starts, "<i4").tobytes(), *parts]), np.uint8)


def _snappy(codec: pa.Codec, stream: memoryview, size: int) -> memoryview:
    declared = shift = 0
    for byte in stream[:5]:
        declared |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if declared != size:
        raise size_mismatch("snappy", size, declared)
    try:
        return memoryview(codec.decompress(pa.py_buffer(stream), size))
    except OSError as error:
        raise ChunkError(f"snappy: {error}; the chunk is damaged, write it again", kind=Kind.CHUNK_DECODE) from error
