"""Documents of arrays and groups made without a store: for tests of what is decided before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuzarr.metadata.model import ArrayDType, ArrayMetadata, CodecMetadata, GroupMetadata, KeyEncoding

_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex", "S": "fixed_bytes", "U": "fixed_string"}


def array(
    path: str,
    dims: tuple[str | None, ...] | None,
    shape: tuple[int, ...],
    chunks: tuple[int, ...] | None = None,
    dtype: str = "f4",
    **attributes: Any,
) -> ArrayMetadata:
    """An uncompressed v3 array."""
    numpy = np.dtype(dtype)
    return ArrayMetadata(
        path=path,
        zarr_format=3,
        shape=shape,
        chunk_shape=chunks or tuple(max(1, n) for n in shape),
        dtype=ArrayDType(_KINDS[numpy.kind], numpy, name=numpy.name),
        fill_value=np.zeros((), numpy)[()],
        codecs=(CodecMetadata("bytes", {"endian": "little"}),),
        order="C",
        key_encoding=KeyEncoding("default", "/"),
        dimension_names=dims,
        attributes=attributes,
    )


def group(
    *arrays: ArrayMetadata,
    path: str = "",
    groups: tuple[str, ...] = (),
    attributes: Mapping[str, Any] | None = None,
    unreadable: Mapping[str, Exception] | None = None,
) -> GroupMetadata:
    """A group of arrays, which are named by the last part of their path."""
    return GroupMetadata(path, 3, attributes or {}, {a.name: a for a in arrays}, groups, unreadable or {})
