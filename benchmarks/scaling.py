"""How cost grows: ``python -m benchmarks.scaling --size small --record FILE``.

Planning with the number of chunks; a query with the fraction it selects; throughput with workers; a full scan with the size
of the store; decoding one chunk per codec beside numcodecs: in this process, medians of repeats, variants in turn. Reading
whole arrays per codec chain beside numcodecs, zarrs and tensorstore (part ``arrays``): in fresh processes, those of the
peers in their own environment. Queries are compared by ``python -m benchmarks``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import gpuzarr
from benchmarks import decoding
from benchmarks.__main__ import shortened
from benchmarks.datasets import data_folder, prepare
from benchmarks.hardware import describe
from benchmarks.micro.chunks import CODECS, encoded
from benchmarks.micro.stores import declared_cube
from gpuzarr.api import open_dataset
from gpuzarr.options import ScanOptions
from gpuzarr.source.polars_source import lazy_frame

__all__ = ["PARTS", "Setting", "measure"]

Figures = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Parameters
    ----------
    size
        Of the store that is queried, see `benchmarks.datasets`.
    repeats
        Runs of which the median counts.
    interpreter
        Python of the peers' environment.
    """

    size: str
    repeats: int
    interpreter: str


def measure(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Figures]:
    """Median wall and CPU seconds of each variant; one uncounted call first, then in turn."""
    for call in variants.values():
        call()
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cpus: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            gc.collect()
            before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            call()
            walls[name].append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_SELF)
            cpus[name].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return {
        name: {"wall_s": statistics.median(walls[name]), "cpu_s": statistics.median(cpus[name])} for name in variants
    }


def planning(setting: Setting) -> Figures:
    """Opening and planning a store declared with 10^3 to 10^7 chunks, of which a few survive, or all of 10^5."""
    predicate = pl.col("time").is_between(100, 103) & pl.col("lat").is_between(0, 1) & pl.col("lon").is_between(0, 1)
    found: Figures = {}
    for exponent in range(3, 8):
        path = declared_cube(10**exponent)
        dataset = open_dataset(path)
        times = measure(
            {
                "open": lambda path=path: open_dataset(path),
                "plan": lambda dataset=dataset: dataset.plan(["time", "v"], predicate).tile_count,
                "open_and_plan": lambda path=path: open_dataset(path).plan(["time", "v"], predicate).tile_count,
            },
            setting.repeats,
        )
        tracemalloc.start()
        plan = open_dataset(path).plan(["time", "v"], predicate)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        found[f"1e{exponent}"] = {
            "surviving_tiles": plan.tile_count,
            "peak_bytes": peak,
            **{f"{name}_s": values["wall_s"] for name, values in times.items()},
            **{f"{name}_cpu_s": values["cpu_s"] for name, values in times.items()},
        }
    everything = open_dataset(declared_cube(10**5))
    all_tiles = measure(
        {"all": lambda: sum(1 for _ in everything.plan(["v"], pl.col("lat") > -100).tiles())}, setting.repeats
    )
    found["1e5, all survive"] = {
        "surviving_tiles": everything.plan(["v"]).tile_count,
        "plan_s": all_tiles["all"]["wall_s"],
        "plan_cpu_s": all_tiles["all"]["cpu_s"],
    }
    return found


FRACTIONS = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)


def fraction(setting: Setting) -> Figures:
    """Cost of a query with the fraction of the rows that it selects: by coordinates (a time range), by a value."""
    description = prepare("cube", setting.size)
    frame = gpuzarr.scan_zarr(description.store)
    steps = description.shape[0]
    times = frame.select(pl.col("time").unique().sort()).collect()["time"]
    values = frame.select("t2m").collect()["t2m"].to_numpy()
    columns = ["time", "lat", "lon", "t2m"]
    variants: dict[str, Callable[[], Any]] = {}
    for share in FRACTIONS:
        last = times[max(0, round(share * steps) - 1)]
        threshold = float(np.quantile(values, 1 - share)) if share < 1 else float("-inf")
        variants[f"by time {share:g}"] = frame.filter(pl.col("time") <= last).select(columns).collect
        variants[f"by value {share:g}"] = frame.filter(pl.col("t2m") > threshold).select(columns).collect
    del values
    found = measure(variants, setting.repeats)
    for name, figures in found.items():
        figures["rows"] = variants[name]().height
    return found


