"""The flat tables that a stream plan is made of: numpy columns, one row per stream, filter block or checksum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

__all__ = [
    "Algorithm",
    "ChecksumKind",
    "ChecksumTable",
    "FilterKind",
    "FilterTable",
    "HostReason",
    "StreamTable",
    "Streams",
]

Int64Array = npt.NDArray[np.int64]


class Algorithm(IntEnum):
    """What turns the source span of a stream into its destination span."""

    STORED = 0  # a plain copy
    LZ4 = 1  # one raw block
    ZSTD = 2  # one frame
    DEFLATE = 3  # raw, without zlib's or gzip's header and trailer
    GZIP = 4  # one member
    SNAPPY = 5  # raw, with its varint preamble
    BLOSCLZ = 6
    HOST = 7  # the whole chunk by its codec chain on the host, see `HostReason`


class HostReason(IntEnum):
    """Why a chunk is decoded by its codec chain on the host."""

    NONE = 0
    CODEC = 1  # no batch decoder knows the codec
    NESTED = 2  # a compressor or checksum inside of a compressor
    VARIABLE_SIZE = 3  # the decoded size is not fixed by the metadata
    FRAMES = 4  # several zstd frames whose sizes are unknown, or a frame that needs a dictionary
    MEMBERS = 5  # several gzip members, or what does not look like one
    CHECKSUM = 6  # a checksum over the stored bytes that only the host computes
    BLOCKS = 7  # very many Blosc blocks: their tables would outgrow the chunk

    @property
    def text(self) -> str:
        """One phrase for reports."""
        return _REASONS[self]


_REASONS = {
    HostReason.NONE: "",
    HostReason.CODEC: "no batch decoder for this codec",
    HostReason.NESTED: "codecs inside of a compressor",
    HostReason.VARIABLE_SIZE: "decoded size not fixed by the metadata",
    HostReason.FRAMES: "zstd frames that only a host decoder reads",
    HostReason.MEMBERS: "several gzip members",
    HostReason.CHECKSUM: "a checksum that only the host computes",
    HostReason.BLOCKS: "Blosc blocks too small for a batch",
}


class FilterKind(IntEnum):
    """What is done to decoded bytes, in place of them."""

    BYTE_UNSHUFFLE = 0  # byte j of element i was at j * n + i, n = nbytes // itemsize; the tail is verbatim
    BIT_UNSHUFFLE = 1  # bit k of byte j of element i was bit i % 8 of byte (j * 8 + k) * (n / 8) + i // 8; n % 8 == 0
    BYTE_SWAP = 2  # reverse the bytes of every element


class ChecksumKind(IntEnum):
    """A checksum over a span; 32 bits except XXH64, of which zstd keeps the low 32."""

    CRC32C = 0
    CRC32 = 1
    ADLER32 = 2
    FLETCHER32 = 3  # as HDF5 computes it
    XXH64 = 4


@dataclass(frozen=True, eq=False)
class _Table:
    _dtypes: ClassVar[Mapping[str, type[np.generic]]] = {}
    _defaults: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, field.name)) for field in fields(self)}
        if len(lengths) != 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: npt.NDArray[Any] | slice) -> Self:
        """The table of some rows, by indices, mask or slice."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def make(cls, chunk: npt.ArrayLike, **columns: npt.ArrayLike) -> Self:
        """Columns of the right dtypes, scalars repeated to the length of ``chunk``."""
        first = np.atleast_1d(np.asarray(chunk, np.int64))
        given = {**cls._defaults, **columns}
        filled = [first]
        for name, dtype in cls._dtypes.items():
            column = np.asarray(given.pop(name), dtype)
            filled.append(column if column.ndim else np.full(len(first), column, dtype))
        if given:
            raise TypeError(f"no such columns: {sorted(given)}")
        return cls(*filled)

    @classmethod
    def empty(cls) -> Self:
        """No rows."""
        return cls.make([], **dict.fromkeys(cls._dtypes, ()))

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """The rows of all tables; at least one table."""
        return cls(*(np.concatenate([getattr(t, field.name) for t in tables]) for field in fields(cls)))


