"""Small random tables for property tests: a grid of odd coordinates, variables on it, and all of it as a frame."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from expressions import ColumnSpec

from gpuzarr.table.ordered import Ordered, OrderedValues


@dataclass(frozen=True)
class RandomGrid:
    """Dimensions with sizes; coordinates and variables as (dimensions, values in C order)."""

    sizes: Mapping[str, int]
    coordinates: Mapping[str, tuple[tuple[str, ...], pl.Series]]
    variables: Mapping[str, tuple[tuple[str, ...], pl.Series]]

    def dims_of(self, column: str) -> tuple[str, ...] | None:
        return self.coordinates[column][0] if column in self.coordinates else None

    def values(self, column: str) -> pl.Series:
        return self.coordinates[column][1]

    @cached_property
    def _orders(self) -> OrderedValues:
        return OrderedValues()

    @cached_property
    def _arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        return {name: (_physical(values), _validity(values)) for name, (_, values) in self.coordinates.items()}

    def ordered(self, column: str) -> Ordered | None:
        dims, values = self.coordinates[column]
        if len(dims) != 1:
            return None
        return self._orders.of(column, *self._arrays[column], values.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sizes.values())

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The table, in C order."""
        return pl.DataFrame(
            [
                self.on_rows(dims, values).alias(name)
                for name, (dims, values) in (self.coordinates | self.variables).items()
            ]
        )

    def on_rows(self, dims: tuple[str, ...], values: pl.Series) -> pl.Series:
        index = np.arange(len(values)).reshape([self.sizes[d] if d in dims else 1 for d in self.sizes])
        return values.gather(np.broadcast_to(index, self.shape).ravel())

    @property
    def columns(self) -> list[ColumnSpec]:
        return [
            ColumnSpec(name, values, name in self.coordinates)
            for name, (_, values) in (self.coordinates | self.variables).items()
        ]


def _physical(values: pl.Series) -> np.ndarray:
    """Values as a decoder gives them: ticks of times, objects for strings."""
    if values.dtype == pl.String:
        return values.to_numpy()
    return np.ascontiguousarray(values.to_physical().fill_null(strategy="zero").to_numpy())


def _validity(values: pl.Series) -> np.ndarray | None:
    return values.is_not_null().to_numpy() if values.null_count() else None


def random_grid(rng: np.random.Generator) -> RandomGrid:
    """One to three dimensions with ascending, descending, shuffled, repeating, missing, NaN and infinite coordinates."""
    names = ["t", "y", "x"][: int(rng.integers(1, 4))]
    sizes = {name: int(rng.integers(1, 13)) for name in names}
    coordinates = {name: ((name,), random_values(rng, sizes[name])) for name in names}
    if len(names) > 1 and rng.random() < 0.7:
        plane = tuple(names[-2:])
        coordinates["aux2d"] = (plane, random_values(rng, math.prod(sizes[d] for d in plane), _floats))
    if rng.random() < 0.3:
        coordinates["scalar"] = ((), random_values(rng, 1))
    if rng.random() < 0.5:
        coordinates["label"] = ((names[0],), random_values(rng, sizes[names[0]], _strings))
    variables = {
        "v": (tuple(names), random_values(rng, math.prod(sizes.values()), _floats)),
        "w": (tuple(names[-1:]), random_values(rng, sizes[names[-1]])),
        "z": (tuple(names), random_values(rng, math.prod(sizes.values()))),
    }
    return RandomGrid(sizes, coordinates, variables)


def random_values(
    rng: np.random.Generator, size: int, kind: Callable[[np.random.Generator, int], pl.Series] | None = None
) -> pl.Series:
    """A series of any kind, sorted either way or not, with or without duplicates and nulls."""
    kinds = [_integers, _integers, _floats, _floats, _times, _strings, _booleans]
    values = (kind or kinds[int(rng.integers(len(kinds)))])(rng, size)
    order = rng.random()
    if order < 0.5:
        values = values.sort(descending=order < 0.25)
    if rng.random() < 0.3:
        there = pl.Series(rng.random(size) < 0.8)
        values = pl.select(pl.when(there).then(values)).to_series()
    return values


def _integers(rng: np.random.Generator, size: int) -> pl.Series:
    dtype = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt64][int(rng.integers(6))]
    low = 0 if dtype in (pl.UInt8, pl.UInt64) else -6
    return pl.Series(rng.integers(low, 9, size)).cast(dtype)


def _floats(rng: np.random.Generator, size: int) -> pl.Series:
    values = rng.integers(-6, 9, size) / 2
    if rng.random() < 0.4:
        odd = rng.random(size) < 0.3
        values[odd] = rng.choice([math.nan, math.inf, -math.inf, -0.0, 0.0], int(odd.sum()))
    return pl.Series(values).cast([pl.Float32, pl.Float64][int(rng.integers(2))])


def _times(rng: np.random.Generator, size: int) -> pl.Series:
    hours = rng.integers(0, 24 * 60, size) if rng.random() < 0.5 else np.arange(size) * int(rng.choice([1, 6, 24]))
    unit = ["ns", "us", "ms"][int(rng.integers(3))]
    start = pl.Series([dt.datetime(2000, 1, 1)], dtype=pl.Datetime(unit))
    return start.gather(np.zeros(size, np.uint32)) + pl.Series(hours * 3_600_000).cast(pl.Duration("ms")).cast(
        pl.Duration(unit)
    )


def _strings(rng: np.random.Generator, size: int) -> pl.Series:
    return pl.Series([["", "a", "b", "ab", "bca", "äß", "Z"][i] for i in rng.integers(0, 7, size)], dtype=pl.String)


def _booleans(rng: np.random.Generator, size: int) -> pl.Series:
    return pl.Series(rng.random(size) < 0.5)
