"""The batch decoder: many streams of one algorithm in one call, on memory given by addresses.

The call has the shape of nvCOMP's batched C API, so that the same pointer tables serve the device and its host twin
(`gpuzarr.codecs.batch_host`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from gpuzarr.codecs.tables import Algorithm, ChecksumKind

__all__ = ["ALIGNMENTS", "MAX_STREAM_NBYTES", "Alignments", "BatchDecoder", "Status", "temp_nbytes"]


class Status(IntEnum):
    """Of a call or of one stream; nvCOMP's numbers."""

    SUCCESS = 0
    INVALID_VALUE = 10
    NOT_SUPPORTED = 11
    CANNOT_DECOMPRESS = 12
    ALIGNMENT = 17
    CHUNK_TOO_LARGE = 18


@dataclass(frozen=True, slots=True)
class Alignments:
    """Bytes that addresses of inputs, outputs and scratch are multiples of."""

    input: int = 1
    output: int = 1
    temp: int = 1


ALIGNMENTS = {
    Algorithm.LZ4: Alignments(),
    Algorithm.SNAPPY: Alignments(),
    Algorithm.DEFLATE: Alignments(input=4),
    Algorithm.GZIP: Alignments(),
    Algorithm.ZSTD: Alignments(temp=8),
}
"""What nvCOMP 5.3 requires."""

MAX_STREAM_NBYTES = {
    Algorithm.LZ4: 2**32 - 1,
    Algorithm.SNAPPY: 2**31 - 1,
    Algorithm.DEFLATE: 2**32 - 1,
    Algorithm.GZIP: 2**32 - 1,
    Algorithm.ZSTD: 2**31 - 1,
}
"""Most decoded bytes of one stream (nvCOMP 5.3)."""


def temp_nbytes(algorithm: Algorithm, streams: int, total_nbytes: int) -> int:
    """Scratch that nvCOMP 5.3 asks for; ``total_nbytes`` are the decoded bytes of the batch."""
    if algorithm != Algorithm.ZSTD:
        return 0
    return 3 * total_nbytes + int(3468 * max(2 * streams, total_nbytes / 65536))


class BatchDecoder(Protocol):
    """Decodes batches of streams.

    Attributes
    ----------
    name
        For reports.
    algorithms
        What it decodes; streams of others go through the host.
    verifies
        Checksums inside of the streams that it checks itself, failing the stream.
    """

    @property
    def name(self) -> str: ...

    @property
    def algorithms(self) -> frozenset[Algorithm]: ...

    @property
    def verifies(self) -> frozenset[ChecksumKind]: ...

    def required_alignments(self, algorithm: Algorithm) -> Alignments:
        """Alignments of inputs, outputs and scratch."""
        ...

    def temp_size(
        self, algorithm: Algorithm, streams: int, max_stream_nbytes: int, total_nbytes: int
    ) -> tuple[int, int]:
        """Scratch for a batch.

        Parameters
        ----------
        streams
            Streams of the batch.
        max_stream_nbytes, total_nbytes
            Decoded bytes of the largest stream and of all.

        Returns
        -------
        status, nbytes
            `Status.CHUNK_TOO_LARGE` where a stream is larger than the decoder takes.
        """
        ...

    def decompress(
        self,
        algorithm: Algorithm,
        comp_ptrs: int,
        comp_nbytes: int,
        capacities: int,
        actual_nbytes: int,
        streams: int,
        temp: int,
        temp_nbytes: int,
        out_ptrs: int,
        statuses: int,
        stream: int,
    ) -> int:
        """Decode a batch; every argument is an address or a number.

        Parameters
        ----------
        comp_ptrs, out_ptrs
            Addresses of uint64 arrays of addresses: where each stream and its output start.
        comp_nbytes, capacities
            Addresses of uint64 arrays: bytes of each stream, and room for its output.
        actual_nbytes, statuses
            Addresses of uint64 and int32 arrays to fill in: decoded bytes and `Status` of each stream.
        streams
            How many.
        temp, temp_nbytes
            Scratch.
        stream
            Queue of the device (0 on the host): the call may return before the work is done.

        Returns
        -------
        int
            `Status` of the call; an empty batch is `Status.INVALID_VALUE`.
        """
        ...
