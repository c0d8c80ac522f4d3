"""The plan that the GPU engine makes of a query: every scan of ours has the filter, the columns and the limit of its query."""

from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal
from support_gpu_plans import IN_MEMORY, STREAMING, plan, scans, translate

import gpuzarr
from gpuzarr.source import gpu_expressions, gpu_hook, gpu_source
from gpuzarr.source.gpu_source import ScanFunction

KEYS = ["time", "lat", "lon"]
HOT = pl.col("t2m") > 290
BOX = pl.col("lat").is_between(5, 20) & (pl.col("time").dt.hour() == 6)
EARLY = pl.col("time") < dt.datetime(2020, 1, 3)

Query = Callable[[pl.LazyFrame], pl.LazyFrame]

# Query, and for each of its scans what the scan has to give.
QUERIES: dict[str, tuple[Query, list[Query]]] = {
    "all": (lambda lf: lf, [lambda lf: lf]),
    "filter": (lambda lf: lf.filter(HOT & BOX), [lambda lf: lf.filter(HOT & BOX)]),
    "filters": (lambda lf: lf.filter(HOT).filter(BOX), [lambda lf: lf.filter(HOT & BOX)]),
    "projection": (lambda lf: lf.select("t2m", "lat"), [lambda lf: lf.select("lat", "t2m")]),
    "filter columns are not made": (
        lambda lf: lf.filter(HOT & BOX).select("rain", "lon"),
        [lambda lf: lf.filter(HOT & BOX).select("lon", "rain")],
    ),
    "expression": (lambda lf: lf.filter(HOT).select(pl.col("rain") * 2), [lambda lf: lf.filter(HOT).select("rain")]),
    "made column": (
        lambda lf: lf.filter(BOX).with_columns(made=pl.col("rain") + 1).select("made"),
        [lambda lf: lf.filter(BOX).select("rain")],
    ),
    "group by": (
        lambda lf: lf.filter(BOX).group_by("lon").agg(pl.col("rain").mean()),
        [lambda lf: lf.filter(BOX).select("lon", "rain")],
    ),
    "sum": (lambda lf: lf.filter(HOT).select(pl.col("rain").sum()), [lambda lf: lf.filter(HOT).select("rain")]),
    "number of rows": (lambda lf: lf.filter(HOT).select(pl.len()), [lambda lf: lf.filter(HOT).select("rain")]),
    "unique": (lambda lf: lf.filter(BOX).select("lat").unique(), [lambda lf: lf.filter(BOX).select("lat")]),
    "join": (
        lambda lf: lf.filter(HOT).join(lf.filter(BOX).select(*KEYS, again="rain"), on=KEYS),
        [lambda lf: lf.filter(HOT), lambda lf: lf.filter(BOX).select(*KEYS, "rain")],
    ),
    "filter on a join": (
        lambda lf: lf.join(lf, on=KEYS).filter(BOX).select("rain", "t2m_right"),
        [lambda lf: lf.filter(BOX).select(*KEYS, "rain"), None],  # type: ignore[list-item]  # the other side may be filtered
    ),
    "self-join": (lambda lf: lf.join(lf, on=KEYS), [lambda lf: lf, lambda lf: lf]),
    "head": (lambda lf: lf.head(333), [lambda lf: lf.head(333)]),
    "head of columns": (lambda lf: lf.select("rain").head(333), [lambda lf: lf.head(333).select("rain")]),
    "head before filter": (lambda lf: lf.head(700).filter(HOT), [lambda lf: lf.head(700).filter(HOT)]),
    "head before filter and columns": (
        lambda lf: lf.head(700).filter(HOT & EARLY).select("lat"),
        [lambda lf: lf.head(700).filter(HOT & EARLY).select("lat")],
    ),
    "head after filter": (lambda lf: lf.filter(HOT).head(5), [lambda lf: lf.filter(HOT)]),
    "filter, head, filter": (lambda lf: lf.filter(HOT).head(50).filter(BOX), [lambda lf: lf.filter(HOT)]),
    "no row": (lambda lf: lf.filter(pl.col("lat") > 1000), [lambda lf: lf.filter(pl.col("lat") > 1000)]),
    "head of nothing": (lambda lf: lf.head(0).select("rain", "lat"), []),
    "head of columns after filter": (lambda lf: lf.filter(HOT & BOX).head(5).select("lat"), [lambda lf: lf.filter(HOT & BOX).select("lat")]),
    "slice": (lambda lf: lf.slice(3, 5), [lambda lf: lf]),
    "sort": (lambda lf: lf.filter(BOX).sort("t2m"), [lambda lf: lf.filter(BOX)]),
    "hints": (lambda lf: lf.filter(BOX).sort("rain").head(3), [lambda lf: lf.filter(BOX)]),
    "union": (
        lambda lf: pl.concat([lf.filter(HOT).select("rain"), lf.head(9).select("rain")]),
        [lambda lf: lf.filter(HOT).select("rain"), lambda lf: lf.head(9).select("rain")],
    ),
}  # fmt: skip


