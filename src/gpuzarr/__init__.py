"""Zarr arrays as Polars LazyFrames.

A group of N-dimensional arrays is read as one tidy table: a row per cell of the grid, a column per dimension coordinate,
auxiliary coordinate and variable. A scan reads exactly the chunks that the query can need.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from gpuzarr.probe import probe, show_versions

if TYPE_CHECKING:
    from gpuzarr.api import explain, profile, scan_tables, scan_zarr, schema
    from gpuzarr.backends import (
        BackendOptions,
        IcechunkBackend,
        ZarrBackend,
        ZarrBackendSync,
        configure_zarr_codecs,
        scan_zarr_async,
    )
    from gpuzarr.metadata.limits import Limits
    from gpuzarr.notices import GpuzarrWarning

__all__ = [
    "BackendOptions",
    "GpuzarrWarning",
    "IcechunkBackend",
    "Limits",
    "ZarrBackend",
    "ZarrBackendSync",
    "__version__",
    "configure_zarr_codecs",
    "explain",
    "probe",
    "profile",
    "read_device",
    "scan_tables",
    "scan_zarr",
    "scan_zarr_async",
    "schema",
    "show_versions",
]

try:
    __version__ = metadata.version("gpuzarr")
except metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

_API = dict.fromkeys(("explain", "profile", "read_device", "scan_tables", "scan_zarr", "schema"), "gpuzarr.api") | {
    "Limits": "gpuzarr.metadata.limits",
    "GpuzarrWarning": "gpuzarr.notices",
}
_API |= dict.fromkeys(
    ("BackendOptions", "IcechunkBackend", "ZarrBackend", "ZarrBackendSync", "configure_zarr_codecs", "scan_zarr_async"),
    "gpuzarr.backends",
)


def __getattr__(name: str) -> Any:
    # The scan needs Polars, pyarrow and zarr; `probe` must answer where one of them is broken.
    if name in _API:
        value = getattr(import_module(_API[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gpuzarr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
