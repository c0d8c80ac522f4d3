"""The first scan of a process, told apart: imports, the device, compiling kernels, the scan; with and without compiled kernels on disk.

``python -m benchmarks.gpu.cold --child STORE`` is what it runs in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.common import Bench
from benchmarks.gpu.stores import answer, questions, store

CODEC = "blosc-lz4-shuffle"


def main(bench: Bench) -> None:
    """Three fresh processes: nothing compiled, compiled on disk twice."""
    made = store(bench, CODEC)
    question = next(q for q in questions(bench) if "point" in q.name)
    want = answer(bench, question)
    with tempfile.TemporaryDirectory() as cache:
        for number, case in enumerate(("no compiled kernels", "compiled kernels on disk", "the same again")):
            environment = {**os.environ, "CUPY_CACHE_DIR": cache}
            command = [sys.executable, "-m", "benchmarks.gpu.cold", "--child", str(made.path), *["--host"] * bench.host]
            start = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - start
            if done.returncode:
                raise AssertionError(f"cold start: {done.stderr[-2000:]}")
            parts = json.loads(done.stdout.splitlines()[-1])
            assert parts["rows"] == [want.rows, want.rows], (number, parts)
            bench.add(f"cold start of a point series, {case}", made.nbytes, median_s=seconds, seconds=parts)


def _child(path: Path, *, host: bool) -> None:
    """Seconds of each step of a first scan, as JSON."""
    marks = {}
    start = time.perf_counter()

    def mark(name: str) -> None:
        nonlocal start
        marks[name] = time.perf_counter() - start
        start = time.perf_counter()

    from benchmarks.gpu.scans import scan
    from gpuzarr.device.memory_pool import PinnedPool

    mark("imports")
    bench = Bench(host, 1, path.parent)
    bench.runtime.stream()
    mark("device")
    question = next(q for q in questions(bench) if "point" in q.name)
    pool = PinnedPool(bench.runtime)
    rows = []
    for number in ("first scan", "second scan"):  # the first one compiles what it launches
        frames, _ = scan(bench, path, question, pool, ["t"], stays=True)
        rows.append(sum(frame.height for frame in frames))
        mark(number)
    print(json.dumps({"rows": rows, **marks, "compiling": max(0.0, marks["first scan"] - marks["second scan"])}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", type=Path, required=True)
    parser.add_argument("--host", action="store_true")
    given = parser.parse_args()
    _child(given.child, host=given.host)
