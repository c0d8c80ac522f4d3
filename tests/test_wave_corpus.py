"""Real stores through the wave engine on host memory give what the host path gives.

A sample by default; ``GPUZARR_CORPUS_FULL=1`` takes every table.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal
from support_wave import wave_device

from gpuzarr.api import _open
from gpuzarr.device.runtime_host import HostRuntime
from gpuzarr.errors import GpuzarrError
from gpuzarr.executor.loop import run
from gpuzarr.options import ScanOptions
from gpuzarr.source.dataset import Dataset
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table import TableOptions, build_tables
from gpuzarr.table.whole import read_whole

FULL = bool(os.environ.get("GPUZARR_CORPUS_FULL"))
MOST_ROWS = 2**22 if FULL else 2**15
MOST_TABLES = 1000 if FULL else 3


def _stores(corpus: Path) -> list[Path]:
    return sorted(p for p in (corpus / "stores").iterdir() if p.is_dir() or p.suffix == ".zip")


def _datasets(path: Path) -> list[Dataset]:
    from gpuzarr.metadata import ArrayMetadata, walk

    store, node, statistics = _open(path, None, None, _limits())
    nodes = node if isinstance(node, ArrayMetadata) else list(walk(store, node.path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tables = build_tables(
            nodes,
            store_label=store.label,
            options=TableOptions(),
            read_raw=lambda array: read_whole(store, array, on_missing="fill", statistics=statistics),
        )
    return [Dataset(store, table, ScanOptions(), statistics) for table in tables.values()]


def _limits() -> Any:
    from gpuzarr.metadata.limits import DEFAULT_LIMITS

    return DEFAULT_LIMITS


def _outcome(scan: Any) -> Any:
    try:
        return pl.concat(list(scan()))
    except GpuzarrError as error:
        return type(error), error.kind, error.array


def test_corpus_through_waves(corpus: Path) -> None:
    compared = columns = on_host = streams = 0
    for path in _stores(corpus):
        try:
            datasets = _datasets(path)
        except GpuzarrError:
            continue  # what is refused is the metadata tests' affair
        for dataset in datasets[:MOST_TABLES]:
            plan = dataset.plan(n_rows=MOST_ROWS)
            if not plan.selected_rows or not plan.projection:
                continue
            counted, statistics = ScanStatistics(), ScanStatistics()
            want = _outcome(lambda d=dataset, p=plan, s=counted: d.scan(p, s))
            device = wave_device(dataset, plan, statistics, HostRuntime(), budget=2**26)
            got = _outcome(lambda p=plan, w=device: run(p.frames(), w))
            where = f"{path.name} {dataset.table.group} {plan.projection}"
            if isinstance(want, pl.DataFrame):
                assert isinstance(got, pl.DataFrame), f"{where}: {got}"
                assert_frame_equal(got, want)
                assert (statistics.requests, statistics.bytes_read) == (counted.requests, counted.bytes_read), where
            else:
                assert got == want, where
            compared += 1
            columns += len(device.columns)
            on_host += len(device.host_reasons)
            streams += device.scheduler.batched_streams
            assert not device.scheduler.retried_chunks, where
    print(f"{compared} tables, {columns} columns on the device, {on_host} on the host, {streams} streams")
    assert compared > 10
    assert streams > 100