def workers(setting: Setting) -> Figures:
    """Throughput of a full scan with 1, 2, 4 … threads, up to twice the cores."""
    description = prepare("cube", setting.size)
    cores = describe()["cores"]
    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= 2 * cores]
    frames = {
        f"{n} workers": lazy_frame(open_dataset(description.store, options=ScanOptions(workers=n))) for n in counts
    }
    found = measure({name: frame.collect for name, frame in frames.items()}, setting.repeats)
    for figures in found.values():
        figures["decoded_bytes_per_s"] = description.decoded_bytes / figures["wall_s"]
    return found


def store_size(setting: Setting) -> Figures:
    """A streamed sum over stores of growing setting.size (its memory: `benchmarks/memory_contract.py`)."""
    found: Figures = {}
    for name in dict.fromkeys(("tiny", "8MB", "25MB", setting.size)):
        description = prepare("cube", name)
        query = gpuzarr.scan_zarr(description.store).select(pl.col("t2m").sum())
        figures = measure({"sum": lambda query=query: query.collect(engine="streaming")}, setting.repeats)["sum"]
        found[f"{description.decoded_bytes / 1e6:.1f} MB"] = figures
    return found


ROUNDS = range(10)


def decode(setting: Setting) -> Figures:
    """Decoding a chunk of about 1 MB in one thread, beside numcodecs."""
    found: Figures = {}
    for name in CODECS:
        chunk = encoded(name)
        out = np.zeros_like(chunk.values)
        times = measure(
            {
                "gpuzarr": lambda chunk=chunk, out=out: [chunk.chain.decode(chunk.data, out) for _ in ROUNDS],
                "numcodecs": lambda chunk=chunk, out=out: [chunk.numcodecs_decode(out) for _ in ROUNDS],
            },
            setting.repeats,
        )
        nbytes = chunk.values.nbytes * len(ROUNDS)
        found[name] = {
            "stored_share": len(chunk.data) / chunk.values.nbytes,
            **{f"{who}_bytes_per_cpu_s": nbytes / max(t["cpu_s"], 1e-9) for who, t in times.items()},
            "cpu_ratio": times["gpuzarr"]["cpu_s"] / max(times["numcodecs"]["cpu_s"], 1e-9),
        }
    return found


ARRAY_STEPS = {"tiny": 16, "small": 256, "medium": 1024}


def arrays(setting: Setting) -> Figures:
    """Reading whole arrays of 67 MB (``--size small``) per codec chain, beside numcodecs, zarrs and tensorstore."""
    steps = ARRAY_STEPS.get(setting.size, ARRAY_STEPS["medium"])
    return decoding.compare(steps, setting.repeats, setting.interpreter, data_folder())


PARTS: dict[str, Callable[[Setting], Figures]] = {
    "planning": planning,
    "fraction": fraction,
    "workers": workers,
    "store_size": store_size,
    "decode": decode,
    "arrays": arrays,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="How cost grows.")
    parser.add_argument("--size", default="small", help="of the store that is queried (default: small)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--note", default="")
    parser.add_argument("--record", type=Path)
    parser.add_argument(
        "--environments",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get("GPUZARR_BENCH_ENVIRONMENTS"),
        help="virtual environments made by benchmarks/environments.sh (default: $GPUZARR_BENCH_ENVIRONMENTS; else this one)",
    )
    arguments = parser.parse_args()
    interpreter = Path(arguments.environments or "", "peers", "bin", "python")
    setting = Setting(arguments.size, arguments.repeats, str(interpreter) if interpreter.exists() else sys.executable)
    record: dict[str, Any] = {
        "hardware": describe(),
        "command": [
            "python",
            "-m",
            "benchmarks.scaling",
            *shortened(sys.argv[1:]),
        ],
        "size": arguments.size,
        "repeats": arguments.repeats,
        "note": arguments.note,
        "scaling": {},
    }
    if "arrays" in arguments.parts:
        record["versions"] = decoding.versions(setting.interpreter)
    for part in arguments.parts:
        record["scaling"][part] = PARTS[part](setting)
        print(part, json.dumps(record["scaling"][part], indent=1), flush=True)
        if arguments.record is not None:
            arguments.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