@dataclass(frozen=True, eq=False)
class StreamTable(_Table):
    """Streams to decode.

    Parameters
    ----------
    chunk
        Chunk of the plan that the stream belongs to, int64.
    algorithm, reason
        `Algorithm` and `HostReason`, uint8.
    src, src_nbytes
        Source span: offset in the chunk's buffer and bytes, int64.
    dst, dst_nbytes
        Destination span: offset in the output arena and exact number of decoded bytes, int64.
    """

    _dtypes: ClassVar[Mapping[str, type[np.generic]]] = {
        "algorithm": np.uint8,
        "reason": np.uint8,
        "src": np.int64,
        "src_nbytes": np.int64,
        "dst": np.int64,
        "dst_nbytes": np.int64,
    }
    _defaults: ClassVar[Mapping[str, int]] = {"reason": 0}

    chunk: Int64Array
    algorithm: npt.NDArray[np.uint8]
    reason: npt.NDArray[np.uint8]
    src: Int64Array
    src_nbytes: Int64Array
    dst: Int64Array
    dst_nbytes: Int64Array


@dataclass(frozen=True, eq=False)
class FilterTable(_Table):
    """Filters, applied in the order of ``stage``; rows of one stage do not overlap.

    Parameters
    ----------
    chunk
        Chunk of the plan, int64.
    stage, kind
        Order of application and `FilterKind`, uint8.
    dst, dst_nbytes
        Span of the output arena, int64.
    itemsize
        Bytes of an element, int64.
    """

    _dtypes: ClassVar[Mapping[str, type[np.generic]]] = {
        "stage": np.uint8,
        "kind": np.uint8,
        "dst": np.int64,
        "dst_nbytes": np.int64,
        "itemsize": np.int64,
    }

    chunk: Int64Array
    stage: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    dst: Int64Array
    dst_nbytes: Int64Array
    itemsize: Int64Array


@dataclass(frozen=True, eq=False)
class ChecksumTable(_Table):
    """Checksums.

    Parameters
    ----------
    chunk
        Chunk of the plan, int64.
    kind
        `ChecksumKind`, uint8.
    decoded
        Whether the span is one of the output arena (after decoding, before the filters), else of the buffer; bool.
    start, nbytes
        The span, int64.
    expected
        The stored checksum, uint32.
    stream
        Row of the stream table whose output this covers, -1 for a span of the buffer; int64.
    """

    _dtypes: ClassVar[Mapping[str, type[np.generic]]] = {
        "kind": np.uint8,
        "decoded": np.bool_,
        "start": np.int64,
        "nbytes": np.int64,
        "expected": np.uint32,
        "stream": np.int64,
    }
    _defaults: ClassVar[Mapping[str, int]] = {"stream": -1}

    chunk: Int64Array
    kind: npt.NDArray[np.uint8]
    decoded: npt.NDArray[np.bool_]
    start: Int64Array
    nbytes: Int64Array
    expected: npt.NDArray[np.uint32]
    stream: Int64Array

    @classmethod
    def of_streams(cls, streams: StreamTable, rows: Int64Array, kind: npt.ArrayLike, expected: npt.ArrayLike) -> Self:
        """Checksums over the output of some streams."""
        covered = streams.take(rows)
        return cls.make(
            covered.chunk,
            kind=kind,
            decoded=True,
            start=covered.dst,
            nbytes=covered.dst_nbytes,
            expected=expected,
            stream=rows,
        )


@dataclass(frozen=True, eq=False)
class Streams:
    """What a compressor's bytes amount to, for some chunks.

    Parameters
    ----------
    streams, filters, checksums
        ``chunk`` counts these chunks; ``dst`` and the decoded checksums' ``start`` count from the start of a chunk.
    host
        Per chunk the `HostReason` why it has no streams; zero for those that have. uint8.
    """

    streams: StreamTable
    filters: FilterTable
    checksums: ChecksumTable
    host: npt.NDArray[np.uint8]
