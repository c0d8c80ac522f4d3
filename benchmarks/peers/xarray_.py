"""xarray, without dask: selections and reductions by label, pandas frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from benchmarks.datasets import Description
from benchmarks.peers import NotApplicable
from benchmarks.peers.zarr_python import zarr_store
from benchmarks.queries import Bounds, Query


class Xarray:
    """`xarray.open_zarr(chunks=None)`: lazy arrays, read once when needed. Frames keep xarray's MultiIndex."""

    name = "xarray"

    def open(self, description: Description, query: Query) -> xr.Dataset:
        return xr.open_zarr(zarr_store(description.store), chunks=None, consolidated=description.consolidated)

    def answer(self, handle: xr.Dataset, query: Query) -> pd.DataFrame:
        match query.shape:
            case "boxes":
                return pd.concat([_frame(select(handle[[*query.variables]], box), query) for box in query.boxes])
            case "count":
                return pd.DataFrame({"len": [int(np.prod(list(handle.sizes.values())))]})
            case "head":
                return _frame(self._head(handle, query), query).head(query.n)
            case "rows" if query.dims == ("obs",):
                return self._observations(handle, query)
            case "rows" if query.where is not None:
                return self._survivors(handle, query)
            case "rows" if not query.variables:
                return _coordinates(select(handle, query.bounds))
            case "rows":
                return _frame(select(handle[[*query.variables]], query.bounds, query.months), query)
            case "features":
                ds = select(handle[[*query.variables]], query.bounds, query.months).load()
                ds = ds.assign(wind=np.sqrt(ds.u10**2 + ds.v10**2), spread=ds.t2m - ds.d2m)
                frame = _frame(ds, query)
                frame["month"] = frame.index.get_level_values("time").month
                return frame
        values = handle[query.variables[0]].load()
        match query.shape:
            case "mean":
                over = [d for d in query.dims if d not in query.by]
                return values.mean(over).to_dataframe("mean")
            case "climatology":
                return values.groupby("time.month").mean().to_dataframe("mean")
            case "anomaly":
                groups = values.groupby("time.month")
                difference = groups - groups.mean()
                over = [d for d in query.dims if d != "time"]
                return (difference**2).mean(over).drop_vars("month", errors="ignore").to_dataframe("variance")
        raise NotApplicable(query.shape)

    def _head(self, handle: xr.Dataset, query: Query) -> xr.Dataset:
        picked, left = {}, query.n
        for dim in reversed(query.dims):
            picked[dim] = slice(0, min(handle.sizes[dim], left))
            left = -(-left // handle.sizes[dim])
        return handle[[*query.variables]].isel(picked)

    def _survivors(self, handle: xr.Dataset, query: Query) -> pd.DataFrame:
        """The mask on one variable, then pointwise selection of the rest."""
        assert query.where is not None
        condition = handle[query.where.variable].load()
        indices = np.nonzero(condition.to_numpy() > query.where.threshold)
        points = {d: xr.DataArray(i, dims="row") for d, i in zip(condition.dims, indices, strict=True)}
        rest = _numbered(handle[[*query.variables]])
        if indices[0].size > 20_000:
            rest = rest.load()  # faster than asking for so many cells one by one
        return rest.isel(points).to_dataframe()

    def _observations(self, handle: xr.Dataset, query: Query) -> pd.DataFrame:
        ds = handle.load()
        if not query.bounds and query.where is None:
            return ds.to_dataframe()
        mask = np.ones(ds.sizes["obs"], bool)
        for name, (low, high) in query.bounds.items():
            values = ds[name].to_numpy()
            ends = [np.datetime64(b, "ns") if values.dtype.kind == "M" else b for b in (low, high)]
            mask &= (values >= ends[0]) & (values <= ends[1])
        if query.where is not None:
            mask &= ds[query.where.variable].to_numpy() > query.where.threshold
        obs = np.flatnonzero(mask)
        frame = ds.isel(obs=obs).to_dataframe()
        frame.index = pd.Index(obs, name="obs")
        return frame


def select(ds: xr.Dataset, bounds: Bounds, months: tuple[int, ...] = ()) -> xr.Dataset:
    """The box of a Dataset by labels (2-D coordinates: the hull of the cells inside, others masked)."""
    planes = [name for name in bounds if name in ds.coords and ds[name].ndim == 2]
    slices: dict[str, Any] = {}
    for name, (low, high) in bounds.items():
        if name in planes:
            continue
        descending = ds.indexes[name].is_monotonic_decreasing and ds.sizes[name] > 1
        slices[name] = slice(high, low) if descending else slice(low, high)
    ds = ds.sel(slices)
    if months:
        ds = ds.isel(time=np.flatnonzero(np.isin(ds.indexes["time"].month, months)))
    if planes:
        inside = None
        for name in planes:
            low, high = bounds[name]
            part = (ds[name] >= low) & (ds[name] <= high)
            inside = part if inside is None else inside & part
        assert inside is not None
        y, x = np.nonzero(inside.to_numpy())
        ds = _numbered(ds).isel(y=slice(y.min(), y.max() + 1), x=slice(x.min(), x.max() + 1)).load()
        ds = ds.isel(y=xr.DataArray(y - y.min(), dims="cell"), x=xr.DataArray(x - x.min(), dims="cell"))
    return ds


def _numbered(ds: xr.Dataset) -> xr.Dataset:
    """Positions as coordinates of the dimensions that have none, as a table has them."""
    return ds.assign_coords({d: np.arange(n) for d, n in ds.sizes.items() if d not in ds.coords})


def _frame(ds: xr.Dataset, query: Query) -> pd.DataFrame:
    order = [d for d in query.dims if d in ds.dims]
    return ds.to_dataframe(dim_order=order if len(order) == len(ds.dims) else None)


def _coordinates(ds: xr.Dataset) -> pd.DataFrame:
    return pd.MultiIndex.from_product(
        [ds.indexes[d] for d in ("time", "lat", "lon")], names=["time", "lat", "lon"]
    ).to_frame(index=False)


def make() -> Xarray:
    return Xarray()
