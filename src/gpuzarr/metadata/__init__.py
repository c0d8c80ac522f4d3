"""Documents of Zarr v2 and v3, parsed here with limits, to format-neutral metadata."""

from __future__ import annotations

from gpuzarr.metadata.hierarchy import open_node, walk
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.model import ArrayDType, ArrayMetadata, CodecMetadata, GroupMetadata, KeyEncoding

__all__ = [
    "ArrayDType",
    "ArrayMetadata",
    "CodecMetadata",
    "GroupMetadata",
    "KeyEncoding",
    "Limits",
    "open_node",
    "walk",
]
