"""rainbear: scan_zarr and Polars; for many boxes its backend, which keeps metadata and coordinates."""

from __future__ import annotations

from functools import reduce
from typing import Any

import polars as pl
import rainbear

from benchmarks.datasets import Description
from benchmarks.peers import NotApplicable, frames
from benchmarks.queries import Query


class Rainbear:
    """`rainbear.scan_zarr`, or `rainbear.ZarrBackendSync` where one backend serves many queries."""

    name = "rainbear"

    def open(self, description: Description, query: Query) -> Any:
        if description.is_remote:
            raise NotApplicable("no plain HTTP store")
        if query.shape == "boxes":
            return rainbear.ZarrBackendSync.from_url(description.store)
        return rainbear.scan_zarr(description.store)

    def answer(self, handle: Any, query: Query) -> pl.DataFrame:
        if query.shape != "boxes":
            return frames.answer(handle, query, nan_is_missing=True)
        columns = [*query.coordinates, *query.variables]
        parts = []
        for box in query.boxes:
            within = [pl.col(name).is_between(low, high) for name, (low, high) in box.items()]
            predicate = reduce(lambda a, b: a & b, within)
            parts.append(handle.scan_zarr_sync(predicate, columns).select(columns))
        return pl.concat(parts)


def make() -> Rainbear:
    return Rainbear()
