"""What the GPU measurements share: arguments, the runtime, timing, records as JSON with card, driver and versions."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import gpuzarr
from gpuzarr.device.runtime_host import HostRuntime

RECORDS = Path(__file__).resolve().parents[1] / "records"
LIBRARIES = (
    "gpuzarr",
    "polars",
    "zarr",
    "numcodecs",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "nvidia-libnvcomp-cu13",
    "rmm-cu13",
)


@dataclass
class Bench:
    """One measurement script.

    Parameters
    ----------
    dry
        Run on host memory with small sizes, to see that the script works: nothing is measured or recorded.
    repeat
        Runs of each case after one that warms up.
    """

    name: str
    dry: bool
    repeat: int
    folder: Path
    results: list[dict[str, Any]] = field(default_factory=list)

    def runtime(self) -> Any:
        """The GPU, or host memory in a dry run."""
        if self.dry:
            return HostRuntime()
        from gpuzarr.device.runtime_cuda import CudaRuntime

        return CudaRuntime()

    def size(self, nbytes: int) -> int:
        """Bytes of a case; small in a dry run."""
        return min(nbytes, 1 << 16) if self.dry else nbytes

    def seconds(self, work: Callable[[], Any]) -> tuple[float, list[float]]:
        """Seconds of the first run, which compiles and allocates, and of those after it."""
        times = []
        for _ in range(1 if self.dry else self.repeat + 1):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return times[0], times[1:] or times

    def add(self, case: str, nbytes: int, first: float, times: Sequence[float], **more: Any) -> None:
        """Note one case; ``nbytes`` are the bytes that give the rate."""
        entry = {"case": case, "nbytes": nbytes, **more}
        if not self.dry:
            best, middle = min(times), statistics.median(times)
            entry |= {"first_s": first, "median_s": middle, "best_s": best, "gb_per_s": nbytes / middle / 1e9}
        self.results.append(entry)
        rate = "ran" if self.dry else f"{entry['gb_per_s']:9.2f} GB/s"
        print(f"{self.name:10} {case:60} {rate}", flush=True)

    def write(self) -> None:
        """The record; nothing in a dry run."""
        if self.dry:
            return
        now = dt.datetime.now(dt.UTC)
        record = {"benchmark": f"gpu.{self.name}", "time": now.isoformat(), **environment(), "results": self.results}
        RECORDS.mkdir(parents=True, exist_ok=True)
        path = RECORDS / f"gpu-{self.name}-{now:%Y%m%d-%H%M%S}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(path)


def environment() -> dict[str, Any]:
    """Card, driver, machine and versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    cores = gpuzarr.probe().cores
    return {"card": card, "machine": platform.machine(), "cores": cores, "versions": versions}


def arguments(name: str) -> Bench:
    """From the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{name}", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="host memory, small sizes, no record")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data/gpu"), help="where stores are written")
    given = parser.parse_args()
    return Bench(name, given.dry, given.repeat, given.folder)


def pinned(runtime: Any, data: np.ndarray) -> np.ndarray:
    """The bytes in page-locked memory."""
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    out: np.ndarray = runtime.pinned(max(1, raw.nbytes)).data[: raw.nbytes]
    out[...] = raw
    return out
