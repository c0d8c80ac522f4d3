"""Tables of many stores on the GPU engine: filters, columns, limits and ranks reach them as they reach a single one."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support_backends import expected, folder, objects, same
from support_counting import CountingStore
from support_gpu_plans import IN_MEMORY, SMALL_PARTITIONS, STREAMING, plan, scans, translate
from support_stores import MemoryStore

import gpuzarr
from gpuzarr.errors import PlanLimitError
from gpuzarr.many.source import ManySource
from gpuzarr.many.stores import Stores
from gpuzarr.metadata.limits import DEFAULT_LIMITS
from gpuzarr.options import ScanOptions
from gpuzarr.source import gpu_many, gpu_source
from gpuzarr.table import TableOptions

SHAPES = [(3 + i, 6, 10) for i in range(5)]
MODELS = ["a", "a", "b", "b", None]
LIMITS = [0.1, 0.3, 0.5, 0.7, 0.9]

HOT = pl.col("t2m") > 0.5
BOX = (pl.col("lat") > 0) & (pl.col("time") >= pl.datetime(2020, 1, 2))
IN_B = pl.col("model") == "b"
KEYS = ["model", "limit", "time", "lat", "lon"]

Query = Callable[[pl.LazyFrame], pl.LazyFrame]

QUERIES: dict[str, tuple[Query, list[Query | None]]] = {
    "all": (lambda lf: lf, [lambda lf: lf]),
    "filter": (lambda lf: lf.filter(HOT, BOX), [lambda lf: lf.filter(HOT, BOX)]),
    "of one store's column": (lambda lf: lf.filter(IN_B).select("t2m"), [lambda lf: lf.filter(IN_B).select("t2m")]),
    "mixed": (
        lambda lf: lf.filter((IN_B & BOX) | (pl.col("t2m") < pl.col("limit"))).select("model", "lat"),
        [lambda lf: lf.filter((IN_B & BOX) | (pl.col("t2m") < pl.col("limit"))).select("model", "lat")],
    ),
    "only the stores' columns": (lambda lf: lf.filter(HOT).select("limit"), [lambda lf: lf.filter(HOT).select("limit")]),
    "no store": (lambda lf: lf.filter(pl.col("model") == "z"), [lambda lf: lf.filter(pl.col("model") == "z")]),
    "no row": (lambda lf: lf.filter(pl.col("t2m") > 2), [lambda lf: lf.filter(pl.col("t2m") > 2)]),
    "head": (lambda lf: lf.head(500), [lambda lf: lf.head(500)]),
    "head before filter": (lambda lf: lf.head(700).filter(HOT), [lambda lf: lf.head(700).filter(HOT)]),
    "head before a store's filter": (lambda lf: lf.head(700).filter(IN_B), [lambda lf: lf.head(700).filter(IN_B)]),
    "head after filter": (lambda lf: lf.filter(HOT).head(5), [lambda lf: lf.filter(HOT)]),
    "group by": (
        lambda lf: lf.filter(BOX).group_by("model").agg(pl.col("t2m").mean()),
        [lambda lf: lf.filter(BOX).select("model", "t2m")],
    ),
    "self-join": (
        lambda lf: lf.filter(IN_B).join(lf.filter(HOT).select(*KEYS, again="pr"), on=KEYS),
        [lambda lf: lf.filter(IN_B), lambda lf: lf.filter(HOT).select(*KEYS, "pr")],
    ),
    "union": (
        lambda lf: pl.concat([lf.filter(IN_B).select("pr"), lf.head(9).select("pr")]),
        [lambda lf: lf.filter(IN_B).select("pr"), lambda lf: lf.head(9).select("pr")],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("many")
    return [folder(root / f"{i}.zarr", seed=10 * i, shape=shape) for i, shape in enumerate(SHAPES)]


@pytest.fixture
def lf(paths: list[Path], small_tiles: None) -> pl.LazyFrame:
    return gpuzarr.scan_zarr(pl.DataFrame({"url": list(map(str, paths)), "model": MODELS, "limit": LIMITS}))


@pytest.fixture(scope="module")
def table(paths: list[Path]) -> pl.DataFrame:
    """The whole table, by plain Polars."""
    parts = [gpuzarr.scan_zarr(path).collect() for path in paths]
    assert all(same(part, expected(10 * i, SHAPES[i])) for i, part in enumerate(parts))
    return pl.concat(
        part.select(pl.lit(MODELS[i], pl.String).alias("model"), pl.lit(LIMITS[i]).alias("limit"), pl.all())
        for i, part in enumerate(parts)
    )


def rows_of(scan: Any, rank: int = 0, nranks: int = 1) -> pl.DataFrame:
    chunks = scan.options[0].io_source(scan.options[1], rank=rank, nranks=nranks)
    frames = list(chunks)
    assert len(frames) == len(chunks)
    empty = pl.DataFrame(schema={name: dtype.polars_type for name, dtype in scan.schema.items()})
    return pl.concat([empty, *frames])


@pytest.mark.parametrize("engine", [IN_MEMORY, STREAMING, SMALL_PARTITIONS], ids=["in-memory", "streaming", "small"])
@pytest.mark.parametrize("name", QUERIES)
def test_scans_of_a_query(lf: pl.LazyFrame, table: pl.DataFrame, name: str, engine: Any) -> None:
    query, wanted = QUERIES[name]
    root, found = plan(query(lf), engine)
    assert len(found) == len(wanted)
    assert query(lf).collect().height == query(table.lazy()).collect().height
    for scan, want in zip(found, wanted, strict=True):
        assert scan.predicate is None
        assert want is not None
        assert rows_of(scan).equals(want(table.lazy()).collect())
    copy = pickle.loads(pickle.dumps(root))
    assert copy.get_stable_id() == root.get_stable_id()
    for ours, theirs in zip(found, scans(copy), strict=True):
        assert rows_of(theirs).equals(rows_of(ours))


@pytest.mark.parametrize("name", ["all", "mixed", "no store", "no row", "head", "head before filter"])
def test_ranks_read_the_whole_in_order(lf: pl.LazyFrame, table: pl.DataFrame, name: str) -> None:
    query, (want,) = QUERIES[name]
    assert want is not None
    _, (scan,) = plan(query(lf), SMALL_PARTITIONS)
    source = scan.options[0].io_source
    for nranks in (1, 2, 5, 12, 64):
        assert pl.concat(rows_of(scan, r, nranks) for r in range(nranks)).equals(want(table.lazy()).collect())
        shares = [source._shares(source._parts(scan.options[1]), r, nranks, on_device=False) for r in range(nranks)]
        tiles = [(p.number, s.start, s.stop) for share in shares for p, s in share.parts]
        for one, two in itertools.pairwise(tiles):  # contiguous, in order, nothing twice
            assert one[0] < two[0] or (one[0] == two[0] and one[2] == two[1])


def test_small_stores_share_chunks(paths: list[Path], table: pl.DataFrame) -> None:
    lf = gpuzarr.scan_zarr(paths)
    rows = [int(np.prod(shape)) for shape in SHAPES]  # 180, 240, 300, 360, 420
    _, (scan,) = plan(lf.select("pr"), STREAMING)
    assert [f.height for f in scan.options[0].io_source(["pr"])] == [sum(rows)]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(gpu_source, "FRAME_ROWS", 1)
        engine = {
            "executor": "streaming",
            "executor_options": {"min_device_size": 10**9, "target_partition_size": 600 * 4},
        }
        _, (scan,) = plan(lf.select("pr"), engine)
        chunks = list(scan.options[0].io_source(["pr"]))
    assert [c.height for c in chunks] == [rows[0] + rows[1], rows[2], rows[3], rows[4]]
    assert pl.concat(chunks).equals(table.select("pr"))


def test_an_excluded_store_is_never_opened() -> None:
    stores = [CountingStore(MemoryStore(objects(seed=i), is_local=True)) for i in range(4)]
    source = ManySource(
        Stores(
            stores, pl.DataFrame({"model": ["a", "b", "c", "d"]}), group=None, table=TableOptions(), options=ScanOptions(),
            storage_options=None, limits=DEFAULT_LIMITS,
        )
    )  # fmt: skip
    from polars.io.plugins import register_io_source

    for store in stores:
        store.clear()
    source.stores._opened.clear()
    lf = register_io_source(source, schema=source.stores.schema, is_pure=False)
    never = (pl.col("model") == "a") & (pl.col("lat") > 0) & (pl.col("model") == "b")
    query = lf.filter((pl.col("model").is_in(["c"]) & (pl.col("lat") < 0)) | never)
    _, (scan,) = plan(query)
    assert same(rows_of(scan).drop("model"), expected(2).filter(pl.col("lat") < 0))
    assert [bool(s.requests) for s in stores] == [False, False, True, False]
    _, (scan,) = plan(lf.head(400))
    assert rows_of(scan).height == 400
    assert [bool(s.requests) for s in stores] == [True, False, True, False]


def test_reports_and_guards(lf: pl.LazyFrame, paths: list[Path]) -> None:
    query = lf.filter(IN_B & BOX).select("t2m")
    bill, cpu = gpuzarr.explain(query, engine="gpu"), gpuzarr.explain(query)
    assert [s.store for s in bill.scans] == [str(p) for p in paths[2:4]]
    assert [s.rows for s in bill.scans] == [s.rows for s in cpu.scans]
    assert bill.chunks == cpu.chunks
    assert "GPU engine: 1 frame of 2 stores together" in str(bill)
    guarded = gpuzarr.scan_zarr([str(p) for p in paths], max_rows=1000)
    _, (scan,) = plan(guarded)
    with pytest.raises(PlanLimitError, match="max_rows exceeded: 1500 rows needed of 5 stores"):
        rows_of(scan)
    _, (scan,) = plan(guarded.head(999))
    assert rows_of(scan).height == 999
    assert translate(lf.select(pl.lit(1).alias("one"), pl.len()))[
        1
    ].errors  # rows of no column: a CPU engine counts them


def test_the_wave_engine_reads_many_stores(
    lf: pl.LazyFrame, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of device frames up to their conversion, with host memory in place of the device's."""
    from gpuzarr.device import cuda_frames
    from gpuzarr.device.runtime_host import HostRuntime

    runtime = HostRuntime()
    monkeypatch.setattr(gpu_source, "reads_on_device", lambda device: True)
    monkeypatch.setattr(cuda_frames, "current_runtime", lambda: runtime)
    monkeypatch.setattr(cuda_frames, "to_cudf_polars", lambda frame: frame.to_polars())
    for query, wanted in QUERIES.values():
        _, found = plan(query(lf), SMALL_PARTITIONS)
        for scan, want in zip(found, wanted, strict=True):
            assert want is not None
            parts = [rows_of(scan, rank, 3) for rank in range(3)]
            assert_frame_equal(pl.concat(parts), want(table.lazy()).collect(), check_exact=True)


