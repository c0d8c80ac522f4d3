"""Predicates: every claim of planning is checked, row by row, against plain Polars on the expanded table."""

from __future__ import annotations

import datetime as dt
import itertools
import time
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from expressions import odd_looking, random_predicate
from grids import RandomGrid, random_grid
from hypothesis import given
from hypothesis import strategies as st
from polars.io.plugins import register_io_source

from gpuzarr.predicate import (
    ANY,
    F,
    N,
    Node,
    Selection,
    T,
    analyse,
    codes_on,
    conjuncts,
    is_elementwise,
    outcomes_to_series,
    residual_expression,
    select,
    tile_outcomes,
)
from gpuzarr.predicate.outcomes import combine, outcomes_of

SEEDS = st.integers(0, 2**63)
col = pl.col


def truth(grid: RandomGrid, predicate: pl.Expr) -> np.ndarray:
    """The outcome of every row as plain Polars sees it."""
    return outcomes_of(grid.frame.with_columns(predicate.alias("truth"))["truth"]).reshape(grid.shape)


def picks(grid: RandomGrid, selection: Selection) -> dict[str, np.ndarray]:
    return {
        d: np.flatnonzero(selection.keep[d]) if d in selection.keep else np.arange(n) for d, n in grid.sizes.items()
    }


def check(rng: np.random.Generator, grid: RandomGrid, predicate: pl.Expr, expected: np.ndarray) -> Selection:
    """All that the room claims about one predicate, against the outcomes of the rows."""
    max_cells = int(rng.choice([1, 20, 2**22]))
    node = analyse(predicate, grid.frame.schema, grid, max_cells=max_cells)
    rebuilt(grid, node, {d: np.arange(n) for d, n in grid.sizes.items()}, max_cells, expected)
    selection = select(node, grid.sizes)
    if selection.impossible:
        assert not (expected == T).any()
        return selection
    for axis, (name, size) in enumerate(grid.sizes.items()):
        if name in selection.keep:
            assert selection.keep[name].shape == (size,)
            assert not selection.keep[name].all()
            assert not (np.moveaxis(expected, axis, 0)[~selection.keep[name]] == T).any()
    picked = picks(grid, selection)
    inside = expected[np.ix_(*picked.values())]
    if selection.residual is None:
        assert (inside == T).all()
        return selection
    rows = rebuilt(grid, selection.residual, picked, max_cells, None)
    assert ((rows == T) == (inside == T)).all()

    starts = {d: np.unique(np.r_[0, rng.integers(0, len(p), 3)]) for d, p in picked.items()}
    tiles = tile_outcomes(selection.residual, list(grid.sizes), starts, picked)
    assert tiles.shape == tuple(map(len, starts.values()))
    for position in np.ndindex(tiles.shape):
        box = tuple(slice(s[i], [*s, None][i + 1]) for s, i in zip(starts.values(), position, strict=True))
        found = np.bitwise_or.reduce(rows[box], axis=None)
        assert found & ~tiles[position] == 0
    return selection


def rebuilt(
    grid: RandomGrid, node: Node, picked: dict[str, np.ndarray], max_cells: int, expected: np.ndarray | None
) -> np.ndarray:
    """Outcomes of the residual expression on the picked rows, known parts broadcast as an executor does."""
    expr, parts = residual_expression(node, lambda i: f"known {i}", max_cells=max_cells)
    shape = tuple(map(len, picked.values()))
    rows = np.ravel_multi_index(np.ix_(*picked.values()), grid.shape).ravel()
    frame = grid.frame[rows]
    for i, part in enumerate(parts):
        codes = codes_on(part, picked)
        aligned = codes.reshape([len(picked[d]) if d in part.dims else 1 for d in grid.sizes])
        frame = frame.with_columns(outcomes_to_series(f"known {i}", np.broadcast_to(aligned, shape)))
    outcomes = outcomes_of(frame.lazy().with_columns(expr.alias("rebuilt")).collect()["rebuilt"]).reshape(shape)
    if expected is not None:
        assert (outcomes == expected).all()
    return outcomes


