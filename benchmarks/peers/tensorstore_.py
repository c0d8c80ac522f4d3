"""tensorstore, numpy and Polars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from benchmarks.datasets import Description
from benchmarks.peers.arrays import ArraysPeer, Opened
from benchmarks.queries import Query


class Tensorstore(ArraysPeer):
    """`tensorstore.open` and slices; all arrays are opened at once, its default concurrency."""

    name = "tensorstore"

    def open(self, description: Description, query: Query) -> Opened:
        self.driver = "zarr" if Path(description.store, ".zgroup").exists() or description.name == "v2" else "zarr3"
        self.context = ts.Context()
        return super().open(description, query)

    def open_array(self, store: str, name: str) -> Any:
        kvstore = (
            {"driver": "http", "base_url": f"{store}/{name}/"}
            if store.startswith("http")
            else {"driver": "file", "path": f"{store}/{name}/"}
        )
        spec = {"driver": self.driver, "kvstore": kvstore}
        return ts.open(spec, context=self.context, read=True, open=True).result()

    def read(self, array: Any, slices: tuple[slice, ...]) -> NDArray[Any]:
        values: NDArray[Any] = array[slices].read(order="C").result()
        return values

    def read_points(self, array: Any, indices: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        values: NDArray[Any] = array.vindex[indices].read().result()
        return values


def make() -> Tensorstore:
    return Tensorstore()
