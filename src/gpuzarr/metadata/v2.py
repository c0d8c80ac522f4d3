"""Documents of Zarr format 2: ``.zarray``, ``.zgroup``, ``.zattrs``.

Source: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from gpuzarr.metadata.arrays import check_extent, parse_chunk_shape, parse_shape
from gpuzarr.metadata.dimensions import parse_dimension_names
from gpuzarr.metadata.document import invalid, mapping, require, shown, text
from gpuzarr.metadata.dtypes import parse_dtype_v2
from gpuzarr.metadata.fill_values import parse_fill_value
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.model import ArrayMetadata, CodecMetadata, KeyEncoding

__all__ = ["check_group", "parse_array"]


def parse_array(path: str, document: Mapping[str, Any], attributes: Mapping[str, Any], limits: Limits) -> ArrayMetadata:
    """An array from its ``.zarray`` and ``.zattrs``.

    Unknown keys are ignored, as the format allows them.

    Raises
    ------
    Refusal
        The document is malformed, exceeds a limit or is not supported.
    """
    _check_format(document)
    shape = parse_shape(require(document, "shape"), limits)
    chunk_shape = parse_chunk_shape(require(document, "chunks"), "'chunks'", shape)
    codecs = _codecs(document)
    dtype = parse_dtype_v2(require(document, "dtype"), codecs, limits)
    check_extent(shape, chunk_shape, dtype)
    order = require(document, "order")
    if order not in ("C", "F"):
        raise invalid(f"'order' has to be 'C' or 'F', not {shown(order)}")
    separator = document.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise invalid(f"'dimension_separator' has to be '.' or '/', not {shown(separator)}")
    return ArrayMetadata(
        path=path,
        zarr_format=2,
        shape=shape,
        chunk_shape=chunk_shape,
        dtype=dtype,
        fill_value=parse_fill_value(require(document, "fill_value"), dtype, 2),
        codecs=tuple(
            CodecMetadata(codec["id"], {name: value for name, value in codec.items() if name != "id"})
            for codec in codecs
        ),
        order=cast(Literal["C", "F"], order),
        key_encoding=KeyEncoding("v2", cast(Literal["/", "."], separator)),
        dimension_names=parse_dimension_names(document, attributes, len(shape)),
        attributes=attributes,
    )


def check_group(document: Mapping[str, Any]) -> None:
    """Check a ``.zgroup``."""
    _check_format(document)


def _check_format(document: Mapping[str, Any]) -> None:
    zarr_format = require(document, "zarr_format")
    if zarr_format != 2 or not isinstance(zarr_format, int):
        raise invalid(f"'zarr_format' of a v2 document has to be 2, not {shown(zarr_format)}")


def _codecs(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Filters in order, then the compressor."""
    filters = document.get("filters")
    if filters is None:
        filters = []
    if not isinstance(filters, list):
        raise invalid(f"'filters' has to be a list or null, not {shown(filters)}")
    compressor = require(document, "compressor")
    codecs = [*filters] if compressor is None else [*filters, compressor]
    for codec in codecs:
        text(require(mapping(codec, "a codec"), "id"), "the id of a codec")
    return codecs
