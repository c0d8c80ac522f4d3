"""Small stores for tests of backends, and the tables that they are."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
from support_zarr import quiet, written

SHAPE = (12, 6, 10)
CHUNK = (4, 3, 5)


def values(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype("f4")


def write(
    store: Any,
    *,
    seed: int = 0,
    zarr_format: int = 3,
    consolidated: bool = True,
    sharded: bool = False,
    shape: tuple[int, ...] = SHAPE,
    names: tuple[str, ...] = ("pr", "t2m"),
) -> None:
    """A group of variables over time, lat, lon."""
    with quiet():
        group = zarr.open_group(store, mode="w", zarr_format=zarr_format)
        dims = ("time", "lat", "lon")

        def put(name: str, data: np.ndarray, on: tuple[str, ...], attributes: dict[str, Any], **options: Any) -> None:
            if zarr_format == 3:
                options["dimension_names"] = on
            else:
                attributes = {**attributes, "_ARRAY_DIMENSIONS": list(on)}
                options["fill_value"] = -99  # in v2 it means missing
            array = group.create_array(name, shape=data.shape, dtype=data.dtype, attributes=attributes, **options)
            array[...] = data

        put("time", np.arange(shape[0], dtype="i8"), ("time",), {"units": "days since 2020-01-01"}, chunks=(shape[0],))
        put("lat", np.linspace(-50.0, 50.0, shape[1]), ("lat",), {}, chunks=(shape[1],))
        put("lon", np.arange(shape[2]) * 36.0, ("lon",), {}, chunks=(shape[2],))
        chunk = tuple(min(c, n) for c, n in zip(CHUNK, shape, strict=True))
        more = {"shards": tuple(2 * c for c in chunk)} if sharded else {}
        for number, name in enumerate(names):
            put(name, values(seed + number, shape), dims, {}, chunks=chunk, **more)
        if consolidated:
            zarr.consolidate_metadata(store)


def objects(**options: Any) -> dict[str, bytes]:
    return written(lambda store: write(store, **options))


def folder(path: Path, **options: Any) -> Path:
    write(str(path), **options)
    return path


def expected(
    seed: int = 0, shape: tuple[int, ...] = SHAPE, names: tuple[str, ...] = ("pr", "t2m"), order: str = "time"
) -> pl.DataFrame:
    """The table in C order, made with numpy alone."""
    t, y, x = np.indices(shape).reshape(3, -1)
    day = np.datetime64("2020-01-01", "ns") + t * np.timedelta64(86_400_000_000_000, "ns")
    columns: dict[str, Any] = {"time": day, "lat": np.linspace(-50.0, 50.0, shape[1])[y], "lon": x * 36.0}
    columns |= {name: values(seed + number, shape).reshape(-1) for number, name in enumerate(names)}
    return pl.DataFrame(columns)


def same(frame: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Equal up to the order of rows."""
    keys = [name for name in ("time", "lat", "lon") if name in frame.columns]
    return frame.sort(keys).equals(other.sort(keys))


def close(frame: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Equal, but for the last digits of floats: sums depend on how many threads add."""
    if frame.schema != other.schema or frame.height != other.height:
        return False
    return all(
        np.allclose(a.to_numpy(), b.to_numpy(), rtol=1e-5, equal_nan=True) if a.dtype.is_float() else a.equals(b)
        for a, b in zip(frame.get_columns(), other.get_columns(), strict=True)
    )


class Depth:
    """Longest chain of requests that waited for one another: how many round trips one after the other a query took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.rounds = 0

    def begin(self) -> None:
        with self._lock:
            self._running += 1

    def end(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self.rounds += 1
