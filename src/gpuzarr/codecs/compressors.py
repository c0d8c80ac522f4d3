"""Compressors: bytes to bytes, decoded into memory whose size is known before a decoder runs."""

from __future__ import annotations

import bz2
import lzma
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numcodecs import Shuffle as NumcodecsShuffle
from numcodecs import blosc as numcodecs_blosc
from numcodecs import lz4 as numcodecs_lz4
from numcodecs import zstd as numcodecs_zstd

from gpuzarr.codecs.blosc import MAX_BLOCKSIZE
from gpuzarr.codecs.inflate import INFLATE_ERRORS, Inflate, is_checksum_error
from gpuzarr.codecs.steps import Bytes, as_bytes, size_mismatch, too_large, truncated
from gpuzarr.codecs.zstd_header import zstd_header
from gpuzarr.codecs.zstd_start import zstd_start
from gpuzarr.errors import ChunkError, Kind

__all__ = ["LZMA_MEMORY", "Bz2", "Gzip", "Lz4", "Lzma", "Shuffle", "Zlib", "Zstd"]

_PIECE = 256 << 10  # input given to a streaming decoder at a time: what it holds back is copied on every call
_OUTPUT_PIECE = 4 << 20  # most output per call of a streaming decoder: the size of the copy in between
LZMA_MEMORY = 128 << 20  # the highest preset needs 65 MiB for its dictionary; headers may claim 4 GiB


def _damaged(codec: str, error: Exception | str) -> ChunkError:
    return ChunkError(f"{codec}: {error}; the chunk is damaged, write it again", kind=Kind.CHUNK_DECODE)


@dataclass(frozen=True)
class Zstd:
    """Zstandard: one or more frames, with or without content size, skippable frames between them."""

    name: str = "zstd"
    is_verified: bool = False  # only frames that carry a checksum are

    def encoded_size(self, size: int) -> None:
        """Depends on the data."""

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """See `ByteStep.decode`."""
        if size is None:
            return self._decode_unsized(data, limit)
        if len(data) == 0:
            raise truncated(self.name)
        declared = zstd_content_size(data)
        try:
            if declared == size:  # straight into place; the decoder checks that all frames fit
                target = np.empty(size, np.uint8) if out is None else out
                if size == 0:
                    return target
                numcodecs_zstd.decompress(data, target)
                return target
            decoded = pa.Codec("zstd").decompress(data, size)  # fails unless exactly size bytes come out
        except (RuntimeError, ValueError, OSError) as error:
            raise self._error(data, size, error) from error
        return as_bytes(decoded)

    def decode_start(self, data: Bytes, needed: int, out: Bytes) -> int:
        """Decode no more than it takes for the first bytes.

        Parameters
        ----------
        data
            What is stored.
        needed
            Bytes that are wanted.
        out
            Where they go: memory of all that is stored.

        Returns
        -------
        int
            Bytes that were decoded, ``needed`` at least; 0 where all has to be decoded, for its bytes or for its error.
        """
        start = zstd_start(data, len(out), needed)
        if start is None:
            return 0
        frame, nbytes = start
        try:
            numcodecs_zstd.decompress(frame, out[:nbytes])
        except (RuntimeError, ValueError):
            return 0
        return nbytes

    def _error(self, data: Bytes, size: int, error: Exception) -> ChunkError:
        text = str(error).lower()
        if "checksum" in text:
            return ChunkError("zstd: the checksum of a frame does not match", kind=Kind.CHUNK_CHECKSUM)
        if "src size" in text:
            return truncated(self.name, "a frame ends early or bytes follow the last one")
        declared = zstd_content_size(data)
        if declared is not None and declared != size:
            return size_mismatch(self.name, size, declared)
        return _damaged(self.name, error)

    def _decode_unsized(self, data: Bytes, limit: int) -> Bytes:
        declared = zstd_content_size(data)
        # a block of four bytes becomes 128 KiB at most: a lie is found out before memory is allocated
        if declared is not None and declared <= min(limit, 32768 * len(data)):
            target = np.empty(declared, np.uint8)
            try:
                numcodecs_zstd.decompress(data, target)
            except (RuntimeError, ValueError):  # several frames, or damage: the stream tells
                pass
            else:
                return target
        pieces: list[bytes] = []
        room = limit + 1
        try:
            with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), "zstd") as stream:
                while room and (piece := stream.read(min(room, _OUTPUT_PIECE))):
                    pieces.append(piece)
                    room -= len(piece)
        except OSError as error:
            raise _damaged(self.name, error) from error
        if not room:
            raise too_large(self.name, limit)
        return as_bytes(b"".join(pieces))


