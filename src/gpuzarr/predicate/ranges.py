"""Comparisons of sorted coordinates with constants, answered by a search: exactly what Polars would answer, in microseconds.

Polars evaluates any expression on a coordinate, but starting a query takes it longer than planning a box may. So the usual
leaves, ``lat > 30``, ``time.is_between(a, b)``, are recognised, and looked up in the sorted values. Two rules keep that
right:

* An expression is recognised only if its serialised form has exactly the expected shape; that form is read by nobody
  else, and where a version of Polars writes another one, or a value that it cannot write (NaN, infinities), nothing is
  recognised and Polars is asked.
* Polars converts both sides of a comparison to a common type, by rules that differ between versions. A range is given
  only if every conversion that is possible gives the same one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from gpuzarr.table.ordered import Ordered, Range

__all__ = ["OrderedProvider", "box_of", "range_of"]

_MOST_TEXT = 4000
"""Longer expressions are no boxes."""

_BIG = ("Series", "is_in", "map", "udf", "python")
"""What may take long to serialise."""

_EXACT_SINGLE = 2**24
_EXACT_DOUBLE = 2**53
_LARGEST_SINGLE = 3.4e38

_NS = {"Nanoseconds": 1, "Microseconds": 10**3, "Milliseconds": 10**6}
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6}
_DAY = 86_400 * 10**9

_INTEGERS = {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}

_OPERATORS: dict[str, Callable[[Ordered, Any], Range]] = {
    "Gt": lambda values, v: values.between(v, None, with_low=False),
    "GtEq": lambda values, v: values.between(v, None),
    "Lt": lambda values, v: values.between(None, v, with_high=False),
    "LtEq": lambda values, v: values.between(None, v),
    "Eq": lambda values, v: values.between(v, v),
}
_MIRRORED = {"Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq", "Eq": "Eq"}
_BETWEEN: dict[str, Callable[[Ordered, Any, Any], Range]] = {
    "Both": lambda values, a, b: values.between(a, b),
    "Left": lambda values, a, b: values.between(a, b, with_high=False),
    "Right": lambda values, a, b: values.between(a, b, with_low=False),
    "None": lambda values, a, b: values.between(a, b, with_low=False, with_high=False),
}


class OrderedProvider(Protocol):
    """Where sorted coordinates come from."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size of every dimension of the table, in row order."""

    def dims_of(self, column: str) -> tuple[str, ...] | None:
        """See `gpuzarr.predicate.CoordinateProvider`."""

    def ordered(self, column: str) -> Ordered | None:
        """Values of a coordinate along one dimension, None if they are in no order."""


class _Constant(NamedTuple):
    """A literal: an ``int``, a ``double``, a ``single``, or a time in nanoseconds, a ``Datetime`` or ``Duration``."""

    kind: str
    value: Any
    unit: int = 1


def box_of(predicate: pl.Expr, provider: OrderedProvider) -> dict[str, Range] | None:
    """The range of indices per dimension that a conjunction of comparisons of sorted coordinates selects.

    Returns
    -------
    dict or None
        Dimension → range (empty where nothing passes) for the dimensions that are restricted; None if the predicate is
        anything else. It then is the whole of the predicate: every row in the box passes.
    """
    tree = _tree(predicate)
    parts: list[Any] = [tree]
    box: dict[str, Range] = {}
    while parts:
        part = parts.pop()
        if type(part) is dict and (binary := part.get("BinaryExpr")) is not None and binary.get("op") == "And":
            parts += (binary.get("left"), binary.get("right"))
            continue
        found = _range(part, provider)
        if found is None:
            return None
        name, (start, stop) = found
        low, high = box.get(name, (start, stop))
        start, stop = max(low, start), min(high, stop)
        box[name] = (start, stop) if start < stop else (0, 0)
    return box


def range_of(leaf: pl.Expr, provider: OrderedProvider) -> tuple[str, Range] | None:
    """Dimension and range of indices where a comparison of a sorted coordinate holds; None if it is anything else.

    At all other indices it is false, nowhere null.
    """
    tree = _tree(leaf)
    return None if tree is None else _range(tree, provider)


