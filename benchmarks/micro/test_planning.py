"""Planning: from a predicate to tiles, without reading a chunk."""

from __future__ import annotations

import polars as pl
import pytest

from benchmarks.micro.stores import declared_cube
from gpuzarr.api import open_dataset
from gpuzarr.predicate import analyse


@pytest.mark.parametrize("chunks", [10**3, 10**5, 10**7])
def test_plan_of_a_few_tiles(benchmark, chunks):
    """A handful of chunks of many survive: the cost must not follow the number of all chunks."""
    dataset = open_dataset(declared_cube(chunks))
    predicate = pl.col("time").is_between(100, 103) & pl.col("lat").is_between(0, 1) & pl.col("lon").is_between(0, 1)
    plan = benchmark(lambda: dataset.plan(["time", "v"], predicate))
    assert 0 < plan.tile_count <= 16


def test_plan_of_many_tiles(benchmark):
    """10^5 chunks survive, and every tile is listed."""
    dataset = open_dataset(declared_cube(10**5))
    predicate = pl.col("lat") > -100
    tiles = benchmark(lambda: sum(1 for _ in dataset.plan(["v"], predicate).tiles()))
    assert tiles > 0


def test_open(benchmark):
    """Documents of a table; no dimension is read."""
    path = declared_cube(10**5)
    assert benchmark(lambda: open_dataset(path)).table.rows


PREDICATES = {
    "box": (pl.col("time") > 10) & pl.col("lat").is_between(0, 1) & (pl.col("lon") < 1),
    "mixed": ((pl.col("time") > 10) & (pl.col("v") > 1)) | ~((pl.col("lat") > 1) | (pl.col("v") < 0)),
    "is_in": pl.col("time").is_in(list(range(0, 50_000, 7))) & (pl.col("v") > 1),
}


@pytest.mark.parametrize("name", PREDICATES)
def test_predicate_split(benchmark, name):
    """A predicate is split into what coordinates decide and the rest."""
    dataset = open_dataset(declared_cube(10**5))
    assert benchmark(lambda: analyse(PREDICATES[name], dataset.table.schema, dataset.coordinates)) is not None
