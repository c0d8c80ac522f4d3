"""Nanoseconds of the literals in a filter, which Polars does not hand over.

The traverser that the GPU engine walks a plan with gives a literal of type ``Datetime("ns")`` or ``Time`` as a Python object,
that is, cut to whole microseconds, and so does the engine's own translation. Such literals are common: the optimizer makes
``time <= date`` on nanoseconds ``time <= date + 999 ns``. The printed plan shows all digits. So the query is looked for on the
call stack (whoever translates a query holds it: the nearest caller that holds any), printed, and the filter with the same
literals in the same order is looked for. Where that leaves a doubt, the GPU engine must not run the query; a CPU engine will.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

import polars as pl

__all__ = ["CutLiteralError", "Nanoseconds", "count_whole", "cut_leaves", "nanoseconds_of"]

Nanoseconds = Mapping[int, tuple[int, ...]]
"""What the Python objects of a filter's literals lack, 0 to 999 each: by node number, for every leaf of a nested literal."""

_TOKEN = re.compile(r"(?:(\d{4}-\d\d-\d\d) )?(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")
_SELECTION = re.compile(r"^\s*SELECTION: (.*)$", re.MULTILINE)

Instant = dt.datetime | dt.time


class CutLiteralError(NotImplementedError):
    """A literal whose value is not known: neither the scan nor the GPU engine may evaluate it."""

    def __init__(self) -> None:
        super().__init__(
            "Polars hands literals over in whole microseconds, and the nanoseconds of this filter could not be found "
            "otherwise; of a list of times, is_in(values.implode()) keeps them"
        )


def nanoseconds_of(visitor: Any, n: int) -> Nanoseconds:
    """What the literals of a filter lack; looks for the query only if one can lack something.

    Parameters
    ----------
    visitor
        Polars' traverser at the plan node that the filter belongs to.
    n
        Node number of the filter.

    Raises
    ------
    CutLiteralError
        That is not known.
    """
    literals = list(_literals(visitor, n))
    if not any(cut_leaves(value, dtype) for _, value, dtype in literals):
        return {}
    wanted = [_shown(leaf) for _, value, dtype in literals for leaf in _instants(value, dtype)]
    found = {digits for query in _queries_of_caller() for digits in _printed(query, wanted)}
    if len(found) != 1:
        raise CutLiteralError
    digits = iter(found.pop())
    return {node: tuple(next(digits) for _ in _instants(value, dtype)) for node, value, dtype in literals}


def count_whole(visitor: Any, n: int, nanoseconds: Nanoseconds) -> int:
    """How many literals of a part of the filter could lack nanoseconds and lack none.

    Raises
    ------
    CutLiteralError
        One does lack some.
    """
    number = 0
    for node, value, dtype in _literals(visitor, n):
        if any(nanoseconds.get(node, ())):
            raise CutLiteralError
        number += bool(cut_leaves(value, dtype))
    return number


def cut_leaves(value: Any, dtype: Any) -> list[Any]:
    """Leaves of a literal that may lack nanoseconds.

    Raises
    ------
    CutLiteralError
        It may lack some that are shown nowhere: of Durations in a list. (A single one comes as an integer.)
    """
    kinds = list(_kinds(dtype))
    leaves = list(_leaves(value)) if kinds else []
    spans = dtype.is_nested() and any(isinstance(leaf, dt.timedelta) for leaf in leaves)
    if spans and any(isinstance(kind, pl.Duration) and kind.time_unit == "ns" for kind in kinds):
        raise CutLiteralError
    if not any(isinstance(kind, pl.Time) or getattr(kind, "time_unit", None) == "ns" for kind in kinds):
        return []
    return [leaf for leaf in leaves if isinstance(leaf, Instant)]


def _kinds(dtype: Any) -> Iterator[Any]:
    """Types of times that a type is made of."""
    if isinstance(dtype, pl.List | pl.Array):
        yield from _kinds(dtype.inner)
    elif isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield from _kinds(field.dtype)
    elif isinstance(dtype, pl.Datetime | pl.Duration | pl.Time):
        yield dtype


def _literals(visitor: Any, n: int) -> Iterator[tuple[int, Any, Any]]:
    """Literals that come as Python objects, in the order in which they are printed: number, value, type."""
    try:
        node = visitor.view_expression(n)
    except Exception:  # nodes that Polars does not show
        return
    kind = type(node).__name__
    children: Iterable[int] = ()
    if kind == "Literal":
        if type(node.value).__name__ != "PySeries":
            yield n, node.value, node.dtype
    elif kind in ("Cast", "Alias"):
        children = (node.expr,)
    elif kind == "BinaryExpr":
        children = (node.left, node.right)
    elif kind == "Ternary":
        children = (node.predicate, node.truthy, node.falsy)
    elif kind == "Function":
        children = node.input
    for child in children:  # what is below other nodes is not seen, but printed: then the filter is not recognised
        yield from _literals(visitor, child)


def _instants(value: Any, dtype: Any) -> list[Instant]:
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Instant)] if any(_kinds(dtype)) else []


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = value.values()
    elif isinstance(value, str | bytes) or not isinstance(value, Iterable):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _shown(value: Instant) -> tuple[str, str, int]:
    """Date, time, and microseconds, as Polars prints them."""
    date = f"{value:%Y-%m-%d}" if isinstance(value, dt.datetime) else ""
    return date, f"{value:%H:%M:%S}", value.microsecond


def _split(date: str, time: str, digits: str) -> tuple[str, str, int, int]:
    fraction = int(digits.ljust(9, "0")) if digits else 0
    return date, time, fraction // 1000, fraction % 1000


def _printed(query: pl.LazyFrame, wanted: list[tuple[str, str, int]]) -> Iterator[tuple[int, ...]]:
    """Nanoseconds of the literals of filters in a query that have the wanted literals, and no others.

    Raises
    ------
    CutLiteralError
        Another filter has the wanted ones among others, which may be text that looks like a time: that one may be meant.
    """
    try:
        plan = query.explain(engine="in-memory")
    except (Exception, pl.exceptions.PanicException):  # a query that is not the one which is translated need not run
        return
    for text in _SELECTION.findall(plan):
        tokens = [_split(*token) for token in _TOKEN.findall(text)]
        shown = [token[:3] for token in tokens]
        if shown == wanted:
            yield tuple(token[3] for token in tokens)
        elif _is_among(wanted, shown):
            raise CutLiteralError


def _is_among(wanted: list[tuple[str, str, int]], shown: list[tuple[str, str, int]]) -> bool:
    """Whether the wanted ones come in this order, with others between them."""
    rest = iter(shown)
    return all(one in rest for one in wanted)


def _queries_of_caller() -> list[pl.LazyFrame]:
    """Queries that the nearest caller with any holds: whoever asked for the translation. Those of farther ones are others."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # there is no public way
    while frame is not None:
        foreign = frame.f_code.co_freevars  # of functions around a callback, not on their way to here
        held = [value for name, value in frame.f_locals.items() if name not in foreign]
        found = [value for value in held if isinstance(value, pl.LazyFrame)]
        if found:
            return found
        frame = frame.f_back
    return []
