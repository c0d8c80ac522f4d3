"""Whole arrays, one per codec chain, read and decoded by gpuzarr's reader, numcodecs, zarrs and tensorstore.

Every library uses as many threads as there are cores, reads from the page cache and ends with the array in C order. A
fresh process per library and chain compares its first answer with what was written, then repeats the read;
``python -m benchmarks.scaling --parts arrays`` makes the table.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.hardware import ROOT

__all__ = ["CHAINS", "LIBRARIES", "Chain", "compare", "versions"]

Values = NDArray[np.float32]
Read = Callable[[], Values]


@dataclass(frozen=True)
class Chain:
    """How one array is stored.

    Parameters
    ----------
    codecs
        Configurations of numcodecs in the order of writing: filters, compressor, checksum.
    chunk
        Cells along (time, lat, lon).
    shard
        Cells of a shard; None: every chunk is an object.
    """

    codecs: tuple[Mapping[str, Any], ...]
    chunk: tuple[int, int, int] = (16, 91, 180)
    shard: tuple[int, int, int] | None = None
    zarr_format: int = 3


def _blosc(cname: str, shuffle: int, clevel: int = 5) -> Mapping[str, Any]:
    return {"id": "blosc", "cname": cname, "clevel": clevel, "shuffle": shuffle, "blocksize": 0, "typesize": 4}


_ZSTD: Mapping[str, Any] = {"id": "zstd", "level": 3}
_SMALL = (4, 46, 90)
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
CHAINS: dict[str, Chain] = {
    "none": Chain(()),
    "zstd": Chain((_ZSTD,)),
    "zstd + crc32c": Chain((_ZSTD, {"id": "crc32c", "location": "end"})),
    "gzip": Chain(({"id": "gzip", "level": 5},)),
    "zlib": Chain(({"id": "zlib", "level": 5},), zarr_format=2),
    "lz4": Chain(({"id": "lz4", "acceleration": 1},), zarr_format=2),
    "shuffle + zstd": Chain(({"id": "shuffle", "elementsize": 4}, _ZSTD), zarr_format=2),
    **{
        f"blosc-{cname} {_SHUFFLES[shuffle]}": Chain((_blosc(cname, shuffle, 3 if cname == "zstd" else 5),))
        for cname in ("lz4", "zstd", "zlib", "blosclz")
        for shuffle in range(3)
    },
    "small chunks, zstd": Chain((_ZSTD,), _SMALL),
    "small chunks, blosc-lz4": Chain((_blosc("lz4", 1),), _SMALL),
    "shards, zstd": Chain((_ZSTD,), _SMALL, (32, 184, 360)),
    "shards, blosc-lz4": Chain((_blosc("lz4", 1),), _SMALL, (32, 184, 360)),
    "shards, none": Chain((), _SMALL, (32, 184, 360)),
}
LIBRARIES = ("gpuzarr", "numcodecs", "zarrs", "tensorstore")
PEERS_ENVIRONMENT = ("zarrs", "tensorstore")
_VERSION = 1  # of what is written


# What is read.


def prepare(name: str, steps: int, folder: Path) -> dict[str, Any]:
    """Write an array unless it is there; what a worker needs to know of it."""
    place = folder / f"arrays-{_VERSION}-{steps}"
    described = place / (name.replace(" ", "_") + ".json")
    if described.exists():
        found: dict[str, Any] = json.loads(described.read_text())
        return found
    import zarr

    from benchmarks.fields import SURFACE, Field, Grid

    chain = CHAINS[name]
    values = Field(SURFACE[0], Grid(steps, 6, 182, 360)).block(slice(None))
    group = zarr.open_group(place / (described.stem + ".zarr"), mode="w", zarr_format=chain.zarr_format)  # type: ignore[arg-type]
    array = group.create_array(
        "v",
        shape=values.shape,
        dtype=values.dtype,
        chunks=chain.chunk,
        shards=chain.shard,
        fill_value=None if chain.zarr_format == 2 else 0,
        **_zarr_codecs(chain),
    )
    array[...] = values
    stored = sum(p.stat().st_size for p in (place / (described.stem + ".zarr")).rglob("*") if p.is_file())
    about = {
        "name": name,
        "store": str(place / (described.stem + ".zarr")),
        "shape": values.shape,
        "nbytes": values.nbytes,
        "stored_bytes": stored,
        "crc32": zlib.crc32(np.ascontiguousarray(values).data.cast("B")),
    }
    described.write_text(json.dumps(about))
    return about


def _zarr_codecs(chain: Chain) -> dict[str, Any]:
    import numcodecs
    import zarr.codecs as zc

    if chain.zarr_format == 2:
        codecs = [numcodecs.get_codec(dict(c)) for c in chain.codecs]
        return {"filters": codecs[:-1] or None, "compressors": codecs[-1]}

    def compressor(c: Mapping[str, Any]) -> Any:
        match c["id"]:
            case "zstd":
                return zc.ZstdCodec(level=c["level"])
            case "gzip":
                return zc.GzipCodec(level=c["level"])
            case "crc32c":
                return zc.Crc32cCodec()
        return zc.BloscCodec(cname=c["cname"], clevel=c["clevel"], shuffle=_SHUFFLES[c["shuffle"]], typesize=4)

    return {"compressors": [compressor(c) for c in chain.codecs] or None}


# Who reads it. Each gives a function that reads the array once more, from what is open.


def _gpuzarr(about: Mapping[str, Any], threads: int) -> Read:
    from gpuzarr.api import open_dataset
    from gpuzarr.device.loading import TASK_BYTES
    from gpuzarr.reader import ChunkGroup, ChunkReader, Joined
    from gpuzarr.statistics import ScanStatistics

    dataset = open_dataset(about["store"])
    column = dataset.table.by_name["v"]
    array, chain = column.array, column.chain
    assert array is not None
    assert chain is not None
    grid = [-(-s // c) for s, c in zip(array.shape, chain.chunk_shape, strict=True)]
    indices = np.indices(grid).reshape(len(grid), -1).T.astype(np.int64)
    pool, own = ThreadPoolExecutor(threads), threading.local()

    def scratch(_: int) -> NDArray[Any]:
        if not hasattr(own, "chunk"):
            own.chunk = np.empty(chain.chunk_shape, array.dtype.numpy)
        chunk: NDArray[Any] = own.chunk
        return chunk

    def room(chunks: int) -> NDArray[Any]:
        if chunks > len(getattr(own, "chunks", ())):
            own.chunks = np.empty((chunks, *chain.chunk_shape), array.dtype.numpy)
        some: NDArray[Any] = own.chunks[:chunks]
        return some

    def read() -> Values:
        out = np.empty(array.shape, np.float32)
        reader = ChunkReader(dataset.store, array, chain, ScanStatistics())

        def place(position: int, chunk: NDArray[Any] | None) -> None:
            _put(out, indices[position].tolist(), chain.chunk_shape, 0 if chunk is None else chunk)

        joined = Joined(room, place)

        def run(groups: list[ChunkGroup]) -> None:
            if reader.joins_objects and len(groups) > 1:  # as scans do
                reader.read_joined(groups, joined)
                return
            for group in groups:
                reader.read(group, indices, place, out_for=None if chain.is_plain else scratch, joined=joined)

        groups = reader.groups(indices)
        together = 1 if chain.is_sharded else max(1, TASK_BYTES // chain.chunk_nbytes)
        list(pool.map(run, (groups[i : i + together] for i in range(0, len(groups), together))))
        return out

    return read


def _numcodecs(about: Mapping[str, Any], threads: int) -> Read:
    import numcodecs
    import numcodecs.blosc

    numcodecs.blosc.use_threads = False  # the pool's threads decode
    chain = CHAINS[about["name"]]
    if chain.shard is not None:
        raise NotImplementedError("no shards")
    codecs = [numcodecs.get_codec(dict(c)) for c in chain.codecs]
    base, separator = (Path(about["store"], "v"), ".") if chain.zarr_format == 2 else (Path(about["store"], "v/c"), "/")
    shape = tuple(about["shape"])
    grid = [-(-s // c) for s, c in zip(shape, chain.chunk, strict=True)]
    indices = [list(index) for index in np.ndindex(*grid)]
    pool, own = ThreadPoolExecutor(threads), threading.local()

    def one(out: Values, index: list[int]) -> None:
        if not hasattr(own, "chunk"):
            own.chunk = np.empty(chain.chunk, np.float32)
        data: Any = (base / separator.join(map(str, index))).read_bytes()
        for codec in reversed(codecs[1:]):
            data = codec.decode(data)
        if codecs:
            codecs[0].decode(data, out=own.chunk)
        _put(out, index, chain.chunk, own.chunk if codecs else np.frombuffer(data, "<f4").reshape(chain.chunk))

    def read() -> Values:
        out = np.empty(shape, np.float32)
        list(pool.map(partial(one, out), indices))
        return out

    return read


def _zarrs(about: Mapping[str, Any], threads: int) -> Read:
    import warnings

    import zarr
    import zarrs  # noqa: F401  # registers the pipeline

    warnings.filterwarnings("ignore")
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": threads})
    zarr.config.set({"codec_pipeline.strict": True})  # else chains that zarrs does not know are zarr-python's
    array = zarr.open_array(about["store"], path="v", mode="r")
    return lambda: array[...]  # type: ignore[return-value]


def _tensorstore(about: Mapping[str, Any], threads: int) -> Read:
    import tensorstore as ts

    driver = "zarr" if CHAINS[about["name"]].zarr_format == 2 else "zarr3"
    context = ts.Context({"data_copy_concurrency": {"limit": threads}})
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{about['store']}/v/"}}
    array = ts.open(spec, context=context, read=True, open=True).result()
    return lambda: array.read(order="C").result()  # type: ignore[no-any-return]


def _put(out: Values, index: list[int], shape: tuple[int, ...], chunk: NDArray[Any] | int) -> None:
    where = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, shape, out.shape, strict=True))
    out[where] = chunk if isinstance(chunk, int) else chunk[tuple(slice(w.stop - w.start) for w in where)]


READERS = {"gpuzarr": _gpuzarr, "numcodecs": _numcodecs, "zarrs": _zarrs, "tensorstore": _tensorstore}


# Measuring.


def compare(
    steps: int, repeats: int, interpreter: str, folder: Path, names: Iterable[str] = tuple(CHAINS)
) -> dict[str, dict[str, Any]]:
    """Figures per chain: decoded bytes per second of wall and of CPU time, memory above the result, ratios to the best.

    Parameters
    ----------
    steps
        Times of the array; 16 are about 4 MB.
    interpreter
        Of the peers' environment.
    folder
        Where arrays are written.
    names
        Of `CHAINS`.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        about = prepare(name, steps, folder)
        figures: dict[str, Any] = {"stored_share": about["stored_bytes"] / about["nbytes"]}
        walls: dict[str, float] = {}
        cpus: dict[str, float] = {}
        for library in LIBRARIES:
            answer = _in_fresh_process(library, about, repeats, interpreter)
            if "message" in answer:
                print(f"{name}: {library}: {answer['message']}", file=sys.stderr)
                continue
            walls[library], cpus[library] = answer["wall_s"], answer["cpu_s"]
            figures[f"{library}_bytes_per_s"] = about["nbytes"] / answer["wall_s"]
            figures[f"{library}_bytes_per_cpu_s"] = about["nbytes"] / answer["cpu_s"]
            figures[f"{library}_peak_above_result_bytes"] = max(0, answer["peak_bytes"] - about["nbytes"])
        for kind, times in (("wall", walls), ("cpu", cpus)):
            peers = [value for library, value in times.items() if library != "gpuzarr"]
            if peers and "gpuzarr" in times:
                figures[f"{kind}_ratio_to_best"] = times["gpuzarr"] / min(peers)
        found[name] = figures
    return found


