"""What the GPU measurements share: arguments, the runtime, checked timing, records as JSON with card, driver and versions."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hardware import describe
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
    "nvidia-libnvcomp-cu12",
    "kvikio-cu13",
    "kvikio-cu12",
    "rmm-cu13",
    "rmm-cu12",
    "zarrs",
)
HOST_MEMORY = "host memory: numpy twins in place of kernels; no figure of a GPU"


class WrongAnswerError(AssertionError):
    """A case gave something else than it should: it is not timed."""


@dataclass
class Bench:
    """One run of measurements.

    Parameters
    ----------
    host
        On host memory with small sizes: shows that everything runs and answers rightly. Its times say nothing of a GPU.
    repeat
        Runs of each case after the first one, which compiles and allocates.
    folder
        Where stores are written.
    gib
        Decoded GiB of the stores of the scans.
    """

    host: bool
    repeat: int
    folder: Path
    gib: float = 8
    results: list[dict[str, Any]] = field(default_factory=list)
    part: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    _runtime: Any = None

    @property
    def runtime(self) -> Any:
        """The GPU, or host memory; one for all parts."""
        if self._runtime is None:
            if self.host:
                self._runtime = HostRuntime()
            else:
                from gpuzarr.device.runtime_cuda import current_runtime

                self._runtime = current_runtime()
        return self._runtime

    @property
    def cores(self) -> int:
        """Cores that this process may use."""
        return int(describe()["cores"])

    def size(self, nbytes: int) -> int:
        """Bytes of a case; small on host memory."""
        return min(nbytes, 1 << 16) if self.host else nbytes

    def measure(
        self, case: str, nbytes: int, work: Callable[[], Any], check: Callable[[], bool], **more: Any
    ) -> dict[str, Any]:
        """Run a case, compare what it gave, then time it.

        Parameters
        ----------
        nbytes
            The bytes that give the rate.
        check
            Whether the first run gave what it should.
        more
            What else is worth noting.

        Raises
        ------
        WrongAnswerError
            It did not; nothing is timed then.
        """
        start = time.perf_counter()
        work()
        first = time.perf_counter() - start
        if not check():
            raise WrongAnswerError(f"{self.part}: {case}: the answer is wrong")
        times = []
        for _ in range(1 if self.host else self.repeat):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return self.add(case, nbytes, first_s=first, median_s=statistics.median(times), best_s=min(times), **more)

    def add(self, case: str, nbytes: int, *, median_s: float, **more: Any) -> dict[str, Any]:
        """Note one case whose answer was compared."""
        where = "host memory" if self.host else "gpu"
        entry = {"part": self.part, "case": case, "memory": where, "nbytes": nbytes, "median_s": median_s, **more}
        entry["gb_per_s"] = nbytes / max(median_s, 1e-9) / 1e9
        self.results.append(entry)
        label = " (host memory, no figure of a GPU)" if self.host else ""
        print(f"{self.part:8} {case:64} {entry['gb_per_s']:9.2f} GB/s{label}", flush=True)
        return entry

    def absent(self, case: str, why: str) -> None:
        """Note what cannot run here."""
        self.results.append({"part": self.part, "case": case, "absent": why})
        print(f"{self.part:8} {case:64} absent: {why}", flush=True)

    def found(self, part: str, case: str) -> dict[str, Any] | None:
        """The entry of a case that was measured in this run."""
        return next((e for e in self.results if e["part"] == part and e["case"] == case and "median_s" in e), None)

    def rate(self, part: str, case: str) -> float | None:
        """GB/s of a case that was measured in this run."""
        entry = self.found(part, case)
        return None if entry is None else entry["gb_per_s"]

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """While a part is measured."""
        self.part = part
        yield
        self.part = ""

    def record(self) -> dict[str, Any]:
        """Everything, with card, driver and versions."""
        memory = HOST_MEMORY if self.host else "gpu"
        return {"benchmark": "gpu", "memory": memory, **environment(host=self.host), "results": self.results}


def environment(*, host: bool) -> dict[str, Any]:
    """Card, driver, machine and versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {"machine": describe(), "python": sys.version.split()[0], "versions": versions}
    if not host:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem"]
        found["card"] = subprocess.run(
            [*query, "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout.strip()
        from gpuzarr.device.cuda_files import gds_problem

        found["gds"] = gds_problem() or "in use"
    return found


def arguments(argv: list[str] | None = None) -> tuple[Bench, argparse.Namespace]:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", help="copies, kernels, batches, scans, cold, engine; all of them by default"
    )
    parser.add_argument("--host", action="store_true", help="host memory and small sizes: does it run, is it right?")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data/gpu"), help="where stores are written")
    parser.add_argument("--gib", type=float, default=8, help="decoded GiB of each store of the scans")
    parser.add_argument(
        "--record", type=Path, help="where the record goes; benchmarks/records/gpu-DATE.json by default"
    )
    parser.add_argument("--plots", type=Path, help="folder for plots (needs matplotlib)")
    given = parser.parse_args(argv)
    if given.record is None and not given.host:
        given.record = RECORDS / f"gpu-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}.json"
    if given.host and given.record is not None and given.record.resolve().is_relative_to(RECORDS):
        parser.error("a run on host memory is no record of a GPU: give --record another folder")
    return Bench(given.host, given.repeat, given.folder, given.gib), given


def write(bench: Bench, path: Path) -> None:
    """Write the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bench.record(), indent=1) + "\n")
    print(path)


def pinned(runtime: Any, data: np.ndarray) -> np.ndarray:
    """The bytes in page-locked memory."""
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    out: np.ndarray = runtime.pinned(max(1, raw.nbytes)).data[: raw.nbytes]
    out[...] = raw
    return out


class Memory:
    """Arrays on the device, for one case."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.runtime = bench.runtime
        self.stream = self.runtime.stream()
        self._keep: list[Any] = []

    def put(self, data: np.ndarray) -> int:
        """Address of a copy."""
        host = pinned(self.runtime, data)
        address = self.room(host.nbytes, zero=False)
        self.runtime.upload(address, host, self.stream)
        self.stream.synchronize()
        return address

    def room(self, nbytes: int, *, zero: bool = True) -> int:
        """Address of zeros."""
        buffer = self.runtime.allocate(max(64, nbytes), self.stream)
        if zero:
            self.runtime.zero(buffer.address, buffer.nbytes, self.stream)
        self._keep.append(buffer)
        return int(buffer.address)

    def get(self, address: int, dtype: str, count: int) -> np.ndarray:
        """What is at an address."""
        nbytes = np.dtype(dtype).itemsize * count
        host = self.runtime.pinned(max(1, nbytes)).data[:nbytes]
        self.runtime.download(host, address, self.stream)
        self.stream.synchronize()
        return host.view(dtype).copy()
