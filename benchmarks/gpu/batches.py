"""The batch decoder: each algorithm against the number of streams of a launch and their size."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numcodecs
import numpy as np
import pyarrow as pa

from benchmarks.gpu.common import Bench, Memory
from gpuzarr.codecs.batch import Status
from gpuzarr.codecs.batch_host import decode_stream
from gpuzarr.codecs.tables import Algorithm


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data, 5)[2:-4]


WRITERS: dict[Algorithm, Callable[[bytes], bytes]] = {
    Algorithm.LZ4: lambda data: numcodecs.LZ4().encode(data)[4:],
    Algorithm.ZSTD: lambda data: bytes(numcodecs.Zstd(level=3).encode(data)),
    Algorithm.DEFLATE: _deflate,
    Algorithm.GZIP: lambda data: bytes(numcodecs.GZip(level=5).encode(data)),
    Algorithm.SNAPPY: lambda data: pa.Codec("snappy").compress(data, asbytes=True),
}


@cache
def _samples(algorithm: Algorithm, size: int) -> tuple[list[bytes], list[bytes]]:
    """Eight different streams: plain, and compressed."""
    rng = np.random.default_rng(1)
    plain = [rng.normal(size=size // 4).cumsum().round(1).astype("f4").tobytes() for _ in range(8)]
    return plain, [WRITERS[algorithm](one) for one in plain]


def _run(bench: Bench, algorithm: Algorithm, count: int, size: int) -> None:
    memory = Memory(bench)
    runtime, stream = memory.runtime, memory.stream
    decoder = runtime.decoder
    plain, kinds = _samples(algorithm, size)
    streams = [kinds[i % len(kinds)] for i in range(count)]
    starts = np.cumsum([0, *(-(-len(s) // 16) * 16 for s in streams)])
    data = np.zeros(int(starts[-1]), np.uint8)
    for start, one in zip(starts, streams, strict=False):
        data[start : start + len(one)] = np.frombuffer(one, np.uint8)
    code, scratch_nbytes = decoder.temp_size(algorithm, count, size, count * size)
    assert code == Status.SUCCESS
    source, out, scratch = memory.put(data), memory.room(count * size), memory.room(scratch_nbytes)
    columns = [
        (source + starts[:-1]).astype(np.uint64),
        np.array([len(s) for s in streams], np.uint64),
        np.full(count, size, np.uint64),
        np.zeros(count, np.uint64),
        (out + np.arange(count) * size).astype(np.uint64),
        np.full(count, -1, np.int32),
    ]
    at = [memory.put(column) for column in columns]

    def decode() -> None:
        code = runtime.decompress(
            algorithm, at[0], at[1], at[2], at[3], count, scratch, scratch_nbytes, at[4], at[5], stream=stream
        )
        assert code == Status.SUCCESS, code
        stream.synchronize()

    def check() -> bool:
        few = min(count, len(plain))
        same = memory.get(out, "u1", few * size).tobytes() == b"".join(plain[:few])
        return same and not memory.get(at[5], "i4", count).any()

    case = f"{algorithm.name.lower()}, {count} streams of {size >> 10} KiB"
    more = {"algorithm": algorithm.name.lower(), "streams": count, "stream_nbytes": size}
    bench.measure(case, count * size, decode, check, stored=int(columns[1].sum()), **more)
    if count * size >= 64 << 20 or bench.host:
        _on_host(bench, algorithm, case, streams, plain, size)


def _on_host(
    bench: Bench, algorithm: Algorithm, case: str, streams: list[bytes], plain: list[bytes], size: int
) -> None:
    """The same streams by the host's decoders in threads, and their copy to the device: when is the host better?"""
    count = len(streams)
    sources = [np.frombuffer(one, np.uint8) for one in streams]
    out = bench.runtime.pinned(count * size).data[: count * size]
    targets = out.reshape(count, size)
    memory = Memory(bench)
    target = memory.room(count * size)
    with ThreadPoolExecutor(bench.cores) as pool:

        def work() -> None:
            assert all(n == size for n in pool.map(partial(decode_stream, algorithm), sources, targets))
            memory.runtime.upload(target, out, memory.stream)
            memory.stream.synchronize()

        def check() -> bool:
            return out[: len(plain) * size].tobytes() == b"".join(plain[:count])

        bench.measure(f"{case}, host threads and copy", count * size, work, check, streams=count, stream_nbytes=size)


def main(bench: Bench) -> None:
    """Streams per launch and stream size, for every algorithm; large ones also by the host."""
    for algorithm in WRITERS:
        for size in (16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 16 << 20):
            for count in (1, 64, 512, 2048, 8192):
                if bench.host and (count > 64 or size > 64 << 10):
                    continue
                if count * size <= 4 << 30:
                    _run(bench, algorithm, count, size)
