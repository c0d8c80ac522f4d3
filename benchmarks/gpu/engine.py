"""Queries on the Polars GPU engine against the CPU engines: ``python -m benchmarks.gpu.engine``.

A filter, a join and a group-by over a scan; and a table larger than the memory budget, with the peak of device memory.
With ``--host`` the GPU engine only plans, and its scans are read as it would read them, on the host, by one and by four ranks:
it shows that everything runs and answers rightly. Not yet run on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from benchmarks.gpu.common import Bench, arguments, write
from benchmarks.gpu.scans import Peak
from benchmarks.gpu.stores import Store, store
from gpuzarr import scan_zarr
from gpuzarr.errors import EnvironmentLacksError
from gpuzarr.source import gpu_hook

CODECS = ("uncompressed", "zstd", "blosc-lz4-shuffle")
CPU_ENGINES = ("in-memory", "streaming")
BUDGETS = (8, 4)
"""Parts of the table that a memory budget is: an eighth, a quarter."""


@dataclass(frozen=True)
class Query:
    """A query on one table, with columns of keys to sort the answer by."""

    name: str
    of: Callable[[pl.LazyFrame, Store], pl.LazyFrame]
    keys: tuple[str, ...]


def _normal(lf: pl.LazyFrame) -> pl.LazyFrame:
    return lf.group_by("lat", "lon").agg(pl.col("t").mean().alias("normal"))


def _filter_join_group(lf: pl.LazyFrame, made: Store) -> pl.LazyFrame:
    """Where the second half of the time is warmer than the mean of the first, by latitude."""
    half = made.shape[0] // 2
    before, after = (
        lf.filter(pl.col("time") < half),
        lf.filter(pl.col("time") >= half, pl.col("lat") > made.shape[1] // 4),
    )
    warmer = after.join(_normal(before), on=["lat", "lon"]).filter(pl.col("t") > pl.col("normal"))
    return warmer.group_by("lat").agg(pl.len(), (pl.col("t") - pl.col("normal")).mean().alias("by"))


def _filter_group(lf: pl.LazyFrame, _: Store) -> pl.LazyFrame:
    return lf.filter(pl.col("t") > 285).group_by("time").agg(pl.len(), pl.col("t").mean())


def _group(lf: pl.LazyFrame, _: Store) -> pl.LazyFrame:
    return lf.group_by("time").agg(pl.col("t").mean(), pl.col("t").max().alias("most"))


QUERIES = (
    Query("filter, join, group-by", _filter_join_group, ("lat",)),
    Query("filter by value, group-by", _filter_group, ("time",)),
    Query("group-by of everything", _group, ("time",)),
)


@contextmanager
def in_memory() -> Iterator[Any]:
    """The engine that holds everything."""
    yield pl.GPUEngine(executor="in-memory", raise_on_fail=True)


@contextmanager
def streaming(**options: Any) -> Iterator[Any]:
    """A streaming engine of one rank, of our own: it does not get on with the one that ``engine="gpu"`` keeps."""
    from cudf_polars.engine.spmd import SPMDEngine

    with SPMDEngine(executor_options=options, engine_options={"raise_on_fail": True}) as engine:
        yield engine


def agrees(got: pl.DataFrame, want: pl.DataFrame, keys: tuple[str, ...]) -> bool:
    """Whether two answers are the same up to the order of rows and the last digits of float sums."""
    try:
        assert_frame_equal(
            got.sort(keys), want.sort(keys), check_exact=False, rel_tol=1e-5, abs_tol=1e-3, check_column_order=True
        )
    except AssertionError as error:
        print(error, file=sys.stderr)
        return False
    return True


def _against_cpu(bench: Bench, codec: str, made: Store) -> None:
    for query in QUERIES:
        want = query.of(scan_zarr(made.path, device="cpu"), made).collect(engine="in-memory")
        for name in CPU_ENGINES:
            _measure(bench, f"{codec}: {query.name}, CPU, {name}", query, made, want, "cpu", name)
        if bench.host:
            continue
        for name, opened in (("GPU, in-memory", in_memory), ("GPU, streaming", streaming)):
            with opened() as engine:
                for device, reads in (("cuda", "reads on the device"), ("cpu", "reads on the host")):
                    _measure(bench, f"{codec}: {query.name}, {name}, {reads}", query, made, want, device, engine)


def _measure(bench: Bench, case: str, query: Query, made: Store, want: pl.DataFrame, device: Any, engine: Any) -> None:
    found: list[pl.DataFrame] = []
    lf = query.of(scan_zarr(made.path, device=device), made)

    def work() -> None:
        found[:] = [lf.collect(engine=engine)]

    bench.measure(case, made.nbytes, work, lambda: agrees(found[0], want, query.keys))


def _larger_than_budget(bench: Bench, codec: str, made: Store) -> None:
    """The streaming engine on a table of several budgets; peak of device memory beside it."""
    query = QUERIES[-1]
    want = query.of(scan_zarr(made.path, device="cpu"), made).collect()
    for parts in BUDGETS:
        budget = made.nbytes // parts
        case = f"{codec}: {query.name}, streaming, budget a {parts}th of the table"
        if bench.host:
            bench.absent(case, "needs a GPU: nothing of the engine runs without one")
            continue
        lf = query.of(scan_zarr(made.path, device="cuda", memory_budget=budget), made)
        found: list[Any] = []
        with streaming(target_partition_size=budget // 4) as engine:

            def work(lf: pl.LazyFrame = lf, found: list[Any] = found, engine: Any = engine) -> None:
                with Peak(bench.runtime) as peak:
                    found[:] = [lf.collect(engine=engine)]
                found.append(peak.nbytes)

            entry = bench.measure(case, made.nbytes, work, lambda found=found: agrees(found[0], want, query.keys))
        entry.update(budget_nbytes=budget, peak_device_nbytes=found[1], within_table=found[1] < made.nbytes)
        print(
            f"         peak {found[1] / 2**20:,.0f} MiB, budget {budget / 2**20:,.0f} MiB, table {made.nbytes / 2**20:,.0f} MiB"
        )


def _planned(bench: Bench, codec: str, made: Store) -> None:
    """The scans of the engine's plans, read on the host by one and by four ranks, give what each of them has to give."""
    from cudf_polars.dsl.ir import PythonScan
    from cudf_polars.dsl.translate import Translator
    from cudf_polars.dsl.traversal import traversal

    options = {"min_device_size": 80 * 10**9, "target_partition_size": max(1, made.nbytes // 8)}
    engine = pl.GPUEngine(executor="streaming", executor_options=options)
    lf = scan_zarr(made.path, device="cpu")
    for query in QUERIES:
        asked = query.of(lf, made)
        translator: Any = Translator(asked._ldf.visit(), engine)  # noqa: SLF001
        root = translator.translate_ir()
        if translator.errors:
            raise RuntimeError(f"the engine refuses {query.name!r}: {translator.errors}")
        scans = [node for node in traversal([root]) if isinstance(node, PythonScan)]

        def read(ranks: int, scans: list[Any] = scans) -> list[pl.DataFrame]:
            """Everything that every scan gives, put together in the order of the ranks."""
            out = []
            for scan in scans:
                source, columns = scan.options[0].io_source, scan.options[1]
                chunks = [chunk for rank in range(ranks) for chunk in source(columns, rank=rank, nranks=ranks)]
                out.append(pl.concat(chunks))
            return out

        found: list[pl.DataFrame] = []
        wanted = [lf.collect() if s.options[0].io_source.predicate is None else _rows(lf, s) for s in scans]
        for ranks in (1, 4):

            def work(ranks: int = ranks, found: list[pl.DataFrame] = found, read: Any = read) -> None:
                found[:] = read(ranks)

            def check(found: list[pl.DataFrame] = found, wanted: list[pl.DataFrame] = wanted) -> bool:
                return all(got.equals(want.select(got.columns)) for got, want in zip(found, wanted, strict=True))

            bench.measure(f"{codec}: {query.name}, scans of the plan, {ranks} ranks", made.nbytes, work, check)


def _rows(lf: pl.LazyFrame, scan: Any) -> pl.DataFrame:
    return lf.collect().filter(scan.options[0].io_source.predicate)


def main(bench: Bench) -> None:
    """Every codec: the queries on every engine; on host memory, what the engine would read."""
    for codec in CODECS:
        made = store(bench, codec)
        _against_cpu(bench, codec, made)
        if bench.host:
            try:
                gpu_hook.install()
                import cudf_polars  # noqa: F401
            except Exception as error:  # not installed, or not for this Polars
                bench.absent(f"{codec}: scans of the plan", f"the libraries of the GPU engine: {error}")
            else:
                _planned(bench, codec, made)
        _larger_than_budget(bench, codec, made)


if __name__ == "__main__":
    _bench, _given = arguments()
    try:
        with _bench.running("engine"):
            main(_bench)
    except EnvironmentLacksError as _error:
        sys.exit(str(_error))
    finally:
        if _given.record is not None:
            write(_bench, _given.record)
