"""Queries on arrays with numpy, answers as Polars frames: shared by the libraries that read Zarr arrays.

Written as somebody who knows numpy would: boxes are slices found by searchsorted, only needed variables are read, filters
are masks on the arrays (coordinates of survivors come from their indices), means are numpy's, columns of a box are broadcast
once. `RowsPeer` makes the columns first and lets Polars compute, as somebody who thinks in tables would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.datasets import PACKING, Description
from benchmarks.fields import EPOCH
from benchmarks.peers import NotApplicable, frames
from benchmarks.queries import Bounds, Query

__all__ = ["ArraysPeer", "Opened", "RowsPeer"]

POINTWISE = 20_000
"""Up to so many scattered cells are asked for by index; above, reading the whole variable is faster with every library."""

Selection = tuple[slice | NDArray[np.int64], ...]
Columns = dict[str, NDArray[Any]]


@dataclass
class Opened:
    """A store: arrays by name, coordinates decoded, 2-D and 1-D ones alike."""

    arrays: Mapping[str, Any]
    coordinates: dict[str, NDArray[Any]]
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    packed: bool
    kind: str


class ArraysPeer(ABC):
    """Answers queries with an array library; subclasses open arrays and read parts of them."""

    name = ""

    @abstractmethod
    def open_array(self, store: str, name: str) -> Any:
        """The array, lazily."""

    @abstractmethod
    def read(self, array: Any, slices: tuple[slice, ...]) -> NDArray[Any]:
        """A box of it."""

    def read_points(self, array: Any, indices: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        """Scattered cells of it."""
        flat: NDArray[Any] = self.read(array, (slice(None),) * len(indices))[indices]
        return flat

    def open(self, description: Description, query: Query) -> Opened:
        names = {*query.variables, *query.dims, *query.coordinates} - {"y", "x", "obs"}
        if query.where is not None:
            names.add(query.where.variable)
        if query.shape == "count":
            names = {description.variables[0]}
        arrays = {name: self.open_array(description.store, name) for name in sorted(names)}
        coordinates: dict[str, NDArray[Any]] = {}
        if query.shape != "count" and description.kind != "trajectories":
            for name in names - set(description.variables):
                coordinates[name] = _decoded(name, self.read(arrays[name], (slice(None),) * len(arrays[name].shape)))
        for name in {"y", "x"} & set(query.dims):
            coordinates[name] = np.arange(description.shape[query.dims.index(name)])
        return Opened(
            arrays, coordinates, description.shape, query.dims, description.kind == "packed", description.kind
        )

    def answer(self, handle: Opened, query: Query) -> pl.DataFrame:
        match query.shape:
            case "boxes":
                return pl.concat([self._box(handle, query, box) for box in query.boxes])
            case "count":
                return pl.DataFrame({"len": [int(np.prod(handle.arrays[next(iter(handle.arrays))].shape))]})
            case "head":
                return self._head(handle, query)
            case "rows" if handle.kind == "trajectories":
                return self._observations(handle, query)
            case "rows" if query.where is not None:
                return self._survivors(handle, query)
            case "rows":
                return self._box(handle, query, query.bounds)
            case "features":
                made = [
                    (pl.col("u10") ** 2 + pl.col("v10") ** 2).sqrt().alias("wind"),
                    (pl.col("t2m") - pl.col("d2m")).alias("spread"),
                    pl.col("time").dt.month().alias("month"),
                ]
                return self._box(handle, query, query.bounds).with_columns(made)
            case "mean":
                return self._mean(handle, query)
            case "climatology" | "anomaly":
                return self._climatology(handle, query)
        raise NotApplicable(query.shape)

    def values(self, handle: Opened, name: str, slices: tuple[slice, ...]) -> NDArray[Any]:
        """A box of a variable, decoded; missing values are NaN."""
        return (
            _unpacked(self.read(handle.arrays[name], slices))
            if handle.packed
            else self.read(handle.arrays[name], slices)
        )

    def _box(self, handle: Opened, query: Query, bounds: Bounds) -> pl.DataFrame:
        if "lat" in bounds and handle.coordinates["lat"].ndim == 2:
            return self._curvilinear_box(handle, query, bounds)
        picked = [_picked(handle, d, bounds, query.months) for d in handle.dims]
        slices = tuple(p if isinstance(p, slice) else _hull(p) for p in picked)
        columns = _broadcast(handle, query, picked)
        for name in query.variables:
            values = self.values(handle, name, slices)
            for axis, p in enumerate(picked):
                if not isinstance(p, slice) and p.size != values.shape[axis]:
                    values = values.take(p - p[0], axis=axis)
            columns[name] = values.ravel()
        return _frame(columns, query)

    def _curvilinear_box(self, handle: Opened, query: Query, bounds: Bounds) -> pl.DataFrame:
        """Read the hull of the cells inside, then pick them at every time."""
        lat, lon = handle.coordinates["lat"], handle.coordinates["lon"]
        (south, north), (west, east) = bounds["lat"], bounds["lon"]
        y, x = np.nonzero((lat >= south) & (lat <= north) & (lon >= west) & (lon <= east))
        slices = (slice(None), _hull(np.unique(y)), _hull(np.unique(x)))
        steps = handle.shape[0]
        columns: Columns = {"time": np.repeat(handle.coordinates["time"], y.size)}
        columns |= {
            name: np.tile(values, steps)
            for name, values in (("y", y), ("x", x), ("lat", lat[y, x]), ("lon", lon[y, x]))
        }
        for name in query.variables:
            values = self.values(handle, name, slices)
            columns[name] = values[:, y - slices[1].start, x - slices[2].start].ravel()
        return _frame(columns, query)

    def _survivors(self, handle: Opened, query: Query) -> pl.DataFrame:
        assert query.where is not None
        whole = (slice(None),) * len(handle.shape)
        condition = self.values(handle, query.where.variable, whole)
        indices = np.nonzero(condition > query.where.threshold)
        columns: Columns = {}
        for d, index in zip(handle.dims, indices, strict=True):
            columns[d] = handle.coordinates[d][index]
        for name in query.coordinates:
            if name not in columns:  # 2-D
                columns[name] = handle.coordinates[name][indices[1:]]
        for name in query.variables:
            if name == query.where.variable:
                columns[name] = condition[indices]
            elif indices[0].size <= POINTWISE:
                columns[name] = self.read_points(handle.arrays[name], indices)
            else:
                columns[name] = self.values(handle, name, whole)[indices]
        return _frame(columns, query)

    def _observations(self, handle: Opened, query: Query) -> pl.DataFrame:
        """1-D tables: every column is read, a mask picks."""
        raw: Columns = {}
        needed = dict.fromkeys([*query.bounds, *([query.where.variable] if query.where else [])])
        for name in needed:
            raw[name] = _decoded(name, self.read(handle.arrays[name], (slice(None),)))
        mask: NDArray[np.bool_] | None = None
        for name, (low, high) in query.bounds.items():
            values = raw[name]
            inside = (values >= _bound(values, low)) & (values <= _bound(values, high))
            mask = inside if mask is None else mask & inside
        if query.where is not None:
            inside = raw[query.where.variable] > query.where.threshold
            mask = inside if mask is None else mask & inside
        obs = np.arange(handle.shape[0]) if mask is None else np.flatnonzero(mask)
        columns: Columns = {"obs": obs}
        for name in [*query.coordinates, *query.variables]:
            if name == "obs":
                continue
            if name not in raw:
                raw[name] = _decoded(name, self.read(handle.arrays[name], (slice(None),)))
            columns[name] = raw[name] if mask is None else raw[name][obs]
        return _frame(columns, query)

    def _head(self, handle: Opened, query: Query) -> pl.DataFrame:
        """The first rows in C order: the smallest box that holds them."""
        slices, left = [], query.n
        for size in reversed(handle.shape):
            slices.append(slice(0, min(size, left)))
            left = -(-left // size)
        picked = tuple(reversed(slices))
        columns = _broadcast(handle, query, list(picked))
        for name in query.variables:
            columns[name] = self.values(handle, name, picked).ravel()
        return _frame(columns, query).head(query.n)

    def _mean(self, handle: Opened, query: Query) -> pl.DataFrame:
        values = self.values(handle, query.variables[0], (slice(None),) * len(handle.shape))
        axes = tuple(i for i, d in enumerate(handle.dims) if d not in query.by)
        mean = _mean(values, axes, query.missing)
        picked: list[slice | NDArray[np.int64]] = [slice(None)] * len(query.by)
        columns = _expanded([handle.coordinates[d] for d in query.by], query.by, picked)
        return pl.DataFrame(columns | {"mean": mean.ravel()})

    def _climatology(self, handle: Opened, query: Query) -> pl.DataFrame:
        values = self.values(handle, query.variables[0], (slice(None),) * len(handle.shape))
        months = _months(handle.coordinates["time"])
        present = np.unique(months)
        means = {m: _mean(values[months == m], (0,), query.missing) for m in present}
        if query.shape == "anomaly":
            variance = np.empty(len(months))
            for step, m in enumerate(months):
                difference = values[step] - means[m]
                variance[step] = np.mean(difference * difference)
            return pl.DataFrame({"time": handle.coordinates["time"], "variance": variance})
        names = ("month", *(d for d in handle.dims if d != "time"))
        axes = [present, *(handle.coordinates[d] for d in names[1:])]
        columns = _expanded(axes, names, [slice(None)] * len(axes))
        return pl.DataFrame(columns | {"mean": np.stack([means[m] for m in present]).ravel()})


class RowsPeer:
    """The same library for reading, but every query is a table: columns of what is needed, then Polars."""

    def __init__(self, arrays: ArraysPeer) -> None:
        self.arrays = arrays
        self.name = f"{arrays.name}-rows"

    def open(self, description: Description, query: Query) -> Opened:
        return self.arrays.open(description, query)

    def answer(self, handle: Opened, query: Query) -> pl.DataFrame:
        if query.shape not in ("mean", "climatology", "anomaly") or handle.kind == "trajectories":
            raise NotApplicable("the same as without rows")
        whole: list[slice | NDArray[np.int64]] = [slice(None)] * len(handle.shape)
        name = query.variables[0]
        values = self.arrays.values(handle, name, (slice(None),) * len(handle.shape)).ravel()
        used = query.by if query.shape == "mean" else handle.dims
        columns = _expanded([handle.coordinates[d] for d in handle.dims], handle.dims, whole, used)
        return frames.answer(pl.DataFrame(columns | {name: values}).lazy(), query, nan_is_missing=True)


def _decoded(name: str, values: NDArray[Any]) -> NDArray[Any]:
    return (EPOCH + values.astype("timedelta64[h]")).astype("datetime64[ns]") if name == "time" else values


def _unpacked(stored: NDArray[Any]) -> NDArray[np.float32]:
    values = stored.astype(np.float32)
    values *= np.float32(PACKING["scale_factor"])
    values += np.float32(PACKING["add_offset"])
    values[stored == PACKING["_FillValue"]] = np.nan
    return values


def _bound(values: NDArray[Any], bound: Any) -> Any:
    return np.datetime64(bound, "ns") if values.dtype.kind == "M" else bound


def _picked(handle: Opened, dim: str, bounds: Bounds, months: tuple[int, ...]) -> slice | NDArray[np.int64]:
    """Indices of a dimension inside the bounds: a slice, or an array where months leave gaps."""
    values = handle.coordinates[dim]
    picked = slice(0, len(values))
    if dim in bounds:
        low, high = (_bound(values, b) for b in bounds[dim])
        if len(values) > 1 and values[-1] < values[0]:
            reverse = values[::-1]
            start, stop = np.searchsorted(reverse, low, "left"), np.searchsorted(reverse, high, "right")
            picked = slice(len(values) - int(stop), len(values) - int(start))
        else:
            picked = slice(int(np.searchsorted(values, low, "left")), int(np.searchsorted(values, high, "right")))
    if dim == "time" and months:
        return np.flatnonzero(np.isin(_months(values[picked]), months)) + picked.start
    return picked


def _hull(indices: NDArray[np.int64]) -> slice:
    return slice(int(indices[0]), int(indices[-1]) + 1) if indices.size else slice(0, 0)


def _months(time: NDArray[Any]) -> NDArray[np.int64]:
    return time.astype("datetime64[M]").astype(np.int64) % 12 + 1


def _mean(values: NDArray[Any], axes: tuple[int, ...], missing: bool) -> NDArray[np.float64]:
    if not missing:
        mean: NDArray[np.float64] = values.mean(axis=axes)
        return mean
    valid = ~np.isnan(values)
    count = valid.sum(axis=axes)
    total = values.sum(axis=axes, where=valid)
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: NDArray[np.float64] = total / count
    return quotient


def _broadcast(handle: Opened, query: Query, picked: list[slice | NDArray[np.int64]]) -> Columns:
    columns = _expanded([handle.coordinates[d] for d in handle.dims], handle.dims, picked)
    planes = [name for name in query.coordinates if name not in columns]
    if planes:
        count = len(columns[handle.dims[0]])
        for name in planes:
            plane = handle.coordinates[name][tuple(picked[1:])]
            columns[name] = np.tile(plane.ravel(), count // plane.size)
    return columns


def _expanded(
    axes: list[NDArray[Any]],
    names: tuple[str, ...],
    picked: list[slice | NDArray[np.int64]],
    used: tuple[str, ...] | None = None,
) -> Columns:
    """One column per dimension of the box: each axis repeated over the others."""
    parts = [axis[p] for axis, p in zip(axes, picked, strict=True)]
    shape = tuple(len(p) for p in parts)
    columns = {}
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        if used is None or name in used:
            view = part.reshape((1,) * i + (-1,) + (1,) * (len(parts) - i - 1))
            columns[name] = np.broadcast_to(view, shape).ravel()
    return columns


def _frame(columns: Columns, query: Query) -> pl.DataFrame:
    return pl.DataFrame({name: columns[name] for name in (*query.coordinates, *query.variables)})
