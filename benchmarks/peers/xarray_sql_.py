"""xarray-sql: the same questions as SQL on DataFusion."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl
import xarray as xr
import xarray_sql

from benchmarks.datasets import Description
from benchmarks.peers import NotApplicable
from benchmarks.queries import Bounds, Query


class XarraySql:
    """`xarray_sql.Context`; partitions are the chunks of the store."""

    name = "xarray-sql"

    def open(self, description: Description, query: Query) -> Any:
        if description.is_remote:
            raise NotApplicable("compared on local files")
        if description.kind in ("curvilinear", "trajectories"):
            raise NotApplicable("its tables have dimension coordinates only")
        ds = xr.open_zarr(description.store, chunks=None, consolidated=description.consolidated)
        context = xarray_sql.Context()
        context.from_dataset("t", ds, chunks=dict(zip(description.dims, description.chunk, strict=True)))
        return context

    def answer(self, handle: Any, query: Query) -> pl.DataFrame:
        if query.shape == "boxes":
            parts = [_run(handle, _rows(query, _within(box))) for box in query.boxes]
            return pl.concat([p for p in parts if p.height])
        return _run(handle, _sql(query))


def _run(context: Any, sql: str) -> pl.DataFrame:
    frame = pl.from_arrow(context.sql(sql).to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _sql(query: Query) -> str:
    conditions = _within(query.bounds)
    if query.months:
        conditions.append(f"date_part('month', time) IN ({', '.join(map(str, query.months))})")
    if query.where is not None:
        conditions.append(f"{query.where.variable} > {query.where.threshold!r}")
    value = query.variables[0] if query.variables else ""
    cells = ", ".join(d for d in query.dims if d != "time")
    monthly = f"SELECT CAST(date_part('month', time) AS INT) AS month, {cells}, avg({value}) AS mean FROM t GROUP BY 1, {cells}"
    match query.shape:
        case "rows":
            return _rows(query, conditions)
        case "features":
            made = "sqrt(u10 * u10 + v10 * v10) AS wind, t2m - d2m AS spread, CAST(date_part('month', time) AS INT) AS month"
            columns = ", ".join((*query.coordinates, *query.variables))
            return f"SELECT {columns}, {made} FROM t WHERE {' AND '.join(conditions)}"
        case "count":
            return "SELECT count(*) AS len FROM t"
        case "head":
            return _rows(query, []) + f" LIMIT {query.n}"
        case "mean":
            return f"SELECT {', '.join(query.by)}, avg({value}) AS mean FROM t GROUP BY {', '.join(query.by)}"
        case "climatology":
            return monthly
        case "anomaly":
            on = " AND ".join(f"r.{d} = c.{d}" for d in query.dims if d != "time")
            return (
                f"SELECT r.time, avg(power(r.{value} - c.mean, 2)) AS variance FROM t r JOIN ({monthly}) c "
                f"ON date_part('month', r.time) = c.month AND {on} GROUP BY r.time"
            )
    raise NotApplicable(query.shape)


def _rows(query: Query, conditions: list[str]) -> str:
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {', '.join((*query.coordinates, *query.variables))} FROM t{where}"


def _within(bounds: Bounds) -> list[str]:
    return [f"{name} BETWEEN {_literal(low)} AND {_literal(high)}" for name, (low, high) in bounds.items()]


def _literal(bound: Any) -> str:
    return f"TIMESTAMP '{bound.isoformat(sep=' ')}'" if isinstance(bound, datetime) else repr(bound)


def make() -> XarraySql:
    return XarraySql()
