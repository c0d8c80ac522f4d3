"""A predicate of a Polars query plan, as the GPU engine sees it, back to a Polars expression.

The GPU engine walks the optimised plan through Polars' ``NodeTraverser``, which gives expressions node by node and never
as a `polars.Expr`. Here the nodes become an expression again, with the casts and literals that the optimizer settled. Kinds
of nodes and functions are told apart by their names, so nothing of CUDA is imported.

The traverser cuts literals with nanoseconds to microseconds; see `gpuzarr.source.gpu_literals` for what is done about it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import polars as pl

from gpuzarr.source.gpu_literals import CutLiteralError, Nanoseconds

__all__ = ["Traverser", "Unconvertible", "conjuncts", "to_polars"]


class Traverser(Protocol):
    """What is used of Polars' ``NodeTraverser``."""

    def view_expression(self, n: int) -> Any:
        """The expression node of a number."""
        ...

    def get_dtype(self, n: int) -> Any:
        """Its type, in the schema of the current plan node."""
        ...


class Unconvertible(Exception):
    """An expression without a counterpart here; the text names what it is."""


Build = Callable[..., pl.Expr]

_BINARY: dict[str, Build] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "EqValidity": pl.Expr.eq_missing,
    "NotEqValidity": pl.Expr.ne_missing,
    "Lt": operator.lt,
    "LtEq": operator.le,
    "Gt": operator.gt,
    "GtEq": operator.ge,
    "Plus": operator.add,
    "Minus": operator.sub,
    "Multiply": operator.mul,
    "TrueDivide": operator.truediv,
    "FloorDivide": operator.floordiv,
    "Modulus": operator.mod,
    "And": operator.and_,
    "LogicalAnd": operator.and_,
    "Or": operator.or_,
    "LogicalOr": operator.or_,
    "Xor": operator.xor,
}

_METHODS = (
    "abs", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "cbrt", "ceil", "cos",
    "cosh", "cot", "degrees", "exp", "fill_null", "floor", "log", "log1p", "pow", "radians",
    "round_sig_figs", "sign", "sin", "sinh", "sqrt", "tan", "tanh", "to_physical",
)  # fmt: skip

_BOOLEAN = {
    "IsNull": "is_null",
    "IsNotNull": "is_not_null",
    "IsNan": "is_nan",
    "IsNotNan": "is_not_nan",
    "IsFinite": "is_finite",
    "IsInfinite": "is_infinite",
    "Not": "not_",
}

_TEMPORAL = {
    "Year": "year",
    "IsLeapYear": "is_leap_year",
    "IsoYear": "iso_year",
    "Quarter": "quarter",
    "Month": "month",
    "Week": "week",
    "WeekDay": "weekday",
    "Day": "day",
    "OrdinalDay": "ordinal_day",
    "Hour": "hour",
    "Minute": "minute",
    "Second": "second",
    "Millisecond": "millisecond",
    "Microsecond": "microsecond",
    "Nanosecond": "nanosecond",
    "Date": "date",
    "Time": "time",
    "Century": "century",
    "Millennium": "millennium",
    "MonthStart": "month_start",
    "MonthEnd": "month_end",
    "DaysInMonth": "days_in_month",
    "Truncate": "truncate",
    "Round": "round",
    "OffsetBy": "offset_by",
    "TimeStamp": "timestamp",
    "CastTimeUnit": "cast_time_unit",
    "ConvertTimeZone": "convert_time_zone",
    "ToString": "to_string",
}

_TOTALS = {
    "TotalDays": "total_days",
    "TotalHours": "total_hours",
    "TotalMinutes": "total_minutes",
    "TotalSeconds": "total_seconds",
    "TotalMilliseconds": "total_milliseconds",
    "TotalMicroseconds": "total_microseconds",
    "TotalNanoseconds": "total_nanoseconds",
}

