"""Peak memory of a streaming sum must not depend on the size of the store.

Every size runs in a process of its own, over a store that lives nowhere: its chunks are made when they are asked for, one
compressed object for all of them. Usage: ``python benchmarks/memory_contract.py [--gib 1 4 16] [--chunk-steps 1]``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numcodecs
import numpy as np
import polars as pl

import gpuzarr

SHAPE = (1024, 2048)  # of one step: 8 MiB of float32


class EndlessStore:
    """Any number of steps of a field: documents, and the same compressed chunk for each of them."""

    label = "memory://endless"
    is_local = True

    def __init__(self, steps: int, steps_per_chunk: int) -> None:
        def document(shape: Sequence[int], chunk: Sequence[int], dtype: str) -> bytes:
            array = {
                "zarr_format": 2,
                "shape": shape,
                "chunks": chunk,
                "dtype": dtype,
                "order": "C",
                "fill_value": None,
            }
            return json.dumps({**array, "filters": None, "compressor": codec.get_config()}).encode()

        codec = numcodecs.Zstd(level=1)
        values = np.tile(np.arange(SHAPE[1], dtype="<f4") % 97, (steps_per_chunk, SHAPE[0], 1))
        self.chunk = codec.encode(np.ascontiguousarray(values))
        self.total = float(values.astype("f8").sum()) * (steps // steps_per_chunk)
        self.documents = {
            ".zgroup": b'{"zarr_format": 2}',
            "v/.zarray": document((steps, *SHAPE), (steps_per_chunk, *SHAPE), "<f4"),
            "v/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["t", "y", "x"]}).encode(),
        }

    def get(self, key: str) -> bytes | None:
        is_chunk = key.startswith("v/") and key[2:3].isdigit()
        return self.chunk if is_chunk else self.documents.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        data = self.get(key)
        return None if data is None else data[start : start + length]

    def get_suffix(self, key: str, length: int) -> bytes | None:
        data = self.get(key)
        return None if data is None else data[-length:]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        data = self.get(key)
        return None if data is None else [data[start : start + length] for start, length in ranges]

    def size(self, key: str) -> int | None:
        data = self.get(key)
        return None if data is None else len(data)

    def list_dir(self, prefix: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return ((".zgroup",), ("v",)) if not prefix else ((".zarray", ".zattrs"), ())

    def close(self) -> None:
        pass


def measure(gib: float, steps_per_chunk: int, query: str) -> None:
    """Run one query over a store of some decoded size; prints peak memory before and after."""
    steps = max(1, int(gib * 2**30 / (4 * SHAPE[0] * SHAPE[1]) / steps_per_chunk)) * steps_per_chunk
    store = EndlessStore(steps, steps_per_chunk)
    lf = gpuzarr.scan_zarr(store)
    queries = {
        "sum": lf.select(pl.col("v").cast(pl.Float64).sum()),
        "filter": lf.filter(pl.col("v") > 95).select(pl.col("v").cast(pl.Float64).sum(), pl.col("x").sum()),
        "group": lf.group_by("y").agg(pl.col("v").mean()).select(pl.col("v").sum()),
    }
    gpuzarr.scan_zarr(EndlessStore(steps_per_chunk, steps_per_chunk)).select(pl.col("v").sum()).collect(
        engine="streaming"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    answer = queries[query].collect(engine="streaming")
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if query == "sum":
        assert abs(answer.item() / store.total - 1) < 1e-9, (answer, store.total)
    print(json.dumps({
        "query": query, "decoded_GiB": round(steps * 4 * SHAPE[0] * SHAPE[1] / 2**30, 2),
        "chunk_MiB": steps_per_chunk * 4 * SHAPE[0] * SHAPE[1] / 2**20,
        "peak_RSS_MiB": after // 1024, "above_warm_MiB": (after - before) // 1024, "seconds": round(seconds, 2),
    }))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, nargs="+", default=[1, 4, 16])
    parser.add_argument("--chunk-steps", type=int, default=1, help="steps of 8 MiB in a chunk")
    parser.add_argument("--query", choices=["sum", "filter", "group"], nargs="+", default=["sum", "filter", "group"])
    parser.add_argument("--one", action="store_true", help="measure in this process")
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.gib[0], arguments.chunk_steps, arguments.query[0])
        return 0
    worst = 0.0
    for query in arguments.query:
        peaks = []
        for gib in arguments.gib:
            command = [sys.executable, __file__, "--one", "--gib", str(gib), "--query", query]
            command += ["--chunk-steps", str(arguments.chunk_steps)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            print(line, flush=True)
            peaks.append(json.loads(line)["peak_RSS_MiB"])
        worst = max(worst, max(peaks) / min(peaks))
    print(f"largest peak of a query over its smallest: {worst:.2f}")
    return int(worst > 1.3)


if __name__ == "__main__":
    sys.exit(main())
