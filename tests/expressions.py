"""Random predicates over a table, for property tests against plain Polars.

:func:`random_predicate` draws an expression from a numpy random generator and a description of the columns. Its
leaves are of every kind that a query can push: comparisons, ranges, lists with nulls, dates, arithmetic, casts, null
and NaN tests, bit operations, strings, Python functions; its connectives every way to combine booleans. Every
expression is elementwise and raises on no value.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

_FLOAT_EDGES = (math.nan, math.inf, -math.inf, -0.0, 0.0, 0.5, 1e300, 5e-324)
_INTEGER_EDGES = (0, 1, -1, 7, 2**31, -(2**40))


@dataclass(frozen=True)
class ColumnSpec:
    """A column that predicates may refer to.

    Parameters
    ----------
    values
        Some or all of its values, with its dtype; literals are drawn from them and from around them.
    is_coordinate
        Whether it is a coordinate; used to steer the mix of leaves.
    """

    name: str
    values: pl.Series
    is_coordinate: bool = True


def odd_looking(value: Any) -> bool:
    """A Python function that Polars cannot translate into an expression."""
    return len(repr(value)) % 2 == 1


def odd_looking_batch(values: pl.Series) -> pl.Series:
    """The same for a whole series."""
    return pl.Series(values.name, [None if v is None else odd_looking(v) for v in values.to_list()], dtype=pl.Boolean)


def random_predicate(
    rng: np.random.Generator,
    columns: Sequence[ColumnSpec],
    depth: int = 3,
    *,
    python_functions: bool = True,
    coordinate_share: float = 0.7,
) -> pl.Expr:
    """A random Boolean expression.

    Parameters
    ----------
    rng
        Decides everything.
    columns
        What the expression may refer to.
    depth
        Levels of connectives; 0 gives a leaf.
    python_functions
        Whether ``map_elements`` and ``map_batches`` may occur (Polars pickles them with cloudpickle to push them).
    coordinate_share
        Probability that a leaf starts from a coordinate rather than from a variable.
    """
    return _Predicates(rng, columns, python_functions, coordinate_share).tree(depth)


class _Predicates:
    def __init__(
        self, rng: np.random.Generator, columns: Sequence[ColumnSpec], python_functions: bool, coordinate_share: float
    ) -> None:
        self.rng = rng
        self.columns = columns
        self.python_functions = python_functions
        self.coordinate_share = coordinate_share

    # -- connectives

    def tree(self, depth: int) -> pl.Expr:
        if depth <= 0 or self.chance(0.15):
            return self.leaf()
        kind = self.pick(
            [
                "and",
                "and",
                "and",
                "or",
                "or",
                "xor",
                "not",
                "all",
                "any",
                "when",
                "fill",
                "equal",
                "method",
                "alias",
                "chain",
            ]
        )
        a = self.tree(depth - 1)
        if kind == "not":
            return self.pick([lambda: ~a, a.not_])()
        if kind == "fill":
            return self.pick([lambda: a.fill_null(True), lambda: a.fill_null(False), a.is_null, a.is_not_null])()
        if kind == "alias":
            return a.alias(self.pick(self.columns).name)
        b = self.tree(depth - 1)
        if kind == "and":
            return a & b
        if kind == "or":
            return a | b
        if kind == "xor":
            return a ^ b
        if kind == "equal":
            return self.pick([lambda: a == b, lambda: a != b, lambda: a.eq_missing(b), lambda: a.ne_missing(b)])()
        if kind == "method":
            return self.pick([lambda: a.and_(b), lambda: a.or_(b), lambda: a.xor(b)])()
        more = [self.leaf() for _ in range(int(self.rng.integers(0, 3)))]
        if kind == "all":
            return pl.all_horizontal(a, b, *more)
        if kind == "any":
            return pl.any_horizontal(a, b, *more)
        if kind == "chain":
            return pl.any_horizontal(*more, a) & b if self.chance(0.5) else a | self.leaf() | b
        return pl.when(a).then(b).otherwise(more[0]) if more else pl.when(a).then(b)

    # -- leaves

    def leaf(self) -> pl.Expr:
        if self.chance(0.03):
            return pl.lit(self.pick([True, False, None]), dtype=pl.Boolean)
        column = self.column()
        col, dtype = pl.col(column.name), column.values.dtype
        roll = self.rng.random()
        if roll < 0.06:
            return self.pick([col.is_null(), col.is_not_null()])
        if roll < 0.10:
            return self.pick([col.eq_missing, col.ne_missing])(self.literal(column, null=0.5))
        if roll < 0.13 and self.python_functions:
            return self.python(col)
        if roll < 0.20:
            return self.member(col, column)
        if roll < 0.32:
            return self.between(col, column)
        if roll < 0.55:
            return self.compare(col, self.literal(column, null=0.05))
        if dtype.is_numeric():
            return self.numeric(col, column)
        if dtype == pl.Boolean:
            return self.pick([col, ~col, col.cast(pl.Int8) > 0])
        if dtype == pl.String:
            return self.text(col)
        if dtype == pl.Datetime:
            return self.time(col, column)
        return self.compare(col, self.literal(column))

    def compare(self, a: pl.Expr, b: pl.Expr) -> pl.Expr:
        return self.pick([a.__gt__, a.__ge__, a.__lt__, a.__le__, a.__eq__, a.__ne__])(b)

    def between(self, col: pl.Expr, column: ColumnSpec) -> pl.Expr:
        closed = self.pick(["both", "left", "right", "none"])
        return col.is_between(self.literal(column), self.literal(column), closed=closed)

    def member(self, col: pl.Expr, column: ColumnSpec) -> pl.Expr:
        size = self.pick([0, 1, 2, 5, 40])
        values = [self.value(column, null=0.1) for _ in range(size)]
        members = pl.Series(values, dtype=column.values.dtype, strict=False)
        found = col.is_in(members.implode())
        return ~found if self.chance(0.3) else found

    def python(self, col: pl.Expr) -> pl.Expr:
        if self.chance(0.5):
            return col.map_elements(odd_looking, return_dtype=pl.Boolean)
        return col.map_batches(odd_looking_batch, return_dtype=pl.Boolean, is_elementwise=True)

    def numeric(self, col: pl.Expr, column: ColumnSpec) -> pl.Expr:
        number = float(self.rng.integers(-3, 9)) / 2
        whole = int(self.rng.integers(1, 7))
        other = self.column(lambda c: c.values.dtype.is_numeric())
        options: list[Callable[[], pl.Expr]] = [
            lambda: self.compare(col + number, self.literal(column)),
            lambda: self.compare(col * number, self.literal(column)),
            lambda: self.compare(col / number, pl.lit(1.5)),
            lambda: self.compare(col % whole, pl.lit(1)),
            lambda: self.compare(col // whole, pl.lit(1)),
            lambda: self.compare(col - pl.col(other.name), pl.lit(number)),
            lambda: self.compare(col + pl.col(other.name), self.literal(column)),
            lambda: self.compare(col, pl.col(other.name)),
            lambda: self.compare(pl.max_horizontal(col, other.name), pl.lit(number)),
            lambda: self.compare(pl.coalesce(col, other.name), pl.lit(number)),
            lambda: self.compare(col.cast(pl.Float32), pl.lit(number)),
            lambda: self.compare(col.cast(pl.Int64, strict=False), pl.lit(whole)),
            lambda: self.compare(col.cast(pl.Int16, strict=False), pl.lit(whole)),
            lambda: col.cast(pl.String).str.contains("1"),
            lambda: self.compare(col.clip(0, 2), pl.lit(number)),
            lambda: self.compare(col.fill_null(whole), pl.lit(number)),
            lambda: self.compare(pl.when(col > number).then(col).otherwise(-1), pl.lit(number)),
            lambda: self.compare(pl.struct(a=col).struct.field("a"), self.literal(column)),
            lambda: self.compare(col.cast(pl.Float64) ** 2, pl.lit(4.0)),
        ]
        if column.values.dtype.is_float():
            options += [
                col.is_nan, col.is_not_nan, col.is_finite, col.is_infinite,
                lambda: self.compare(col.fill_nan(None), pl.lit(number)),
                lambda: self.compare(col.round(0), pl.lit(number)),
                lambda: self.compare(col.floor(), pl.lit(number)),
                lambda: self.compare(col.abs().sqrt(), pl.lit(1.0)),
            ]  # fmt: skip
        else:
            options += [
                lambda: (col & 3) == self.pick([0, 1, 2]),
                lambda: (col ^ 5) > 3,
                lambda: (col | 1) == self.literal(column),
            ]
        return self.pick(options)()

    def time(self, col: pl.Expr, column: ColumnSpec) -> pl.Expr:
        part = self.pick([col.dt.month, col.dt.hour, col.dt.day, col.dt.weekday, col.dt.ordinal_day, col.dt.year])()
        number = int(self.rng.integers(0, 24))
        options: list[Callable[[], pl.Expr]] = [
            lambda: self.compare(part, pl.lit(number)),
            lambda: part.is_in([number, 1, 7]),
            lambda: self.compare(col.dt.truncate("1d"), self.literal(column)),
            lambda: self.compare(col.dt.offset_by("1mo"), self.literal(column)),
            lambda: self.compare(col.cast(pl.Date), pl.lit(dt.date(2000, 1, 1 + number))),
            lambda: self.compare(col.cast(pl.Datetime("ms")), pl.lit(dt.datetime(2000, 1, 1, number))),
            lambda: self.compare((col - dt.datetime(2000, 1, 1)).dt.total_hours(), pl.lit(number)),
            lambda: self.compare(col + dt.timedelta(hours=number), self.literal(column)),
            lambda: self.compare(col.dt.epoch("s") % 7, pl.lit(3)),
            lambda: self.compare(col.dt.strftime("%H"), pl.lit("06")),
        ]
        return self.pick(options)()

    def text(self, col: pl.Expr) -> pl.Expr:
        letter = self.pick(list("abcäß"))
        options: list[Callable[[], pl.Expr]] = [
            lambda: col.str.contains(letter),
            lambda: col.str.starts_with(letter),
            lambda: self.compare(col.str.len_chars(), pl.lit(int(self.rng.integers(0, 4)))),
            lambda: col.str.to_uppercase() == letter.upper(),
            lambda: self.compare(col + letter, pl.lit("b")),
            lambda: self.compare(pl.concat_str(col, pl.lit("-"), self.column().name), pl.lit("b")),
        ]
        return self.pick(options)()

    # -- literals and choices

    def literal(self, column: ColumnSpec, null: float = 0.02) -> pl.Expr:
        return pl.lit(self.value(column, null), dtype=column.values.dtype)

    def value(self, column: ColumnSpec, null: float = 0.02) -> Any:
        dtype = column.values.dtype
        if self.chance(null):
            return None
        if dtype.is_float() and self.chance(0.15):
            edge = self.pick(list(_FLOAT_EDGES))
            return float(np.float32(edge)) if dtype == pl.Float32 and abs(edge) < 1e38 else edge
        if dtype.is_integer() and self.chance(0.1):
            edge = self.pick(list(_INTEGER_EDGES))
            return edge if _fits(edge, dtype) else 0
        if len(column.values) == 0:
            return None
        value = column.values[int(self.rng.integers(len(column.values)))]
        if value is not None and self.chance(0.2):
            if dtype.is_float():
                return value + 0.25
            if dtype.is_integer() and _fits(value + 1, dtype):
                return value + 1
            if isinstance(value, dt.datetime):
                return value + dt.timedelta(minutes=30)
        return value

    def column(self, suits: Callable[[ColumnSpec], bool] = lambda _: True) -> ColumnSpec:
        coordinate = self.chance(self.coordinate_share)
        suitable = [c for c in self.columns if suits(c)]
        return self.pick([c for c in suitable if c.is_coordinate == coordinate] or suitable)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


def _fits(value: int, dtype: pl.DataType) -> bool:
    # exact, because the smallest and largest values of a dtype are expressions in Polars
    bits = {
        pl.Int8: 8,
        pl.Int16: 16,
        pl.Int32: 32,
        pl.Int64: 64,
        pl.UInt8: 8,
        pl.UInt16: 16,
        pl.UInt32: 32,
        pl.UInt64: 64,
    }
    size = bits[dtype.base_type()]
    low, high = (-(2 ** (size - 1)), 2 ** (size - 1)) if dtype.is_signed_integer() else (0, 2**size)
    return low <= value < high
