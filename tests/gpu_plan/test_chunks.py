"""What the engine gets when it calls a scan: the contract of chunks, ranks, types; with host frames and fake device ones."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support_gpu_plans import SMALL_PARTITIONS, plan

import gpuzarr
from gpuzarr.errors import EnvironmentLacksError
from gpuzarr.source import gpu_source
from gpuzarr.source.dataset import Dataset
from gpuzarr.source.gpu_source import BoundSource, Share
from gpuzarr.source.polars_source import ZarrSource
from gpuzarr.statistics import ScanStatistics

HOT = pl.col("t2m") > 290
BOX = pl.col("lat").is_between(5, 20) & (pl.col("time").dt.hour() == 6)


def dataset_of(lf: pl.LazyFrame) -> Dataset:
    _, (scan,) = plan(lf)
    return scan.options[0].io_source.dataset


def chunks_of(scan: Any, rank: int = 0, nranks: int = 1) -> tuple[int | None, list[Any]]:
    """Announced number and chunks, taken by the engine's own code as its streaming actor does."""
    from cudf_polars.dsl.ir import PythonScan
    from cudf_polars.streaming.actor_graph.io import _find_rank_aware_source

    source = _find_rank_aware_source(scan.options[0])
    assert source is scan.options[0].io_source
    assert not source.output_duplicated(rank, nranks)
    count, chunks = PythonScan.run_source_function(
        scan.options, scan.schema, rank_aware_source=source, rank=rank, nranks=nranks, context=None
    )
    return count, list(chunks)


