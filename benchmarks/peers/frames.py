"""Queries as Polars expressions on a LazyFrame: shared by every peer that offers one."""

from __future__ import annotations

from functools import reduce

import polars as pl

from benchmarks.queries import Bounds, Query

__all__ = ["answer"]


def answer(frame: pl.LazyFrame, query: Query, *, nan_is_missing: bool = False) -> pl.DataFrame:
    """The answer of a query on a table. ``nan_is_missing``: the source leaves NaN where values are missing."""
    nan = nan_is_missing and query.missing
    if query.shape == "boxes":
        return pl.concat([_rows(frame, query, _within(box)) for box in query.boxes])
    conditions = _within(query.bounds)
    if query.months:
        conditions.append(pl.col("time").dt.month().is_in(list(query.months)))
    if query.where is not None:
        value = pl.col(query.where.variable)
        conditions.append(value > query.where.threshold)
        if nan:
            conditions.append(value.is_not_nan())
    match query.shape:
        case "rows":
            return _rows(frame, query, conditions)
        case "features":
            made = [
                (pl.col("u10") ** 2 + pl.col("v10") ** 2).sqrt().alias("wind"),
                (pl.col("t2m") - pl.col("d2m")).alias("spread"),
                pl.col("time").dt.month().alias("month"),
            ]
            selected = _filtered(frame, conditions).select(*query.coordinates, *query.variables, *made)
            return selected.collect()
        case "count":
            return frame.select(pl.len()).collect()
        case "head":
            return frame.head(query.n).select(*query.coordinates, *query.variables).collect()
    value = pl.col(query.variables[0])
    if nan:
        value = value.fill_nan(None)
    match query.shape:
        case "mean":
            return frame.group_by(*query.by).agg(value.mean().alias("mean")).collect()
        case "climatology":
            return _climatology(frame, query, value).collect()
        case "anomaly":
            cells = [d for d in query.dims if d != "time"]
            monthly = _climatology(frame, query, value)
            rows = frame.select(*query.dims, value, pl.col("time").dt.month().alias("month"))
            joined = rows.join(monthly, on=["month", *cells], how="left")
            square = (pl.col(query.variables[0]) - pl.col("mean")) ** 2
            return joined.group_by("time").agg(square.mean().alias("variance")).collect()
    raise AssertionError(query.shape)


def _within(bounds: Bounds) -> list[pl.Expr]:
    return [pl.col(name).is_between(low, high) for name, (low, high) in bounds.items()]


def _filtered(frame: pl.LazyFrame, conditions: list[pl.Expr]) -> pl.LazyFrame:
    return frame.filter(reduce(lambda a, b: a & b, conditions)) if conditions else frame


def _rows(frame: pl.LazyFrame, query: Query, conditions: list[pl.Expr]) -> pl.DataFrame:
    return _filtered(frame, conditions).select(*query.coordinates, *query.variables).collect()


def _climatology(frame: pl.LazyFrame, query: Query, value: pl.Expr) -> pl.LazyFrame:
    cells = [d for d in query.dims if d != "time"]
    return frame.group_by(pl.col("time").dt.month().alias("month"), *cells).agg(value.mean().alias("mean"))