class FakeFrame:
    """Stands for a frame of the engine: columns are Polars' own, and the engine's calls do what they do there."""

    def __init__(self, columns: list[pl.Series], stream: str, num_rows: int) -> None:
        self.columns, self.stream, self.num_rows = columns, stream, num_rows
        self.column_names = [c.name for c in columns]
        self.dtypes = [c.dtype for c in columns]
        self.table = pl.DataFrame(columns)
        assert all(len(c) == num_rows for c in columns)

    @classmethod
    def from_polars(cls, df: pl.DataFrame, stream: str) -> FakeFrame:
        return cls(df.get_columns(), stream, df.height)

    @classmethod
    def from_table(cls, table: pl.DataFrame, names: list[str], dtypes: list[Any], stream: str) -> FakeFrame:
        assert table.columns == names
        assert table.dtypes == dtypes
        return cls(table.get_columns(), stream, table.height)


def test_frames_on_the_device_get_constants_and_are_merged(
    lf: pl.LazyFrame, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done to frames of the engine, with stand-ins for the engine's own calls."""
    import cudf_polars.containers
    import cudf_polars.utils.cuda_stream
    import pylibcudf.concatenate
    import pylibcudf.filling

    class Streams:
        def __init__(self, get: Any, upstreams: list[str]) -> None:
            assert upstreams == ["s"] * len(upstreams)

        def __enter__(self) -> str:
            return "s"

        def __exit__(self, *error: object) -> None:
            pass

    def repeat(table: pl.DataFrame, count: int, stream: str) -> pl.DataFrame:
        return pl.concat([table] * count) if count else table.clear()

    monkeypatch.setattr(cudf_polars.containers, "DataFrame", FakeFrame)
    monkeypatch.setattr(cudf_polars.utils.cuda_stream, "stream_ordered_after", Streams)
    monkeypatch.setattr(pylibcudf, "filling", SimpleNamespace(repeat=repeat))
    monkeypatch.setitem(__import__("sys").modules, "pylibcudf.filling", SimpleNamespace(repeat=repeat))
    concatenate = SimpleNamespace(concatenate=lambda tables, stream: pl.concat(tables))
    monkeypatch.setitem(__import__("sys").modules, "pylibcudf.concatenate", concatenate)

    def chunks(dataset: Any, share: Any, statistics: Any) -> Iterator[Any]:
        for chunk in gpu_source.host_chunks(dataset, share, statistics):
            yield FakeFrame.from_polars(chunk, "s") if chunk.height else chunk

    for query, wanted in (QUERIES[name] for name in ("all", "mixed", "only the stores' columns", "no row", "head")):
        for engine in (STREAMING, SMALL_PARTITIONS):
            _, (scan,) = plan(query(lf), engine)
            bound = scan.options[0].io_source
            source = gpu_many.BoundStores(bound.stores, bound.predicate, bound.n_rows, bound.frame_bytes, chunks=chunks)
            got = [c if isinstance(c, pl.DataFrame) else c.table for c in source(scan.options[1])]
            assert wanted[0] is not None
            assert pl.concat(got).equals(wanted[0](table.lazy()).collect())
