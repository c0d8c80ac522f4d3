"""What the documents say, format-neutral: the metadata of arrays and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

__all__ = ["ArrayDType", "ArrayMetadata", "CodecMetadata", "DTypeKind", "GroupMetadata", "KeyEncoding", "ceil_div"]

DTypeKind = Literal[
    "bool",
    "int",
    "uint",
    "float",
    "complex",
    "datetime",  # numpy.datetime64 with a unit
    "timedelta",  # numpy.timedelta64 with a unit
    "fixed_string",  # numpy U: UCS-4, null padded
    "fixed_bytes",  # numpy S: null padded
    "raw",  # numpy V: r* of v3, |V of v2
    "string",  # variable-length UTF-8
    "bytes",  # variable-length bytes
    "structured",
]


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded up."""
    return -(-a // b)


@dataclass(frozen=True, slots=True)
class ArrayDType:
    """Data type of an array's elements.

    Parameters
    ----------
    kind
        Family of the type.
    numpy
        Native-endian numpy dtype of a decoded chunk; ``object`` for the variable-length kinds.
    stored_big_endian
        Whether a v2 document says that elements are stored big-endian (v3 says it in its ``bytes`` codec).
    name
        The name as the document spells it, for messages and schema().
    """

    kind: DTypeKind
    numpy: np.dtype[Any]
    stored_big_endian: bool = False
    name: str = ""

    @property
    def itemsize(self) -> int:
        """Bytes of one element in a decoded chunk (8 for variable-length ones: a pointer)."""
        return int(self.numpy.itemsize)


@dataclass(frozen=True, slots=True)
class CodecMetadata:
    """One codec as the document lists it.

    v2: each filter in order, then the compressor, ``name`` being its ``id``. v3: each entry of ``codecs``.
    """

    name: str
    configuration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyEncoding:
    """How a chunk's grid index becomes a key: ``default`` (``c/0/1``) or ``v2`` (``0.1``)."""

    kind: Literal["default", "v2"]
    separator: Literal["/", "."]

    def key(self, path: str, index: tuple[int, ...]) -> str:
        """Key of the stored object, relative to the store root; ``path`` is the array's path ("" for a root array)."""
        if self.kind == "default":
            name = self.separator.join(["c", *map(str, index)])
        else:
            name = self.separator.join(map(str, index)) if index else "0"
        return f"{path}/{name}" if path else name


@dataclass(frozen=True)
class ArrayMetadata:
    """An array's document.

    Parameters
    ----------
    path
        Path from the store root without leading slash; "" for a root array.
    shape, chunk_shape
        Elements per dimension, of the array and of one stored object (the shard, if there is a sharding codec).
    fill_value
        Native numpy scalar (void for raw and structured types), ``str``, ``bytes``; ``None`` where a v2 document says null
        (contents undefined).
    codecs
        As listed in the document, see `CodecMetadata`; parsed by `gpuzarr.codecs`.
    order
        v2 memory layout of a chunk; always ``"C"`` for v3 (a transpose codec says otherwise).
    dimension_names
        v3 ``dimension_names`` or v2 ``_ARRAY_DIMENSIONS`` (or NCZarr's), None where the document has none.
    attributes
        As in the document, including ``_ARRAY_DIMENSIONS``.
    documents
        The parsed documents themselves, see `gpuzarr.metadata.nodes`; None for an array that was made up.
    """

    path: str
    zarr_format: Literal[2, 3]
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dtype: ArrayDType
    fill_value: Any
    codecs: tuple[CodecMetadata, ...]
    order: Literal["C", "F"]
    key_encoding: KeyEncoding
    dimension_names: tuple[str | None, ...] | None
    attributes: Mapping[str, Any]
    documents: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Last component of the path; "" for a root array."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Stored objects per dimension."""
        return tuple(ceil_div(n, c) for n, c in zip(self.shape, self.chunk_shape, strict=True))

    def key(self, index: tuple[int, ...]) -> str:
        """Key of the stored object at a grid index."""
        return self.key_encoding.key(self.path, index)


@dataclass(frozen=True)
class GroupMetadata:
    """A group's document and the nodes directly below it.

    Parameters
    ----------
    path
        Path from the store root without leading slash; "" for the root.
    arrays
        Child arrays by name, those whose document is accepted.
    groups
        Names of child groups.
    unreadable
        Children whose document is refused, by name, with the error that says why. One bad array never breaks the rest.
    """

    path: str
    zarr_format: Literal[2, 3]
    attributes: Mapping[str, Any]
    arrays: Mapping[str, ArrayMetadata]
    groups: tuple[str, ...]
    unreadable: Mapping[str, Exception] = field(default_factory=dict)
