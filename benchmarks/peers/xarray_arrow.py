"""xarray for opening and selecting, its Arrow stream of a DataArray into Polars, then Polars expressions."""

from __future__ import annotations

import polars as pl
import xarray as xr

from benchmarks.datasets import Description
from benchmarks.peers import NotApplicable, frames
from benchmarks.peers.xarray_ import select
from benchmarks.queries import Query


class XarrayArrow:
    """`polars.DataFrame(DataArray)`: eager, one variable at a time; further ones are set beside it."""

    name = "xarray-arrow"

    def open(self, description: Description, query: Query) -> xr.Dataset:
        if description.kind in ("curvilinear", "trajectories"):
            raise NotApplicable("the stream has dimension coordinates only")
        return xr.open_zarr(description.store, chunks=None, consolidated=description.consolidated)

    def answer(self, handle: xr.Dataset, query: Query) -> pl.DataFrame:
        if query.shape in ("count", "head", "boxes") or not query.variables:
            raise NotApplicable("no rows to stream")
        names = [*query.variables]
        if query.where is not None and query.where.variable not in names:
            names.append(query.where.variable)
        ds = select(handle[names], query.bounds, query.months)
        frame = pl.DataFrame(ds[names[0]])
        if len(names) > 1:
            rest = [pl.Series(name, ds[name].to_numpy().ravel()) for name in names[1:]]
            frame = frame.with_columns(rest)
        narrowed = Query(**{**query.__dict__, "bounds": {}, "months": ()})
        return frames.answer(frame.lazy(), narrowed, nan_is_missing=True)


def make() -> XarrayArrow:
    return XarrayArrow()
