"""gpuzarr: the working tree."""

from __future__ import annotations

import polars as pl

import gpuzarr
from benchmarks.datasets import Description
from benchmarks.peers import frames
from benchmarks.queries import Query


class Ours:
    """`gpuzarr.scan_zarr` and Polars."""

    name = "gpuzarr"

    def open(self, description: Description, query: Query) -> pl.LazyFrame:
        return gpuzarr.scan_zarr(description.store)

    def answer(self, handle: pl.LazyFrame, query: Query) -> pl.DataFrame:
        return frames.answer(handle, query)


def make() -> Ours:
    return Ours()