_STRING = {
    "LenBytes": "len_bytes",
    "LenChars": "len_chars",
    "Lowercase": "to_lowercase",
    "Uppercase": "to_uppercase",
    "StartsWith": "starts_with",
    "EndsWith": "ends_with",
    "Reverse": "reverse",
    "Slice": "slice",
    "Head": "head",
    "Tail": "tail",
    "StripChars": "strip_chars",
    "StripCharsStart": "strip_chars_start",
    "StripCharsEnd": "strip_chars_end",
    "StripPrefix": "strip_prefix",
    "StripSuffix": "strip_suffix",
    "Extract": "extract",
}


def _functions() -> dict[str, Build]:
    """How to build each function: called with its inputs as a list and then its options."""

    def method(name: str, namespace: str = "") -> Build:
        def build(inputs: Sequence[pl.Expr], *options: Any) -> pl.Expr:
            first = getattr(inputs[0], namespace) if namespace else inputs[0]
            result: pl.Expr = getattr(first, name)(*inputs[1:], *options)
            return result

        return build

    def horizontal(function: Callable[..., pl.Expr]) -> Build:
        return lambda inputs, ignore_nulls: function(*inputs, ignore_nulls=ignore_nulls)

    def clip(inputs: Sequence[pl.Expr], has_low: bool, has_high: bool) -> pl.Expr:
        bounds = iter(inputs[1:])
        return inputs[0].clip(next(bounds) if has_low else None, next(bounds) if has_high else None)

    out: dict[str, Build] = {name: method(name) for name in _METHODS}
    out |= {f"BooleanFunction.{name}": method(python) for name, python in _BOOLEAN.items()}
    out |= {f"TemporalFunction.{name}": method(python, "dt") for name, python in _TEMPORAL.items()}
    out |= {f"StringFunction.{name}": method(python, "str") for name, python in _STRING.items()}
    for name, python in _TOTALS.items():
        out[f"TemporalFunction.{name}"] = lambda inputs, fractional, python=python: getattr(inputs[0].dt, python)(
            fractional=fractional
        )
    out |= {
        "negate": lambda inputs: -inputs[0],
        "coalesce": lambda inputs: pl.coalesce(*inputs),
        "max_horizontal": lambda inputs: pl.max_horizontal(*inputs),
        "min_horizontal": lambda inputs: pl.min_horizontal(*inputs),
        "sum_horizontal": horizontal(pl.sum_horizontal),
        "mean_horizontal": horizontal(pl.mean_horizontal),
        "round": lambda inputs, decimals, mode: inputs[0].round(decimals, mode=mode),
        "clip": clip,
        "BooleanFunction.IsBetween": lambda inputs, closed: inputs[0].is_between(*inputs[1:], closed=closed),
        "BooleanFunction.IsIn": lambda inputs, nulls_equal: inputs[0].is_in(inputs[1], nulls_equal=nulls_equal),
        "BooleanFunction.AllHorizontal": lambda inputs: pl.all_horizontal(*inputs),
        "BooleanFunction.AnyHorizontal": lambda inputs: pl.any_horizontal(*inputs),
        "TemporalFunction.ReplaceTimeZone": lambda inputs, zone, non_existent: inputs[0].dt.replace_time_zone(
            zone, ambiguous=inputs[1], non_existent=non_existent
        ),
        "StringFunction.Contains": lambda inputs, literal, strict: inputs[0].str.contains(
            inputs[1], literal=literal, strict=strict
        ),
        "StringFunction.ConcatHorizontal": lambda inputs, delimiter, ignore_nulls: pl.concat_str(
            *inputs, separator=delimiter, ignore_nulls=ignore_nulls
        ),
        "StructFunction.FieldByName": lambda inputs, name: inputs[0].struct.field(name),
    }
    return out


_FUNCTIONS = _functions()


def conjuncts(visitor: Traverser, n: int) -> list[int]:
    """Node numbers of the parts of a predicate that are all to hold."""
    try:
        node = visitor.view_expression(n)
    except (Exception, pl.exceptions.PanicException):  # nodes that Polars does not show
        return [n]
    if type(node).__name__ == "BinaryExpr" and _name(node.op) in ("And", "LogicalAnd"):
        return [*conjuncts(visitor, node.left), *conjuncts(visitor, node.right)]
    return [n]


