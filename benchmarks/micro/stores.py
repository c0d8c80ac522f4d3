"""Stores that are declared, not written: documents and coordinates exist, chunks do not."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import zarr

__all__ = ["declared_cube"]


@cache
def declared_cube(chunks: int, folder: str | None = None) -> Path:
    """A group with ``v(time, lat, lon)`` of at least so many chunks, no dimension longer than 10^5."""
    path = Path(folder or tempfile.mkdtemp(prefix="gpuzarr-declared-")) / f"declared-{chunks}.zarr"
    if path.exists():
        return path
    rows, columns = (20, 20) if chunks >= 10**5 else (5, 5)  # chunks along lat, lon
    times = -(-chunks // (rows * columns))
    chunk = (max(1, min(10, 100_000 // times)), 50, 50)
    shape = (times * chunk[0], rows * chunk[1], columns * chunk[2])
    group = zarr.open_group(path, mode="w", zarr_format=3)
    axes = (np.arange(shape[0], dtype=np.int64), np.linspace(-90, 90, shape[1]), np.linspace(0, 360, shape[2]))
    for name, values in zip(("time", "lat", "lon"), axes, strict=True):
        group.create_array(name, data=values, chunks=values.shape, compressors=None, dimension_names=(name,))
    group.create_array(
        "v",
        shape=shape,
        chunks=chunk,
        dtype="f4",
        compressors=None,
        fill_value=0.0,
        dimension_names=("time", "lat", "lon"),
    )
    return path
