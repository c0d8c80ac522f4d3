"""The stores that are measured: ``python -m benchmarks.datasets --size small``.

Every layout of the cube holds the same values, so that only chunks and codecs differ. ``--size`` is a name or a number of
decoded bytes of the cube's three variables (``tiny`` about 0.5 MB, ``small`` 25, ``medium`` 200, ``large`` 2 GB, ``40GB`` …);
slabs are written one by one, so memory does not grow with it. A description (extents, thresholds, sizes) lies beside each
store as JSON: queries are made from it without opening the store.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fields import SURFACE, Field, FieldSpec, Grid

__all__ = ["CATALOGUE", "Description", "Layout", "data_folder", "grid_of", "prepare", "prepare_parquet", "served"]

VERSION = 4  # of what is written; an older folder is written again
CUBE = ("t2m", "u10", "tp")
FEATURES = tuple(spec.name for spec in SURFACE)
QUANTILES = {"1%": 0.99, "0.01%": 0.9999}
PACKING = {"scale_factor": 2.0**-7, "add_offset": 270.0, "_FillValue": -32767}
NAN_V3 = "AAAAAAAA+H8="  # NaN as xarray writes it into attributes of Zarr v3
LEVELS = (1000, 850, 500, 250)
SIZES = {"small": 25_000_000, "medium": 200_000_000, "large": 2_000_000_000}


@dataclass(frozen=True)
class Layout:
    """One store: which variables, how chunked and how compressed."""

    name: str
    chunk: tuple[int, ...]  # on (time, lat, lon); clipped to the array; -1 is the whole dimension
    codec: str = "zstd"
    shard: tuple[int, ...] | None = None
    zarr_format: int = 3
    variables: tuple[str, ...] = CUBE
    kind: str = "cube"
    share: float = 1.0  # of the time steps of the cube
    is_fine: bool = False  # on the 0.25° grid of ERA5, with as many cells
    about: str = ""


_MEDIUM, _LARGE, _SMALL = (16, 91, 180), (32, 181, 360), (4, 46, 90)
CATALOGUE: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("cube", _MEDIUM, about="Zarr v3, Zstandard, chunks of about 1 MB"),
        Layout("large-chunks", _LARGE, about="Zstandard, chunks of about 8 MB"),
        Layout("small-chunks", _SMALL, about="Zstandard, chunks of about 66 kB"),
        Layout("small-blosc", _SMALL, "blosc-lz4", about="Blosc-LZ4, chunks of about 66 kB"),
        Layout("series-chunks", (-1, 19, 18), about="Zstandard, chunks that hold all times of few cells"),
        Layout("shards", _SMALL, shard=(32, 184, 360), about="66 kB chunks in shards, Zstandard"),
        Layout("blosc-lz4", _LARGE, "blosc-lz4", about="Blosc-LZ4 with byte shuffle, chunks of about 8 MB"),
        Layout(
            "planes",
            (1, -1, -1),
            "blosc-lz4",
            is_fine=True,
            about="Blosc-LZ4, a chunk is one time of the 0.25° grid, as in ERA5 archives",
        ),
        Layout("blosc-zstd", _MEDIUM, "blosc-zstd", about="Blosc-Zstandard with bit shuffle, chunks of about 1 MB"),
        Layout("gzip", _MEDIUM, "gzip", about="gzip, chunks of about 1 MB"),
        Layout("none", _MEDIUM, "none", about="uncompressed, chunks of about 1 MB"),
        Layout(
            "v2", _MEDIUM, "blosc-lz4", zarr_format=2, about="Zarr v2, consolidated, Blosc-LZ4, chunks of about 1 MB"
        ),
        Layout("packed", _MEDIUM, "zstd", kind="packed", about="int16 with scale, offset and fill value, Zstandard"),
        Layout(
            "levels", (16, 1, 91, 180), variables=("t", "q"), kind="levels", share=0.4, about="(time, level, lat, lon)"
        ),
        Layout(
            "features", _MEDIUM, variables=FEATURES, kind="features", share=0.5, about="twelve variables, Zstandard"
        ),
        Layout("curvilinear", _MEDIUM, kind="curvilinear", about="2-D lat and lon on (y, x)"),
        Layout("sparse", _MEDIUM, kind="sparse", about="nine of ten chunks not stored, NaN"),
        Layout(
            "trajectories", (65536,), kind="trajectories", about="1-D observations: time, lat, lon and values by obs"
        ),
    )
}


@dataclass(frozen=True)
class Description:
    """What queries need to know of a written store."""

    name: str
    size: str
    store: str
    kind: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    variables: tuple[str, ...]
    grid: dict[str, int]
    chunk: tuple[int, ...]
    codec: str
    thresholds: Mapping[str, Mapping[str, float]]
    stored_bytes: int
    decoded_bytes: int
    version: int = VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape))

    @property
    def is_remote(self) -> bool:
        return self.store.startswith("http")

    @property
    def consolidated(self) -> bool:
        if self.is_remote:
            return True
        document = Path(self.store, "zarr.json")
        if not document.exists():
            return Path(self.store, ".zmetadata").exists()
        return "consolidated_metadata" in json.loads(document.read_text())

    @property
    def parquet(self) -> str:
        return str(Path(self.store).with_suffix(".parquet"))


def data_folder() -> Path:
    """Where stores are written: the environment variable GPUZARR_BENCH_DATA, or a folder for temporary files."""
    return Path(os.environ.get("GPUZARR_BENCH_DATA") or Path(tempfile.gettempdir()) / "gpuzarr-benchmarks")


def grid_of(size: str) -> Grid:
    """The cube's grid for a size, e.g. ``"tiny"``, ``"medium"``, ``"750MB"`` or ``"100GB"``."""
    if size == "tiny":
        return Grid(steps=72, hours=24, rows=19, columns=36)
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    if size in SIZES:
        nbytes = SIZES[size]
    elif size[-2:].upper() in units:
        nbytes = int(float(size[:-2]) * units[size[-2:].upper()])
    else:
        raise SystemExit(f"unknown size {size!r}: tiny, {', '.join(SIZES)} or a number with KB, MB, GB")
    cells = nbytes // (4 * len(CUBE))
    rows, columns = (91, 180) if cells < 4 * 10**6 else (181, 360) if cells < 2 * 10**9 else (721, 1440)
    steps = max(16, cells // (rows * columns))
    hours = next((h for h in (1, 3, 6) if steps * h >= 24 * 365), 24)
    return Grid(steps, hours, rows, columns)


def prepare(name: str, size: str, folder: Path | None = None) -> Description:
    """Write a store unless it is there, and return its description."""
    layout = CATALOGUE[name]
    place = (folder or data_folder()) / size
    described = place / f"{name}.json"
    if described.exists():
        found = json.loads(described.read_text())
        if found.get("version") == VERSION and Path(found["store"]).exists():
            return Description(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
    place.mkdir(parents=True, exist_ok=True)
    store = place / f"{name}.zarr"
    shutil.rmtree(store, ignore_errors=True)
    store.with_suffix(".parquet").unlink(missing_ok=True)
    grid = grid_of(size)
    if layout.share != 1.0:
        grid = Grid(max(16, int(grid.steps * layout.share)), grid.hours, grid.rows, grid.columns)
    if layout.is_fine and size != "tiny":
        cells = grid.steps * grid.rows * grid.columns
        grid = Grid(max(8, cells // (721 * 1440)), 24, 721, 1440)
    written = _WRITERS[layout.kind](layout, grid, store)
    description = Description(
        name=name,
        size=size,
        store=str(store),
        kind=layout.kind,
        grid=asdict(grid),
        codec=layout.codec,
        stored_bytes=sum(p.stat().st_size for p in store.rglob("*") if p.is_file()),
        **written,
    )
    described.write_text(json.dumps(asdict(description), indent=1))
    return description


# Writers: one per kind of store. Each returns the fields of the description that depend on the kind.


def _cube(layout: Layout, grid: Grid, store: Path) -> dict[str, Any]:
    fields = {s.name: Field(s, grid, number=i) for i, s in enumerate(SURFACE) if s.name in layout.variables}
    group = _group(store, layout)
    _axes(group, layout, time=grid.time, lat=grid.lat, lon=grid.lon)
    thresholds = {}
    for name in layout.variables:
        array = _array(group, layout, name, grid.shape, ("time", "lat", "lon"), np.dtype("f4"))
        counts = _Histogram(fields[name].spec.step)
        for where, values in _slabs(fields[name], grid, array):
            array[where] = values
            counts.add(values)
        thresholds[name] = counts.quantiles()
    _consolidate(store, layout)
    return _described(layout, ("time", "lat", "lon"), grid.shape, thresholds, 4)


def _packed(layout: Layout, grid: Grid, store: Path) -> dict[str, Any]:
    """The first variable as int16, cells at sea (a fixed tenth of the grid) missing."""
    group = _group(store, layout)
    _axes(group, layout, time=grid.time, lat=grid.lat, lon=grid.lon)
    spec = SURFACE[0]
    source = Field(spec, grid)
    missing = (np.arange(grid.rows)[:, None] * 7 + np.arange(grid.columns) * 3) % 40 < 4
    fill = np.int16(PACKING["_FillValue"])
    array = _array(
        group,
        layout,
        spec.name,
        grid.shape,
        ("time", "lat", "lon"),
        np.dtype("i2"),
        fill_value=int(fill),
        attributes=PACKING,
    )
    counts = _Histogram(PACKING["scale_factor"])
    for where, values in _slabs(source, grid, array):
        stored = np.rint((values - PACKING["add_offset"]) / PACKING["scale_factor"]).astype(np.int16)
        stored[:, np.broadcast_to(missing, values.shape[1:] if where[1] == slice(None) else None)[where[1]]] = fill
        array[where] = stored
        valid = stored[stored != fill]
        counts.add(valid * np.float64(PACKING["scale_factor"]) + PACKING["add_offset"])
    _consolidate(store, layout)
    return _described(layout, ("time", "lat", "lon"), grid.shape, {spec.name: counts.quantiles()}, 2, (spec.name,))


def _levels(layout: Layout, grid: Grid, store: Path) -> dict[str, Any]:
    group = _group(store, layout)
    _axes(group, layout, time=grid.time, level=np.array(LEVELS, np.int32), lat=grid.lat, lon=grid.lon)
    shape, dims = (grid.steps, len(LEVELS), grid.rows, grid.columns), ("time", "level", "lat", "lon")
    thresholds = {}
    for number, name in enumerate(layout.variables):
        base = FieldSpec(name, 285.0, -30.0, 6.0, 0.5, 6.0, 0.03, 2.0**-8)
        array = _array(group, layout, name, shape, dims, np.dtype("f4"))
        counts = _Histogram(base.step)
        for level, pressure in enumerate(LEVELS):
            cold = 62.0 * np.log10(1000 / pressure) * 1.6
            spec = FieldSpec(**{**asdict(base), "mean": base.mean - cold})
            for where, values in _slabs(Field(spec, grid, seed=1, number=20 * number + level), grid, array):
                array[where[0], level, where[1]] = values
                counts.add(values)
        thresholds[name] = counts.quantiles()
    return _described(layout, dims, shape, thresholds, 4)


def _curvilinear(layout: Layout, grid: Grid, store: Path) -> dict[str, Any]:
    """A rotated grid: latitude and longitude are 2-D auxiliary coordinates on (y, x)."""
    group = _group(store, layout)
    _axes(group, layout, time=grid.time)
    y, x = np.linspace(-40, 40, grid.rows), np.linspace(-60, 60, grid.columns)
    lat = (y[:, None] + 12 * np.sin(np.deg2rad(x)) + 5).astype(np.float32)
    lon = (x + 8 * np.cos(np.deg2rad(y))[:, None] + 10).astype(np.float32)
    for name, values in (("lat", lat), ("lon", lon)):
        plane = Layout("", values.shape, "none", zarr_format=layout.zarr_format)
        _array(group, plane, name, values.shape, ("y", "x"), values.dtype)[...] = values
    thresholds = {}
    for i, spec in enumerate(SURFACE):
        if spec.name not in layout.variables:
            continue
        attributes = {"coordinates": "lat lon"}
        array = _array(group, layout, spec.name, grid.shape, ("time", "y", "x"), np.dtype("f4"), attributes=attributes)
        counts = _Histogram(spec.step)
        for where, values in _slabs(Field(spec, grid, number=i), grid, array):
            array[where] = values
            counts.add(values)
        thresholds[spec.name] = counts.quantiles()
    return _described(layout, ("time", "y", "x"), grid.shape, thresholds, 4)


def _sparse(layout: Layout, grid: Grid, store: Path) -> dict[str, Any]:
    """Only every tenth chunk is stored; the rest is the fill value NaN."""
    group = _group(store, layout)
    _axes(group, layout, time=grid.time, lat=grid.lat, lon=grid.lon)
    thresholds = {}
    nan = float("nan")
    for i, spec in enumerate(SURFACE):
        if spec.name not in layout.variables:
            continue
        source = Field(spec, grid, number=i)
        array = _array(
            group,
            layout,
            spec.name,
            grid.shape,
            ("time", "lat", "lon"),
            np.dtype("f4"),
            fill_value=nan,
            attributes={"_FillValue": NAN_V3},
        )
        counts = _Histogram(spec.step)
        steps, rows, columns = array.chunks
        number = 0
        for t in range(0, grid.steps, steps):
            for r in range(0, grid.rows, rows):
                values = None
                for c in range(0, grid.columns, columns):
                    if number % 10 == 0:
                        if values is None:
                            values = source.block(slice(t, t + steps), slice(r, r + rows))
                        array[t : t + steps, r : r + rows, c : c + columns] = values[:, :, c : c + columns]
                        counts.add(values[:, :, c : c + columns])
                    number += 1
        thresholds[spec.name] = counts.quantiles()
    return _described(layout, ("time", "lat", "lon"), grid.shape, thresholds, 4)


def _trajectories(layout: Layout, grid: Grid, store: Path) -> dict[str, Any]:
    """Drifters: each observation has its time and place; the values are near the cube's."""
    count = int(np.prod(grid.shape))
    group = _group(store, layout)
    counts = {name: _Histogram(2.0**-9) for name in ("t2m", "u10")}
    names = {"lat": "f4", "lon": "f4", "t2m": "f4", "u10": "f4"}
    shape, dims = (count,), ("obs",)
    arrays = {
        name: _array(
            group,
            layout,
            name,
            shape,
            dims,
            np.dtype(dtype),
            attributes={"coordinates": "time lat lon"} if name in counts else {},
        )
        for name, dtype in names.items()
    }
    calendar = {"units": "hours since 1900-01-01", "calendar": "proleptic_gregorian"}
    arrays["time"] = _array(group, layout, "time", shape, dims, np.dtype("i8"), attributes=calendar)
    step = 65536 * 8
    for start in range(0, count, step):
        n = np.arange(start, min(start + step, count))
        rng = np.random.default_rng([7, start])
        hours = n * (grid.steps * grid.hours) // count
        lat = np.round(60 * np.sin(n / 50_000) + rng.normal(0, 1, n.size), 3).astype(np.float32)
        lon = np.round((n / 997) % 360, 3).astype(np.float32)
        t2m = 300 - 40 * np.sin(np.deg2rad(lat)) ** 2 + rng.normal(0, 2, n.size)
        u10 = rng.normal(0, 6, n.size)
        where = slice(start, start + n.size)
        arrays["time"][where] = grid.time[0] + hours
        arrays["lat"][where], arrays["lon"][where] = lat, lon
        for name, values in (("t2m", t2m), ("u10", u10)):
            rounded = (np.rint(values * 512) / 512).astype(np.float32)
            arrays[name][where] = rounded
            counts[name].add(rounded)
    thresholds = {name: histogram.quantiles() for name, histogram in counts.items()}
    return _described(layout, dims, shape, thresholds, 4, tuple(counts))


_WRITERS: dict[str, Callable[[Layout, Grid, Path], dict[str, Any]]] = {
    "cube": _cube,
    "features": _cube,
    "packed": _packed,
    "levels": _levels,
    "curvilinear": _curvilinear,
    "sparse": _sparse,
    "trajectories": _trajectories,
}


def _described(
    layout: Layout,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    thresholds: Mapping[str, Mapping[str, float]],
    itemsize: int,
    variables: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    variables = variables or layout.variables
    return {
        "dims": dims,
        "shape": shape,
        "variables": variables,
        "chunk": _clip(layout.chunk, shape),
        "thresholds": thresholds,
        "decoded_bytes": int(np.prod(shape)) * itemsize * len(variables),
    }


def _group(store: Path, layout: Layout) -> Any:
    import zarr

    return zarr.open_group(store=store, mode="w", zarr_format=layout.zarr_format, attributes={"Conventions": "CF-1.11"})


def _axes(group: Any, layout: Layout, **axes: NDArray[Any]) -> None:
    attributes = {
        "time": {"units": "hours since 1900-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"},
        "level": {"units": "hPa"},
        "lat": {"units": "degrees_north", "standard_name": "latitude"},
        "lon": {"units": "degrees_east", "standard_name": "longitude"},
    }
    for name, values in axes.items():
        flat = Layout("", (len(values),), "none", zarr_format=layout.zarr_format)
        _array(group, flat, name, values.shape, (name,), values.dtype, attributes=attributes[name])[...] = values


def _array(
    group: Any,
    layout: Layout,
    name: str,
    shape: tuple[int, ...],
    dims: tuple[str, ...],
    dtype: np.dtype[Any],
    *,
    fill_value: float | None = 0,
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    attributes = dict(attributes or {})
    options: dict[str, Any] = {}
    if layout.zarr_format == 2:
        attributes["_ARRAY_DIMENSIONS"] = list(dims)
        fill_value = None  # xarray takes the fill value of Zarr v2 for a missing value
    else:
        options["dimension_names"] = dims
    if layout.shard is not None and len(shape) == len(layout.shard):
        inner = _clip(layout.chunk, shape)
        options["shards"] = tuple(-(-min(o, s) // i) * i for o, s, i in zip(layout.shard, shape, inner, strict=True))
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=_clip(layout.chunk, shape),
        compressors=_codec(layout),
        fill_value=fill_value,
        attributes=attributes,
        config={"write_empty_chunks": True},
        **options,
    )


def _codec(layout: Layout) -> Any:
    import numcodecs
    import zarr.codecs

    if layout.zarr_format == 2:
        v2 = {"none": None, "blosc-lz4": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE)}
        return v2[layout.codec]
    v3: dict[str, Any] = {
        "none": None,
        "zstd": zarr.codecs.ZstdCodec(level=3),
        "gzip": zarr.codecs.GzipCodec(level=5),
        "blosc-lz4": zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        "blosc-zstd": zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    }
    return v3[layout.codec]


def _clip(chunk: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    chunk = chunk[-len(shape) :] if len(chunk) >= len(shape) else chunk
    return tuple(s if c < 0 else min(c, s) for c, s in zip(chunk, shape, strict=True))


def _slabs(source: Field, grid: Grid, array: Any) -> Iterator[tuple[tuple[slice, slice], NDArray[np.float32]]]:
    """Slabs of whole chunks (or shards): along time, or along latitude where a chunk holds all times."""
    outer = array.shards or array.chunks
    if outer[0] >= grid.steps:
        rows = outer[-2]
        for start in range(0, grid.rows, rows):
            where = (slice(None), slice(start, min(start + rows, grid.rows)))
            yield where, source.block(*where)
    else:
        for start in range(0, grid.steps, outer[0]):
            where = (slice(start, min(start + outer[0], grid.steps)), slice(None))
            yield where, source.block(*where)


def _consolidate(store: Path, layout: Layout) -> None:
    if layout.zarr_format == 2:
        import zarr

        zarr.consolidate_metadata(str(store), zarr_format=2)


def served(description: Description, url: str) -> Description:
    """The store behind a URL; consolidated, since nothing can be listed there."""
    import warnings

    import zarr

    if not description.consolidated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(description.store)
    return replace(description, store=f"{url}/{description.size}/{Path(description.store).name}")


class _Histogram:
    """Exact quantiles of values that are multiples of a step, from a stream."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.counts: dict[int, int] = {}

    def add(self, values: NDArray[Any]) -> None:
        numbers = np.rint(np.asarray(values, np.float64) / self.step).astype(np.int64).ravel()
        if numbers.size == 0:
            return
        low = int(numbers.min())
        for offset, count in enumerate(np.bincount(numbers - low)):
            if count:
                self.counts[low + offset] = self.counts.get(low + offset, 0) + int(count)

    def quantiles(self) -> dict[str, float]:
        """Thresholds, half a step above a value, so that ``>`` is not sensitive to rounding."""
        keys = sorted(self.counts)
        below = np.cumsum([self.counts[k] for k in keys])
        return {
            name: (keys[int(np.searchsorted(below, q * below[-1]))] + 0.5) * self.step for name, q in QUANTILES.items()
        }


def prepare_parquet(description: Description) -> Path:
    """The same table as one Parquet file (Zstandard, row groups of 2^18 rows, C order), unless it is there."""
    path = Path(description.parquet)
    if path.exists():
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq
    import xarray as xr

    partial = path.with_suffix(".partial")
    with xr.open_zarr(description.store, chunks=None, consolidated=description.consolidated) as ds:
        coords = [name for name in ds.coords if set(ds[name].dims) <= set(description.dims)]
        names = [*dict.fromkeys([*description.dims, *coords, *description.variables])]
        lead = description.dims[0]
        length = ds.sizes[lead]
        step = max(1, 2**22 // max(1, description.rows // length))
        writer = None
        for start in range(0, length, step):
            part = ds[list(description.variables)].isel({lead: slice(start, start + step)}).load()
            shape = tuple(part.sizes[d] for d in description.dims)
            columns = {}
            for name in names:
                if name in part.coords or name in part:
                    values = part[name]
                else:
                    values = xr.DataArray(
                        np.arange(start, start + shape[0]) if name == lead else np.arange(part.sizes[name]), dims=name
                    )
                flat = (
                    values.broadcast_like(part[description.variables[0]])
                    .transpose(*description.dims)
                    .to_numpy()
                    .ravel()
                )
                columns[name] = pa.array(flat, from_pandas=description.kind in ("packed", "sparse"))
            table = pa.table(columns)
            if writer is None:
                dictionary = [n for n in names if n not in description.variables]
                writer = pq.ParquetWriter(partial, table.schema, compression="zstd", use_dictionary=dictionary)
            writer.write_table(table, row_group_size=2**18)
        assert writer is not None
        writer.close()
    partial.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.datasets", description="Write the stores that are measured."
    )
    parser.add_argument("--size", default="small", help="tiny, small, medium, large or e.g. 40GB (default: small)")
    parser.add_argument("--parquet", action="store_true", help="also write each table as Parquet")
    parser.add_argument("names", nargs="*", help=f"which (default: all): {', '.join(CATALOGUE)}")
    arguments = parser.parse_args()
    for name in arguments.names or CATALOGUE:
        d = prepare(name, arguments.size)
        line = f"{name:14} {d.rows:>12,} rows  {d.decoded_bytes / 1e6:>10.1f} MB decoded  {d.stored_bytes / 1e6:>10.1f} MB stored"
        if arguments.parquet:
            line += f"  {prepare_parquet(d).stat().st_size / 1e6:>10.1f} MB as Parquet"
        print(line, flush=True)


if __name__ == "__main__":
    main()