def to_polars(
    visitor: Traverser, n: int, schema: Mapping[str, pl.DataType], nanoseconds: Nanoseconds | None = None
) -> pl.Expr:
    """A Boolean expression of the plan as a `polars.Expr`.

    Parameters
    ----------
    visitor
        At the plan node that the expression belongs to.
    n
        Number of the expression node.
    schema
        Columns that it may refer to.
    nanoseconds
        What literals lack, see `gpuzarr.source.gpu_literals`; None: nothing.

    Raises
    ------
    Unconvertible
        Some part of it has no counterpart here.
    CutLiteralError
        It has a literal whose value cannot be made here.
    """
    try:
        expression = _convert(visitor, n, nanoseconds or {})
        dtype = pl.LazyFrame(schema=schema).select(p=expression).collect_schema()["p"]
    except (Unconvertible, CutLiteralError):
        raise
    except (
        Exception,
        pl.exceptions.PanicException,
    ) as error:  # whatever the traverser or Polars make of a form that was not foreseen
        raise Unconvertible(str(error).split("\n", 1)[0]) from error
    if dtype != pl.Boolean:
        raise Unconvertible(f"a predicate of type {dtype}")
    return expression


def _convert(visitor: Traverser, n: int, nanoseconds: Nanoseconds) -> pl.Expr:
    node = visitor.view_expression(n)
    kind = type(node).__name__
    if kind == "Column":
        return pl.col(node.name)
    if kind == "Literal":
        return _literal(node.value, node.dtype, nanoseconds.get(n, ()))
    if kind == "Alias":
        return _convert(visitor, node.expr, nanoseconds)
    if kind == "Cast":
        # 0: an error where a value does not fit, 1: null, 2: it wraps around
        return _convert(visitor, node.expr, nanoseconds).cast(
            node.dtype, strict=node.options != 1, wrap_numerical=node.options == 2
        )
    if kind == "BinaryExpr" and _name(node.op) in _BINARY:
        return _BINARY[_name(node.op)](
            _convert(visitor, node.left, nanoseconds), _convert(visitor, node.right, nanoseconds)
        )
    if kind == "Ternary":
        truthy, falsy = _convert(visitor, node.truthy, nanoseconds), _convert(visitor, node.falsy, nanoseconds)
        return pl.when(_convert(visitor, node.predicate, nanoseconds)).then(truthy).otherwise(falsy)
    if kind == "Function" and isinstance(node.function_data, tuple):
        name, *options = node.function_data
        inputs = [_convert(visitor, i, nanoseconds) for i in node.input]
        if name == "as_struct":  # names of fields are in the type only
            fields = visitor.get_dtype(n).fields
            return pl.struct(e.alias(f.name) for e, f in zip(inputs, fields, strict=True))
        if str(name) in _FUNCTIONS:
            return _FUNCTIONS[str(name)](inputs, *options)
        raise Unconvertible(str(name))
    raise Unconvertible(kind)


def _literal(value: Any, dtype: pl.DataType, lacks: tuple[int, ...]) -> pl.Expr:
    if type(value).__name__ == "PySeries":
        return pl.lit(pl.Series._from_pyseries(value))  # noqa: SLF001  # there is no public way
    if any(lacks):
        return _with_nanoseconds(value, dtype, lacks)
    if isinstance(dtype, pl.List):
        return pl.lit(pl.Series([value], dtype=dtype))
    return pl.lit(None) if dtype == pl.Null else pl.lit(value, dtype=dtype)


def _with_nanoseconds(value: Any, dtype: pl.DataType, lacks: tuple[int, ...]) -> pl.Expr:
    if not dtype.is_nested():
        ticks = pl.Series([value], dtype=dtype).to_physical() + lacks[0]
        return pl.lit(ticks.item(), dtype=pl.Int64).cast(dtype)
    if not isinstance(dtype, pl.List) or dtype.inner.is_nested():
        raise CutLiteralError
    digits = iter(lacks)
    more = pl.Series([None if item is None else next(digits) for item in value], dtype=pl.Int64)
    items = (pl.Series(value, dtype=dtype.inner).to_physical() + more).cast(dtype.inner)
    return pl.lit(items.implode())


def _name(member: Any) -> str:
    return str(member).rpartition(".")[2]
