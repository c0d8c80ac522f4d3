"""Whole scans: each codec, selectivities, overlap and peak of device memory, and the same query by others on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
import zarr.codecs

import gpuzarr
from benchmarks.gpu.common import Bench, arguments
from gpuzarr.api import open_dataset
from gpuzarr.device.wave import WaveDevice
from gpuzarr.executor.loop import run
from gpuzarr.options import ScanOptions
from gpuzarr.statistics import ScanStatistics

CODECS: dict[str, dict[str, Any]] = {
    "uncompressed": {"compressors": None},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=3)},
    "blosc-lz4-shuffle": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle", typesize=4)},
    "blosc-zstd-bitshuffle": {"compressors": zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=4)},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=5)},
    "sharded-zstd": {"compressors": zarr.codecs.ZstdCodec(level=3), "sharded": True},
}


def store(bench: Bench, codec: str) -> Path:
    """A store of 8 GiB decoded (tiny in a dry run), written once."""
    path = bench.folder / f"{codec}{'-dry' if bench.dry else ''}.zarr"
    if (path / "done").exists():
        return path
    shape, chunk = ((4, 64, 96), (2, 32, 48)) if bench.dry else ((2048, 1024, 1024), (16, 256, 256))
    options = dict(CODECS[codec])
    if options.pop("sharded", False):
        options["shards"] = (chunk[0], shape[1], shape[2])
    group = zarr.create_group(path, overwrite=True)
    names = ("time", "lat", "lon")
    array = group.create_array("t", shape=shape, chunks=chunk, dtype="f4", dimension_names=names, **options)
    rng = np.random.default_rng(0)
    step = chunk[0]
    for start in range(0, shape[0], step):
        noise = rng.normal(size=(step, *shape[1:])).astype("f4")
        array[start : start + step] = (280 + np.cumsum(noise, axis=-1) * 0.1).round(2)
    for name, size in zip(names, shape, strict=True):
        group.create_array(name, data=np.arange(size, dtype="f8"), dimension_names=(name,))
    (path / "done").touch()
    return path


QUERIES: dict[str, tuple[dict[str, Any], int]] = {
    "everything, aggregated": ({"with_columns": ["t"]}, 1),
    "1 in 100 by value": ({"predicate": pl.col("t") > 295.0}, 1),
    "a point series": ({"predicate": (pl.col("lat") == 40) & (pl.col("lon") == 41)}, 1),
}


def device_scan(bench: Bench, path: Path, query: dict[str, Any]) -> dict[str, Any]:
    """One scan whose frames stay on the device."""
    dataset = open_dataset(path, options=ScanOptions(device="cuda" if not bench.dry else "cpu"))
    plan, statistics = dataset.plan(**query), ScanStatistics()
    runtime = bench.runtime()
    device = WaveDevice(
        plan, dataset.coordinates, dataset.reader(statistics), dataset.options, statistics, runtime,
        workers=dataset.workers, budget=1 << (22 if bench.dry else 33), finish=lambda frame: frame,
        coordinates_on_device=True,
    )  # fmt: skip
    free, least, rows = runtime.free_nbytes(), runtime.free_nbytes(), 0
    for frame in run(dataset.large_frames(plan), device, budget=1 << 33):
        rows += frame.height
        least = min(least, runtime.free_nbytes())
    return {
        "rows": rows, "decoded": statistics.bytes_decoded, "stored": statistics.bytes_read, "peak_device": free - least,
        "waves": device.scheduler.count, "streams": device.scheduler.batched_streams,
        "host_chunks": device.scheduler.host_chunks, "retried_chunks": device.scheduler.retried_chunks,
    }  # fmt: skip


def fetch_alone(path: Path) -> int:
    """The slowest stage on its own, candidates: reading all files."""
    return sum(len(p.read_bytes()) for p in path.rglob("*") if p.is_file())


def peers(path: Path) -> dict[str, Callable[[], Any]]:
    """The same aggregate by others: the CPU path by cores, zarr-python, its GPU mode, zarrs."""
    out: dict[str, Callable[[], Any]] = {}
    cores = os.cpu_count() or 1
    for number in sorted({1, cores // 4 or 1, cores}):

        def cpu(number: int = number) -> Any:
            dataset = open_dataset(path, options=ScanOptions(workers=number))
            return sum(f["t"].sum() for f in dataset.scan(dataset.plan(["t"])))

        out[f"gpuzarr on the CPU, {number} threads"] = cpu
    out["gpuzarr device='cpu', Polars streaming"] = lambda: (
        gpuzarr.scan_zarr(path, device="cpu").select(pl.col("t").sum()).collect(engine="streaming")
    )

    def with_zarr() -> Any:
        return zarr.open_array(path / "t", mode="r")[...].sum()

    out["zarr-python"] = with_zarr
    return out


def main(bench: Bench) -> None:
    for codec in CODECS:
        path = store(bench, codec)
        for name, (query, _) in QUERIES.items():
            found: dict[str, Any] = {}
            first, times = bench.seconds(
                lambda path=path, query=query, found=found: found.update(device_scan(bench, path, query))
            )
            bench.add(f"{codec}: {name}", found["decoded"], first, times, **found)
        start = time.perf_counter()
        nbytes = fetch_alone(path)
        bench.add(f"{codec}: files read by one thread", nbytes, 0.0, [time.perf_counter() - start])
        decoded = 4 * int(np.prod(zarr.open_array(path / "t", mode="r").shape))
        for name, work in peers(path).items():
            first, times = bench.seconds(work)
            bench.add(f"{codec}: {name}", decoded, first, times)
        if not bench.dry:
            zarr.config.enable_gpu()
            try:
                first, times = bench.seconds(lambda path=path: zarr.open_array(path / "t", mode="r")[...].sum())
                bench.add(f"{codec}: zarr-python, GPU mode", decoded, first, times)
            finally:
                zarr.config.reset()


if __name__ == "__main__":
    bench = arguments("scans")
    main(bench)
    bench.write()
