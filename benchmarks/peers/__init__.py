"""The peers: who they are, where they run, and which file answers for them.

A peer is a class with a ``name``, the packages whose versions belong in the record, and two steps, both timed together
except for ``boxes``, where opening and a first box are not:

``open(description, query)``
    Open the store (lazily, as far as the library can).
``answer(handle, query)``
    The answer as a frame (Polars, or pandas where that is what the library makes), computed completely.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from benchmarks.datasets import Description
from benchmarks.queries import Query

__all__ = ["PEERS", "Entry", "NotApplicable", "Peer", "load_peer"]


class NotApplicable(Exception):
    """The peer has no sensible way to answer this query, or its library refuses the store."""


class Peer(Protocol):
    """One way to answer queries."""

    name: str

    def open(self, description: Description, query: Query) -> Any: ...

    def answer(self, handle: Any, query: Query) -> Any: ...


@dataclass(frozen=True)
class Entry:
    """A peer that exists, without importing it. ``environment``: see ``environments.sh``."""

    name: str
    module: str
    environment: str
    packages: tuple[str, ...]
    about: str
    form: str  # "table": rows are made, then computed on; "array": computed on arrays, only the answer becomes a table


_ROWS = "reads arrays, makes the columns, Polars computes"
_ARRAYS = "computes on arrays with numpy, makes a frame of the answer"
PEERS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "gpuzarr",
            "ours",
            "main",
            ("polars", "numpy", "zarr", "numcodecs", "pyarrow"),
            "scan_zarr, Polars expressions",
            "table",
        ),
        Entry(
            "xarray",
            "xarray_",
            "peers",
            ("xarray", "zarr", "numpy", "pandas"),
            "to_dataframe and xarray's own reductions",
            "array",
        ),
        Entry(
            "xarray-arrow",
            "xarray_arrow",
            "peers",
            ("xarray", "zarr", "polars"),
            "DataArray's Arrow stream into Polars",
            "table",
        ),
        Entry(
            "xarray-sql",
            "xarray_sql_",
            "sql",
            ("xarray-sql", "datafusion", "xarray", "zarr"),
            "SQL on DataFusion",
            "table",
        ),
        Entry("rainbear", "rainbear_", "peers", ("rainbear", "polars"), "scan_zarr, Polars expressions", "table"),
        Entry("zarr-python", "zarr_python", "peers", ("zarr", "numcodecs", "numpy", "polars"), _ARRAYS, "array"),
        Entry("zarrs", "zarrs_", "peers", ("zarrs", "zarr", "numpy", "polars"), _ARRAYS, "array"),
        Entry("tensorstore", "tensorstore_", "peers", ("tensorstore", "numpy", "polars"), _ARRAYS, "array"),
        Entry("zarrs-rows", "zarrs_rows", "peers", ("zarrs", "zarr", "numpy", "polars"), _ROWS, "table"),
        Entry("parquet", "parquet", "main", ("polars",), "the same table as Parquet, scan_parquet", "table"),
    )
}


def load_peer(name: str) -> Peer:
    """Import a peer and make it."""
    peer: Peer = import_module(f"benchmarks.peers.{PEERS[name].module}").make()
    return peer
