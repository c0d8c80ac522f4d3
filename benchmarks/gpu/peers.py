"""The same questions by others on the same machine in the same run: who is missing is named, who answers wrongly is not timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl
import zarr

from benchmarks.gpu.common import Bench, WrongAnswerError
from benchmarks.gpu.stores import Answer, Question, Store, answer, questions
from gpuzarr.api import open_dataset
from gpuzarr.options import ScanOptions

PIPELINES = {
    "zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs and Polars": "zarrs.ZarrsCodecPipeline",
}


def measure_peers(bench: Bench, codec: str, store: Store) -> None:
    """Everything, one row in a hundred, and the point series, by everybody who is there."""
    asked = [q for q in questions(bench) if q.predicate is None or "1.00%" in q.name or "point" in q.name]
    for question in asked:
        want = answer(bench, question)
        for name, work in _peers(bench, store, question).items():
            case = f"{codec}: {question.name}, {name}"
            if isinstance(work, str):
                bench.absent(case, work)
                continue
            _measure(
                bench,
                case,
                4 * want.rows if "point" in question.name else store.nbytes,
                work,
                want,
                codec=codec,
                question=question.name,
                peer=name,
            )


def _measure(bench: Bench, case: str, nbytes: int, reader: Peer, want: Answer, **more: Any) -> None:
    found: list[tuple[int, float]] = []

    def work() -> None:
        found[:] = [reader.quick()]

    def check() -> bool:
        return want.agrees_quickly(*found[0]) and reader.whole().agrees(want)

    try:
        bench.measure(case, nbytes, work, check, **more)
    except WrongAnswerError as error:
        if more["peer"].startswith("gpuzarr"):
            raise
        bench.absent(case, f"answers wrongly: {error}")


@dataclass(frozen=True)
class Peer:
    """Rows and sum, which are timed; the whole answer with every coordinate, which is compared."""

    quick: Callable[[], tuple[int, float]]
    whole: Callable[[], Answer]


def _peers(bench: Bench, store: Store, question: Question) -> dict[str, Peer | str]:
    out: dict[str, Peer | str] = {}
    counts = sorted({1, 2, max(1, bench.cores // 4), max(1, bench.cores // 2), bench.cores})
    for number in counts if question.predicate is None else counts[-1:]:
        out[f"gpuzarr on the CPU, {number} threads"] = _cpu(store, question, number)
    for name, pipeline in PIPELINES.items():
        there = find_spec(pipeline.partition(".")[0]) is not None
        out[name] = (
            _arrays(store, question, lambda pipeline=pipeline: _pipeline(pipeline)) if there else "not installed"
        )
    gpu_mode = "needs a GPU" if bench.host else _arrays(store, question, zarr.config.enable_gpu)
    out["zarr-python, GPU mode"] = gpu_mode
    return out


def _cpu(store: Store, question: Question, threads: int) -> Peer:
    def frames(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        dataset = open_dataset(store.path, options=ScanOptions(workers=threads))
        return dataset.scan(dataset.plan(columns, question.predicate))

    def quick() -> tuple[int, float]:
        rows, total = 0, 0.0
        for frame in frames(["t"]):
            rows += frame.height
            total += float(frame["t"].cast(pl.Float64).sum())
        return rows, total

    return Peer(quick, lambda: Answer.of(frames(None)))


@contextmanager
def _pipeline(path: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="zarrs")
        if path.startswith("zarrs"):
            import zarrs  # noqa: F401  # registers itself
        with zarr.config.set({"codec_pipeline.path": path}):
            yield


def _arrays(store: Store, question: Question, setting: Callable[[], AbstractContextManager[Any]]) -> Peer:
    """A reader of arrays; values on a GPU are copied back, as nothing takes rows there."""

    def read(index: Any) -> np.ndarray:
        array: Any = zarr.open_array(store.path / "t", mode="r")
        values = array[index]
        return np.asarray(values.get() if hasattr(values, "get") else values)

    def quick() -> tuple[int, float]:
        with setting():
            return question.quick(read(question.index))

    def whole() -> Answer:
        with setting():
            return question.of_array(read, store.shape)

    return Peer(quick, whole)
