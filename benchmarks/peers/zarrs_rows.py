"""zarrs for reading, then a table of what is needed and Polars."""

from __future__ import annotations

from benchmarks.peers import zarrs_
from benchmarks.peers.arrays import RowsPeer


def make() -> RowsPeer:
    return RowsPeer(zarrs_.make())