def _tree(expr: pl.Expr) -> Any:
    """The serialised expression, None if it may be large or cannot be had."""
    try:
        text = str(expr)
        if len(text) > _MOST_TEXT or any(word in text for word in _BIG):
            return None
        return json.loads(expr.meta.serialize(format="json"))
    except (Exception, pl.exceptions.PanicException):
        return None


def _range(part: Any, provider: OrderedProvider) -> tuple[str, Range] | None:
    found = _comparison(part)
    if found is None:
        return None
    name, cast, look, constants = found
    dims = provider.dims_of(name)
    if dims is None or len(dims) != 1:
        return None
    values = provider.ordered(name)
    if values is None or (cast is not None and not _is_harmless(cast, values, constants)):
        return None
    readings = _readings(values, constants)
    if readings is None:
        return None
    first = look(values, *readings[0])
    for reading in readings[1:]:
        if look(values, *reading) != first:
            return None
    return dims[0], first


def _comparison(part: Any) -> tuple[str, Any, Callable[..., Range], list[_Constant]] | None:
    """Column, the type that it is converted to first (None: to none), what it is compared by, and with what."""
    if type(part) is not dict or len(part) != 1:
        return None
    look: Callable[..., Range] | None = None
    if (binary := part.get("BinaryExpr")) is not None:
        operator, left, right = binary.get("op"), binary.get("left"), binary.get("right")
        column, others = _column(left), [right]
        if column is None:
            operator, column, others = _MIRRORED.get(operator), _column(right), [left]
        look = _OPERATORS.get(operator)
    elif (function := part.get("Function")) is not None:
        match function:
            case {"input": [value, *others], "function": {"Boolean": {"IsBetween": {"closed": str(closed)}}}}:
                column, look = _column(value), _BETWEEN.get(closed)
    if look is None or column is None:
        return None
    constants = [_constant(other) for other in others]
    known = [constant for constant in constants if constant is not None]
    return (*column, look, known) if len(known) == len(constants) else None


def _column(part: Any) -> tuple[str, Any] | None:
    """A column, and the type that it is converted to, None if to none."""
    if type(part) is dict and len(part) == 1:
        if type(name := part.get("Column")) is str:
            return name, None
        match part:
            case {"Cast": {"expr": {"Column": str(name)}, "dtype": {"Literal": dtype}}}:
                return name, dtype
    return None


def _constant(part: Any) -> _Constant | None:
    match part:
        case {"Literal": {"Dyn": {"Float": float(value)}}}:
            return _Constant("double", value)
        case {"Literal": {"Dyn": {"Int": int(value)}}}:
            return _Constant("int", value)
        case {"Literal": {"Scalar": scalar}}:
            return _scalar(scalar)
        case {  # how 1.35 writes a datetime: the time of day in UTC, then the zone dropped
            "Cast": {
                "expr": {"Literal": {"Scalar": {"Datetime": [int(value), str(unit), {"inner": "UTC"}]}}},
                "dtype": {"Literal": {"Datetime": [str(target), None]}},
            }
        } if unit == target and unit in _NS:
            return _Constant("Datetime", value * _NS[unit], _NS[unit])
    return None


def _scalar(scalar: Any) -> _Constant | None:
    match scalar:
        case {"Float64": float(value)}:
            return _Constant("double", value)
        case {"Float32": float(value)}:
            return _Constant("single", float(np.float32(value)))
        case {"Datetime": [int(value), str(unit), None]} if unit in _NS:
            return _Constant("Datetime", value * _NS[unit], _NS[unit])
        case {"Duration": [int(value), str(unit)]} if unit in _NS:
            return _Constant("Duration", value * _NS[unit], _NS[unit])
        case {"Date": int(value)}:
            return _Constant("Datetime", value * _DAY, _DAY)
    if isinstance(scalar, dict) and len(scalar) == 1:
        kind, value = next(iter(scalar.items()))
        if kind in _INTEGERS and type(value) is int:
            return _Constant("int", value)
    return None


