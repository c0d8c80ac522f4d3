"""Whole scans: each codec, selectivities, peak of device memory, overlap, and the same questions by others in the same run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from benchmarks.gpu.common import Bench
from benchmarks.gpu.peers import measure_peers
from benchmarks.gpu.stages import measure_stages
from benchmarks.gpu.stores import CODECS, Answer, Question, answer, questions, store
from gpuzarr.api import open_dataset
from gpuzarr.device.memory_pool import PinnedPool
from gpuzarr.device.wave import WaveDevice
from gpuzarr.executor.loop import run
from gpuzarr.options import ScanOptions
from gpuzarr.source.dataset import Dataset
from gpuzarr.statistics import ScanStatistics

BUDGET = 8 << 30


def wave_device(
    bench: Bench, dataset: Dataset, plan: Any, statistics: ScanStatistics, pool: PinnedPool, *, stays: bool
) -> WaveDevice:
    """The device of one scan: frames stay on it with their coordinates, or come back."""
    finish: dict[str, Any] = {"finish": lambda frame: frame, "coordinates_on_device": True} if stays else {}
    return WaveDevice(
        plan, dataset.coordinates, dataset.reader(statistics), dataset.options, statistics, bench.runtime,
        workers=dataset.workers, budget=1 << 22 if bench.host else BUDGET, pinned=pool, **finish,
    )  # fmt: skip


class Peak:
    """Least free device memory while something runs, looked at every few milliseconds; bytes in use at most."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._stop = threading.Event()
        self._least = self._start = runtime.free_nbytes()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def _watch(self) -> None:
        self._runtime.activate()
        while not self._stop.wait(0.005):
            self._least = min(self._least, self._runtime.free_nbytes())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def nbytes(self) -> int | None:
        """None where the runtime does not say what is free."""
        return None if self._start < 0 else self._start - self._least


def scan(
    bench: Bench, path: Path, question: Question, pool: PinnedPool, columns: list[str] | None, *, stays: bool
) -> tuple[Iterator[Any], ScanStatistics]:
    """Frames of one scan."""
    dataset = open_dataset(path, options=ScanOptions())
    statistics = ScanStatistics()
    plan = dataset.plan(columns, question.predicate)
    device = wave_device(bench, dataset, plan, statistics, pool, stays=stays)
    return run(dataset.large_frames(plan), device, budget=BUDGET), statistics


def _measure(
    bench: Bench,
    codec: str,
    path: Path,
    question: Question,
    pool: PinnedPool,
    columns: list[str] | None,
    *,
    stays: bool,
) -> None:
    found: dict[str, Any] = {}
    want = answer(bench, question)

    def work() -> None:
        frames, statistics = scan(bench, path, question, pool, columns, stays=stays)
        with Peak(bench.runtime) as peak:
            found["rows"] = sum(frame.height for frame in frames)
        found.update(statistics.as_dict(), peak_device_nbytes=peak.nbytes, notes=statistics.notes)

    def check() -> bool:
        frames, _ = scan(bench, path, question, pool, None, stays=stays)
        whole = Answer.of(frame.to_polars() if stays else frame for frame in frames)
        return found["rows"] == want.rows and whole.agrees(want)

    entry = bench.measure(case_of(codec, question, columns, stays=stays), 1, work, check)
    entry.update(found, codec=codec, question=question.name, stays=stays, nbytes=found["bytes_decoded"])
    entry["gb_per_s"] = found["bytes_decoded"] / entry["median_s"] / 1e9
    entry["rows_per_s"] = found["rows"] / entry["median_s"]


def case_of(codec: str, question: Question, columns: list[str] | None, *, stays: bool) -> str:
    """Name of a case."""
    where = "stays on the device" if stays else "collected on the host"
    return f"{codec}: {question.name}{', with coordinates' if columns is None else ''}, {where}"


def main(bench: Bench) -> None:
    """Every codec: every question on the device, everything also collected; stages alone; the same by others."""
    pool = PinnedPool(bench.runtime)
    for codec in CODECS:
        made = store(bench, codec)
        for question in questions(bench):
            _measure(bench, codec, made.path, question, pool, ["t"], stays=True)
            if question.predicate is None:
                _measure(bench, codec, made.path, question, pool, None, stays=True)
                _measure(bench, codec, made.path, question, pool, ["t"], stays=False)
                end_to_end = case_of(codec, question, ["t"], stays=True)
        measure_stages(bench, codec, made.path, pool, end_to_end)
        measure_peers(bench, codec, made)