def rows_of(scan: Any, **rank: int) -> pl.DataFrame:
    """Everything that the source of a scan node gives."""
    chunks = scan.options[0].io_source(scan.options[1], **rank)
    frames = list(chunks)
    assert len(frames) == len(chunks)
    return pl.concat(frames) if frames else pl.DataFrame(schema={n: t.polars_type for n, t in scan.schema.items()})


@pytest.mark.parametrize("engine", [IN_MEMORY, STREAMING], ids=lambda e: e["executor"])
@pytest.mark.parametrize("name", QUERIES)
def test_scans_of_a_query(lf: pl.LazyFrame, name: str, engine: Mapping[str, Any]) -> None:
    query, wanted = QUERIES[name]
    _, found = plan(query(lf), engine)
    assert len(found) == len(wanted)
    for scan, want in zip(found, wanted, strict=True):
        assert isinstance(scan.options[0], ScanFunction)
        assert scan.predicate is None  # cudf would compare NaN otherwise than Polars
        rows = rows_of(scan)
        assert rows.columns == list(scan.schema)
        if want is not None and name != "number of rows":
            assert_frame_equal(rows, want(lf).collect(), check_exact=True)
        elif want is not None:
            assert rows.shape == (want(lf).collect().height, 1)


def test_frames_have_the_size_that_the_engine_wants(lf: pl.LazyFrame) -> None:
    assert plan(lf, STREAMING)[1][0].options[0].io_source.frame_bytes == 1_500_000_000
    engine = {"executor": "streaming", "executor_options": {"min_device_size": 10**9, "target_partition_size": 20_000}}
    (scan,) = plan(lf.select("rain", "lat"), engine)[1]
    chunks = list(scan.options[0].io_source(["lat", "rain"]))
    assert [c.height for c in chunks] == [1200, 1200, 480]  # five tiles of 240 rows of 16 bytes fit into 20 kB
    assert pl.concat(chunks).equals(lf.select("lat", "rain").collect())


@pytest.mark.parametrize("name", ["filter columns are not made", "join", "head before filter", "group by", "union"])
def test_plans_travel(lf: pl.LazyFrame, name: str) -> None:
    """Engines of several processes ship plans: they pickle, keep their identity, and read the same."""
    root, found = plan(QUERIES[name][0](lf), STREAMING)
    copy = pickle.loads(pickle.dumps(root))
    assert copy.get_stable_id() == root.get_stable_id()
    for ours, theirs in zip(found, scans(copy), strict=True):
        assert_frame_equal(rows_of(theirs), rows_of(ours), check_exact=True)
    assert root.get_stable_id() == plan(QUERIES[name][0](lf), STREAMING)[0].get_stable_id()


@pytest.mark.filterwarnings("ignore:This slice not supported for multiple partitions:UserWarning")
@pytest.mark.parametrize("name", QUERIES)
def test_streaming_engine_lowers_and_explains(lf: pl.LazyFrame, name: str) -> None:
    from cudf_polars.streaming.explain import explain_query
    from cudf_polars.streaming.parallel import lower_ir_graph
    from cudf_polars.streaming.statistics import StatsCollector

    query = QUERIES[name][0](lf)
    root, translator = translate(query, STREAMING)
    for rank, nranks in ((0, 1), (1, 4)):
        lowered = lower_ir_graph(root, translator.config_options, StatsCollector(), rank=rank, nranks=nranks).lowered
        kept = [s.options[0].io_source for s in scans(lowered)]
        assert {id(s) for s in kept} == {id(s.options[0].io_source) for s in scans(root)}
    text = explain_query(query, pl.GPUEngine(**STREAMING))
    assert ("PYTHONSCAN" in text) == bool(scans(root))