def zstd_content_size(data: Bytes) -> int | None:
    """Content size that the first frame declares; None if it declares none or is no frame."""
    found = zstd_header(data)
    return None if found is None else found.content_nbytes


_STREAM_ERRORS: tuple[type[Exception], ...] = (*INFLATE_ERRORS, lzma.LZMAError, OSError, EOFError, ValueError)


class _Streaming:
    """A compressor of one or more members, decoded piece by piece so that nothing grows beyond the expected size."""

    name: str
    is_verified: bool
    multiple_members: bool

    def encoded_size(self, size: int) -> None:
        """Depends on the data."""

    def _member(self) -> Any:
        raise NotImplementedError

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """See `ByteStep.decode`."""
        try:
            return self._decode(data, size, limit, out)
        except _STREAM_ERRORS as error:
            if isinstance(error, ChunkError):
                raise  # a ValueError too
            text = str(error)
            if is_checksum_error(error) or "CRC" in text:
                raise ChunkError(f"{self.name}: {text}", kind=Kind.CHUNK_CHECKSUM) from error
            raise _damaged(self.name, error) from error

    def _decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        if size is not None and size < _OUTPUT_PIECE:
            decoded = self._decode_at_once(data, size)
            if decoded is not None:
                if out is None:
                    return decoded
                out[...] = decoded
                return out
        sink = _Sink(self.name, size, limit, out)
        view = memoryview(data)
        position = 0
        while position < len(view) or position == 0:
            member = self._member()
            while not member.eof:
                piece = view[position : position + _PIECE] if member.needs_input else view[:0]
                position += len(piece)
                decoded = member.decompress(piece, sink.room())
                if not decoded and not piece and not member.eof and position >= len(view):
                    raise truncated(self.name)
                sink.write(decoded)
            position -= len(member.unused_data)
            if position < len(view) and not self.multiple_members:
                raise size_mismatch(self.name, position, len(view))
        return sink.finish()

    def _decode_at_once(self, data: Bytes, size: int) -> Bytes | None:
        """A small chunk of one member; None where that is not what it is, or where it is damaged."""
        member = self._member()
        try:
            decoded = member.decompress(data, size + 1)  # one more than fits: room to reach the end of the stream
        except _STREAM_ERRORS:
            return None
        return as_bytes(decoded) if member.eof and not member.unused_data and len(decoded) == size else None


class _Sink:
    """Where decoded pieces go: a buffer of the exact size, or a growing one under a limit."""

    def __init__(self, name: str, size: int | None, limit: int, out: Bytes | None) -> None:
        self._name = name
        self._size = size
        self._limit = limit
        self._filled = 0
        self._out = np.empty(size, np.uint8) if out is None and size is not None else out
        self._pieces: list[bytes] = []

    def room(self) -> int:
        """Most bytes that the next piece may have: one more than fits, to notice what is too much."""
        most = self._limit if self._size is None else self._size
        return min(most - self._filled + 1, _OUTPUT_PIECE)

    def write(self, piece: bytes) -> None:
        """Append; raises `ChunkError` beyond the size."""
        end = self._filled + len(piece)
        if self._size is None and end > self._limit:
            raise too_large(self._name, self._limit)
        if self._size is not None and end > self._size:
            raise size_mismatch(self._name, self._size, "more")
        if self._out is None:
            self._pieces.append(piece)
        elif piece:
            self._out[self._filled : end] = np.frombuffer(piece, np.uint8)
        self._filled = end

    def finish(self) -> Bytes:
        """The buffer; raises `ChunkError` unless it is full."""
        if self._out is None:
            return as_bytes(b"".join(self._pieces))
        if self._filled != self._size:
            raise size_mismatch(self._name, int(self._size or 0), self._filled)
        return self._out


