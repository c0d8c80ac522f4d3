"""What became of an array's documents since it was opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpuzarr.errors import GpuzarrError
from gpuzarr.metadata.document import Refusal
from gpuzarr.metadata.hierarchy import open_node, own_documents
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata
from gpuzarr.metadata.nodes import ZARR_JSON, ZARRAY, ZATTRS, ZMETADATA, parse_node
from gpuzarr.metadata.paths import child_path
from gpuzarr.store.base import ByteStore

__all__ = [
    "array_in_group",
    "as_opened",
    "changed_attributes",
    "changed_layout",
    "document_keys",
    "keys_above",
    "read_again",
]

_ABOUT_VALUES = (
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "units", "calendar", "dtype", "_Encoding",
)  # fmt: skip


def document_keys(array: ArrayMetadata) -> tuple[str, ...]:
    """Keys of the array's own documents, the one that must be there first."""
    names = (ZARR_JSON,) if array.zarr_format == 3 else (ZARRAY, ZATTRS)
    return tuple(child_path(array.path, name) for name in names)


def keys_above(array: ArrayMetadata) -> list[str]:
    """Keys of documents in which a group above the array may describe it: consolidated metadata."""
    name = ZARR_JSON if array.zarr_format == 3 else ZMETADATA
    parts = array.path.split("/")[:-1]
    return [child_path("/".join(parts[:depth]), name) for depth in range(len(parts) + 1)]


def as_opened(array: ArrayMetadata, limits: Limits) -> ArrayMetadata:
    """What the documents said from which the array was opened: tables change attributes and shapes (text of characters)."""
    assert array.documents is not None
    node = parse_node(array.path, array.documents, limits)
    assert isinstance(node, ArrayMetadata)
    return node


def read_again(store: ByteStore, array: ArrayMetadata, limits: Limits) -> ArrayMetadata | None:
    """The array as its own documents say now; None if there are none that describe an array.

    Raises
    ------
    StoreError
        Reading failed.
    """
    try:
        documents = own_documents(store, array.path, array.zarr_format, limits)
        node = None if documents is None else parse_node(array.path, documents, limits)
    except Refusal:
        return None
    return node if isinstance(node, ArrayMetadata) else None


def array_in_group(store: ByteStore, array: ArrayMetadata, limits: Limits) -> ArrayMetadata | None:
    """The array as its group describes it now, by consolidated metadata if there are any; None if it does not."""
    parent, _, name = array.path.rpartition("/")
    if not name:
        return None
    try:
        group = open_node(store, parent, limits=limits)
    except GpuzarrError:  # also where a store cannot list
        return None
    return group.arrays.get(name) if isinstance(group, GroupMetadata) else None


def changed_layout(old: ArrayMetadata, new: ArrayMetadata) -> list[str]:
    """What differs so that the old document does not fit the new array's chunks; an array that only grew still does."""
    out = []
    if len(old.shape) != len(new.shape) or any(n < o for o, n in zip(old.shape, new.shape, strict=False)):
        out.append(f"its shape is {new.shape} and was {old.shape}")
    before, now = _parts(old), _parts(new)
    out += [f"its {what} {now[what]} and was {before[what]}" for what in before if now[what] != before[what]]
    if not out and [_json(c.configuration) for c in old.codecs] != [_json(c.configuration) for c in new.codecs]:
        out.append("its codecs are configured in another way")
    return out


def changed_attributes(old: ArrayMetadata, new: ArrayMetadata) -> list[str]:
    """Attributes that decide about values and differ."""
    return [
        f"its attribute {name!r} is {new.attributes.get(name)!r} and was {old.attributes.get(name)!r}"
        for name in _ABOUT_VALUES
        if _json(old.attributes.get(name)) != _json(new.attributes.get(name))
    ]


def _parts(array: ArrayMetadata) -> dict[str, str]:
    """What the chunks of an array look like, by how a message says it."""
    dtype = array.dtype
    return {
        "chunk shape is": str(array.chunk_shape),
        "data type is": f"{'big-endian ' if dtype.stored_big_endian else ''}{dtype.numpy} ({dtype.name})",
        "fill value is": repr(array.fill_value.item() if hasattr(array.fill_value, "item") else array.fill_value),
        "list of codecs is": str([codec.name for codec in array.codecs]),
        "memory order is": array.order,
        "chunk key is": array.key((0,) * array.ndim),
    }


def _json(value: Any) -> str:
    """Text that is equal where values are: NaN is not equal to itself."""
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, sort_keys=True, default=repr)
