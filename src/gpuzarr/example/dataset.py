"""Writes the example store: ERA5-like fields, with everything that real stores surprise a reader with.

Fields are travelling waves over a climatology, plus noise, rounded to the precision that such data really have, so that
chunks compress about as well as real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

__all__ = ["ExampleSize", "write_example"]

Floats = NDArray[np.float64]
MISSING = np.int16(-32767)
MISSING_CHUNK = (1, 0, 1)  # of t2m
MODES = 12


class ExampleSize(StrEnum):
    """How much to write: about 3 MB, 360 MB or 5 GB of decoded cells."""

    TINY = "tiny"
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True)
class _Grid:
    """Axes and chunks; times are steps of ``hours`` from 2023-06-01, latitudes descend as in ERA5."""

    steps: int
    hours: int
    degrees: float
    levels: tuple[int, ...]
    chunk: tuple[int, int, int]

    @property
    def latitude(self) -> NDArray[np.float32]:
        return np.linspace(90, -90, round(180 / self.degrees) + 1, dtype=np.float32)

    @property
    def longitude(self) -> NDArray[np.float32]:
        return np.arange(0, 360, self.degrees, dtype=np.float32)

    @property
    def cells(self) -> tuple[int, int]:
        return len(self.latitude), len(self.longitude)


_GRIDS = {
    ExampleSize.TINY: _Grid(92, 24, 7.5, (850, 500), (16, 10, 24)),
    ExampleSize.SMALL: _Grid(736, 3, 2.0, (850, 500, 250), (32, 46, 60)),
    ExampleSize.LARGE: _Grid(2208, 1, 1.0, (850, 700, 500, 250), (48, 61, 120)),
}


@dataclass(frozen=True)
class _Packing:
    """Linear packing to int16, as CF describes it: ``value = stored * scale + offset``."""

    scale: float
    offset: float

    def pack(self, values: Floats) -> NDArray[np.int16]:
        stored = np.rint((values - self.offset) / self.scale)
        np.nan_to_num(stored, copy=False, nan=float(MISSING))
        return stored.astype(np.int16)

    def attributes(self) -> dict[str, Any]:
        return {"scale_factor": self.scale, "add_offset": self.offset, "_FillValue": int(MISSING)}


@dataclass(frozen=True)
class _Variable:
    """One variable: how it is computed and how it is stored. ``field`` takes the weather of one block of time steps."""

    field: Callable[[_Weather], Floats]
    attributes: Mapping[str, Any]
    codec: BloscCodec | ZstdCodec
    packing: _Packing | None = None
    on_levels: bool = False


def write_example(path: str | Path, *, size: ExampleSize | str = ExampleSize.SMALL, seed: int = 0) -> Path:
    """Write the example store (Zarr format 3) and return its path.

    Surface variables on ``(time, lat, lon)``: ``t2m`` (packed int16, Blosc-LZ4, **one chunk is not stored**), ``sst``
    (packed int16, Zstandard, missing over land), ``u10`` (float32, Blosc-Zstandard with bit shuffle) and ``tp`` (float32,
    Zstandard). Level variables on ``(time, level, lat, lon)``: ``t`` (packed int16, shards) and ``q`` (float32). The
    auxiliary coordinate ``elevation`` lies on ``(lat, lon)``. Times are CF: hours since 1900-01-01.

    Parameters
    ----------
    path
        Where to write; must not exist yet.
    size
        ``"tiny"``, ``"small"`` or ``"large"``: about 3 MB, 360 MB or 5 GB of decoded cells.
    seed
        Another seed gives other weather; the same seed the same store.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; choose a new folder, nothing is overwritten")
    grid = _GRIDS[ExampleSize(size)]
    group = zarr.open_group(
        store=path, mode="w-", zarr_format=3, attributes={"Conventions": "CF-1.11", "title": "gpuzarr example"}
    )
    climate = _Climate(grid, seed)
    _write_coordinates(group, grid, climate)
    arrays = {name: _create(group, name, variable, grid) for name, variable in _VARIABLES.items()}
    step = grid.chunk[0]
    for start in range(0, grid.steps, step):
        block = climate.block(start, min(start + step, grid.steps))
        for name, variable in _VARIABLES.items():
            values = variable.field(block)
            arrays[name][start : start + step] = values if variable.packing is None else variable.packing.pack(values)
    path.joinpath("t2m", "c", *map(str, MISSING_CHUNK)).unlink()
    return path


