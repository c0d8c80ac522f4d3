"""The strict twin of nvCOMP's batched calls on host memory, served by host libraries.

It refuses what nvCOMP refuses or leaves undefined (misaligned buffers, too little scratch, several zstd frames, bytes
after the end of a stream), writes nothing outside of the given spans, and poisons every output before it decodes.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numcodecs import lz4 as numcodecs_lz4

from gpuzarr.codecs.batch import ALIGNMENTS, MAX_STREAM_NBYTES, Alignments, Status, temp_nbytes
from gpuzarr.codecs.blosclz import decode_blosclz
from gpuzarr.codecs.chunk_set import ChunkSet
from gpuzarr.codecs.tables import Algorithm, ChecksumKind
from gpuzarr.codecs.zstd_frames import walk_frames
from gpuzarr.errors import GpuzarrError

__all__ = ["HostBatchDecoder", "decode_stream"]

Bytes = npt.NDArray[np.uint8]
POISON = 0xA5


@dataclass(frozen=True)
class HostBatchDecoder:
    """`gpuzarr.codecs.batch.BatchDecoder` on host memory.

    Parameters
    ----------
    algorithms
        What it decodes; BloscLZ is not among what nvCOMP decodes.
    poison
        Whether outputs are filled with 0xA5 before they are decoded.
    """

    algorithms: frozenset[Algorithm] = frozenset({*ALIGNMENTS, Algorithm.BLOSCLZ})
    poison: bool = True
    name: str = "host twin"
    verifies: frozenset[ChecksumKind] = frozenset({ChecksumKind.XXH64})

    def required_alignments(self, algorithm: Algorithm) -> Alignments:
        """See `BatchDecoder.required_alignments`."""
        return ALIGNMENTS.get(algorithm, Alignments())

    def temp_size(
        self, algorithm: Algorithm, streams: int, max_stream_nbytes: int, total_nbytes: int
    ) -> tuple[int, int]:
        """See `BatchDecoder.temp_size`."""
        if max_stream_nbytes > MAX_STREAM_NBYTES.get(algorithm, 2**31 - 1):
            return Status.CHUNK_TOO_LARGE, 0
        return Status.SUCCESS, temp_nbytes(algorithm, streams, total_nbytes)

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
        stream: int = 0,
    ) -> int:
        """See `BatchDecoder.decompress`."""
        if streams == 0 or not all((comp_ptrs, comp_nbytes, capacities, actual_nbytes, out_ptrs, statuses)):
            return Status.INVALID_VALUE
        if algorithm not in self.algorithms:
            return Status.NOT_SUPPORTED
        if any(table % 8 for table in (comp_ptrs, comp_nbytes, capacities, actual_nbytes, out_ptrs)) or statuses % 4:
            return Status.ALIGNMENT
        inputs, sizes, room, actual, outputs = (
            _uint64_at(table, streams) for table in (comp_ptrs, comp_nbytes, capacities, actual_nbytes, out_ptrs)
        )
        status = np.ctypeslib.as_array((ctypes.c_int32 * streams).from_address(statuses))
        need = self.required_alignments(algorithm)
        if (inputs % need.input).any() or (outputs % need.output).any() or temp % need.temp:
            return Status.ALIGNMENT
        code, scratch = self.temp_size(algorithm, streams, int(room.max()), int(room.sum()))
        if code != Status.SUCCESS:
            return code
        if temp_nbytes < scratch or (scratch and not temp):
            return Status.INVALID_VALUE
        for i in range(streams):
            source = _bytes_at(int(inputs[i]), int(sizes[i]))
            target = _bytes_at(int(outputs[i]), int(room[i]))
            if self.poison:
                target[...] = POISON
            try:
                actual[i] = decode_stream(algorithm, source, target)
                status[i] = Status.SUCCESS
            except (GpuzarrError, ValueError, RuntimeError, OSError, EOFError, MemoryError, zlib.error):
                actual[i], status[i] = 0, Status.CANNOT_DECOMPRESS
        return Status.SUCCESS


def decode_stream(algorithm: Algorithm, source: Bytes, target: Bytes) -> int:
    """Decode one stream into ``target``; returns the decoded bytes.

    Raises
    ------
    GpuzarrError, ValueError, RuntimeError, OSError, zlib.error
        The stream is damaged or does not fit.
    """
    return _DECODERS[algorithm](source, target)


def _lz4(source: Bytes, target: Bytes) -> int:
    # numcodecs' decoder wants the size in front; it is the one that says when fewer bytes come out (pyarrow's does not)
    numcodecs_lz4.decompress(len(target).to_bytes(4, "little") + source.tobytes(), target)
    return len(target)


def _snappy(source: Bytes, target: Bytes) -> int:
    declared, shift = 0, 0
    for byte in source[:5].tolist():
        declared |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    else:
        raise ValueError("snappy: no size")
    if declared > len(target):
        raise ValueError("snappy: larger than the output")
    return _put(pa.Codec("snappy").decompress(source, declared), target)


def _zstd(source: Bytes, target: Bytes) -> int:
    frames = walk_frames(ChunkSet.single(source), np.zeros(1, np.int64), np.array([len(source)], np.int64))
    if frames.odd.any() or len(frames.row) != 1 or int(frames.nbytes[0]) != len(source):
        raise ValueError("zstd: not one frame")
    if frames.has_dictionary.any():
        raise ValueError("zstd: needs a dictionary")
    declared = int(frames.content_nbytes[0])
    if declared > len(target):
        raise ValueError("zstd: larger than the output")
    return _put(pa.Codec("zstd").decompress(source, len(target) if declared < 0 else declared), target)


def _inflate(wbits: int) -> Callable[[Bytes, Bytes], int]:
    def decode(source: Bytes, target: Bytes) -> int:
        decoder = zlib.decompressobj(wbits)
        decoded = decoder.decompress(source, len(target) + 1)
        if len(decoded) > len(target):
            raise ValueError("deflate: larger than the output")
        if not decoder.eof or decoder.unused_data or decoder.unconsumed_tail:
            raise ValueError("deflate: bytes are missing or follow the end")
        return _put(decoded, target)

    return decode


def _blosclz(source: Bytes, target: Bytes) -> int:
    decode_blosclz(source, target)
    return len(target)


_DECODERS: dict[Algorithm, Callable[[Bytes, Bytes], int]] = {
    Algorithm.LZ4: _lz4,
    Algorithm.SNAPPY: _snappy,
    Algorithm.ZSTD: _zstd,
    Algorithm.DEFLATE: _inflate(-15),
    Algorithm.GZIP: _inflate(31),
    Algorithm.BLOSCLZ: _blosclz,
}


def _put(decoded: Any, target: Bytes) -> int:
    found = np.frombuffer(decoded, np.uint8)
    target[: len(found)] = found
    return len(found)


def _uint64_at(address: int, count: int) -> npt.NDArray[np.uint64]:
    return np.ctypeslib.as_array((ctypes.c_uint64 * count).from_address(address))


def _bytes_at(address: int, nbytes: int) -> Bytes:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
