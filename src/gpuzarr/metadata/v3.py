"""Documents of Zarr format 3: ``zarr.json``.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html (3.1), and zarr-python for inline consolidated metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from gpuzarr.metadata.arrays import check_extent, parse_chunk_shape, parse_shape
from gpuzarr.metadata.dimensions import parse_dimension_names
from gpuzarr.metadata.document import (
    check_configuration,
    check_extensions,
    invalid,
    mapping,
    named,
    require,
    shown,
    unsupported,
)
from gpuzarr.metadata.dtypes import parse_dtype_v3
from gpuzarr.metadata.fill_values import parse_fill_value
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.model import ArrayMetadata, CodecMetadata, KeyEncoding

__all__ = ["check_group", "node_type", "parse_array", "parse_attributes"]

ARRAY_FIELDS = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "attributes",
        "storage_transformers",
        "dimension_names",
    }
)
GROUP_FIELDS = frozenset({"zarr_format", "node_type", "attributes", "consolidated_metadata"})


def node_type(document: Mapping[str, Any]) -> Literal["array", "group"]:
    """Whether a ``zarr.json`` describes an array or a group."""
    zarr_format = require(document, "zarr_format")
    if zarr_format != 3 or not isinstance(zarr_format, int):
        raise invalid(f"'zarr_format' of a v3 document has to be 3, not {shown(zarr_format)}")
    kind = require(document, "node_type")
    if kind not in ("array", "group"):
        raise invalid(f"'node_type' has to be 'array' or 'group', not {shown(kind)}")
    return cast(Literal["array", "group"], kind)


def check_group(document: Mapping[str, Any]) -> None:
    """Check a group's ``zarr.json``."""
    check_extensions(document, GROUP_FIELDS)


def parse_attributes(document: Mapping[str, Any]) -> dict[str, Any]:
    """The user attributes of a node."""
    attributes = document.get("attributes")
    return {} if attributes is None else mapping(attributes, "'attributes'")


def parse_array(
    path: str, document: Mapping[str, Any], limits: Limits, *, documents: Mapping[str, Any] | None = None
) -> ArrayMetadata:
    """An array from its ``zarr.json``; ``documents`` are kept with it.

    Raises
    ------
    Refusal
        The document is malformed, exceeds a limit or is not supported.
    """
    check_extensions(document, ARRAY_FIELDS)
    shape = parse_shape(require(document, "shape"), limits)
    dtype = parse_dtype_v3(require(document, "data_type"), limits)
    codecs = _codecs(require(document, "codecs"))
    chunk_shape = _chunk_shape(require(document, "chunk_grid"), shape, codecs)
    check_extent(shape, chunk_shape, dtype)
    if document.get("storage_transformers"):
        raise unsupported(f"storage transformers are not read: {shown(document['storage_transformers'])}")
    attributes = parse_attributes(document)
    return ArrayMetadata(
        path=path,
        zarr_format=3,
        shape=shape,
        chunk_shape=chunk_shape,
        dtype=dtype,
        fill_value=parse_fill_value(require(document, "fill_value"), dtype, 3),
        codecs=codecs,
        order="C",
        key_encoding=_key_encoding(require(document, "chunk_key_encoding")),
        dimension_names=parse_dimension_names(document, attributes, len(shape)),
        attributes=attributes,
        documents=documents,
    )


def _codecs(value: Any) -> tuple[CodecMetadata, ...]:
    if not isinstance(value, list):
        raise invalid(f"'codecs' has to be a list, not {shown(value)}")
    return tuple(CodecMetadata(*named(codec, "a codec")) for codec in value)


def _chunk_shape(grid: Any, shape: tuple[int, ...], codecs: tuple[CodecMetadata, ...]) -> tuple[int, ...]:
    name, configuration = named(grid, "'chunk_grid'")
    if name != "regular":
        raise unsupported(
            f"the chunk grid {shown(name)} is not read, only 'regular' is: chunks have to be of one shape"
        )
    check_configuration(configuration, ("chunk_shape",), "the chunk grid")
    sizes = require(configuration, "chunk_shape")
    if isinstance(sizes, list) and any(isinstance(size, list) for size in sizes):
        raise unsupported("the chunk grid lists the lengths of single chunks; chunks have to be of one shape")
    return parse_chunk_shape(sizes, "'chunk_shape'", shape, _inner_chunk_shape(codecs, len(shape)))


def _inner_chunk_shape(codecs: tuple[CodecMetadata, ...], ndim: int) -> tuple[int, ...] | None:
    """Inner chunk shape of the first sharding codec, if it is one (`gpuzarr.codecs` complains if not)."""
    for codec in codecs:
        inner = codec.configuration.get("chunk_shape") if codec.name == "sharding_indexed" else None
        if isinstance(inner, list) and len(inner) == ndim and all(isinstance(n, int) and n >= 1 for n in inner):
            return tuple(inner)
    return None


def _key_encoding(value: Any) -> KeyEncoding:
    name, configuration = named(value, "'chunk_key_encoding'")
    if name not in ("default", "v2"):
        raise unsupported(f"the chunk key encoding {shown(name)} is not read, only 'default' and 'v2' are")
    check_configuration(configuration, ("separator",), "the chunk key encoding")
    # zarr-python once wrote the separator beside the name
    beside = value.get("separator") if isinstance(value, dict) else None
    separator = configuration.get("separator", beside or ("/" if name == "default" else "."))
    if separator not in (".", "/"):
        raise invalid(f"'separator' of the chunk key encoding has to be '.' or '/', not {shown(separator)}")
    return KeyEncoding(cast(Literal["default", "v2"], name), cast(Literal["/", "."], separator))
