"""Random chains of filters, limits and projections: what the engine would do with what the scans give is what Polars does.

The engine's plans are run by a small interpreter on Polars' own operations; scans are read by one rank and by several.
"""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support_backends import folder
from support_gpu_plans import IN_MEMORY, SMALL_PARTITIONS, plan

CHAINS = 160

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "LESS": operator.lt, "GREATER": operator.gt, "LESS_EQUAL": operator.le, "GREATER_EQUAL": operator.ge,
    "EQUAL": operator.eq, "NOT_EQUAL": operator.ne, "LOGICAL_AND": operator.and_, "NULL_LOGICAL_AND": operator.and_,
    "BITWISE_AND": operator.and_, "ADD": operator.add, "MUL": operator.mul,
}  # fmt: skip


def expression(node: Any) -> pl.Expr:
    """An expression of the engine as one of Polars."""
    kind = type(node).__name__
    if kind == "Col":
        return pl.col(node.name)
    if kind == "Literal":
        return pl.lit(node.value, dtype=node.dtype.polars_type)
    if kind == "Cast":
        return expression(node.children[0]).cast(node.dtype.polars_type)
    assert kind == "BinOp", kind
    result: pl.Expr = OPERATORS[node.op.name](*map(expression, node.children))
    return result


def interpreted(node: Any, ranks: int) -> pl.DataFrame:
    """What a plan of the engine gives."""
    kind = type(node).__name__
    if kind == "PythonScan":
        assert node.predicate is None
        source, columns = node.options[0].io_source, node.options[1]
        empty = pl.DataFrame(schema={name: dtype.polars_type for name, dtype in node.schema.items()})
        return pl.concat([empty, *(c for rank in range(ranks) for c in source(columns, rank=rank, nranks=ranks))])
    frames = [interpreted(child, ranks) for child in node.children]
    if kind == "Projection":
        return frames[0].select(list(node.schema))
    if kind == "Slice":
        return frames[0].slice(node.offset, node.length)
    if kind == "Filter":
        return frames[0].filter(expression(node.mask.value))
    if kind in ("Select", "HStack"):
        columns = [expression(e.value).alias(e.name) for e in (node.exprs if kind == "Select" else node.columns)]
        return frames[0].select(columns) if kind == "Select" else frames[0].with_columns(columns)
    if kind == "Union":
        return pl.concat(frames) if node.zlice is None else pl.concat(frames).slice(*node.zlice)
    if kind == "DataFrameScan":  # the answer is known to be empty
        return pl.DataFrame._from_pydf(node.df).select(list(node.schema))
    assert kind == "MapFunction", kind
    assert node.name == "row_index"
    return frames[0].with_row_index(*node.options[:2])


def step(rng: np.random.Generator, names: list[str]) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    """One link of a chain."""
    numbers = [name for name in names if name in ("lat", "lon", "t2m", "pr", "k", "x")]
    kind, a, b = int(rng.integers(8)), int(rng.integers(60)), int(rng.integers(250))
    if kind <= 2 and numbers:
        column, value = pl.col(str(rng.choice(numbers))), float(rng.choice([0, 0.5, 0.3, 36, 72, -10, 2]))
        predicate = (column > value, column <= value, column != value)[kind]
        if "m" in names and rng.random() < 0.4:
            predicate &= pl.col("m") == str(rng.choice(["a", "b", "z"]))
        if "time" in names and rng.random() < 0.3:
            predicate &= pl.col("time") > dt.datetime(2020, 1, 2)
        return lambda lf: lf.filter(predicate)
    if kind == 3:
        return lambda lf: lf.head(b)
    if kind == 4:
        return lambda lf: lf.slice(a, b)
    if kind == 5:
        return lambda lf: lf.tail(b)
    if kind == 6 and numbers:
        name = str(rng.choice(numbers))
        return lambda lf: lf.with_columns(x=pl.col(name) * 2)
    chosen = [name for name in rng.permutation(names).tolist() if rng.random() < 0.6] or names[:1]
    if kind == 7 and "i" not in names:
        return lambda lf: lf.with_row_index("i")
    return lambda lf: lf.select(chosen)


@pytest.fixture
def tables(tmp_path: Path, small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> list[pl.LazyFrame]:
    """One store, and three with columns of their own; in tiles of few rows."""
    import functools

    import gpuzarr.source.gpu_source
    import gpuzarr.table.build
    from gpuzarr.table.tiling import tile_shape

    monkeypatch.setattr(gpuzarr.table.build, "tile_shape", functools.partial(tile_shape, tile_rows=20))
    monkeypatch.setattr(gpuzarr.source.gpu_source, "FRAME_ROWS", 20)
    paths = [str(folder(tmp_path / f"{i}.zarr", seed=i, shape=(5 + i, 4, 6))) for i in range(3)]
    catalogue = pl.DataFrame({"url": paths, "m": ["a", "b", "a"], "k": [1, 2, 3]})
    return [gpuzarr.scan_zarr(paths[0]), gpuzarr.scan_zarr(catalogue)]


def test_random_chains(tables: list[pl.LazyFrame]) -> None:
    rng = np.random.default_rng(3)
    for number in range(CHAINS):
        lf = tables[number % 2]
        plain = lf.collect().lazy()
        for _ in range(rng.integers(1, 6)):
            link = step(rng, lf.collect_schema().names())
            lf, plain = link(lf), link(plain)
        if number % 5 == 0:
            lf, plain = pl.concat([lf, lf]), pl.concat([plain, plain])
        root, _ = plan(lf, SMALL_PARTITIONS if number % 3 else IN_MEMORY)
        got, want = interpreted(root, int(rng.choice([1, 2, 5]))), plain.collect()
        assert got.equals(want), f"{number}:\n{lf.explain()}"


def test_one_query_from_many_threads(tables: list[pl.LazyFrame]) -> None:
    """Translated and read at once: neither knows of the other."""
    queries = [
        lf.filter(pl.col("lat") > number, pl.col("t2m") > 0.3).head(99) for lf in tables for number in (-60, 0, 20)
    ]
    wanted = [query.collect() for query in queries]

    def run(number: int) -> bool:
        root, _ = plan(queries[number % len(queries)], SMALL_PARTITIONS)
        return interpreted(root, 1 + number % 3).equals(wanted[number % len(queries)])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(48)))
