"""The stores of the scans: the same field in every codec, written once, and what a query must answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
import zarr.codecs

from benchmarks.gpu.common import Bench

DIMS = ("time", "lat", "lon")

CODECS: dict[str, dict[str, Any]] = {
    "uncompressed": {"compressors": None},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=3)},
    "blosc-lz4-shuffle": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle", typesize=4)},
    "blosc-zstd-bitshuffle": {"compressors": zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=4)},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=5)},
    "sharded-zstd": {"compressors": zarr.codecs.ZstdCodec(level=3), "sharded": True},
}


@dataclass(frozen=True)
class Answer:
    """What a query gives: rows, their sum, and a hash of every value with its row, exact and in any order."""

    rows: int
    total: float
    hashed: int

    def agrees_quickly(self, rows: int, total: float) -> bool:
        """Whether rows and sum are those."""
        return rows == self.rows and bool(np.isclose(total, self.total, rtol=1e-6, atol=1e-3))

    def agrees(self, other: Answer) -> bool:
        """Whether it is the same, bit for bit; sums up to the order of summation."""
        return self.hashed == other.hashed and self.agrees_quickly(other.rows, other.total)

    @classmethod
    def of(cls, frames: Any) -> Answer:
        """Of data frames with all coordinates."""
        parts = [_hashed(*(frame[name].to_numpy() for name in (*DIMS, "t"))) for frame in frames if frame.height]
        hashed = sum(part[2] for part in parts) % 2**64
        return cls(sum(part[0] for part in parts), float(sum(part[1] for part in parts)), hashed)


def _hashed(time: np.ndarray, lat: np.ndarray, lon: np.ndarray, t: np.ndarray) -> tuple[int, float, int]:
    with np.errstate(over="ignore"):
        row = (time.astype(np.uint64) << 40) + (lat.astype(np.uint64) << 20) + lon.astype(np.uint64)
        mixed = (row * np.uint64(0x9E3779B97F4A7C15)) ^ t.astype(np.float32, copy=False).view(np.uint32)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        hashed = int((mixed ^ (mixed >> np.uint64(29))).sum(dtype=np.uint64))
    return len(t), float(t.sum(dtype=np.float64)), hashed


@dataclass(frozen=True)
class Question:
    """A query: in words, as a predicate for tables, and as a choice of cells for arrays."""

    name: str
    predicate: pl.Expr | None
    index: tuple[Any, ...] = (slice(None), slice(None), slice(None))
    above: float | None = None

    def quick(self, values: np.ndarray) -> tuple[int, float]:
        """Rows and sum of the cells that were read: what is timed, the same for all; Polars filters and adds."""
        column = pl.Series("t", np.asarray(values).reshape(-1))
        if self.above is not None:
            column = column.filter(column > self.above)
        return len(column), float(column.cast(pl.Float64).sum())

    def of_array(self, read: Any, sizes: tuple[int, ...]) -> Answer:
        """The answer from an array: ``read`` takes an index and gives values, which numpy filters and Polars adds up."""
        values = read(self.index)
        axes = [np.arange(n)[i] for n, i in zip(sizes, self.index, strict=True)]
        if np.ndim(values) < 3:
            values = np.asarray(values).reshape([np.size(axis) for axis in axes])
        parts = []
        for number, start in enumerate(np.atleast_1d(axes[0]).tolist()):  # a time step at a time: rows are large
            cells = np.ascontiguousarray(values[number])
            lat, lon = np.meshgrid(np.atleast_1d(axes[1]), np.atleast_1d(axes[2]), indexing="ij")
            keep = np.ones(cells.shape, bool) if self.above is None else cells > self.above
            time = np.full(int(keep.sum()), start)
            parts.append(pl.DataFrame({"time": time, "lat": lat[keep], "lon": lon[keep], "t": cells[keep]}))
        return Answer.of(parts)


@dataclass(frozen=True)
class Store:
    """A store, its array's shape, and the field that is in it."""

    path: Path
    shape: tuple[int, int, int]

    @property
    def nbytes(self) -> int:
        """Decoded bytes of the array."""
        return 4 * int(np.prod(self.shape))


def layout(bench: Bench) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes of the array and of a chunk."""
    if bench.host:
        return (4, 64, 96), (2, 32, 48)
    return (max(1, round(bench.gib * 16)) * 16, 1024, 1024), (16, 256, 256)


def slab(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """The field from time step ``number`` on; slabs begin at multiples of a chunk."""
    rng = np.random.default_rng(number)
    noise = rng.standard_normal(size=shape, dtype="f4")
    return np.asarray((280 + np.cumsum(noise, axis=-1) * 0.1).round(2), "f4")


def store(bench: Bench, codec: str) -> Store:
    """A store of `Bench.gib` GiB decoded (tiny on host memory), written once."""
    shape, chunk = layout(bench)
    path = bench.folder / f"{codec}-{shape[0]}{'-host' if bench.host else ''}.zarr"
    if (path / "done").exists():
        return Store(path, shape)
    options = dict(CODECS[codec])
    if options.pop("sharded", False):
        options["shards"] = (chunk[0], shape[1], shape[2])
    group = zarr.create_group(path, overwrite=True)
    array = group.create_array("t", shape=shape, chunks=chunk, dtype="f4", dimension_names=DIMS, **options)
    for start in range(0, shape[0], chunk[0]):
        array[start : start + chunk[0]] = slab(start, (chunk[0], *shape[1:]))
    for name, size in zip(DIMS, shape, strict=True):
        group.create_array(name, data=np.arange(size, dtype="f8"), dimension_names=(name,))
    (path / "done").touch()
    return Store(path, shape)


def questions(bench: Bench) -> list[Question]:
    """Everything; shares by value; a point series. Thresholds are quantiles of a slab."""
    shape, chunk = layout(bench)
    sample = slab(0, (chunk[0], *shape[1:]))
    out = [Question("everything", None)]
    for share in (0.5, 0.01, 0.0001):
        above = float(np.float32(np.quantile(sample, 1 - share)))
        predicate = pl.col("t") > above
        out.append(Question(f"{share:.2%} of the rows by value", predicate, above=above))
    lat, lon = shape[1] // 2 + 3, shape[2] // 3 + 1
    predicate = (pl.col("lat") == lat) & (pl.col("lon") == lon)
    out.append(Question("a point series", predicate, (slice(None), slice(lat, lat + 1), slice(lon, lon + 1))))
    return out


def answer(bench: Bench, question: Question) -> Answer:
    """What a question must give: from the field itself, without a store; worked out once."""
    shape, chunk = layout(bench)
    if question.name not in bench.answers:

        def read(index: tuple[Any, ...]) -> np.ndarray:
            slabs = [
                slab(start, (chunk[0], *shape[1:]))[:, index[1], index[2]] for start in range(0, shape[0], chunk[0])
            ]
            return np.asarray(np.concatenate(slabs)[index[0]])

        bench.answers[question.name] = question.of_array(read, shape)
    found: Answer = bench.answers[question.name]
    return found
