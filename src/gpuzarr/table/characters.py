"""Character arrays: strings stored one byte per cell along a last dimension, as netCDF-3 writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from gpuzarr.errors import GpuzarrError
from gpuzarr.metadata.model import ArrayDType, ArrayMetadata, KeyEncoding
from gpuzarr.table.dimensions import dims_of

__all__ = ["with_joined_characters"]


def with_joined_characters(arrays: Mapping[str, ArrayMetadata]) -> dict[str, ArrayMetadata]:
    """The same arrays, character arrays without their last dimension and with the strings along it as elements.

    As ``xarray`` (``concat_characters=True``): an array of single bytes is one of strings if nothing but arrays of bytes
    uses its last dimension, always as the last one, and no array has that dimension's name. The document is rewritten, no
    byte is moved: a chunk of n x m single bytes in C order is one of n strings of m bytes. Where the chunks do not hold
    whole strings one after the other (a chunked last dimension, Fortran order, transposed, sharded), the array stays as it
    is.
    """
    if not any(array.dtype.kind == "fixed_bytes" for array in arrays.values()):
        return dict(arrays)
    last: dict[str, str] = {}
    other: set[str] = set(arrays)
    for name, array in arrays.items():
        try:
            dims = [d.name for d in dims_of(array)]
        except GpuzarrError:
            dims = [d for d in array.dimension_names or () if d]
        if array.dtype.kind == "fixed_bytes" and dims:
            other.update(dims[:-1])
            last[name] = dims[-1]
        else:
            other.update(dims)
    return {
        name: _joined(array) if name in last and last[name] not in other and _is_joinable(array) else array
        for name, array in arrays.items()
    }


def _is_joinable(array: ArrayMetadata) -> bool:
    return (
        array.dtype.numpy == np.dtype("S1")
        and array.dimension_names is not None
        and 0 < array.shape[-1] == array.chunk_shape[-1]
        and (array.order == "C" or array.ndim == 1)
        and not any(codec.name in ("transpose", "sharding_indexed") for codec in array.codecs)
    )


def _joined(array: ArrayMetadata) -> ArrayMetadata:
    assert array.dimension_names is not None
    length = array.shape[-1]
    fill = array.fill_value
    return dataclasses.replace(
        array,
        shape=array.shape[:-1],
        chunk_shape=array.chunk_shape[:-1],
        dimension_names=array.dimension_names[:-1],
        dtype=ArrayDType(
            "fixed_bytes", np.dtype(f"S{length}"), array.dtype.stored_big_endian, f"{array.dtype.name} x {length}"
        ),
        fill_value=None if fill is None else np.bytes_(bytes(fill) * length),
        key_encoding=_LastIsZero(array.key_encoding.kind, array.key_encoding.separator),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _LastIsZero(KeyEncoding):
    """Keys of an array with one more dimension than the document says now, of one chunk."""

    def key(self, path: str, index: tuple[int, ...]) -> str:
        return KeyEncoding.key(self, path, (*index, 0))
