"""The questions that are asked, each once, in words that no engine owns; the peers answer them in their own way.

A query is made from the description of a store, so that bounds and thresholds fit its size and every peer gets the very
same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from benchmarks.datasets import Description
from benchmarks.fields import START, Grid

__all__ = ["QUERIES", "Bounds", "Query", "Where", "make_query", "query_names"]

Shape = Literal["rows", "mean", "climatology", "anomaly", "count", "head", "boxes", "features"]
Bound = float | datetime
Bounds = Mapping[str, tuple[Bound, Bound]]
"""Closed intervals of coordinates, by name."""


@dataclass(frozen=True)
class Where:
    """``variable > threshold``; missing values never pass."""

    variable: str
    threshold: float


@dataclass(frozen=True)
class Query:
    """One question.

    Attributes
    ----------
    shape
        ``rows``: the selected rows with coordinates and ``variables``. ``mean``: mean of the variable by ``by``.
        ``climatology``: mean by month and cell. ``anomaly``: by time, the mean square of the difference from the
        climatology. ``count``: number of rows. ``head``: any ``n`` rows. ``boxes``: the selected rows of each of ``boxes``,
        one after another on what is open already. ``features``: rows plus wind speed, dew point spread and month.
    bounds, months, where
        Conjuncts that rows must satisfy.
    """

    name: str
    shape: Shape
    dims: tuple[str, ...]
    coordinates: tuple[str, ...]
    variables: tuple[str, ...]
    bounds: Bounds = field(default_factory=dict)
    months: tuple[int, ...] = ()
    where: Where | None = None
    by: tuple[str, ...] = ()
    boxes: tuple[Bounds, ...] = ()
    n: int = 0
    missing: bool = False  # values may be missing (null, or NaN where an engine reads it so)

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that identify a row of the answer."""
        match self.shape:
            case "mean":
                return self.by
            case "climatology":
                return "month", *(d for d in self.dims if d != "time")
            case "anomaly":
                return ("time",)
            case "count":
                return ()
            case _:
                return self.coordinates

    @property
    def values(self) -> tuple[str, ...]:
        """Columns of the answer besides its keys."""
        match self.shape:
            case "mean" | "climatology":
                return ("mean",)
            case "anomaly":
                return ("variance",)
            case "count":
                return ("len",)
            case "features":
                return *self.variables, "wind", "spread", "month"
            case _:
                return self.variables


def query_names(description: Description) -> list[str]:
    """Queries that make sense on a store."""
    return [name for name, (kinds, _) in QUERIES.items() if description.kind in kinds or description.name in kinds]


def make_query(name: str, description: Description) -> Query:
    """A query with the numbers that fit a store."""
    return QUERIES[name][1](name, description)


def _grid(d: Description) -> Grid:
    return Grid(**d.grid)


def _first(d: Description) -> tuple[str, ...]:
    return d.variables[:1]


def _coordinates(d: Description) -> tuple[str, ...]:
    match d.kind:
        case "curvilinear":
            return "time", "y", "x", "lat", "lon"
        case "trajectories":
            return "obs", "time", "lat", "lon"
        case _:
            return d.dims


def _time(d: Description, low: float, high: float) -> tuple[datetime, datetime]:
    """Times at two fractions of the whole span, on steps."""
    grid = _grid(d)
    start = START.astype(datetime)
    steps = [min(grid.steps - 1, round(fraction * (grid.steps - 1))) for fraction in (low, high)]
    return start + timedelta(hours=steps[0] * grid.hours), start + timedelta(hours=steps[1] * grid.hours)


def _base(name: str, shape: Shape, d: Description, variables: tuple[str, ...] | None = None, **more: object) -> Query:
    return Query(
        name,
        shape,
        d.dims,
        _coordinates(d),
        d.variables if variables is None else variables,
        missing=d.kind in ("packed", "sparse"),
        **more,
    )  # type: ignore[arg-type]


def _full_scan(name: str, d: Description) -> Query:
    return _base(name, "rows", d)


def _box(name: str, d: Description) -> Query:
    bounds: dict[str, tuple[Bound, Bound]] = {"lat": (33.0, 59.0), "lon": (5.0, 44.0)}
    if "level" in d.dims:
        bounds["level"] = (500, 500)
    if d.kind == "trajectories":
        bounds["time"] = _time(d, 0.3, 0.6)
    elif d.kind != "curvilinear":
        bounds["time"] = _time(d, 0.25, 0.75)
    return _base(name, "rows", d, bounds=bounds)