def versions(interpreter: str) -> dict[str, dict[str, str]]:
    """Versions of what takes part, by library."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    asked = {"gpuzarr": ("numcodecs", "numpy"), "zarrs": ("zarrs", "zarr"), "tensorstore": ("tensorstore",)}
    found = {}
    for library, packages in asked.items():
        python = interpreter if library in PEERS_ENVIRONMENT else sys.executable
        done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found[library] = json.loads(done.stdout)
    return found


def _in_fresh_process(library: str, about: Mapping[str, Any], repeats: int, interpreter: str) -> dict[str, Any]:
    path = [str(ROOT)] + ([str(ROOT / "src")] if library == "gpuzarr" else [])
    request = {"library": library, "about": about, "repeats": repeats}
    done = subprocess.run(
        [interpreter if library in PEERS_ENVIRONMENT else sys.executable, "-m", "benchmarks.decoding"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        cwd=ROOT,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        return {"message": said[-1][:300] if said else f"the process ended with {done.returncode}"}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def measured(request: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's answer: medians of the repeats after a first read whose values are right."""
    from benchmarks.worker import reset_peak, status

    about = request["about"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    read = READERS[request["library"]](about, cores)
    first = read()
    if first.shape != tuple(about["shape"]) or zlib.crc32(np.ascontiguousarray(first).data.cast("B")) != about["crc32"]:
        raise ValueError("the values are wrong")
    del first
    gc.collect()
    walls, cpus = [], []
    baseline, is_reset = status("VmRSS"), reset_peak()
    for _ in range(request["repeats"]):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        values = read()
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpus.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        del values
    peak = status("VmHWM") if is_reset else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "wall_s": statistics.median(walls),
        "cpu_s": max(statistics.median(cpus), 1e-9),
        "peak_bytes": max(0, peak - baseline),
    }


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.stdin.read()))), flush=True)
    os._exit(0)  # threads of a library do not hold the run