@given(SEEDS)
def test_random_predicates_agree_with_polars(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = random_grid(rng)
    for _ in range(5):
        predicate = random_predicate(rng, grid.columns, depth=int(rng.integers(0, 4)))
        expected = truth(grid, predicate)
        check(rng, grid, predicate, expected)
        arrived = pushed(grid, predicate)
        if arrived is not None:  # rewritten by Polars' optimizer, and without the conjuncts that it keeps for itself
            check(rng, grid, arrived, truth(grid, arrived))


def pushed(grid: RandomGrid, predicate: pl.Expr) -> pl.Expr | None:
    """The form in which a source receives the predicate."""
    received: list[pl.Expr | None] = []

    def source(_columns: object, predicate: pl.Expr | None, _rows: object, _batch: object) -> Iterator[pl.DataFrame]:
        received.append(predicate)
        return iter(())

    register_io_source(source, schema=grid.frame.schema).filter(predicate).collect()
    return received[0] if received else None


@pytest.mark.parametrize(("kind", "apply"), [("and", pl.Expr.and_), ("or", pl.Expr.or_), ("xor", pl.Expr.xor)])
def test_connectives_of_outcome_sets_are_those_of_polars(kind: str, apply: object) -> None:
    single = {T: True, F: False, N: None}
    pairs = list(itertools.product(single, repeat=2))
    frame = pl.DataFrame(
        {"a": [single[a] for a, _ in pairs], "b": [single[b] for _, b in pairs]},
        schema={"a": pl.Boolean, "b": pl.Boolean},
    )
    of_pair = dict(zip(pairs, outcomes_of(frame.select(apply(col("a"), col("b")).alias("r"))["r"]), strict=True))
    sets = np.arange(8, dtype=np.uint8)
    table = combine(kind, [sets[:, None], sets[None, :]])
    for a, b in itertools.product(range(8), repeat=2):
        members = [of_pair[x, y] for x, y in pairs if x & a and y & b]
        assert not members or table[a, b] == np.bitwise_or.reduce(members)
    negated = combine("not", [sets])
    assert negated.tolist() == [0, F, T, T | F, N, F | N, T | N, ANY]


def era(hours: int = 2_000) -> RandomGrid:
    """A small ERA5: time, lat (descending), lon, and a 2-D and a scalar coordinate."""
    start = dt.datetime(2000, 1, 1)
    time_ = pl.datetime_range(start, start + dt.timedelta(hours=hours - 1), "1h", time_unit="ns", eager=True)
    lat, lon = np.linspace(90, -90, 37), np.linspace(0, 350, 36)
    plane = pl.Series((lat[:, None] + lon[None, :]).ravel())
    sizes = {"time": hours, "lat": 37, "lon": 36}
    coordinates = {
        "time": (("time",), time_.alias("time")),
        "lat": (("lat",), pl.Series("lat", lat)),
        "lon": (("lon",), pl.Series("lon", lon)),
        "slant": (("lat", "lon"), plane),
        "height": ((), pl.Series([2.0])),
    }
    return RandomGrid(sizes, coordinates, {"v": (tuple(sizes), pl.Series([], dtype=pl.Float32))})


def schema_of(grid: RandomGrid) -> pl.Schema:
    return pl.Schema({name: values.dtype for name, (_, values) in (grid.coordinates | grid.variables).items()})


def planned(predicate: pl.Expr, grid: RandomGrid | None = None) -> Selection:
    grid = grid or era()
    return select(analyse(predicate, schema_of(grid), grid), grid.sizes)


LAT, LON = np.linspace(90, -90, 37), np.linspace(0, 350, 36)
JANUARY = np.arange(2_000) < 31 * 24
V = col("v") > 1


@pytest.mark.parametrize(
    ("predicate", "keep", "residual"),
    [
        (
            (col("time").dt.month() == 1) & col("lat").is_between(30, 50) & (col("lon") < 20),
            {"time": JANUARY, "lat": (LAT >= 30) & (LAT <= 50), "lon": LON < 20},
            None,
        ),
        (~((col("lat") <= 30) | ~(col("lon") < 5)), {"lat": LAT > 30, "lon": LON < 5}, None),
        ((col("lat") > 30) & (col("lat") < 50) & V, {"lat": (LAT > 30) & (LAT < 50)}, "data"),
        ((col("lat") > 60) | (col("lat") < -60), {"lat": np.abs(LAT) > 60}, None),
        ((col("lat") > 60) ^ (col("lat") > 30), {"lat": (LAT <= 60) & (LAT > 30)}, None),
        (pl.all_horizontal(col("lat") > 60, col("lon") > 100, V), {"lat": LAT > 60, "lon": LON > 100}, "data"),
        # a bound for each dimension out of a tree that is no conjunction
        (
            (col("lat") > 30) & (col("lon") < 5) | (col("lat") > 60) & (col("lon") > 100),
            {"lat": LAT > 30, "lon": (LON < 5) | (LON > 100)},
            "or",
        ),
        ((col("lat") > 30) & V | (col("lat") > 60) & ~V, {"lat": LAT > 30}, "or"),
        # ... and out of one conjunct for the next
        (
            (col("lat") > 60) & ((col("lat") < 0) & (col("lon") > 5) | (col("lon") < 50)),
            {"lat": LAT > 60, "lon": LON < 50},
            None,
        ),
        ((col("lat") > 0) & ((col("lat") > -30) | V), {"lat": LAT > 0}, None),
        # grids of several dimensions
        (col("slant") >= 430, {"lat": LAT >= 80, "lon": LON >= 340}, "coord"),
        (col("lat") + col("lon") >= 430, {"lat": LAT >= 80, "lon": LON >= 340}, "coord"),
        # constants
        ((col("height") > 1) & (col("lat") > 30), {"lat": LAT > 30}, None),
        ((col("lat") > 30) & pl.lit(True), {"lat": LAT > 30}, None),
        ((col("lat") > 30) | pl.lit(None) & (col("lon") > 0), {"lat": LAT > 30}, None),
        (col("lat") > -1000, {}, None),
        (V | pl.lit(None), {}, "or"),
        (~V, {}, "not"),
        (col("time") > col("time").max() - dt.timedelta(hours=1), {}, "data"),
        ((col("lat").cast(pl.Int64) & 1) == 1, {"lat": LAT.astype(int) % 2 == 1}, None),
    ],
)
def test_selections_are_exact(predicate: pl.Expr, keep: dict[str, np.ndarray], residual: str | None) -> None:
    selection = planned(predicate)
    assert not selection.impossible
    assert list(selection.keep) == list(keep)
    for name, mask in keep.items():
        np.testing.assert_array_equal(selection.keep[name], mask)
    assert (selection.residual.kind if selection.residual else None) == residual


@pytest.mark.parametrize(
    "predicate",
    [
        (col("lat") > 100) & V,
        (col("lat") > 30) & (col("lat") < 30) & V,
        (col("height") > 3) & V,
        (col("lat") + col("lon") > 1_000) & V,
        V & pl.lit(None),
        V & False,
        ((col("lat") > 30) & V) & ~((col("lat") > 0) | V),
        (col("lat") > 60) & (col("slant") < 0) & V,
    ],
)
def test_impossible_predicates_are_known(predicate: pl.Expr) -> None:
    assert planned(predicate).impossible
    empty = RandomGrid({"lat": 0}, {"lat": (("lat",), pl.Series([], dtype=pl.Float64))}, {})
    assert select(analyse(col("lat") > 3, schema_of(empty), empty), empty.sizes).impossible


def test_tiles_that_need_no_filter_are_known() -> None:
    grid = era()
    selection = planned((col("lat") > 0) & V | (col("time").dt.month() == 1), grid)
    assert selection.residual is not None
    picked = picks(grid, selection)
    starts = {"time": np.arange(0, 2_000, 100), "lat": np.array([0, 18]), "lon": np.array([0])}
    tiles = tile_outcomes(selection.residual, list(grid.sizes), starts, picked)
    # January is 7.44 tiles of 100 hours; the equator is index 18
    assert tiles[:7].ravel().tolist() == [T] * 14
    assert tiles[7, :, 0].tolist() == [ANY, T | F]
    assert tiles[8:, 0].ravel().tolist() == [ANY] * 12
    assert tiles[8:, 1].ravel().tolist() == [F] * 12


def raising(value: float) -> bool:
    raise ValueError(value)


def picky(value: float) -> bool:
    return odd_looking(value)


@pytest.mark.parametrize(
    ("predicate", "elementwise"),
    [
        (col("lat") > 3, True),
        (col("lat").map_elements(picky, return_dtype=pl.Boolean), True),
        (col("lat").is_in([1.0, None]) | col("v").is_nan(), True),
        (pl.when(col("lat") > 3).then(col("v") > 3).otherwise(col("lon") > 3), True),
        (pl.lit(True), True),
        (col("lat").map_batches(lambda s: s > s.mean(), return_dtype=pl.Boolean), False),
        (col("lat") == col("lat").max(), False),
        ((col("lat") - col("lat").mean()).abs() < 1, False),
        (col("lat").shift(1) > 3, False),
        (col("lat").shift(1).is_null() & (col("lon") > 3), False),
        (col("lat").diff() > 3, False),
        (col("lat").cum_sum() > 3, False),
        (col("lat").rank() > 3, False),
        (col("lat").sort() > 3, False),
        (col("lat").reverse() > 3, False),
        (col("lat").forward_fill() > 3, False),
        (col("lat").is_first_distinct(), False),
        (col("lat").is_unique(), False),
        (col("lat").max().over("lon") > 3, False),
        (col("lat").shuffle(seed=1) > 3, False),
        (col("lat").gather([0]) > 3, False),
        (col("lat") == pl.lit(pl.Series(LAT)), False),
        (pl.len() > 3, False),
        (pl.int_range(pl.len()) > 3, False),
    ],
)
def test_only_elementwise_leaves_are_evaluated_beforehand(predicate: pl.Expr, elementwise: bool) -> None:
    grid = era()
    assert is_elementwise(predicate, schema_of(grid)) is elementwise
    if not elementwise:
        node = analyse(predicate, schema_of(grid), grid)
        parts = conjuncts(node)
        assert "data" in {part.kind for part in parts}
        assert all(part.kind == "data" for part in parts if "lat" in part.columns)


def test_what_cannot_be_evaluated_is_left_to_the_rows() -> None:
    grid = era()
    for leaf in (
        col("lat").map_elements(raising, return_dtype=pl.Boolean),
        col("lon").cast(pl.String).cast(pl.Int64) > 3,  # "0.0" is no integer
        col("nowhere") > 3,
        pl.col("^l.*$") > 3,
        col("lat"),
        pl.lit("a").cast(pl.Int64) > 3,
    ):
        node = analyse(leaf & (col("lat") > 30), schema_of(grid), grid)
        assert {"data"} <= {part.kind for part in (node, *node.children)}
    node = analyse(col("lat").map_elements(raising, return_dtype=pl.Boolean) & (col("lat") > 30), schema_of(grid), grid)
    assert [part.kind for part in conjuncts(node)] == ["coord", "data"]
    # an integer among the operands: what Polars makes of it is not taken apart
    assert analyse(pl.all_horizontal(col("lat") > 60, col("v").cast(pl.Int8)), schema_of(grid), grid).kind == "data"
    assert analyse((col("lat").cast(pl.Int8) & 2) | 1, schema_of(grid), grid).kind == "data"
    # the grid of both is larger than allowed
    assert analyse(col("lat") + col("lon") > 3, schema_of(grid), grid, max_cells=37 * 36 - 1).kind == "data"
    assert analyse(col("slant") > 3, schema_of(grid), grid, max_cells=1).kind == "coord"


class Watched(RandomGrid):
    """Remembers which coordinates were asked for, and fails for some."""

    asked: list[str]

    def values(self, column: str) -> pl.Series:
        self.asked.append(column)
        if column == "slant":
            raise OSError("the store is gone")
        return super().values(column)


def test_only_needed_coordinates_are_read_and_failed_reads_are_errors() -> None:
    grid = era()
    watched = Watched(grid.sizes, grid.coordinates, grid.variables)
    object.__setattr__(watched, "asked", [])
    analyse((col("lat") > 3) & V & (col("lat") + col("lon") < 3) & (col("time").shift() == 0), schema_of(grid), watched)
    assert sorted(watched.asked) == ["lat", "lon"]
    with pytest.raises(OSError, match="the store is gone"):
        analyse(col("slant") > 3, schema_of(grid), watched)


def test_long_and_deep_predicates() -> None:
    grid = era()
    wanted = np.isin(np.arange(36), np.arange(0, 36, 5))
    chain = pl.lit(False)
    for value in list(LON[wanted]) * 100:
        chain = chain | (col("lon") == value)
    assert planned(chain, grid).keep["lon"].tolist() == wanted.tolist()
    deep = V
    for i in range(200):
        deep = (deep | (col("lat") > i)) & (col("lon") > -i)
    node = analyse(deep, schema_of(grid), grid)
    expr, _ = residual_expression(node, lambda i: f"known {i}")
    assert "v" in expr.meta.root_names()
    assert planned(col("lon").is_in(pl.Series(LON[wanted].tolist() * 10_000).implode())).residual is None


def test_planning_is_fast_on_a_large_grid() -> None:
    grid = era(350_000)
    predicate = (col("time").dt.month() == 7) & (col("lat").is_between(30, 50) | (col("lon") < 20)) & V
    best = min(_timed(lambda: planned(predicate, grid)) for _ in range(5))
    assert best < 0.15  # 15 ms on the machine it was written on
    node = analyse((col("time").dt.month() == 7) ^ ((col("slant") > 30) | V), schema_of(grid), grid)
    starts = {"time": np.arange(0, 350_000, 40), "lat": np.arange(37), "lon": np.arange(36)}
    picked = {d: np.arange(n) for d, n in grid.sizes.items()}
    tiles = tile_outcomes(node, list(grid.sizes), starts, picked)
    assert tiles.size > 1e7
    assert min(_timed(lambda: tile_outcomes(node, list(grid.sizes), starts, picked)) for _ in range(3)) < 2


def _timed(call: object) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