QUERIES = {
    "all": lambda lf: lf,
    "filter": lambda lf: lf.filter(HOT),
    "box": lambda lf: lf.filter(BOX).select("rain"),
    "head": lambda lf: lf.head(1000).filter(HOT),
    "few rows": lambda lf: lf.head(3),
    "hardly any row": lambda lf: lf.filter(pl.col("t2m") > 325),
    "no row of any frame": lambda lf: lf.filter(pl.col("t2m") > 10_000),
    "no frame": lambda lf: lf.filter(pl.col("lat") > 1000),
    "coordinates": lambda lf: lf.filter(pl.col("lon") > 3).select("lat"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_ranks_read_the_whole_scan_in_order(lf: pl.LazyFrame, name: str) -> None:
    query = QUERIES[name](lf)
    want = query.collect()
    _, (scan,) = plan(query, SMALL_PARTITIONS)
    for nranks in (1, 2, 5, 12, 64):
        parts = [chunks_of(scan, rank, nranks) for rank in range(nranks)]
        for count, chunks in parts:
            assert max(count, 1) == len(chunks)  # what the engine demands
        assert_frame_equal(pl.concat([c for _, chunks in parts for c in chunks]), want, check_exact=True)
        frames = sum(count for count, _ in parts)
        if name == "no row of any frame":  # emptied by the filter, and handed out all the same
            assert frames == 12
        if name == "no frame":
            assert frames == 0


def test_in_memory_engine_calls_the_scan_function(lf: pl.LazyFrame) -> None:
    from cudf_polars.dsl.ir import PythonScan

    _, (scan,) = plan(lf.filter(HOT).select("rain", "lat"))
    count, chunks = PythonScan.run_source_function(scan.options, scan.schema, context=None)
    chunks = list(chunks)
    assert count == len(chunks)
    assert_frame_equal(pl.concat(chunks), lf.filter(HOT).select("lat", "rain").collect(), check_exact=True)


class FakeArray:
    """Device memory that nobody looks at: an address and a size."""

    def __init__(self, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (max(1, nbytes),), "typestr": "|u1", "data": (0x10000, False), "version": 3, "strides": None,
        }  # fmt: skip


def fake_frame(frame: pl.DataFrame) -> Any:
    """A frame of the engine with columns of the right types and lengths, on no device."""
    import pylibcudf as plc
    from cudf_polars.containers import Column, DataFrame, DataType
    from rmm.pylibrmm.stream import DEFAULT_STREAM

    columns = []
    for series in frame:
        kind, size = DataType(series.dtype), len(series)
        mask = plc.gpumemoryview(FakeArray(plc.null_mask.bitmask_allocation_size_bytes(size)))
        data = plc.gpumemoryview(FakeArray(8 * size))
        nulls = series.null_count()
        columns.append(
            Column(
                plc.Column(kind.plc_type, size, data, mask if nulls else None, nulls, 0, []),
                dtype=kind,
                name=series.name,
            )
        )
    return DataFrame(columns, stream=DEFAULT_STREAM, num_rows=frame.height)


def fake_device_chunks(dataset: Dataset, share: Share, statistics: ScanStatistics) -> Iterator[Any]:
    """Frames as a device would hand them over: made lazily, one per frame of the share."""
    for chunk in gpu_source.host_chunks(dataset, share, statistics):
        yield fake_frame(chunk) if chunk.height else chunk


@pytest.mark.parametrize("name", QUERIES)
def test_device_frames_are_taken_as_they_are(lf: pl.LazyFrame, name: str) -> None:
    from cudf_polars.containers import DataFrame
    from cudf_polars.dsl.ir import PythonScan

    query = QUERIES[name](lf)
    _, (scan,) = plan(query, SMALL_PARTITIONS)
    bound = scan.options[0].io_source
    source = BoundSource(bound.dataset, bound.predicate, bound.n_rows, bound.frame_bytes, chunks=fake_device_chunks)
    options = (gpu_source.ScanFunction(source), *scan.options[1:])
    scan = PythonScan(scan.schema, options, None)
    rows = 0
    for rank in range(3):
        count, chunks = chunks_of(scan, rank, 3)
        assert max(count, 1) == len(chunks)
        for chunk in chunks:
            if isinstance(chunk, DataFrame):
                assert PythonScan.process_chunk(chunk, scan.schema, scan.predicate, context=None) is chunk
                rows += chunk.num_rows
            else:  # nothing left of it: an empty host frame of the right schema, which costs no copy
                assert chunk.is_empty()
                assert list(chunk.schema) == list(scan.schema)
    assert rows == query.collect().height


def test_chunks_come_lazily_and_closing_stops_the_scan(lf: pl.LazyFrame) -> None:
    _, (scan,) = plan(lf, SMALL_PARTITIONS)
    before = threading.active_count()
    chunks = scan.options[0].io_source(None)
    assert len(chunks) == 12
    assert threading.active_count() == before  # planned, but not begun
    next(chunks)
    chunks._chunks.close()
    with pytest.raises(StopIteration):
        next(chunks)


def test_chunks_from_different_threads_and_calls_at_once(lf: pl.LazyFrame) -> None:
    _, (scan,) = plan(lf.filter(HOT), SMALL_PARTITIONS)
    want = lf.filter(HOT).collect()

    def pull(_: int) -> pl.DataFrame:
        chunks, out = scan.options[0].io_source(None), []
        for _ in range(len(chunks)):
            with ThreadPoolExecutor(1) as other:  # every chunk is taken by a new thread
                out.append(other.submit(next, chunks).result())
        return pl.concat(out)

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(pull, range(8)):
            assert got.equals(want)


def test_errors_arrive(lf: pl.LazyFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_of(lf)
    with pytest.raises(gpuzarr.api.RequestError, match="no column 'nope'"):
        BoundSource(dataset, None, None)(["nope"])
    dataset._pid = -1
    with pytest.raises(EnvironmentLacksError, match="fork"):
        BoundSource(dataset, None, None)(None)


@pytest.mark.parametrize(("device", "can"), [*itertools.product(["cpu", "auto", "cuda"], [True, False])])
def test_where_a_scan_on_the_gpu_engine_runs(device: str, can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def require_cuda() -> None:
        if not can:
            raise EnvironmentLacksError("cupy is missing")

    monkeypatch.setattr(gpu_source, "require_cuda", require_cuda)
    assert gpu_source.reads_on_device(device) == (device == "cuda" or (device == "auto" and can))


def test_frames_of_the_wave_engine(lf: pl.LazyFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of device frames up to their conversion, with host memory in place of the device's."""
    from cudf_polars.dsl.ir import PythonScan

    from gpuzarr.device import cuda_frames
    from gpuzarr.device.runtime_host import HostRuntime

    runtime = HostRuntime()
    monkeypatch.setattr(gpu_source, "reads_on_device", lambda device: True)
    monkeypatch.setattr(cuda_frames, "current_runtime", lambda: runtime)
    monkeypatch.setattr(cuda_frames, "to_cudf_polars", lambda frame: fake_frame(frame.to_polars()))
    _ahead(lf, monkeypatch)
    for query in QUERIES.values():
        want = query(lf).collect()
        _, (scan,) = plan(query(lf), SMALL_PARTITIONS)
        source = scan.options[0].io_source
        for nranks in (1, 3):
            rows = 0
            for rank in range(nranks):
                count, chunks = chunks_of(scan, rank, nranks)
                assert max(count, 1) == len(chunks)
                for chunk in chunks:
                    if not isinstance(chunk, pl.DataFrame):
                        assert PythonScan.process_chunk(chunk, scan.schema, None, context=None) is chunk
                        rows += chunk.num_rows
                    else:
                        assert chunk.is_empty()
            assert rows == want.height
        monkeypatch.setattr(cuda_frames, "to_cudf_polars", lambda frame: frame.to_polars())
        frames = list(source(scan.options[1]))
        assert_frame_equal(pl.concat([*frames, want.clear()]), want, check_exact=True)
        monkeypatch.setattr(cuda_frames, "to_cudf_polars", lambda frame: fake_frame(frame.to_polars()))


def _ahead(lf: pl.LazyFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the engine works on a chunk, the next one is being read, and no more than that."""
    begun: list[int] = []
    submit = gpu_source._Whole.submit

    def watched(self: Any, frame: Any) -> Any:
        begun.append(frame.number)
        return submit(self, frame)

    monkeypatch.setattr(gpu_source._Whole, "submit", watched)
    _, (scan,) = plan(lf, SMALL_PARTITIONS)
    chunks = scan.options[0].io_source(None)
    for taken in range(12):
        next(chunks)
        assert max(begun) == min(taken + 1, 11)


def test_an_unbound_call_is_one_of_a_cpu_engine(lf: pl.LazyFrame) -> None:
    """What falls back to the CPU is called through Polars' own function, and gives host frames in any number."""
    frames = list(ZarrSource(dataset_of(lf))(["rain"], HOT, 100, None))
    assert all(isinstance(f, pl.DataFrame) for f in frames)
    assert pl.concat(frames).equals(lf.head(100).filter(HOT).select("rain").collect())


def test_profile_sees_what_a_bound_scan_did(lf: pl.LazyFrame) -> None:
    from gpuzarr.source.tracing import traced

    with traced(lf.filter(BOX).select("rain"), dry=False) as (copy, trace):
        _, (scan,) = plan(copy)
        list(scan.options[0].io_source(scan.options[1]))
        (seen,) = trace.scans
    counts = seen.statistics.as_dict()
    assert seen.plan.projection == ("rain",)
    assert counts["chunks_read"] == gpuzarr.explain(lf.filter(BOX).select("rain"), engine="gpu").chunks
    assert counts["rows"] == lf.filter(BOX).collect().height


def test_frames_by_size_of_the_output(lf: pl.LazyFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_source, "FRAME_ROWS", 2**18)
    dataset = dataset_of(lf)
    plan_ = dataset.plan(["time", "t2m"])
    assert gpu_source.row_nbytes(plan_) == 12
    for nbytes, rows in ((0, 2**18), (12 * 10**6, 10**6), (10**12, 2**31 - 1)):
        assert gpu_source.share_of_rank(plan_, 0, 1, nbytes).rows == rows
    small = dataset.with_options(memory_budget=12 * 4 * 10**6)
    share, _, _ = BoundSource(small, None, None, frame_bytes=10**12).open(["time", "t2m"])
    assert share.rows == 10**6  # on the host several frames stay within the budget


def test_every_share_is_announced_before_any_read(lf: pl.LazyFrame) -> None:
    """Counts of all ranks add up to those of a single one wherever the cuts fall."""
    _, (scan,) = plan(lf.filter(HOT).head(9), SMALL_PARTITIONS)
    source = scan.options[0].io_source
    for nranks in (1, 2, 3, 7, 63, 64):
        shares = [source.open(scan.options[1], rank, nranks)[0] for rank in range(nranks)]
        assert sum(s.count for s in shares) == 12
        assert all(a.stop == b.start for a, b in itertools.pairwise(shares))
        assert max(s.stop - s.start for s in shares) <= math.ceil(12 / nranks)
