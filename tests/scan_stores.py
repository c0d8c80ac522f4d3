"""Random Zarr stores together with the table that they are, built from the arrays that were written.

The expected table is made with numpy from what went into the store: nothing of gpuzarr's reader, planner or tiling takes
part. `random_store` draws dimensions of 0 to 13 cells, both formats, chunk grids that differ between arrays, shards,
transposed and repeated variables, constants, missing chunks, packed and masked integers, floats with NaN and infinities,
times, strings, and coordinates of every order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import polars as pl
import zarr
import zarr.codecs
from expressions import ColumnSpec
from support_zarr import written

_EPOCH = np.datetime64("2000-01-01", "ns")
_HOUR = np.timedelta64(3_600_000_000_000, "ns")
_WORDS = np.array(["", "a", "b", "ab", "bca", "äß", "Z", "1"], dtype=object)


@dataclass(frozen=True)
class WrittenArray:
    """An array as written, and the decoded values that a reader must find.

    `values` and `valid` have the shape of the array; `absent` says which cells lie in chunks that are not stored.
    """

    name: str
    dims: tuple[str, ...]
    chunk: tuple[int, ...]
    values: np.ndarray
    valid: np.ndarray
    absent: np.ndarray
    kind: str
    shard: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RandomStore:
    """Objects of a store, and what is in them."""

    objects: dict[str, bytes]
    sizes: dict[str, int]
    dims: tuple[str, ...]
    columns: tuple[str, ...]
    arrays: dict[str, WrittenArray]
    coordinates: frozenset[str] = field(default_factory=frozenset)
    fields: frozenset[str] = field(default_factory=frozenset)
    """Arrays of the child group ``g``, which is a struct column."""

    @property
    def spanning(self) -> list[WrittenArray]:
        """Variables over all dimensions, by name."""
        found = (a for n, a in sorted(self.arrays.items()) if n not in self.coordinates)
        return [a for a in found if set(a.dims) == set(self.sizes)]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sizes[d] for d in self.dims)

    def write(self, folder: Path) -> Path:
        """The store as a directory."""
        for key, data in self.objects.items():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def tile_shape(self, tile_rows: int) -> tuple[int, ...]:
        """Chunks of the first spanning variable (or of the widest), neighbours merged from the last dimension on while they fit."""
        outer = {n: a for n, a in sorted(self.arrays.items()) if n not in self.fields and n in self.columns}
        roles = (self._variables, self.coordinates - set(self.dims), self.dims)
        chunk: dict[str, int] = {}
        for role in roles:  # the most dimensions first: a spanning variable decides alone
            for array in sorted((a for n, a in outer.items() if n in role), key=lambda a: -len(a.dims)):
                for d, c in zip(array.dims, array.chunk, strict=True):
                    chunk.setdefault(d, c)
        chunk = {d: chunk.get(d, self.sizes[d]) for d in self.dims}
        tile = [max(1, min(self.sizes[d], chunk[d])) for d in self.dims]
        for axis in reversed(range(len(tile))):
            size, step = self.shape[axis], tile[axis]
            while tile[axis] < size:
                longer = [*tile[:axis], tile[axis] + step, *tile[axis + 1 :]]
                if math.prod(longer) > tile_rows:
                    break
                tile = longer
            tile[axis] = min(tile[axis], max(1, size))
            if tile[axis] < size:
                break
        return tuple(tile)

    def expected(self, schema: pl.Schema, *, tile_rows: int | None, on_missing: str = "fill") -> pl.DataFrame:
        """The table in emitted order: tile by tile, or C order where `tile_rows` is None."""
        number = np.arange(math.prod(self.shape)).reshape(self.shape)
        if tile_rows is None or not self.dims:
            rows = number.reshape(-1)
        else:
            tile = self.tile_shape(tile_rows)
            starts = [range(0, n, t) for n, t in zip(self.shape, tile, strict=True)]
            blocks = [
                number[tuple(slice(s, s + t) for s, t in zip(start, tile, strict=True))].reshape(-1)
                for start in itertools.product(*starts)
            ]
            rows = np.concatenate([np.empty(0, np.int64), *blocks]).astype(np.int64)
        index = np.unravel_index(rows, self.shape) if self.dims else ()
        at = dict(zip(self.dims, index, strict=True))
        columns = []
        for name in self.columns:
            if name not in self.arrays:  # a dimension without a coordinate
                columns.append(pl.Series(name, at[name].astype(np.int64)))
                continue
            array = self.arrays[name]
            cells = tuple(at[d] for d in array.dims)
            values = np.broadcast_to(array.values[cells], len(rows))
            valid = array.valid & ~array.absent if on_missing == "null" else array.valid
            columns.append(_series(name, values, np.broadcast_to(valid[cells], len(rows)), array.kind, schema[name]))
        return pl.DataFrame(columns)

    def specs(self, frame: pl.DataFrame) -> list[ColumnSpec]:
        """What predicates may refer to."""
        return [
            ColumnSpec(name, frame[name].unique(maintain_order=True).head(50), name in {*self.dims, *self.coordinates})
            for name in self.columns
        ]

    @property
    def _variables(self) -> set[str]:
        return self.arrays.keys() - self.coordinates - self.fields


def _series(name: str, values: np.ndarray, valid: np.ndarray, kind: str, dtype: pl.DataType) -> pl.Series:
    """Values as a column. The width of decoded floats is the CF tests' affair; what kind it is, this one's."""
    if kind == "text":
        assert dtype == pl.String, (name, dtype)
        series = pl.Series(name, values.tolist(), dtype=pl.String)
    elif kind == "time":
        assert dtype == pl.Datetime("ns"), (name, dtype)
        series = pl.Series(name, values.astype("datetime64[ns]").astype(np.int64)).cast(dtype)
    else:
        expected = {"float": dtype.is_float(), "int": dtype.is_integer(), "bool": dtype == pl.Boolean}
        if kind == "decoded":
            assert dtype.is_float() or dtype.is_integer(), (name, dtype)
        else:
            assert expected[kind], (name, dtype, kind)
        series = pl.Series(name, np.ascontiguousarray(values)).cast(dtype)
    return pl.select(pl.when(pl.Series(valid)).then(series).alias(name)).to_series()


def random_store(rng: np.random.Generator, shape: str = "spanned") -> RandomStore:
    """Draw a store.

    Its variables: one of them at least is on all dimensions (``spanned``), none is (``apart``), all have none
    (``constants``), or there is a child group of further ones besides (``struct``).
    """
    names = [str(n) for n in rng.permutation(["t", "y", "x", "k"])][: int(rng.integers(1, 5))]
    most = {1: 60, 2: 16, 3: 9, 4: 6}[len(names)]
    sizes = {n: int(rng.integers(1, most)) for n in names}
    if rng.random() < 0.08:
        sizes[names[0]] = 0
    if rng.random() < 0.2:
        sizes[names[-1]] = 1
    zarr_format = int(rng.choice([2, 3, 3]))
    arrays: dict[str, WrittenArray] = {}
    planned: list[tuple[str, tuple[str, ...], str]] = []
    for name in names:
        if rng.random() < 0.8:
            planned.append((name, (name,), _pick(rng, ["int", "float", "time", "text", "float", "int"])))
    coordinates = {n for n, _, _ in planned}
    auxiliary = []
    if len(names) > 1 and rng.random() < 0.6:
        auxiliary.append(("aux2", tuple(str(n) for n in rng.permutation(names)[:2]), _pick(rng, ["float", "int"])))
    if rng.random() < 0.3:
        auxiliary.append(("aux1", (str(rng.choice(names)),), _pick(rng, ["text", "time", "float"])))
    if rng.random() < 0.2:
        auxiliary.append(("aux0", (), _pick(rng, ["int", "float", "text"])))
    planned += auxiliary
    variables = [str(n) for n in rng.permutation(["p", "q", "r", "s", "u"])][: int(rng.integers(1, 5))]
    kinds = ["float", "float", "packed", "masked", "int", "bool", "time", "text"]
    for position, name in enumerate(variables):
        dims = [str(n) for n in (rng.permutation(names) if rng.random() < 0.4 else names)]
        if position > 0 and rng.random() < 0.35:
            dims = dims[: int(rng.integers(0, len(dims)))]
        planned.append((name, tuple(dims), _pick(rng, kinds)))
    if shape == "constants":
        planned = [(name, () if name in variables else dims, kind) for name, dims, kind in planned]
    if shape == "apart" and len(names) > 1:
        left = [str(n) for n in rng.choice(names, len(variables))]
        drop = dict(zip(variables, left, strict=True))
        planned = [(name, tuple(d for d in dims if d != drop.get(name)), kind) for name, dims, kind in planned]
    inner: list[tuple[str, tuple[str, ...], str]] = []
    if shape == "struct":
        for name in ("ga", "gb")[: int(rng.integers(1, 3))]:
            some = [str(n) for n in rng.permutation(names)[: int(rng.integers(0, len(names) + 1))]]
            inner.append((name, tuple(some), _pick(rng, kinds)))
    named = " ".join(n for n, _, _ in auxiliary)

    def write(store: Any) -> None:
        root = zarr.create_group(store, zarr_format=zarr_format)
        for name, dims, kind in planned:
            is_variable = name in variables
            attributes = {"coordinates": named} if named and is_variable else {}
            cells = tuple(sizes[d] for d in dims)
            arrays[name] = _write_array(
                rng, root, name, dims, cells, kind, zarr_format, attributes, is_variable=is_variable
            )
        if inner:
            child = root.create_group("g")
            for name, dims, kind in inner:
                cells = tuple(sizes[d] for d in dims)
                arrays[name] = _write_array(rng, child, name, dims, cells, kind, zarr_format, {}, is_variable=True)
        if zarr_format == 2 and rng.random() < 0.5:
            zarr.consolidate_metadata(store, zarr_format=2)

    objects = written(write)
    fields = frozenset(name for name, _, _ in inner)
    for name, array in arrays.items():
        gone = _absent_keys(array, f"g/{name}" if name in fields else name, zarr_format)
        for key in gone & objects.keys():
            del objects[key]
    axes = frozenset(coordinates | {n for n, _, _ in auxiliary})
    order = _row_space({n: a.dims for n, a in sorted(arrays.items()) if n not in fields}, axes)
    sizes = {d: sizes[d] for d in order}
    beside = sorted(n for n, dims, _ in auxiliary if set(dims) <= set(order))
    columns = (*order, *beside, *sorted(fields), *sorted(variables))
    return RandomStore(objects, sizes, order, columns, arrays, axes, fields)


def _row_space(arrays: dict[str, tuple[str, ...]], coordinates: frozenset[str]) -> tuple[str, ...]:
    """Dimensions of the table, those of the widest variable first; of coordinates where no variable has any."""
    deciding = {n: dims for n, dims in arrays.items() if n not in coordinates and dims}
    widest_first = sorted((deciding or arrays).values(), key=lambda dims: -len(dims))
    return tuple(dict.fromkeys(d for dims in widest_first for d in dims))


def _absent_keys(array: WrittenArray, name: str, zarr_format: int) -> set[str]:
    """Keys of the chunks to drop; sharded arrays drop theirs while they are written."""
    keys: set[str] = set()
    if array.shard is not None:
        return keys
    for index in itertools.product(*(range(-(-n // c)) for n, c in zip(array.values.shape, array.chunk, strict=True))):
        cells = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, array.chunk, strict=True))
        if array.absent[cells].size and array.absent[cells].all():
            if zarr_format == 2:
                keys.add(f"{name}/{'.'.join(map(str, index)) or '0'}")
            else:
                keys.add("/".join([name, "c", *map(str, index)]))
    return keys


def _write_array(
    rng: np.random.Generator,
    root: zarr.Group,
    name: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    kind: str,
    zarr_format: int,
    attributes: dict[str, Any],
    *,
    is_variable: bool,
) -> WrittenArray:
    chunk = tuple(int(rng.integers(1, n + 2)) for n in shape)
    raw, fill, more, sharding_allowed = _raw_values(rng, kind, shape, zarr_format, is_variable)
    attributes = {**attributes, **more}
    absent = np.zeros(shape, np.bool_)
    if rng.random() < (0.4 if is_variable else 0.1) and fill is not None:
        grid = tuple(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        gone = rng.random(grid) < 0.3
        for axis, c in enumerate(chunk):
            gone = np.repeat(gone, c, axis=axis)
        absent = np.asarray(gone)[tuple(slice(0, n) for n in shape)]
        raw = (
            np.where(absent, np.array(fill, raw.dtype), raw)
            if shape
            else (np.array(fill, raw.dtype) if absent else raw)
        )
    options: dict[str, Any] = {"fill_value": fill, "config": {"write_empty_chunks": True}}
    shards = None
    if zarr_format == 3 and shape and sharding_allowed and rng.random() < 0.35:
        shards = tuple(c * int(rng.integers(1, 4)) for c in chunk)
        options["config"] = {"write_empty_chunks": False}
        absent = _all_fill(raw, fill, chunk)
    elif zarr_format == 2 and rng.random() < 0.2 and kind != "text":
        options["order"] = "F"
    if zarr_format == 3:
        options["dimension_names"] = dims
        options["compressors"] = _pick(rng, [None, "auto", zarr.codecs.BloscCodec(), zarr.codecs.GzipCodec()])
    else:
        attributes["_ARRAY_DIMENSIONS"] = list(dims)
        options["compressors"] = _pick(rng, [None, numcodecs.Blosc(), numcodecs.Zlib(1)])
    dtype: Any = "str" if raw.dtype == object else raw.dtype
    if raw.dtype.kind in "iuf" and raw.dtype.itemsize > 1 and rng.random() < 0.2 and zarr_format == 2:
        dtype = raw.dtype.newbyteorder(">")
    array = root.create_array(
        name, shape=shape, chunks=chunk, shards=shards, dtype=dtype, attributes=attributes, **options
    )
    array[...] = raw if shape else raw[()]
    values, valid, decoded = _decode(raw, kind, fill, attributes, zarr_format)
    return WrittenArray(name, dims, chunk, values, valid, absent, decoded, shards)


def _all_fill(raw: np.ndarray, fill: Any, chunk: tuple[int, ...]) -> np.ndarray:
    """Cells of inner chunks that hold nothing but the fill value: these are not stored."""
    same = (raw == fill) | ((raw != raw) & (fill != fill))
    out = np.zeros(raw.shape, np.bool_)
    for index in itertools.product(*(range(0, n, c) for n, c in zip(raw.shape, chunk, strict=True))):
        cells = tuple(slice(i, i + c) for i, c in zip(index, chunk, strict=True))
        out[cells] = same[cells].all()
    return out


def _raw_values(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...], zarr_format: int, is_variable: bool
) -> tuple[np.ndarray, Any, dict[str, Any], bool]:
    """Stored values, fill value, attributes, whether they may be sharded."""
    size = math.prod(shape)
    is_axis = len(shape) == 1 and not is_variable
    if kind == "text":
        raw = _WORDS[rng.integers(0, len(_WORDS), size)]
        raw = _ordered(rng, raw) if is_axis else raw
        if zarr_format == 2 or rng.random() < 0.3:
            fixed = raw.astype("<U3")
            return fixed.reshape(shape), (None if zarr_format == 2 else ""), {}, False
        return raw.reshape(shape), "", {}, False
    if kind == "time":
        hours = np.arange(size) * int(rng.choice([1, 6, 24])) if is_axis else rng.integers(0, 24 * 400, size)
        hours = hours.astype(_pick(rng, ["<i4", "<i8"]))
        hours = _ordered(rng, hours) if is_axis else hours
        attributes: dict[str, Any] = {"units": "hours since 2000-01-01", "calendar": "proleptic_gregorian"}
        fill = None if zarr_format == 2 else 0
        if is_variable and rng.random() < 0.5:
            hours[rng.random(size) < 0.2] = -999
            fill, attributes = _mask(attributes, -999, zarr_format)
        return hours.reshape(shape), fill, attributes, True
    if kind == "bool":
        return (rng.random(shape) < 0.5), (None if zarr_format == 2 else bool(rng.random() < 0.5)), {}, True
    if kind == "float":
        raw = (rng.integers(-6, 9, size) / 2).astype(_pick(rng, ["<f4", "<f8"]))
        if rng.random() < 0.5:
            odd = rng.random(size) < 0.25
            raw[odd] = rng.choice([math.nan, math.inf, -math.inf], int(odd.sum()))
        raw = _ordered(rng, raw) if is_axis else raw
        fill = _pick(rng, [math.nan, -3.0, None] if zarr_format == 2 else [math.nan, 0.0, -3.0])
        attributes = {}
        if zarr_format == 3 and is_variable and rng.random() < 0.3:
            attributes["missing_value"] = 1.5
        return raw.reshape(shape), fill, attributes, True
    if kind == "packed":
        raw = rng.integers(-20, 20, size).astype(_pick(rng, ["<i2", "i1", "<i4"]))
        attributes = {"scale_factor": 0.5}
        if rng.random() < 0.6:
            attributes["add_offset"] = 2.0
        raw[rng.random(size) < 0.2] = -99
        fill, attributes = _mask(attributes, -99, zarr_format)
        return raw.reshape(shape), fill, attributes, True
    dtype = np.dtype(_pick(rng, ["i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8"]))
    raw = rng.integers(0 if dtype.kind == "u" else -6, 9, size).astype(dtype)
    raw = _ordered(rng, raw) if is_axis else raw
    if kind == "masked":
        raw[rng.random(size) < 0.2] = 99
        fill, attributes = _mask({}, 99, zarr_format)
        return raw.reshape(shape), fill, attributes, True
    return raw.reshape(shape), (None if zarr_format == 2 else int(rng.integers(0, 3))), {}, True


def _mask(attributes: dict[str, Any], value: int, zarr_format: int) -> tuple[Any, dict[str, Any]]:
    """Fill value and attributes of an array in which `value` is missing."""
    return value, (attributes if zarr_format == 2 else {**attributes, "_FillValue": value})


def _ordered(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    order = rng.random()
    if order < 0.6:
        values = np.sort(values)
        if rng.random() < 0.4 and values.dtype.kind in "iuf":  # distinct, as most coordinates are
            values = (np.arange(len(values)) - (2 if values.dtype.kind != "u" else 0)).astype(values.dtype)
        return values[::-1].copy() if order < 0.25 else values
    return values


def _decode(
    raw: np.ndarray, kind: str, fill: Any, attributes: dict[str, Any], zarr_format: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """What CF makes of the stored values: values, validity, kind of column."""
    missing: list[Any] = [attributes[k] for k in ("_FillValue", "missing_value") if k in attributes]
    if zarr_format == 2 and fill is not None:
        missing.append(fill)
    valid = np.ones(raw.shape, np.bool_)
    for value in missing:
        valid &= ~(np.isnan(raw) if value != value else raw == value)
    if kind == "text":
        return raw.astype(object), valid, "text"
    if kind == "time":
        return _EPOCH + np.where(valid, raw, 0).astype(np.int64) * _HOUR, valid, "time"
    if kind == "packed":
        values = raw * attributes["scale_factor"] + attributes.get("add_offset", 0.0)
        return values, valid, "float"
    return raw, valid, "decoded" if kind == "masked" else kind


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]
