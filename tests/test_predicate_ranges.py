"""Boxes that are looked up in sorted coordinates: the same indices as Polars finds, whatever the types of both sides."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Iterator
from functools import reduce
from operator import and_, eq, gt, le
from typing import Any

import numpy as np
import polars as pl
import pytest
from grids import RandomGrid
from hypothesis import given
from hypothesis import strategies as st
from polars.io.plugins import register_io_source

from gpuzarr.predicate import box_of
from gpuzarr.predicate.ranges import range_of
from gpuzarr.table.ordered import OrderedValues

NUMBERS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64]
UNITS = ["ns", "us", "ms"]
EPOCH = dt.datetime(1970, 1, 1)
SEEDS = st.integers(0, 2**63)


def pushed(frame: pl.DataFrame, predicate: pl.Expr) -> pl.Expr | None:
    """The form in which a source receives the predicate."""
    received: list[pl.Expr | None] = []

    def source(_columns: object, predicate: pl.Expr | None, _rows: object, _batch: object) -> Iterator[pl.DataFrame]:
        received.append(predicate)
        return iter(())

    register_io_source(source, schema=frame.schema).filter(predicate).collect()
    return received[0] if received else None


def grid_of(**values: pl.Series) -> RandomGrid:
    return RandomGrid(
        {f"d_{n}": len(s) for n, s in values.items()}, {n: ((f"d_{n}",), s) for n, s in values.items()}, {}
    )


def checked(grid: RandomGrid, name: str, leaf: pl.Expr) -> bool:
    """Whether a comparison was looked up; if so, exactly as Polars answers it, in the given form and as it arrives."""
    frame = grid.values(name).alias(name).to_frame()
    found = False
    for form in (leaf, pushed(frame, leaf)):
        at = None if form is None else range_of(form, grid)
        if at is None:
            continue
        found = True
        mask = np.zeros(frame.height, np.bool_)
        mask[slice(*at[1])] = True
        expected = frame.lazy().select(form.alias("is")).collect()["is"]
        assert expected.null_count() == 0
        assert at[0] == f"d_{name}"
        assert mask.tolist() == expected.to_list(), (str(form), frame[name].to_list())
        assert frame.lazy().select(leaf.alias("is")).collect()["is"].to_list() == expected.to_list()
    return found


def comparisons(column: pl.Expr, low: Any, high: Any) -> list[pl.Expr]:
    between = [column.is_between(low, high, closed=c) for c in ("both", "left", "right", "none")]  # type: ignore[arg-type]
    one = [column < low, column <= low, column > low, column >= low, column == low]
    mirrored = [op(high if isinstance(high, pl.Expr) else pl.lit(high), column) for op in (gt, le, eq)]
    return [*between, *one, *mirrored, column != low, column.eq_missing(low)]


def numbers(rng: np.random.Generator, dtype: Any) -> pl.Series:
    """Values near those that types round, in an order or in none."""
    n = int(rng.integers(1, 12))
    if dtype in (pl.Float32, pl.Float64):
        steps = rng.choice([0.1, 0.25, 1.0, 2.0**-30, 1e6 / 3])
        values = rng.integers(-4, 9, n) * steps + rng.choice([0.0, 0.1, 1.0, 2.0**24])
        if rng.random() < 0.2:
            values[rng.integers(n)] = rng.choice([math.nan, math.inf, -math.inf, -0.0])
        series = pl.Series(values).cast(dtype)
    else:
        bound = np.iinfo(dtype.to_python() and str(dtype).lower())
        base = [
            v
            for v in (0, 100, -100, 2**24, 2**53, -(2**53), 2**31, bound.max - 9, bound.min + 5)
            if bound.min + 4 < v < bound.max - 8
        ]
        around = int(rng.choice(np.array(base, object)))
        series = pl.Series([around + int(i) for i in rng.integers(-4, 9, n)], dtype=dtype)
    return order(rng, series)


def order(rng: np.random.Generator, series: pl.Series) -> pl.Series:
    kind = rng.random()
    if kind < 0.8:
        series = series.sort(descending=kind < 0.4)
    if rng.random() < 0.1:
        series = pl.select(pl.when(pl.Series(rng.random(len(series)) < 0.7)).then(series)).to_series()
    return series


def near(rng: np.random.Generator, values: pl.Series) -> Any:
    """A constant of any kind, at a value or beside it."""
    present = [v for v in values.to_list() if v is not None and math.isfinite(v)] or [0]
    value = present[int(rng.integers(len(present)))]
    kind = int(rng.integers(9))
    if kind < 3:
        return int(value) + int(rng.integers(-1, 2))
    if kind == 3:
        return float(value)
    if kind == 4:
        return float(np.nextafter(value, rng.choice([-math.inf, math.inf])))
    if kind == 5:
        return float(np.float32(value)) + float(rng.choice([0.0, 0.5, 0.1]))
    if kind == 6:
        return rng.choice([math.nan, math.inf, -math.inf, 300.0, -1.0, 1e300, 0.0, -0.0]).item()
    dtype = NUMBERS[int(rng.integers(len(NUMBERS)))]
    try:
        return pl.lit(pl.Series([value]).cast(dtype).item(), dtype=dtype)
    except pl.exceptions.PolarsError:
        return np.float32(value)


@given(SEEDS)
def test_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(4):
        grid = grid_of(x=numbers(rng, NUMBERS[int(rng.integers(len(NUMBERS)))]))
        column = pl.col("x")
        if rng.random() < 0.3:
            column = column.cast(NUMBERS[int(rng.integers(len(NUMBERS)))], strict=False)
        leaves = comparisons(column, near(rng, grid.values("x")), near(rng, grid.values("x")))
        for i in rng.choice(len(leaves), 4, replace=False):
            try:
                checked(grid, "x", leaves[i])
            except (pl.exceptions.PolarsError, OverflowError):  # Polars refuses it, and so no query asks it
                continue


def moment(rng: np.random.Generator, values: pl.Series, kind: Any) -> Any:
    """A time of any unit, at a value or beside it."""
    present = values.drop_nulls()
    if not len(present):
        return EPOCH if kind is pl.Datetime else dt.timedelta(0)
    tick = int(present.to_physical()[int(rng.integers(len(present)))]) + int(rng.integers(-1, 2))
    near = pl.Series([tick]).cast(values.dtype)
    if rng.random() < 0.5:
        return near.cast(kind("us")).item()
    if kind is pl.Datetime and rng.random() < 0.3:
        odd = [dt.date(1970, 1, 1), dt.datetime(2500, 1, 1), dt.datetime(1970, 1, 2, tzinfo=dt.UTC)]
        return odd[int(rng.integers(3))]
    other = UNITS[int(rng.integers(3))]
    return pl.lit(near.cast(kind(other)).item(), dtype=kind(other))


@given(SEEDS)
def test_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(4):
        n, kind = int(rng.integers(1, 10)), [pl.Datetime, pl.Duration][int(rng.integers(2))]
        step = int(rng.choice([1, 7, 1000, 10**6, 3_600_000, 10**9]))
        ticks = pl.Series(rng.integers(-5, 9, n) * step + int(rng.choice([0, 10**12])), dtype=pl.Int64)
        values = order(rng, ticks.cast(kind(UNITS[int(rng.integers(3))])))
        grid, column = grid_of(t=values), pl.col("t")
        if rng.random() < 0.3:
            column = column.cast(kind(UNITS[int(rng.integers(3))]))
        leaves = comparisons(column, moment(rng, values, kind), moment(rng, values, kind))
        for i in rng.choice(len(leaves), 4, replace=False):
            try:
                checked(grid, "t", leaves[i])
            except pl.exceptions.PolarsError:  # a comparison that it refuses
                continue


@pytest.mark.parametrize("descending", [False, True])
def test_the_usual_boxes_are_looked_up(descending: bool) -> None:
    """In every version of Polars that is supported, as they are written and as they are pushed down."""
    times = pl.datetime_range(dt.datetime(2000, 1, 1), dt.datetime(2000, 3, 1), "6h", time_unit="ns", eager=True)
    grid = grid_of(
        time=times,
        lat=pl.Series(np.linspace(-90, 90, 37)).sort(descending=descending),
        lon=pl.Series(np.arange(0, 360, 0.25, dtype=np.float32)),
        level=pl.Series([1000, 850, 500], dtype=pl.Int32),
        lag=pl.Series([dt.timedelta(hours=h) for h in range(9)], dtype=pl.Duration("ns")),
    )
    day, constants = (
        dt.datetime(2000, 2, 1),
        [("lat", -30.5, 30), ("lon", 1.5, 20.25), ("level", 500, 900), ("lon", 0.1, 9.9)],
    )
    limits: list[tuple[str, Any, Any]] = [
        *constants,
        ("time", day, day + dt.timedelta(days=3)),
        ("lag", dt.timedelta(hours=2), dt.timedelta(days=1)),
    ]
    for name, low, high in limits:
        low, high = (float(v) if name == "lat" else v for v in (low, high))
        for leaf in comparisons(pl.col(name), low, high)[:12]:
            frame = grid.values(name).alias(name).to_frame()
            assert range_of(leaf, grid) is not None, str(leaf)
            arrived = pushed(frame, leaf)
            assert arrived is not None
            assert range_of(arrived, grid) is not None, str(arrived)
            assert checked(grid, name, leaf)
    assert checked(grid, "time", pl.col("time") >= dt.date(2000, 2, 1))
    within = [
        pl.col(n).is_between(float(a) if n == "lat" else a, float(b) if n == "lat" else b)
        for n, a, b in limits
        if n != "lag"
    ]
    joint = reduce(and_, within)
    empty = pl.DataFrame(schema={name: grid.values(name).dtype for name in grid.coordinates})
    for form in (joint, pushed(empty, joint)):
        assert form is not None
        box = box_of(form, grid)
        assert box is not None
        assert box.keys() == {"d_time", "d_lat", "d_lon", "d_level"}
        for name in ("time", "lat", "lon", "level"):
            own = [
                leaf for leaf, (n, _, _) in zip(within, [x for x in limits if x[0] != "lag"], strict=True) if n == name
            ]
            mask = grid.values(name).alias(name).to_frame().select(reduce(and_, own).alias("is"))["is"].to_numpy()
            start, stop = box[f"d_{name}"]
            assert np.flatnonzero(mask).tolist() == list(range(start, stop))


def test_what_is_no_box() -> None:
    grid = grid_of(x=pl.Series([1.0, 2.0, 3.0]), s=pl.Series(["a", "b", "c"]), u=pl.Series([2.0, 1.0, 3.0]))
    x = pl.col("x")
    some = x > 1.5
    for predicate in (
        some | (x < 1), ~some, some & (pl.col("s") > "a"), some & (pl.col("u") > 1), some & (pl.col("v") > 1), some.alias("y"),
        x != 2, x.is_in([1.0, 2.0]), x > pl.Series([1.0, 2.0, 3.0]), x > float("nan"), x > pl.lit(None), x + 1 > 2, x.map_elements(bool),
        some & pl.lit(True), x > pl.col("u"), x.cast(pl.String) > "2", x.sqrt() > 1, pl.lit(1) > 0,
    ):  # fmt: skip
        assert box_of(predicate, grid) is None, str(predicate)
    assert box_of(some & (x < 1), grid) == {"d_x": (0, 0)}
    assert box_of(some & (x < 2.5), grid) == {"d_x": (1, 2)}
    long = reduce(and_, [x > float(i) for i in range(400)])
    assert box_of(long, grid) is None


def test_times_that_are_compared_as_numbers_are_not_looked_up() -> None:
    """Polars compares the ticks of both sides then, whatever their units."""
    values = pl.Series([dt.datetime(1969, 12, 31, 23, 59, 59, 985000), EPOCH]).cast(pl.Datetime("us"))
    for name, series, constant in (
        ("t", values, dt.date(1969, 12, 31)),
        ("d", values - EPOCH, dt.timedelta(seconds=-1)),
    ):
        grid = grid_of(**{name: series})
        for leaf in comparisons(pl.col(name).cast(pl.Float64), constant, constant):
            assert box_of(leaf, grid) is None


def test_the_order_of_values_is_found_out_once_per_array() -> None:
    orders = OrderedValues()
    one = np.array([3, 2, 2, 1], np.int16)
    found = orders.of("x", one, None, pl.Int16())
    assert found is not None
    assert (found.is_ascending, found.low, found.high) == (False, 1, 3)
    assert found.between(2, 2) == (1, 3)
    other = np.array([1, 3, 2], np.int16)
    assert orders.of("x", other, None, pl.Int16()) is None  # another array under the same name
    assert orders.of("x", one, np.ones(4, np.bool_), pl.Int16()) is None
    for values in ([math.nan], [1.0, math.nan], [math.nan, 1.0], [1.0, math.nan, 2.0], []):
        assert OrderedValues().of("x", np.array(values), None, pl.Float64()) is None
    counting = OrderedValues.counting(10**7)
    assert counting is not None
    assert [counting.between(a, b) for a, b in itertools.product([2.5, None], [4, None])] == [
        (3, 5),
        (3, 10**7),
        (0, 5),
        (0, 10**7),
    ]
