"""zarr-python's arrays with the codec pipeline of zarrs, numpy and Polars."""

from __future__ import annotations

import warnings
from typing import Any

import zarr
import zarrs  # noqa: F401  # registers the pipeline

from benchmarks.peers.zarr_python import ZarrPython


class Zarrs(ZarrPython):
    """As zarr-python; chunks are read and decoded by zarrs."""

    name = "zarrs"

    def open_array(self, store: str, name: str) -> Any:
        if store.startswith("http"):  # zarrs knows zarr-python's HTTP store only as one of fsspec's
            opened = zarr.storage.FsspecStore.from_url(store, read_only=True)
            return zarr.open_array(opened, path=name, mode="r")
        return super().open_array(store, name)


def make() -> Zarrs:
    warnings.filterwarnings("ignore", module="zarrs")
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return Zarrs()