@dataclass(frozen=True)
class Gzip(_Streaming):
    """RFC 1952, one or more members; CRC-32 and length are checked."""

    name: str = "gzip"
    is_verified: bool = True
    multiple_members: bool = True

    def _member(self) -> Any:
        return Inflate(31)


@dataclass(frozen=True)
class Zlib(_Streaming):
    """RFC 1950; the Adler-32 is checked."""

    name: str = "zlib"
    is_verified: bool = True
    multiple_members: bool = False

    def _member(self) -> Any:
        return Inflate(15)


@dataclass(frozen=True)
class Bz2(_Streaming):
    """bzip2, one or more streams; its CRCs are checked."""

    name: str = "bz2"
    is_verified: bool = True
    multiple_members: bool = True

    def _member(self) -> Any:
        return bz2.BZ2Decompressor()


@dataclass(frozen=True)
class Lzma(_Streaming):
    """xz, legacy ``.lzma`` or a raw LZMA stream, as the document says."""

    format: int = lzma.FORMAT_XZ
    filters: tuple[tuple[tuple[str, int], ...], ...] | None = None
    name: str = "lzma"
    is_verified: bool = False
    multiple_members: bool = True

    def _member(self) -> Any:
        if self.format == lzma.FORMAT_RAW:
            return lzma.LZMADecompressor(self.format, filters=[dict(f) for f in self.filters or ()])
        return lzma.LZMADecompressor(self.format, memlimit=LZMA_MEMORY)


@dataclass(frozen=True)
class Lz4:
    """numcodecs' LZ4: the size as int32 little-endian, then one raw block."""

    name: str = "lz4"
    is_verified: bool = False

    def encoded_size(self, size: int) -> None:
        """Depends on the data."""

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """See `ByteStep.decode`."""
        if len(data) < 5:
            raise truncated(self.name)
        (declared,) = struct.unpack_from("<i", data)
        if size is not None and declared != size:
            raise size_mismatch(self.name, size, declared)
        most = 255 * len(data)  # no LZ4 block expands more: a lie is found out before memory is allocated
        if not 0 <= declared <= most:
            raise size_mismatch(self.name, f"at most {most}", declared)
        if declared > limit:
            raise too_large(self.name, limit)
        target = np.empty(declared, np.uint8) if out is None else out
        try:
            if not 128 <= declared <= MAX_BLOCKSIZE or declared == len(data) - 4:
                numcodecs_lz4.decompress(data, target)
            else:
                numcodecs_blosc.decompress(_as_blosc(data[4:], declared), target)
        except (RuntimeError, ValueError) as error:
            raise _damaged(self.name, error) from error
        return target


def _as_blosc(block: Bytes, size: int) -> Bytes:
    """A raw LZ4 block as a Blosc container of one stream.

    Blosc's decoder leaves the GIL, writes into place and insists on the exact size; numcodecs' LZ4 holds the GIL, pyarrow's
    leaves memory undefined where a stream is short.
    """
    head = struct.pack("<BBBBiiiii", 2, 1, 0x30, 1, size, size, 24 + len(block), 20, len(block))  # LZ4, not split
    return np.concatenate([np.frombuffer(head, np.uint8), block])


@dataclass(frozen=True)
class Shuffle:
    """Bytes of each element side by side over the whole buffer (numcodecs ``shuffle``)."""

    elementsize: int
    name: str = "shuffle"
    is_verified: bool = False

    def encoded_size(self, size: int) -> int:
        """Unchanged."""
        return size

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """See `ByteStep.decode`."""
        if size is not None and len(data) != size:
            raise size_mismatch(self.name, size, len(data))
        if self.elementsize <= 1:
            return data
        if len(data) % self.elementsize:
            raise size_mismatch(self.name, f"a multiple of {self.elementsize}", len(data))
        target = np.empty(len(data), np.uint8) if out is None else out
        NumcodecsShuffle(self.elementsize).decode(data, target)
        return target
