"""Small groups written as documents and uncompressed chunks, read by xarray on one side and decoded by gpuzarr on the other."""

from __future__ import annotations

import base64
import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import xarray as xr
import zarr
from support_stores import MemoryStore

from gpuzarr.cf import Decoding, decoding_for, with_inherited_attributes
from gpuzarr.metadata import open_node
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata

_V3_NAMES = {
    "?": "bool",
    **{
        f"{k}{n}": f"{name}{8 * n}"
        for k, name in (("i", "int"), ("u", "uint"), ("f", "float"), ("c", "complex"))
        for n in (1, 2, 4, 8, 16)
    },
}


@dataclass
class Group:
    """A group under construction: one chunk per array, nothing compressed."""

    zarr_format: int = 3
    attributes: Mapping[str, Any] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    raw: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.zarr_format == 2:
            self._put(".zgroup", {"zarr_format": 2})
            self._put(".zattrs", dict(self.attributes))
        else:
            self._put("zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": dict(self.attributes)})

    def add(
        self,
        name: str,
        values: np.ndarray,
        dims: tuple[str, ...] | None = None,
        fill_value: Any = "zero",
        **attributes: Any,
    ) -> Group:
        """Add an array; ``fill_value`` as in the document, "zero" for what a v3 document needs at least and null in v2."""
        dims = tuple(f"{name}_{i}" for i in range(values.ndim)) if dims is None else dims
        self.raw[name] = values
        dtype = values.dtype.newbyteorder("<")
        chunks = [max(1, n) for n in values.shape]
        if self.zarr_format == 2:
            document = {
                "zarr_format": 2,
                "shape": values.shape,
                "chunks": chunks,
                "dtype": dtype.str,
                "order": "C",
                "compressor": None,
                "filters": None,
                "fill_value": None if fill_value == "zero" else fill_value,
            }
            self._put(f"{name}/.zarray", document)
            self._put(f"{name}/.zattrs", {"_ARRAY_DIMENSIONS": list(dims), **attributes})
            key = f"{name}/{'.'.join('0' * values.ndim) or '0'}"
        else:
            data_type, codecs = _v3_type(dtype)
            document = {
                "zarr_format": 3,
                "node_type": "array",
                "shape": values.shape,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
                "chunk_key_encoding": {"name": "default"},
                "data_type": data_type,
                "codecs": codecs,
                "fill_value": _v3_zero(dtype) if fill_value == "zero" else fill_value,
                "dimension_names": list(dims),
                "attributes": attributes,
            }
            self._put(f"{name}/zarr.json", document)
            key = "/".join([name, "c", *"0" * values.ndim])
        self.objects[key] = values.astype(dtype).tobytes()
        return self

    def _put(self, key: str, document: Any) -> None:
        self.objects[key] = json.dumps(document).encode()

    def xarray(self) -> xr.Dataset:
        """What xarray makes of it, loaded, its warnings aside."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            objects = {k: zarr.core.buffer.cpu.Buffer.from_bytes(v) for k, v in self.objects.items()}
            store = zarr.storage.MemoryStore(objects, read_only=True)
            return xr.open_zarr(store, chunks=None, consolidated=False).load()

    def node(self) -> GroupMetadata:
        """Its documents as gpuzarr reads them."""
        node = open_node(MemoryStore(self.objects))
        assert isinstance(node, GroupMetadata)
        assert not node.unreadable, node.unreadable
        return node

    def arrays(self) -> dict[str, ArrayMetadata]:
        return with_inherited_attributes(self.node().arrays)

    def decoding(self, name: str, **options: Any) -> Decoding:
        return decoding_for(
            self.arrays()[name], **{"decode_cf": True, "time_unit": "ns", "nan_to_null": False} | options
        )

    def decode(self, name: str, **options: Any) -> pl.Series:
        """The array as a column, in C order."""
        return column(self.decoding(name, **options), self.raw[name])


def column(decoding: Decoding, raw: np.ndarray) -> pl.Series:
    """Raw values of any shape as a column."""
    values, valid = apply(decoding, raw)
    series = decoding.to_series("x", values.reshape(-1), valid.reshape(-1))
    assert series.dtype == decoding.dtype
    assert decoding.nullable or series.null_count() == 0
    return series


def apply(decoding: Decoding, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and validity."""
    values = np.empty(raw.shape, decoding.numpy)
    valid = np.empty(raw.shape, np.bool_)
    decoding.apply(raw, values, valid)
    return values, valid


def encoded_fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """``_FillValue`` as xarray writes it into the attributes of a v3 array."""
    if dtype.kind == "f":
        return base64.standard_b64encode(struct.pack("<d", float(value))).decode()
    if dtype.kind == "c":
        return [encoded_fill(value.real, np.dtype("f8")), encoded_fill(value.imag, np.dtype("f8"))]
    return value


def _v3_type(dtype: np.dtype[Any]) -> tuple[Any, list[Any]]:
    little = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if dtype.kind in "Mm":
        unit, count = np.datetime_data(dtype)
        name = "numpy.datetime64" if dtype.kind == "M" else "numpy.timedelta64"
        return {"name": name, "configuration": {"unit": unit, "scale_factor": count}}, little
    if dtype.kind in "US":
        name = "fixed_length_utf32" if dtype.kind == "U" else "null_terminated_bytes"
        return {"name": name, "configuration": {"length_bytes": dtype.itemsize}}, little
    return _V3_NAMES["?" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"], little


def _v3_zero(dtype: np.dtype[Any]) -> Any:
    return {"b": False, "c": [0, 0], "U": "", "S": ""}.get(dtype.kind, 0)
