"""zarr-python with its own codec pipeline, numpy and Polars."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.peers.arrays import ArraysPeer


class ZarrPython(ArraysPeer):
    """`zarr.open_array` and slices."""

    name = "zarr-python"

    def open_array(self, store: str, name: str) -> Any:
        return zarr.open_array(zarr_store(store), path=name, mode="r")

    def read(self, array: Any, slices: tuple[slice, ...]) -> NDArray[Any]:
        values: NDArray[Any] = array[slices]
        return values

    def read_points(self, array: Any, indices: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        values: NDArray[Any] = array.vindex[indices]
        return values


def zarr_store(store: str) -> Any:
    """What zarr-python opens: the path, or an object store behind a URL."""
    if not store.startswith("http"):
        return store
    from obstore.store import HTTPStore

    return zarr.storage.ObjectStore(HTTPStore.from_url(store, client_options={"allow_http": True}), read_only=True)


def make() -> ZarrPython:
    return ZarrPython()
