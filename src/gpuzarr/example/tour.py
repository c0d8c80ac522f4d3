"""A tour of one store: for each query the bill, the answer and its check, and what was really read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
from numpy.typing import NDArray

from gpuzarr.api import Profile, explain, profile, scan_zarr

__all__ = ["Finding", "tour"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked on the way."""

    what: str
    holds: bool

    def __str__(self) -> str:
        return f"{'ok ' if self.holds else 'NOT'} {self.what}"


def tour(path: Path, say: Callable[[str], None]) -> list[Finding]:
    """Run the queries on an example store and check each answer against plain numpy.

    Parameters
    ----------
    path
        Store written by `gpuzarr.example.write_example`.
    say
        Where the text goes, line by line.
    """
    group = zarr.open_group(path, mode="r")
    findings = [*_heat(path, group, say), *_column(path, group, say), *_count(path, say), *_gaps(path, say)]
    say("\nChecked on the way:")
    for finding in findings:
        say(f"  {finding}")
    return findings


def _heat(path: Path, group: zarr.Group, say: Callable[[str], None]) -> list[Finding]:
    say("""
1. Heat between 30 and 50 degrees north in July

    lf = gpuzarr.scan_zarr(store, variables=["t2m"])
    hot = (
        lf.filter(pl.col("lat").is_between(30, 50), pl.col("time").dt.month() == 7, pl.col("t2m") > 305)
        .group_by("time").agg(pl.col("t2m").mean(), pl.len().alias("cells")).sort("time")
    )""")
    lf = scan_zarr(path, variables=["t2m"])
    hot = (
        lf.filter(pl.col("lat").is_between(30, 50), pl.col("time").dt.month() == 7, pl.col("t2m") > 305)
        .group_by("time")
        .agg(pl.col("t2m").mean(), pl.len().alias("cells"))
        .sort("time")
    )
    bill = explain(hot)
    _indented(say, "The bill, before anything is read (gpuzarr.explain):", bill)
    done = profile(hot)
    _indented(say, "What really happened (gpuzarr.profile):", done)
    _indented(say, "The answer:", done.frame.head(3))

    start = time.perf_counter()
    times, t2m = _times(group), _unpacked(group, "t2m")
    lat = _stored(group, "lat")
    wanted = (times.astype("datetime64[M]").astype(int) % 12 == 6)[:, None, None]
    wanted = wanted & ((lat >= 30) & (lat <= 50))[:, None] & (t2m > 305)
    cells = wanted.sum(axis=(1, 2))
    sums = np.where(wanted, t2m, 0).sum(axis=(1, 2))
    hit = cells > 0
    seconds = time.perf_counter() - start

    all_bytes = sum(file.stat().st_size for file in path.joinpath("t2m", "c").rglob("*") if file.is_file())
    say(f"\n  Reading all of t2m with zarr-python and numpy instead: {_mega(all_bytes)} in {seconds:.2f} s.")
    say(f"  gpuzarr: {_mega(done.bytes_read)} in {done.seconds:.2f} s.")
    same = (
        np.array_equal(done.frame["time"].to_numpy(), times[hit])
        and np.array_equal(done.frame["cells"].to_numpy(), cells[hit])
        and np.allclose(done.frame["t2m"].to_numpy(), sums[hit] / cells[hit], rtol=1e-9)
    )
    return [
        Finding("heat: the answer is numpy's", bool(hit.any()) and same),
        Finding("heat: bytes and requests are those of the bill", _as_billed(bill, done)),
        Finding("heat: less was read than there is", done.bytes_read < all_bytes),
    ]


def _column(path: Path, group: zarr.Group, say: Callable[[str], None]) -> list[Finding]:
    lat, lon, elevation = (_stored(group, name) for name in ("lat", "lon", "elevation"))
    row, column = np.unravel_index(int(elevation.argmax()), elevation.shape)
    say(f"""
2. The air above the highest mountain, on all pressure levels

    lf = gpuzarr.scan_zarr(store, variables=["t"])
    above = (
        lf.filter(pl.col("lat") == {lat[row]}, pl.col("lon") == {lon[column]})
        .group_by("level").agg(pl.col("t").mean(), pl.col("elevation").first()).sort("level")
    )""")
    lf = scan_zarr(path, variables=["t"])
    above = (
        lf.filter(pl.col("lat") == float(lat[row]), pl.col("lon") == float(lon[column]))
        .group_by("level")
        .agg(pl.col("t").mean(), pl.col("elevation").first())
        .sort("level")
    )
    bill = explain(above)
    _indented(say, "The bill:", bill)
    done = profile(above)
    _indented(say, "The answer:", done.frame)
    expected = _unpacked(group, "t")[:, :, row, column].mean(axis=0)
    levels = _stored(group, "level")
    order = np.argsort(levels)
    height = float(elevation[row, column])
    same = (
        np.array_equal(done.frame["level"].to_numpy(), levels[order])
        and np.allclose(done.frame["t"].to_numpy(), expected[order], rtol=1e-9)
        and done.frame["elevation"].to_list() == [height] * len(levels)
    )
    return [
        Finding("point: the answer is numpy's", same),
        Finding("point: bytes and requests are those of the bill", _as_billed(bill, done)),
    ]


def _count(path: Path, say: Callable[[str], None]) -> list[Finding]:
    say("\n3. How many rows lie in the tropics? Coordinates answer it, and no chunk is read")
    lf = scan_zarr(path, variables=["t2m", "tp", "u10", "sst"])
    query = lf.filter(pl.col("lat").abs() < 23.5).select(pl.len())
    done = profile(query)
    _indented(say, "What really happened:", done)
    return [Finding("count: no chunk was read", done.requests == 0)]


def _gaps(path: Path, say: Callable[[str], None]) -> list[Finding]:
    say("\n4. One chunk of t2m is not stored. It is missing, so its rows are null, and it is counted")
    done = profile(scan_zarr(path, variables=["t2m"]).select(pl.col("t2m").null_count()))
    _indented(say, "What really happened:", done)
    meta: Any = zarr.open_array(path / "t2m", mode="r")
    missing = sum(scan.statistics["chunks_missing"] for scan in done.scans)
    return [
        Finding("gap: one chunk is missing", missing == 1),
        Finding("gap: its rows are null", done.frame.item() == math.prod(meta.chunks)),
    ]


def _as_billed(bill: Any, done: Profile) -> bool:
    return bool((bill.stored_bytes, bill.requests) == (done.bytes_read, done.requests))


def _stored(group: zarr.Group, name: str) -> NDArray[Any]:
    array: Any = group[name]
    return np.asarray(array[...])


def _unpacked(group: zarr.Group, name: str) -> NDArray[np.float64]:
    """A packed variable, read whole and decoded by hand: the independent way."""
    attributes: dict[str, Any] = group[name].attrs.asdict()
    stored = _stored(group, name)
    values = stored * attributes["scale_factor"] + attributes["add_offset"]
    values[stored == attributes["_FillValue"]] = np.nan
    return np.asarray(values, dtype=np.float64)


def _times(group: zarr.Group) -> NDArray[np.datetime64]:
    hours = _stored(group, "time")
    return (np.datetime64("1900-01-01", "h") + hours.astype("timedelta64[h]")).astype("datetime64[ns]")


def _mega(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _indented(say: Callable[[str], None], title: str, thing: object) -> None:
    say(f"\n  {title}")
    for line in str(thing).splitlines():
        say(f"    {line}")
