"""The same table, written as Parquet beforehand, read by Polars."""

from __future__ import annotations

import polars as pl

from benchmarks.datasets import Description
from benchmarks.peers import NotApplicable, frames
from benchmarks.queries import Query


class Parquet:
    """`polars.scan_parquet`."""

    name = "parquet"

    def open(self, description: Description, query: Query) -> pl.LazyFrame:
        if description.is_remote:
            raise NotApplicable("compared on local files")
        return pl.scan_parquet(description.parquet)

    def answer(self, handle: pl.LazyFrame, query: Query) -> pl.DataFrame:
        return frames.answer(handle, query)


def make() -> Parquet:
    return Parquet()
