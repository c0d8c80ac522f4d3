"""The documents of one node, of either format, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpuzarr.metadata import v2, v3
from gpuzarr.metadata.document import in_document, invalid, mapping, shown
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.model import ArrayMetadata

__all__ = ["ZARRAY", "ZARR_JSON", "ZATTRS", "ZGROUP", "ZMETADATA", "NodeDocuments", "ParsedGroup", "parse_node"]

ZARR_JSON, ZARRAY, ZGROUP, ZATTRS, ZMETADATA = "zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"

NodeDocuments = Mapping[str, Any]
"""Parsed JSON of a node by the name of the document: ``zarr.json``, or ``.zarray`` | ``.zgroup`` with ``.zattrs``."""


@dataclass(frozen=True, slots=True)
class ParsedGroup:
    """What a group's own documents say, its children aside."""

    zarr_format: Literal[2, 3]
    attributes: Mapping[str, Any]


def parse_node(path: str, documents: NodeDocuments, limits: Limits) -> ArrayMetadata | ParsedGroup:
    """Array or group from its documents.

    Raises
    ------
    Refusal
        Naming the document.
    """
    if ZARR_JSON in documents:
        with in_document(ZARR_JSON):
            return _parse_v3(path, mapping(documents[ZARR_JSON], "the document"), limits)
    with in_document(ZATTRS):
        attributes = documents.get(ZATTRS)
        attributes = {} if attributes is None else mapping(attributes, "the document")
    if ZARRAY in documents:
        with in_document(ZARRAY):
            array = v2.parse_array(path, mapping(documents[ZARRAY], "the document"), attributes, limits)
            return replace(array, documents=documents)
    if ZGROUP in documents:
        with in_document(ZGROUP):
            v2.check_group(mapping(documents[ZGROUP], "the document"))
    return ParsedGroup(2, attributes)


def _parse_v3(path: str, document: dict[str, Any], limits: Limits) -> ArrayMetadata | ParsedGroup:
    if v3.node_type(document) == "array":
        return v3.parse_array(path, document, limits, documents={ZARR_JSON: document})
    v3.check_group(document)
    return ParsedGroup(3, v3.parse_attributes(document))


def inline_member(document: Any) -> NodeDocuments:
    """Documents of a member of v3 consolidated metadata, where v2 members may stand too, attributes inside."""
    if not isinstance(document, dict):
        raise invalid(f"a member of consolidated metadata has to be an object, not {shown(document)}")
    if document.get("zarr_format") == 2:
        return {ZARRAY if "shape" in document else ZGROUP: document, ZATTRS: document.get("attributes")}
    return {ZARR_JSON: document}
