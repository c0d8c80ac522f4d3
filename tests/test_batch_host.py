"""The host twin of the batch decoder refuses what nvCOMP refuses, and stays inside of the spans it is given."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numcodecs import Zstd
from numcodecs import blosc as numcodecs_blosc

from gpuzarr.codecs.batch import Alignments, BatchDecoder, Status
from gpuzarr.codecs.batch_host import POISON, HostBatchDecoder
from gpuzarr.codecs.tables import Algorithm

DATA = np.cumsum(np.random.default_rng(0).integers(-3, 4, 2000)).astype("<i2").tobytes()
DECODER: BatchDecoder = HostBatchDecoder()


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _blosclz(data: bytes) -> bytes:
    container = numcodecs_blosc.compress(data, b"blosclz", 5, 0, 0, 1)
    assert not container[2] & 0x02
    return container[24:]  # header, offset of one block, size of one stream


ENCODE: dict[Algorithm, Any] = {
    Algorithm.LZ4: lambda d: pa.Codec("lz4_raw").compress(d, asbytes=True),
    Algorithm.SNAPPY: lambda d: pa.Codec("snappy").compress(d, asbytes=True),
    Algorithm.ZSTD: lambda d: bytes(Zstd(3, checksum=True).encode(d)),
    Algorithm.DEFLATE: _deflate,
    Algorithm.GZIP: gzip.compress,
    Algorithm.BLOSCLZ: _blosclz,
}


@dataclass
class Batch:
    """Memory and tables of one call; change what a test is about, then `run`."""

    algorithm: Algorithm
    streams: list[bytes]
    capacities: list[int]

    def __post_init__(self) -> None:
        need = DECODER.required_alignments(self.algorithm)
        self.n = len(self.streams)
        step = 16
        starts = np.cumsum([0, *(-(-len(s) // step) * step + step for s in self.streams)])
        self._input = np.zeros(int(starts[-1]) + 64, np.uint8)
        first = -self._input.ctypes.data % step
        for start, stream in zip(starts, self.streams, strict=False):
            self._input[first + start : first + start + len(stream)] = np.frombuffer(stream, np.uint8)
        places = np.cumsum([16, *(-(-c // step) * step + step for c in self.capacities)])
        self.arena = np.full(int(places[-1]) + 64, 0x5C, np.uint8)
        self.first = -self.arena.ctypes.data % step
        self.places = places[: self.n]
        self.inputs = (self._input.ctypes.data + first + starts[: self.n]).astype(np.uint64)
        self.sizes = np.array([len(s) for s in self.streams], np.uint64)
        self.room = np.array(self.capacities, np.uint64)
        self.outputs = (self.arena.ctypes.data + self.first + self.places).astype(np.uint64)
        self.actual, self.status = np.full(self.n, 77, np.uint64), np.full(self.n, -1, np.int32)
        _, self.temp_nbytes = DECODER.temp_size(
            self.algorithm, self.n, max(self.capacities, default=0), sum(self.capacities)
        )
        scratch = np.empty(self.temp_nbytes + 64, np.uint8)
        self._scratch = scratch
        self.temp = -(-scratch.ctypes.data // need.temp) * need.temp

    def run(self, **changes: int) -> int:
        arguments = {
            "comp_ptrs": self.inputs.ctypes.data,
            "comp_nbytes": self.sizes.ctypes.data,
            "capacities": self.room.ctypes.data,
            "actual_nbytes": self.actual.ctypes.data,
            "streams": self.n,
            "temp": self.temp,
            "temp_nbytes": self.temp_nbytes,
            "out_ptrs": self.outputs.ctypes.data,
            "statuses": self.status.ctypes.data,
            "stream": 0,
        }
        return int(DECODER.decompress(self.algorithm, **(arguments | changes)))

    def output(self, i: int) -> bytes:
        start = self.first + int(self.places[i])
        return self.arena[start : start + self.capacities[i]].tobytes()

    def guards_hold(self) -> bool:
        free = np.ones(len(self.arena), np.bool_)
        for place, nbytes in zip(self.places, self.capacities, strict=True):
            free[self.first + place : self.first + place + nbytes] = False
        return bool((self.arena[free] == 0x5C).all())


@pytest.mark.parametrize("algorithm", list(ENCODE))
def test_decodes_and_reports_each_stream(algorithm: Algorithm) -> None:
    encode = ENCODE[algorithm]
    good = encode(DATA)
    damaged = [good[: len(good) // 2], b"", good + b"\0"] + (
        [encode(DATA + DATA)] if algorithm != Algorithm.LZ4 else []
    )
    streams = [good, encode(DATA[:3000]), *damaged]
    batch = Batch(algorithm, streams, [len(DATA), 3000] + [len(DATA)] * len(damaged))
    assert batch.run() == Status.SUCCESS
    assert batch.status.tolist() == [0, 0] + [Status.CANNOT_DECOMPRESS] * len(damaged)
    assert batch.actual.tolist() == [len(DATA), 3000] + [0] * len(damaged)
    assert batch.output(0) == DATA
    assert batch.output(1) == DATA[:3000]
    assert batch.guards_hold()


@pytest.mark.parametrize("algorithm", [Algorithm.SNAPPY, Algorithm.ZSTD, Algorithm.DEFLATE, Algorithm.GZIP])
def test_room_to_spare_is_left_poisoned(algorithm: Algorithm) -> None:
    batch = Batch(algorithm, [ENCODE[algorithm](DATA)], [len(DATA) + 100])
    assert batch.run() == Status.SUCCESS
    assert (batch.status[0], batch.actual[0]) == (Status.SUCCESS, len(DATA))
    assert batch.output(0) == DATA + bytes([POISON]) * 100


def test_short_results_are_failures() -> None:
    for algorithm in (Algorithm.LZ4, Algorithm.BLOSCLZ):
        batch = Batch(algorithm, [ENCODE[algorithm](DATA)], [len(DATA) + 100])
        assert batch.run() == Status.SUCCESS
        assert (batch.status[0], batch.actual[0]) == (Status.CANNOT_DECOMPRESS, 0)


def test_several_zstd_frames_and_too_small_outputs_fail_alone() -> None:
    frame = ENCODE[Algorithm.ZSTD](DATA)
    skippable = (0x184D2A50).to_bytes(4, "little") + bytes(4)
    batch = Batch(
        Algorithm.ZSTD,
        [frame + frame, frame, skippable + frame, frame],
        [2 * len(DATA), len(DATA) - 1] + [len(DATA)] * 2,
    )
    assert batch.run() == Status.SUCCESS
    assert batch.status.tolist() == [12, 12, 12, 0]
    assert batch.guards_hold()


@pytest.mark.parametrize("algorithm", list(ENCODE))
def test_calls_that_nvcomp_refuses(algorithm: Algorithm) -> None:
    batch = Batch(algorithm, [ENCODE[algorithm](DATA)], [len(DATA)])
    assert batch.run(streams=0) == Status.INVALID_VALUE
    assert batch.run(comp_ptrs=0) == Status.INVALID_VALUE
    assert batch.run(comp_ptrs=batch.inputs.ctypes.data + 4) == Status.ALIGNMENT
    assert batch.run(out_ptrs=batch.outputs.ctypes.data + 4) == Status.ALIGNMENT
    assert batch.run(statuses=batch.status.ctypes.data + 2) == Status.ALIGNMENT
    assert batch.status.tolist() == [-1]
    assert batch.actual.tolist() == [77]
    assert HostBatchDecoder(frozenset()).decompress(algorithm, *[8] * 9) == Status.NOT_SUPPORTED
    assert DECODER.temp_size(algorithm, 1, 2**33, 2**33)[0] == Status.CHUNK_TOO_LARGE
    assert batch.run() == Status.SUCCESS


def test_alignment_and_scratch_rules() -> None:
    assert DECODER.required_alignments(Algorithm.DEFLATE) == Alignments(4, 1, 1)
    batch = Batch(Algorithm.DEFLATE, [ENCODE[Algorithm.DEFLATE](DATA)], [len(DATA)])
    batch.inputs += np.uint64(2)
    assert batch.run() == Status.ALIGNMENT
    batch = Batch(Algorithm.ZSTD, [ENCODE[Algorithm.ZSTD](DATA)], [len(DATA)])
    assert batch.run(temp=batch.temp + 4) == Status.ALIGNMENT
    assert batch.run(temp_nbytes=batch.temp_nbytes - 1) == Status.INVALID_VALUE
    assert batch.run(temp=0) == Status.INVALID_VALUE
    # sizes that nvCOMP 5.3 reports
    for streams, largest, total, nbytes in ((1, 65536, 65536, 203544), (1000, 65536, 65_536_000, 203_544_000)):
        assert DECODER.temp_size(Algorithm.ZSTD, streams, largest, total) == (Status.SUCCESS, nbytes)
    assert DECODER.temp_size(Algorithm.LZ4, 1000, 65536, 65_536_000) == (Status.SUCCESS, 0)
    assert DECODER.temp_size(Algorithm.ZSTD, 1, 2**31, 2**31)[0] == Status.CHUNK_TOO_LARGE
    assert DECODER.temp_size(Algorithm.LZ4, 1, 2**32 - 1, 2**32 - 1)[0] == Status.SUCCESS
