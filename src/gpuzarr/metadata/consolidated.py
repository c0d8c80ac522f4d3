"""Consolidated metadata of both formats: all documents below a group in one.

v2: ``.zmetadata``, a mapping of keys to documents. v3: ``consolidated_metadata`` of kind ``inline`` in the group's
``zarr.json``, as zarr-python writes it. Members are parsed by the same code as documents of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from gpuzarr.errors import Kind
from gpuzarr.metadata.document import Refusal, above_limit, in_document, mapping, require, shown, unsupported
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.nodes import ZARR_JSON, ZARRAY, ZATTRS, ZGROUP, ZMETADATA, NodeDocuments, inline_member
from gpuzarr.metadata.paths import why_unsafe

__all__ = ["Branch", "ConsolidatedTree", "from_v2", "from_v3"]

Member = NodeDocuments | Refusal


class Branch:
    """A node in consolidated metadata.

    Attributes
    ----------
    documents
        Its documents, why they are refused, or None for a group that has members but no document.
    children
        The nodes directly below it, by name.
    """

    __slots__ = ("children", "documents")

    def __init__(self, documents: Member | None = None) -> None:
        self.documents = documents
        self.children: dict[str, Branch] = {}

    @property
    def is_group(self) -> bool:
        """Whether this is a group, as far as the names of its documents tell."""
        if isinstance(self.documents, Refusal):
            return False
        return bool(self.children) or (self.documents is not None and ZARRAY not in self.documents)


class ConsolidatedTree:
    """The nodes below one group.

    Parameters
    ----------
    base
        Path of the group that holds the tree.
    documents
        Its documents, as far as they are there.
    members
        Path below ``base`` and documents of each node.

    Raises
    ------
    Refusal
        METADATA_LIMIT: more than ``limits.max_nodes`` nodes.
    """

    def __init__(
        self, base: str, documents: NodeDocuments | None, members: Iterable[tuple[str, Member]], limits: Limits
    ) -> None:
        self.base = base
        self.root = Branch(documents)
        nodes = 0
        for path, member in members:
            names = path.split("/", limits.max_group_depth + 1)
            refusal = _refusal(names, limits)
            if refusal is not None:
                names, member = [path[:100]], refusal
            branch = self.root
            for name in names:
                child = branch.children.get(name)
                if child is None:
                    nodes += 1
                    child = branch.children[name] = Branch()
                branch = child
            branch.documents = member
            if nodes > limits.max_nodes:
                raise above_limit("nodes in the consolidated metadata", nodes, "max_nodes", limits.max_nodes)

    def find(self, path: str) -> Branch | None:
        """The node at a path from the store root."""
        if path == self.base:
            return self.root
        start = f"{self.base}/" if self.base else ""
        if not path.startswith(start):
            return None
        branch: Branch | None = self.root
        for name in path[len(start) :].split("/"):
            branch = None if branch is None else branch.children.get(name)
        return branch

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """Format of the document that holds the tree."""
        documents = self.root.documents
        return 3 if isinstance(documents, Mapping) and ZARR_JSON in documents else 2


def _refusal(names: list[str], limits: Limits) -> Refusal | None:
    if len(names) > limits.max_group_depth + 1:
        return above_limit("depth of a consolidated node", len(names), "max_group_depth", limits.max_group_depth)
    for name in names:
        reason = why_unsafe(name)
        if reason is not None:
            return Refusal(f"a node in the consolidated metadata is named {shown(name)}: {reason}", Kind.KEY_UNSAFE)
    return None


def from_v2(base: str, document: Mapping[str, Any], limits: Limits) -> ConsolidatedTree:
    """The tree of a ``.zmetadata``."""
    with in_document(ZMETADATA):
        version = document.get("zarr_consolidated_format", 1)
        if version != 1:
            raise unsupported(f"consolidated metadata of format {shown(version)} are not read, only format 1 is")
        members: dict[str, dict[str, Any]] = {}
        for key, value in mapping(require(document, "metadata"), "'metadata'").items():
            path, _, name = key.rpartition("/")
            if name in (ZARRAY, ZGROUP, ZATTRS):
                members.setdefault(path, {})[name] = value
                if len(members) > limits.max_nodes + 1:
                    raise above_limit("nodes in the consolidated metadata", len(members), "max_nodes", limits.max_nodes)
        return ConsolidatedTree(base, members.pop("", None), members.items(), limits)


def from_v3(base: str, document: Mapping[str, Any], limits: Limits) -> ConsolidatedTree | None:
    """The tree inside a group's ``zarr.json``, None if there is none."""
    consolidated = document.get("consolidated_metadata")
    if not consolidated:
        return None
    with in_document(ZARR_JSON):
        kind = mapping(consolidated, "'consolidated_metadata'").get("kind")
        if kind != "inline":
            if consolidated.get("must_understand") is False:
                return None
            raise unsupported(f"consolidated metadata of kind {shown(kind)} are not read, only 'inline' is")
        members = mapping(require(consolidated, "metadata"), "'metadata'")
        return ConsolidatedTree(
            base, {ZARR_JSON: document}, ((path, _inline_member(member)) for path, member in members.items()), limits
        )


def _inline_member(document: Any) -> Member:
    try:
        return inline_member(document)
    except Refusal as refusal:
        return refusal
