"""gpuzarr: the working tree."""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import Any

import polars as pl

import gpuzarr
from benchmarks.datasets import Description
from benchmarks.peers import frames
from benchmarks.queries import Query


class Ours:
    """`gpuzarr.scan_zarr` and Polars, or `gpuzarr.ZarrBackendSync` where one backend serves many queries."""

    name = "gpuzarr"

    def open(self, description: Description, query: Query) -> Any:
        if query.shape == "boxes":
            return gpuzarr.ZarrBackendSync.from_url(description.store)
        return gpuzarr.scan_zarr(description.store)

    def answer(self, handle: Any, query: Query) -> pl.DataFrame:
        if query.shape != "boxes":
            return frames.answer(handle, query)
        columns = [*query.coordinates, *query.variables]
        parts = []
        for box in query.boxes:
            within = [pl.col(name).is_between(low, high) for name, (low, high) in box.items()]
            parts.append(handle.scan_zarr_sync(reduce(and_, within), columns))
        return pl.concat(parts)


def make() -> Ours:
    return Ours()
