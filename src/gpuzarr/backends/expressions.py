"""Which rows an expression needs of a table, so that a scan can be planned from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_

import polars as pl

from gpuzarr.errors import RequestError
from gpuzarr.predicate import is_elementwise

__all__ = ["Request", "columns_of", "request_of", "rows_needed"]

_MAX_DEPTH = 200


@dataclass(frozen=True)
class Request:
    """What is to be read to evaluate an expression, as far as it shows.

    Attributes
    ----------
    kind
        ``columns``: some columns of the rows that pass a filter, and nothing else is to be done. ``predicate``: a bare
        condition; the rows are those where, by the coordinates, it can hold. ``expression``: anything else; `rows` holds all
        rows that it needs.
    columns
        Of ``columns``: in the order asked for.
    rows
        Condition on the rows; None for all.
    """

    kind: str
    columns: tuple[str, ...] = ()
    rows: pl.Expr | None = None


def request_of(expr: pl.Expr, schema: pl.Schema) -> Request:
    """Look into an expression.

    Raises
    ------
    RequestError
        It does not fit the table.
    """
    filtered = _filter(expr)
    if filtered is not None and filtered[0].meta.is_column_selection() and is_elementwise(filtered[1], schema):
        return Request("columns", columns_of(filtered[0], schema), filtered[1])
    if expr.meta.is_column_selection():
        return Request("columns", columns_of(expr, schema))
    found = _selected(expr, schema)
    if found.dtypes() == [pl.Boolean()] and is_elementwise(expr, schema):
        return Request("predicate", (), expr)
    return Request("expression", (), rows_needed(expr, schema))


def columns_of(expr: pl.Expr, schema: pl.Schema) -> tuple[str, ...]:
    """Columns of the table that an expression selects or is made of."""
    if expr.meta.is_column_selection():
        return tuple(_selected(expr, schema).names())
    named = dict.fromkeys(expr.meta.root_names())
    unnamed = not named or expr.meta.has_multiple_outputs()
    if unnamed:  # selectors: only Polars knows what they stand for
        found = dict.fromkeys(name for name in _selected(expr, schema).names() if name in schema)
        named = {**{name: None for name in named if name in schema}, **found}
    return tuple(name for name in named if name in schema)


def rows_needed(expr: pl.Expr, schema: pl.Schema) -> pl.Expr | None:
    """A condition that holds for every row that can make a difference to the expression; None if all can.

    Where every column stands below a ``.filter(...)`` of its own, only the rows that one of these filters keeps do.
    """
    filters: list[pl.Expr] = []
    if not _collect(expr, schema, filters, 0) or not filters:
        return None
    return reduce(or_, filters)


def _collect(expr: pl.Expr, schema: pl.Schema, filters: list[pl.Expr], depth: int) -> bool:
    if depth > _MAX_DEPTH:
        return False
    found = _filter(expr)
    if found is not None:
        value, condition = found
        plain = value.meta.is_column_selection() or is_elementwise(value, schema)
        if plain and is_elementwise(condition, schema):
            filters.append(condition)
            return True
        return False
    if expr.meta.is_literal():
        return True
    operands = _operands(expr)
    return bool(operands) and all(_collect(operand, schema, filters, depth + 1) for operand in operands)


def _filter(expr: pl.Expr) -> tuple[pl.Expr, pl.Expr] | None:
    """The two sides of ``value.filter(condition)``."""
    operands = _operands(expr)
    if len(operands) != 2:
        return None
    for value, condition in (operands, operands[::-1]):
        if value.filter(condition).meta.eq(expr):
            return value, condition
    return None


def _operands(expr: pl.Expr) -> list[pl.Expr]:
    try:
        return expr.meta.pop()
    except (Exception, pl.exceptions.PanicException):
        return []


def _selected(expr: pl.Expr, schema: pl.Schema) -> pl.Schema:
    try:
        return pl.LazyFrame(schema=schema).select(expr).collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        have = ", ".join(schema.names())
        raise RequestError(f"The expression does not fit the table ({error}); its columns are {have}.") from error