def _is_harmless(dtype: Any, values: Ordered, constants: list[_Constant]) -> bool:
    """Whether comparisons with constants are the same where the values are converted to a type first."""
    match dtype:
        case "Float64" | {"Unknown": "Float"}:
            return values.dtype.is_float() or (values.dtype.is_integer() and _within(values, _EXACT_SINGLE))
        case "Int64" | "Int32":
            bits = 63 if dtype == "Int64" else 31
            return values.dtype.is_integer() and values.high < 2**bits and values.low >= -(2**bits)
        case {"Datetime": [str(unit), None]} if isinstance(values.dtype, pl.Datetime) and unit in _NS:
            return _keeps(_NS[unit], values, constants)
        case {"Duration": str(unit)} if isinstance(values.dtype, pl.Duration) and unit in _NS:
            return _keeps(_NS[unit], values, constants)
    return False


def _keeps(unit: int, values: Ordered, constants: list[_Constant]) -> bool:
    """Whether neither the times nor the constants lose anything in a unit."""
    return _is_whole(values, unit) and all(constant.unit % unit == 0 for constant in constants)


def _is_whole(values: Ordered, unit: int) -> bool:
    """Whether all times are whole numbers of a unit, of nanoseconds, that is no finer than their own."""
    own = _unit(values)
    return unit >= own and values.whole * own % unit == 0


def _unit(values: Ordered) -> int:
    assert isinstance(values.dtype, pl.Datetime | pl.Duration)
    return _UNITS[values.dtype.time_unit]


def _within(values: Ordered, limit: int) -> bool:
    return bool(-limit <= values.low and values.high <= limit)


def _readings(values: Ordered, constants: list[_Constant]) -> list[tuple[Any, ...]] | None:
    """The constants in all ways in which a comparison with the values may take them, None if that is not sure."""
    kind, _, unit = constants[0]
    for other in constants[1:]:
        if other.kind != kind or other.unit != unit:
            return None
    if isinstance(values.dtype, (pl.Datetime, pl.Duration)):
        return _times(values, constants) if kind == type(values.dtype).__name__ else None
    wanted = tuple(constant.value for constant in constants)
    match kind:
        case "int":
            if values.dtype.is_float():
                limit = _EXACT_DOUBLE if type(values.dtype) is pl.Float64 else _EXACT_SINGLE
                return [wanted] if all(abs(v) <= limit for v in wanted) else None
            info = np.iinfo(_NUMPY[type(values.dtype)])
            fits = all(info.min <= v <= info.max and abs(v) <= _EXACT_DOUBLE for v in wanted)
            return [wanted] if fits and _within(values, _EXACT_DOUBLE) else None
        case "single" | "double":
            if type(values.dtype) is pl.Float64:
                return [wanted]
            if any(abs(v) > _LARGEST_SINGLE for v in wanted):
                return None
            if values.dtype.is_integer() and not _within(values, _EXACT_SINGLE):
                return None
            return [wanted, tuple(float(np.float32(v)) for v in wanted)]
    return None


def _times(values: Ordered, constants: list[_Constant]) -> list[tuple[Any, ...]] | None:
    """The constants as ticks of the values' unit, if all are whole numbers of the coarser of the two units."""
    own, unit = _unit(values), constants[0].unit
    if unit > own and unit != _DAY and not _is_whole(values, unit):
        return None
    ticks = []
    for constant in constants:
        tick, rest = divmod(constant.value, own)
        if rest or not -(2**63) < tick < 2**63 or not -(2**63) < constant.value < 2**63:
            return None
        ticks.append(tick)
    return [tuple(ticks)]


_NUMPY: dict[type[pl.DataType], type[np.integer[Any]]] = {
    pl.Int8: np.int8,
    pl.Int16: np.int16,
    pl.Int32: np.int32,
    pl.Int64: np.int64,
    pl.UInt8: np.uint8,
    pl.UInt16: np.uint16,
    pl.UInt32: np.uint32,
    pl.UInt64: np.uint64,
}