def test_other_sources_are_left_alone(lf: pl.LazyFrame) -> None:
    def numbers(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        yield pl.DataFrame({"lat": [1.0]})

    other = register_io_source(numbers, schema={"lat": pl.Float64})
    _, (scan,) = plan(other.filter(pl.col("lat") > 0))
    assert not isinstance(scan.options[0], ScanFunction)
    assert scan.predicate is not None
    _, translator = translate(other.head(3))
    assert "row limit" in str(translator.errors[0])
    _, found = plan(lf.filter(BOX).join(other.filter(pl.col("lat") > 0), on="lat"))
    assert [isinstance(s.options[0], ScanFunction) for s in found] == [True, False]
    assert [s.predicate is None for s in found] == [True, False]


def test_what_cannot_be_converted_is_left_to_the_engine(lf: pl.LazyFrame) -> None:
    odd = pl.col("rain").hash() > 2**40
    query = lf.filter(odd, BOX).select("lat")
    _, (scan,) = plan(query)
    assert list(scan.schema) == ["time", "lat", "rain"]  # the engine needs what it filters by
    assert [node.name for node in _columns(scan.predicate.value)] == ["rain"]
    assert_frame_equal(rows_of(scan), lf.filter(BOX).select("time", "lat", "rain").collect())
    bill = gpuzarr.explain(query, engine="gpu")
    assert "filter left to the engine: hash" in str(bill)
    assert bill.scans[0].tiles == gpuzarr.explain(query).scans[0].tiles  # the rest still prunes


def _columns(expression: Any) -> list[Any]:
    from cudf_polars.dsl import expr
    from cudf_polars.dsl.traversal import traversal

    return [node for node in traversal([expression]) if isinstance(node, expr.Col)]


def test_hints_of_the_optimizer_are_dropped(lf: pl.LazyFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the filter that the engine's own translation drops (a dynamic predicate) stays nowhere."""
    from cudf_polars.dsl import translate as engine

    from gpuzarr.source import gpu_translate

    def refuse(visitor: Any, n: int, *more: Any) -> pl.Expr:
        expression = gpu_expressions.to_polars(visitor, n, *more)
        if expression.meta.root_names() == ["rain"]:
            raise gpu_expressions.Unconvertible("dynamic_pred")
        return expression

    monkeypatch.setattr(gpu_translate, "to_polars", refuse)
    monkeypatch.setattr(engine, "translate_predicate", lambda *_, **__: None)
    _, (scan,) = plan(lf.filter(BOX & (pl.col("rain") > 0.5)))
    assert scan.predicate is None
    assert scan.options[0].io_source.left == ()
    assert_frame_equal(rows_of(scan), lf.filter(BOX).collect())


def test_explain_for_the_gpu_engine(lf: pl.LazyFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_source, "reads_on_device", lambda device: device == "cuda")
    query = lf.filter(HOT & BOX).select("rain").head(10)
    bill, cpu = gpuzarr.explain(query, engine="gpu"), gpuzarr.explain(query)
    assert (bill.scans[0].rows, bill.chunks, bill.scans[0].filter) == (
        cpu.scans[0].rows,
        cpu.chunks,
        cpu.scans[0].filter,
    )
    assert bill.scans[0].columns == ("rain",)
    assert cpu.scans[0].columns == ("time", "lat", "rain", "t2m")
    assert "GPU engine: 1 frame" in str(bill)
    assert (bill.scans[0].device, bill.scans[0].device_reason) == (
        "cpu", "device='auto' under the GPU engine, which copies the frames",
    )  # fmt: skip
    assert "GPU engine" not in str(cpu)
    assert gpuzarr.explain(query, engine=pl.GPUEngine(**STREAMING)).scans[0].columns == ("rain",)


def test_filters_that_the_engine_lacks_stay_in_the_scan(lf: pl.LazyFrame) -> None:
    """cudf-polars would refuse the query for its filter; the scan evaluates it, so the query stays on the GPU."""
    by_month = lf.filter(pl.col("time").dt.truncate("1mo") == dt.datetime(2020, 1, 1), BOX)
    for query in (by_month, lf.head(1000).filter(pl.col("time").dt.strftime("%H") == "06")):
        _, (scan,) = plan(query)
        assert_frame_equal(rows_of(scan), query.collect(), check_exact=True)
    gpu_hook.uninstall()
    try:
        assert translate(by_month)[1].errors
    finally:
        gpu_hook.install()


def test_predicates_travel_exactly(lf: pl.LazyFrame) -> None:
    values = pl.Series([float("nan"), 290.0, None], dtype=pl.Float32)
    for predicate in (
        pl.col("t2m") == float("nan"),
        pl.col("t2m").is_in(values.implode()),
        pl.col("rain") < float("inf"),
    ):
        root, (scan,) = plan(lf.filter(predicate))
        (copy,) = scans(pickle.loads(pickle.dumps(root)))
        assert copy.options[0].io_source.predicate.meta.eq(scan.options[0].io_source.predicate)
        assert_frame_equal(rows_of(copy), lf.filter(predicate).collect(), check_exact=True)


@pytest.mark.filterwarnings("ignore::polars.exceptions.PolarsInefficientMapWarning")
def test_queries_that_the_engine_refuses_run_on_the_cpu(lf: pl.LazyFrame) -> None:
    """A refused query is run by a CPU engine as a whole: through the unbound source, which is then right as ever."""
    query = lf.filter(BOX, pl.col("rain").map_elements(lambda x: x > 0.5, return_dtype=pl.Boolean)).select("lat")
    _, translator = translate(query)
    assert translator.errors
    assert "the GPU engine cannot run this query" in str(gpuzarr.explain(query, engine="gpu"))
    assert query.collect().height == lf.filter(BOX, pl.col("rain") > 0.5).collect().height


def test_types_that_the_engine_lacks(tmp_path: Path) -> None:
    """A table with a Binary column runs on the GPU engine as long as the query does not ask for that column."""
    group = zarr.create_group(tmp_path / "bytes.zarr", zarr_format=2)
    for name, data in (("x", np.arange(6)), ("v", np.arange(6.0)), ("tag", np.array([b"ab"] * 6, "S2"))):
        array = group.create_array(
            name, shape=(6,), chunks=(3,), dtype=data.dtype, attributes={"_ARRAY_DIMENSIONS": ["x"]}, fill_value=None
        )
        array[...] = data
    lf = gpuzarr.scan_zarr(tmp_path / "bytes.zarr")
    assert lf.collect_schema()["tag"] == pl.Binary
    _, (scan,) = plan(lf.filter(pl.col("v") > 2).select("x", "v"))
    assert rows_of(scan)["x"].to_list() == [3, 4, 5]
    _, translator = translate(lf)
    assert "inary" in str(translator.errors[0])
    # a filter on the column alone: it is evaluated in the scan and never seen by the engine
    _, translator = translate(lf.filter(pl.col("tag") == b"ab").select("v"))
    assert translator.errors  # the scan's schema has it all the same


def test_literals_in_nanoseconds_are_cut_to_microseconds() -> None:
    """Polars hands a plan over like that. When this fails, docs/gpu-engine.md has one limit less."""
    exact = pl.lit(1_577_836_800_000_000_001).cast(pl.Datetime("ns"))
    schema = {"t": pl.Datetime("ns")}
    visitor = register_io_source(lambda *_: iter(()), schema=schema).filter(pl.col("t") == exact)._ldf.visit()
    n = visitor.view_current_node().options[3][1]
    frame = pl.select(t=exact)
    assert frame.filter(pl.col("t") == exact).height == 1
    assert frame.filter(gpu_expressions.to_polars(visitor, n, schema)).height == 0