class _Climate:
    """What does not change: mean fields, land, and the spatial shape of waves and of the daily cycle.

    Every field is ``basis(time) @ shape(space)``: waves that travel, a daily cycle that follows the sun, and a constant.
    In float64, so that what is rounded for storing does not depend on the machine's way of adding.
    """

    def __init__(self, grid: _Grid, seed: int) -> None:
        self.grid, self.seed = grid, seed
        rng = np.random.default_rng(seed)
        self.numbers = np.arange(1, MODES + 1)
        self.speeds = rng.uniform(0.3, 1.2, MODES) * 2 * np.pi / 96  # radians an hour
        self.phases = rng.uniform(0, 2 * np.pi, MODES)
        self.centres = rng.uniform(-60, 60, MODES)
        lat, lon = (axis.astype(np.float64) for axis in np.meshgrid(grid.latitude, grid.longitude, indexing="ij"))
        self.lat, self.lon = lat, lon
        self.elevation = _relief(lat, lon, rng)
        self.land = self.elevation > 0

    def shape(self, mean: Floats, waves: float, daily: Floats | float = 0.0) -> Floats:
        """Rows of ``basis`` in space: constant, daily cycle (amplitude ``daily``), waves (amplitude ``waves``)."""
        local = np.deg2rad(self.lon) - 2 * np.pi * 15 / 24  # warmest at 15 h local time
        rows = [mean, daily * np.cos(local), -daily * np.sin(local)]
        for number, centre in zip(self.numbers, self.centres, strict=True):
            envelope = waves / np.sqrt(number) * np.exp(-(((self.lat - centre) / 25) ** 2))
            rows += [envelope * np.cos(number * np.deg2rad(self.lon)), envelope * np.sin(number * np.deg2rad(self.lon))]
        return np.stack(rows).reshape(len(rows), -1)

    def basis(self, hours: NDArray[np.int64]) -> Floats:
        """Rows of ``shape`` in time, (hours, rows)."""
        day = 2 * np.pi * hours / 24
        columns = [np.ones(len(hours)), np.cos(day), np.sin(day)]
        for speed, phase in zip(self.speeds, self.phases, strict=True):
            columns += [np.cos(speed * hours + phase), np.sin(speed * hours + phase)]
        return np.stack(columns, axis=1)

    def block(self, start: int, stop: int) -> _Weather:
        return _Weather(self, np.arange(start, stop) * self.grid.hours, np.random.default_rng([self.seed, start]))


@dataclass(frozen=True)
class _Weather:
    """The fields of one block of time steps."""

    climate: _Climate
    hours: NDArray[np.int64]
    rng: np.random.Generator

    def temperature(self) -> Floats:
        climate = self.climate
        warmth = 301 - 48 * np.sin(np.deg2rad(climate.lat - 14)) ** 2 + 5 * climate.land - 0.0055 * climate.elevation
        return self._field(climate.shape(warmth, 5.0, np.where(climate.land, 6.0, 0.4)), 0.04)

    def sea_surface(self) -> Floats:
        climate = self.climate
        warmth = np.maximum(271.4, 301 - 34 * np.sin(np.deg2rad(climate.lat - 9)) ** 2)
        field = self._field(climate.shape(warmth, 0.6), 0.02)
        field[:, climate.land] = np.nan
        return field

    def wind(self) -> Floats:
        climate = self.climate
        jets = 7 * np.exp(-(((np.abs(climate.lat) - 48) / 13) ** 2)) - 5 * np.exp(-((climate.lat / 14) ** 2))
        return _bitround(self._field(climate.shape(jets, 4.0), 0.5), 9)

    def rain(self) -> Floats:
        climate = self.climate
        wet = -2.0 + 2.5 * np.exp(-(((climate.lat - 7) / 10) ** 2))
        return _bitround(np.maximum(self._field(climate.shape(wet, 2.5), 0.4), 0), 9)

    def temperature_aloft(self) -> Floats:
        return self._aloft(lambda level: (285.0 - 62.0 * np.log10(1000 / level) * 1.6, 0.7), 6.0, 0.04)

    def humidity(self) -> Floats:
        moist = self._aloft(lambda level: (9.0 * (level / 1000) ** 3, 0.2), 0.8, 0.05)
        return _bitround(np.maximum(moist, 0.001), 9)

    def _aloft(self, of_level: Callable[[int], tuple[float, float]], waves: float, noise: float) -> Floats:
        """Stack the levels: ``of_level`` gives the mean at the equator and how far it falls towards the poles."""
        climate = self.climate
        fields = []
        for level in climate.grid.levels:
            mean, fall = of_level(level)
            profile = mean * (1 - 0.2 * fall * np.sin(np.deg2rad(climate.lat)) ** 2)
            fields.append(self._field(climate.shape(profile, waves * level / 1000), noise))
        return np.stack(fields, axis=1)

    def _field(self, shape: Floats, noise: float) -> Floats:
        field = self.climate.basis(self.hours) @ shape
        field += noise * self.rng.standard_normal(field.shape, dtype=np.float32)
        return field.reshape(len(self.hours), *self.climate.grid.cells)


