"""The batch decoder: each algorithm against the number of streams of a launch and their size."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa

from benchmarks.gpu.common import Bench, arguments, pinned
from gpuzarr.codecs.batch import Status
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


def run(bench: Bench, runtime: Any, algorithm: Algorithm, count: int, size: int) -> None:
    decoder, stream = runtime.decoder, runtime.stream()
    rng = np.random.default_rng(1)
    kinds = [
        WRITERS[algorithm]((rng.normal(size=size // 4).cumsum().round(1)).astype("f4").tobytes()) for _ in range(8)
    ]
    streams = [kinds[i % len(kinds)] for i in range(count)]
    starts = np.cumsum([0, *(-(-len(s) // 16) * 16 for s in streams)])
    data = np.zeros(int(starts[-1]), np.uint8)
    for start, one in zip(starts, streams, strict=False):
        data[start : start + len(one)] = np.frombuffer(one, np.uint8)
    code, scratch_nbytes = decoder.temp_size(algorithm, count, size, count * size)
    assert code == Status.SUCCESS
    keep = [runtime.allocate(max(8, n), stream) for n in (len(data), count * size, scratch_nbytes)]
    source, out, scratch = (buffer.address for buffer in keep)
    columns = [
        (source + starts[:-1]).astype(np.uint64),
        np.array([len(s) for s in streams], np.uint64),
        np.full(count, size, np.uint64),
        np.zeros(count, np.uint64),
        (out + np.arange(count) * size).astype(np.uint64),
        np.full(count, -1, np.int32),
    ]
    hosts, tables = [pinned(runtime, c) for c in columns], []
    for host in hosts:
        tables.append(runtime.allocate(host.nbytes, stream))
        runtime.upload(tables[-1].address, host, stream)
    arena = pinned(runtime, data)
    runtime.upload(source, arena, stream)
    stream.synchronize()
    at = [table.address for table in tables]

    def decode() -> None:
        code = runtime.decompress(
            algorithm, at[0], at[1], at[2], at[3], count, scratch, scratch_nbytes, at[4], at[5], stream=stream
        )
        assert code == Status.SUCCESS, code
        stream.synchronize()

    first, times = bench.seconds(decode)
    runtime.download(hosts[5], at[5], stream)
    stream.synchronize()
    assert not hosts[5].view(np.int32).any(), "a stream failed"
    stored = int(columns[1].sum())
    bench.add(
        f"{algorithm.name.lower()}, {count} streams of {size >> 10} KiB", count * size, first, times, stored=stored
    )


def main(bench: Bench) -> None:
    runtime = bench.runtime()
    for algorithm in WRITERS:
        for size in (16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 16 << 20):
            for count in (1, 64, 512, 2048, 8192):
                if bench.dry and (count > 64 or size > 64 << 10):
                    continue
                if count * size <= 4 << 30:
                    run(bench, runtime, algorithm, count, size)


if __name__ == "__main__":
    bench = arguments("batches")
    main(bench)
    bench.write()
