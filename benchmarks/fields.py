"""ERA5-like fields as pure functions of (seed, variable, time, cell).

A field is ``basis(time) @ shape(space)`` (a climatology, a season, a daily cycle and waves that travel) plus noise from a
counter-based hash, rounded to a power of two as archives are rounded by their 16-bit packing. Any block can be computed
alone, so every layout of one size holds the same values, whatever its chunks, and stores are written as a stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SURFACE", "Field", "FieldSpec", "Grid"]

MODES = 10
EPOCH = np.datetime64("1900-01-01T00", "h")
START = np.datetime64("2021-01-01T00", "h")


@dataclass(frozen=True)
class Grid:
    """A regular global grid: ``steps`` times every ``hours`` hours from 2021-01-01, latitudes descend as in ERA5."""

    steps: int
    hours: int
    rows: int
    columns: int

    @property
    def time(self) -> NDArray[np.int64]:
        """Hours since 1900-01-01."""
        return (START - EPOCH).astype(np.int64) + np.arange(self.steps, dtype=np.int64) * self.hours

    @property
    def lat(self) -> NDArray[np.float32]:
        return np.linspace(90, -90, self.rows, dtype=np.float32)

    @property
    def lon(self) -> NDArray[np.float32]:
        return (np.arange(self.columns, dtype=np.float32) * np.float32(360 / self.columns)).astype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.steps, self.rows, self.columns


@dataclass(frozen=True)
class FieldSpec:
    """What a variable looks like; ``step`` is the precision (a power of two), ``floor`` the least value."""

    name: str
    mean: float
    poleward: float  # change from the equator to the poles
    season: float
    daily: float
    waves: float
    noise: float
    step: float
    floor: float | None = None


SURFACE: tuple[FieldSpec, ...] = (
    FieldSpec("t2m", 300.0, -48.0, 9.0, 4.0, 5.0, 0.02, 2.0**-9),
    FieldSpec("u10", 0.0, 4.0, 1.0, 0.3, 5.0, 0.15, 2.0**-11),
    FieldSpec("tp", -1.0, -1.5, 0.4, 0.2, 2.5, 0.25, 2.0**-10, floor=0.0),
    FieldSpec("gust", 8.0, 2.0, 1.0, 0.5, 0.5, 4.0, 2.0**-6, floor=0.0),  # noise rules: its extremes lie everywhere
    FieldSpec("v10", 0.0, 1.0, 0.5, 0.2, 5.0, 0.15, 2.0**-11),
    FieldSpec("d2m", 294.0, -46.0, 8.0, 2.0, 5.0, 0.03, 2.0**-9),
    FieldSpec("msl", 101325.0, -900.0, 200.0, 60.0, 1200.0, 8.0, 2.0**0),
    FieldSpec("tcc", 0.5, 0.1, 0.05, 0.05, 0.4, 0.05, 2.0**-12),
    FieldSpec("swvl", 0.25, 0.1, 0.05, 0.0, 0.1, 0.004, 2.0**-14),
    FieldSpec("blh", 700.0, -250.0, 80.0, 300.0, 180.0, 15.0, 2.0**-2),
    FieldSpec("cape", 300.0, -500.0, 100.0, 80.0, 400.0, 30.0, 2.0**-2, floor=0.0),
    FieldSpec("ssrd", 500.0, -300.0, 120.0, 350.0, 60.0, 10.0, 2.0**-2, floor=0.0),
)


class Field:
    """One variable on a grid."""

    def __init__(self, spec: FieldSpec, grid: Grid, *, seed: int = 0, number: int = 0) -> None:
        self.spec, self.grid = spec, grid
        self.key = np.uint64(((seed + 1) << 40) ^ (number << 20))
        rng = np.random.default_rng([seed, number])
        self._speeds = rng.uniform(0.3, 1.2, MODES) * 2 * np.pi / 96  # radians an hour
        self._phases = rng.uniform(0, 2 * np.pi, MODES)
        lat, lon = (np.deg2rad(a.astype(np.float64)) for a in np.meshgrid(grid.lat, grid.lon, indexing="ij"))
        local = lon - 2 * np.pi * 15 / 24
        shape = [
            spec.mean + spec.poleward * np.sin(lat) ** 2,
            -spec.season * np.sin(lat),
            spec.daily * np.cos(local) * np.cos(lat),
            -spec.daily * np.sin(local) * np.cos(lat),
        ]
        for number_, centre in enumerate(np.deg2rad(rng.uniform(-60, 60, MODES)), start=1):
            envelope = spec.waves / np.sqrt(number_) * np.exp(-(((lat - centre) / 0.5) ** 2))
            shape += [envelope * np.cos(number_ * lon), envelope * np.sin(number_ * lon)]
        self._shape = np.stack(shape)

    def block(self, times: slice, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Values of time steps × latitude rows × all longitudes."""
        grid, spec = self.grid, self.spec
        steps = np.arange(grid.steps)[times]
        lats = np.arange(grid.rows)[rows]
        hours = (steps * grid.hours).astype(np.float64)
        day, year = 2 * np.pi * hours / 24, 2 * np.pi * hours / (24 * 365.25)
        basis = [np.ones_like(hours), np.cos(year), np.cos(day), np.sin(day)]
        for speed, phase in zip(self._speeds, self._phases, strict=True):
            basis += [np.cos(speed * hours + phase), np.sin(speed * hours + phase)]
        space = self._shape[:, lats, :].reshape(len(self._shape), -1)
        cells = (lats[:, None] * grid.columns + np.arange(grid.columns)).ravel()
        out = np.empty((len(steps), len(lats), grid.columns), np.float32)
        columns = np.stack(basis, axis=1)
        for i in range(len(steps)):  # one step at a time: temporaries stay in the cache
            values = columns[i] @ space
            values += spec.noise * _normal(self.key, int(steps[i]) * grid.rows * grid.columns, cells)
            if spec.floor is not None:
                np.maximum(values, spec.floor, out=values)
            np.rint(values / spec.step, out=values)
            out[i] = (values * spec.step).reshape(len(lats), grid.columns)
        return out


def _normal(key: np.uint64, base: int, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """About normal noise of a counter: the sum of four 16-bit pieces of one splitmix64 hash."""
    with np.errstate(over="ignore"):
        x = (cells.astype(np.uint64) + np.uint64(base)) * np.uint64(0x9E3779B97F4A7C15) + key
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    pieces = x.view(np.uint16).reshape(-1, 4).astype(np.float64)
    return (pieces.sum(axis=1) - 131070.0) / 37837.0