_LZ4 = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
_BLOSC_ZSTD = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
_ZSTD = ZstdCodec(level=3)
_KELVIN = {"units": "K"}
_VARIABLES: dict[str, _Variable] = {
    "t2m": _Variable(
        _Weather.temperature, {"long_name": "2 metre temperature", **_KELVIN}, _LZ4, _Packing(0.005, 270.0)
    ),
    "sst": _Variable(
        _Weather.sea_surface, {"long_name": "sea surface temperature", **_KELVIN}, _ZSTD, _Packing(0.002, 290.0)
    ),
    "u10": _Variable(_Weather.wind, {"long_name": "10 metre eastward wind", "units": "m s-1"}, _BLOSC_ZSTD),
    "tp": _Variable(_Weather.rain, {"long_name": "total precipitation", "units": "mm"}, _ZSTD),
    "t": _Variable(
        _Weather.temperature_aloft,
        {"long_name": "temperature", **_KELVIN},
        _ZSTD,
        _Packing(0.01, 250.0),
        on_levels=True,
    ),
    "q": _Variable(_Weather.humidity, {"long_name": "specific humidity", "units": "g kg-1"}, _ZSTD, on_levels=True),
}


def _relief(lat: Floats, lon: Floats, rng: np.random.Generator) -> Floats:
    """Elevation in metres: smooth continents on about a third of the globe, 0 at sea."""
    north, east = np.deg2rad(lat), np.deg2rad(lon)
    field = np.zeros_like(lat)
    for _ in range(24):
        x, y, z = rng.normal(size=3) * 3.0
        phase = rng.uniform(0, 2 * np.pi)
        field += np.cos(x * np.cos(north) * np.cos(east) + y * np.cos(north) * np.sin(east) + z * np.sin(north) + phase)
    above = field - np.quantile(field, 0.66)
    return np.round(np.maximum(above / above.max(), 0) ** 1.5 * 4500)


def _bitround(values: Floats, keep: int) -> Floats:
    """Round to ``keep`` bits of the mantissa of a float32, as archives do before they compress floats."""
    drop = np.uint32(23 - keep)
    bits = values.astype(np.float32).view(np.uint32)
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1) + ((bits >> drop) & np.uint32(1))
    return ((bits + half) & ~((np.uint32(1) << drop) - np.uint32(1))).view(np.float32).astype(np.float64)


def _write_coordinates(group: zarr.Group, grid: _Grid, climate: _Climate) -> None:
    start = np.datetime64("2023-06-01", "h") - np.datetime64("1900-01-01", "h")
    hours = start.astype(np.int64) + np.arange(grid.steps, dtype=np.int64) * grid.hours
    calendar = {"units": "hours since 1900-01-01", "calendar": "proleptic_gregorian"}
    axes: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        "time": (hours, {**calendar, "standard_name": "time"}),
        "level": (np.array(grid.levels, dtype=np.int32), {"units": "hPa", "standard_name": "air_pressure"}),
        "lat": (grid.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
        "lon": (grid.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    for name, (values, attributes) in axes.items():
        group.create_array(name, data=values, chunks=values.shape, dimension_names=(name,), attributes=attributes)
    relief: dict[str, Any] = {"units": "m", "standard_name": "surface_altitude"}
    shape = climate.elevation.shape
    group.create_array(
        "elevation",
        data=climate.elevation.astype(np.float32),
        chunks=shape,
        dimension_names=("lat", "lon"),
        attributes=relief,
    )


def _create(group: zarr.Group, name: str, variable: _Variable, grid: _Grid) -> zarr.Array[Any]:
    steps, rows, columns = grid.chunk
    shape: tuple[int, ...] = (grid.steps, *grid.cells)
    dims: tuple[str, ...] = ("time", "lat", "lon")
    chunks: tuple[int, ...] = grid.chunk
    shards = None
    if variable.on_levels:
        levels = len(grid.levels)
        shape, dims = (grid.steps, levels, *grid.cells), ("time", "level", "lat", "lon")
        chunks = (steps, 1, rows, columns)
        if variable.packing is not None:
            shards = (
                steps,
                levels,
                *(-(-size // chunk) * chunk for size, chunk in zip(grid.cells, grid.chunk[1:], strict=True)),
            )
    packing = {} if variable.packing is None else variable.packing.attributes()
    return group.create_array(
        name,
        shape=shape,
        dtype=np.float32 if variable.packing is None else np.int16,
        chunks=chunks,
        shards=shards,
        compressors=[variable.codec],
        fill_value=0.0 if variable.packing is None else int(MISSING),
        dimension_names=dims,
        attributes={**variable.attributes, **packing, "coordinates": "elevation"},
        config={"write_empty_chunks": True},  # so that exactly one chunk is missing
    )