def _box_season(name: str, d: Description) -> Query:
    return _base(name, "rows", d, bounds={"lat": (-20.0, 20.0), "lon": (90.0, 180.0)}, months=(2, 6, 7, 8))


def _series(name: str, d: Description) -> Query:
    grid = _grid(d)
    lat, lon = float(grid.lat[grid.rows // 3]), float(grid.lon[grid.columns // 5])
    bounds: dict[str, tuple[Bound, Bound]] = {"lat": (lat, lat), "lon": (lon, lon)}
    if "level" in d.dims:
        bounds["level"] = (850, 850)
    return _base(name, "rows", d, _first(d), bounds=bounds)


def _value(level: str) -> Callable[[str, Description], Query]:
    def make(name: str, d: Description) -> Query:
        variable = d.variables[0]
        return _base(name, "rows", d, _first(d), where=Where(variable, d.thresholds[variable][level]))

    return make


def _wide(variable: str, level: str) -> Callable[[str, Description], Query]:
    def make(name: str, d: Description) -> Query:
        others = tuple(v for v in d.variables if v not in ("t2m", "gust"))[:10]
        return _base(name, "rows", d, others, where=Where(variable, d.thresholds[variable][level]))

    return make


def _mean(*by: str) -> Callable[[str, Description], Query]:
    return lambda name, d: _base(name, "mean", d, _first(d), by=by)


def _over_cells(shape: Shape) -> Callable[[str, Description], Query]:
    return lambda name, d: _base(name, shape, d, _first(d))


def _coordinate_rows(name: str, d: Description) -> Query:
    return _base(name, "rows", d, (), bounds={"time": _time(d, 0.25, 0.75), "lat": (-30.0, 90.0)})


def _head(name: str, d: Description) -> Query:
    return _base(name, "head", d, n=10)


def _count(name: str, d: Description) -> Query:
    return _base(name, "count", d, ())


def _novel_boxes(name: str, d: Description) -> Query:
    rng = np.random.default_rng(11)
    boxes = []
    for _ in range(50):
        lat, lon, start = rng.uniform(-80, 70), rng.uniform(0, 340), rng.uniform(0, 0.9)
        boxes.append({"time": _time(d, start, start + 0.05), "lat": (lat, lat + 10), "lon": (lon, lon + 15)})
    return _base(name, "boxes", d, _first(d), boxes=tuple(boxes))


def _features(name: str, d: Description) -> Query:
    return _base(name, "features", d, bounds={"lat": (30.0, 70.0), "lon": (0.0, 60.0)}, months=(1, 2, 3, 7, 8))


_CUBES = ("cube", "packed", "sparse")
QUERIES: dict[str, tuple[tuple[str, ...], Callable[[str, Description], Query]]] = {
    "full_scan": (("cube", "packed", "sparse", "levels", "curvilinear", "trajectories"), _full_scan),
    "box": (("cube", "packed", "sparse", "levels", "curvilinear", "trajectories"), _box),
    "box_season": (("cube", "packed", "sparse"), _box_season),
    "point_series": (("cube", "packed", "sparse", "levels"), _series),
    "value_filter_1pct": (("cube", "packed", "sparse", "levels", "curvilinear", "trajectories"), _value("1%")),
    "value_filter_0.01pct": (("cube", "packed", "sparse", "levels", "curvilinear", "trajectories"), _value("0.01%")),
    "wide_filter_clustered_0.01pct": (("features",), _wide("t2m", "0.01%")),
    "wide_filter_scattered_1pct": (("features",), _wide("gust", "1%")),
    "mean_by_time": (_CUBES, _mean("time")),
    "mean_by_cell": (_CUBES, _mean("lat", "lon")),
    "climatology_month": (("cube",), _over_cells("climatology")),
    "anomaly": (("cube",), _over_cells("anomaly")),
    "coordinate_rows": (("cube",), _coordinate_rows),
    "len": (("cube",), _count),
    "head": (("cube",), _head),
    "novel_boxes": (("cube",), _novel_boxes),
    "ml_features": (("features",), _features),
}
"""Name: the kinds (or names) of stores, and how the query is made."""
