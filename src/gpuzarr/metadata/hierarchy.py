"""Opens nodes of a store: which documents are read, in which order, and what a group's children are."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gpuzarr.errors import Kind, NotFoundError, RequestError, StoreError
from gpuzarr.metadata import consolidated
from gpuzarr.metadata.consolidated import ConsolidatedTree
from gpuzarr.metadata.document import DocumentUsage, Refusal, above_limit, in_document, parse_object, shown
from gpuzarr.metadata.limits import DEFAULT_LIMITS, Limits
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata
from gpuzarr.metadata.nodes import (
    ZARR_JSON,
    ZARRAY,
    ZATTRS,
    ZGROUP,
    ZMETADATA,
    NodeDocuments,
    ParsedGroup,
    parse_node,
)
from gpuzarr.metadata.paths import child_path, normalise_path, why_unsafe
from gpuzarr.store.base import ByteStore
from gpuzarr.store.limited import ObjectTooLargeError, get_at_most

__all__ = ["open_node", "own_documents", "walk"]

CONCURRENT_READS = 16
NEARBY_NAMES = 12

T = TypeVar("T")
R = TypeVar("R")

Children = Mapping[str, NodeDocuments | Refusal | None]
"""A group's children by name: documents, why they are refused, or None for a group without documents."""


def open_node(store: ByteStore, path: str = "", *, limits: Limits = DEFAULT_LIMITS) -> ArrayMetadata | GroupMetadata:
    """Open the array or group at a path, Zarr v2 or v3, with consolidated metadata or without.

    The documents decide what a store is, never its name. v3 is looked for first. A group's own consolidated metadata are
    used, else the root's, else the group is listed and its children's documents are read.

    Parameters
    ----------
    store
        Where keys are read.
    path
        From the store root; "" is the root.
    limits
        What documents may cost.

    Returns
    -------
    ArrayMetadata or GroupMetadata
        A group with its direct children; children whose documents are refused are in ``unreadable``.

    Raises
    ------
    NotFoundError
        No node is there; says what was looked for and what is near.
    MetadataError
        The node's own document is refused.
    RequestError
        KEY_UNSAFE: the path could leave the store.
    StoreError
        Reading or listing failed.
    """
    node, _ = _Hierarchy(store, limits).open(normalise_path(path))
    return node


def walk(store: ByteStore, path: str = "", *, limits: Limits = DEFAULT_LIMITS) -> Iterator[GroupMetadata]:
    """A group and all groups below it, parents first, siblings by name; lazily.

    Parameters are those of `open_node`, and so are the errors.

    Raises
    ------
    RequestError
        The path is an array.
    MetadataError
        METADATA_LIMIT: more than ``limits.max_nodes`` groups, or nested more than ``limits.max_group_depth`` deep.
    """
    hierarchy = _Hierarchy(store, limits)
    waiting: list[tuple[str, int, ConsolidatedTree | None]] = [(normalise_path(path), 0, None)]
    visited = 0
    while waiting:
        at, depth, tree = waiting.pop()
        if depth > limits.max_group_depth:
            raise above_limit("nested groups", depth, "max_group_depth", limits.max_group_depth).error(store.label, at)
        node, tree = hierarchy.open(at) if tree is None else (hierarchy.group_of(tree, at), tree)
        if isinstance(node, ArrayMetadata):
            raise RequestError(f"{at or '/'!r} is an array, not a group", array=at, store=store.label)
        visited += 1
        if visited > limits.max_nodes:
            raise above_limit("groups in the store", visited, "max_nodes", limits.max_nodes).error(store.label, at)
        yield node
        waiting.extend((child_path(at, name), depth + 1, tree) for name in reversed(node.groups))


def own_documents(store: ByteStore, path: str, zarr_format: int, limits: Limits) -> NodeDocuments | None:
    """Documents of a node of one format at its own path; None if there are none.

    Raises
    ------
    Refusal
        A document is no JSON object, or exceeds a limit.
    StoreError
        Reading failed.
    """
    return _Hierarchy(store, limits).own_documents(path, zarr_format)


class _Hierarchy:
    """Reads documents of one store; remembers the consolidated metadata of its root."""

    def __init__(self, store: ByteStore, limits: Limits) -> None:
        self.store = store
        self.limits = limits
        self._root_trees: dict[int, ConsolidatedTree | None] = {}
        self._usage = DocumentUsage(limits)

    def open(self, path: str) -> tuple[ArrayMetadata | GroupMetadata, ConsolidatedTree | None]:
        """The node, and the consolidated metadata that its children come from, if any."""
        self._usage = DocumentUsage(self.limits)
        try:
            return self._open(path)
        except Refusal as refusal:
            raise refusal.error(self.store.label, path) from None

    def _open(self, path: str) -> tuple[ArrayMetadata | GroupMetadata, ConsolidatedTree | None]:
        documents, tree = self._own_documents(path)
        if documents is None and tree is None:
            tree = next((tree for tree in map(self._root_tree, (3, 2)) if tree and tree.find(path)), None)
            if tree is None:
                raise self._not_found(path)
            return self._in_tree(tree, path), tree
        node = ParsedGroup(2, {}) if documents is None else parse_node(path, documents, self.limits)
        if isinstance(node, ArrayMetadata):
            return node, None
        if tree is None and path:
            tree = self._root_tree(node.zarr_format)
            branch = None if tree is None else tree.find(path)
            if branch is None or not branch.is_group:
                tree = None
        children = self._listed_children(path, node) if tree is None else _children_in(tree, path)
        return self._group(path, node, children), tree

    def group_of(self, tree: ConsolidatedTree, path: str) -> ArrayMetadata | GroupMetadata:
        """A node inside consolidated metadata; reads nothing."""
        try:
            return self._in_tree(tree, path)
        except Refusal as refusal:
            raise refusal.error(self.store.label, path) from None

    def _in_tree(self, tree: ConsolidatedTree, path: str) -> ArrayMetadata | GroupMetadata:
        branch = tree.find(path)
        documents = None if branch is None else branch.documents
        if isinstance(documents, Refusal):
            raise documents
        node = ParsedGroup(tree.zarr_format, {}) if documents is None else parse_node(path, documents, self.limits)
        if isinstance(node, ArrayMetadata):
            return node
        return self._group(path, node, _children_in(tree, path))

    def _own_documents(self, path: str) -> tuple[NodeDocuments | None, ConsolidatedTree | None]:
        """Documents at the path itself, and its own consolidated metadata."""
        document = self._read(path, ZARR_JSON)
        if document is not None:
            return {ZARR_JSON: document}, consolidated.from_v3(path, document, self.limits)
        document = self._read(path, ZMETADATA)
        if document is not None:
            tree = consolidated.from_v2(path, document, self.limits)
            documents = tree.root.documents
            return (None if isinstance(documents, Refusal) else documents), tree
        names = (ZARRAY, ZGROUP, ZATTRS)
        found = zip(names, self._map(lambda name: self._read(path, name), names), strict=True)
        documents = {name: document for name, document in found if document is not None}
        return (documents if ZARRAY in documents or ZGROUP in documents else None), None

    def _root_tree(self, zarr_format: int) -> ConsolidatedTree | None:
        if zarr_format not in self._root_trees:
            name, parse = {3: (ZARR_JSON, consolidated.from_v3), 2: (ZMETADATA, consolidated.from_v2)}[zarr_format]
            own, self._usage = self._usage, DocumentUsage(self.limits)
            try:
                document = self._read("", name)
                tree = None if document is None else parse("", document, self.limits)
            except Refusal:  # a node below is no worse for it
                tree = None
            finally:
                self._usage = own
            self._root_trees[zarr_format] = tree
        return self._root_trees[zarr_format]

    def _group(self, path: str, node: ParsedGroup, children: Children) -> GroupMetadata:
        if len(children) > self.limits.max_arrays:
            raise above_limit("children of the group", len(children), "max_arrays", self.limits.max_arrays)
        arrays: dict[str, ArrayMetadata] = {}
        groups: list[str] = []
        unreadable: dict[str, Exception] = {}
        for name in sorted(children):
            documents = children[name]
            at = child_path(path, name)
            try:
                if isinstance(documents, Refusal):
                    raise documents
                child = None if documents is None else parse_node(at, documents, self.limits)
            except Refusal as refusal:
                unreadable[name] = refusal.error(self.store.label, at)
                continue
            if isinstance(child, ArrayMetadata):
                arrays[name] = child
            else:
                groups.append(name)
        return GroupMetadata(path, node.zarr_format, node.attributes, arrays, tuple(groups), unreadable)

    def _listed_children(self, path: str, node: ParsedGroup) -> Children:
        try:
            _, names = self.store.list_dir(path)
        except StoreError as error:
            raise StoreError(
                f"The group {path or '/'!r} has no consolidated metadata and listing it failed. {error.message} If this"
                " kind of store cannot list, consolidate its metadata or open its arrays by their paths.",
                kind=error.kind,
                store=self.store.label,
            ) from error
        if len(names) > self.limits.max_arrays:
            raise above_limit("names directly below the group", len(names), "max_arrays", self.limits.max_arrays)
        found = self._map(lambda name: self._child_documents(path, name, node.zarr_format), names)
        return {name: documents for name, documents in zip(names, found, strict=True) if documents is not None}

    def _child_documents(self, path: str, name: str, zarr_format: int) -> NodeDocuments | Refusal | None:
        """Documents of a child, first of its parent's format; None if it is no node."""
        reason = why_unsafe(name)
        if reason is not None:
            return Refusal(f"the name {shown(name)} is refused: {reason}", Kind.KEY_UNSAFE)
        at = child_path(path, name)
        try:
            if zarr_format == 3:
                return self._v3_documents(at) or self._v2_documents(at)
            return self._v2_documents(at) or self._v3_documents(at)
        except Refusal as refusal:
            if self._usage.is_exhausted:  # not this child's fault: which one meets it depends on the order of reading
                raise
            return refusal
        except StoreError as error:
            if error.kind is not Kind.KEY_UNSAFE:  # else it is this child alone that must not be read
                raise
            return Refusal(error.message, error.kind)

    def own_documents(self, path: str, zarr_format: int) -> NodeDocuments | None:
        """See `own_documents`."""
        return self._v3_documents(path) if zarr_format == 3 else self._v2_documents(path)

    def _v3_documents(self, path: str) -> NodeDocuments | None:
        document = self._read(path, ZARR_JSON)
        return None if document is None else {ZARR_JSON: document}

    def _v2_documents(self, path: str) -> NodeDocuments | None:
        for name in (ZARRAY, ZGROUP):
            document = self._read(path, name)
            if document is not None:
                return {name: document, ZATTRS: self._read(path, ZATTRS)}
        return None

    def _read(self, path: str, name: str) -> dict[str, Any] | None:
        key = child_path(path, name)
        with in_document(name):
            try:
                data = get_at_most(self.store, key, self.limits.max_document_bytes)
            except ObjectTooLargeError as error:
                self._usage.check(error.nbytes, 0)  # refuses it
                raise
            return None if data is None else parse_object(data, self._usage)

    def _map(self, function: Callable[[T], R], items: tuple[T, ...]) -> list[R]:
        """Results in order; concurrently if each costs a round trip."""
        if self.store.is_local or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(CONCURRENT_READS, len(items)), thread_name_prefix="gpuzarr-metadata") as pool:
            return list(pool.map(function, items))

    def _not_found(self, path: str) -> NotFoundError:
        return NotFoundError(
            f"no Zarr array or group at {path or '/'!r}: none of {ZARR_JSON}, {ZMETADATA}, {ZARRAY} and {ZGROUP} is there"
            f"{self._nearby(path)}",
            store=self.store.label,
        )

    def _nearby(self, path: str) -> str:
        """What exists beside a missing node; says nothing if the store cannot list."""
        parent, _, name = path.rpartition("/")
        try:
            keys, prefixes = self.store.list_dir(parent)
        except StoreError:
            return ""
        names = sorted({*keys, *prefixes} - {ZARR_JSON, ZMETADATA, ZARRAY, ZGROUP, ZATTRS})
        if not names:
            return f"; {parent or '/'!r} holds nothing else" if path else "; it is empty or does not exist"
        close = difflib.get_close_matches(name, names[:1000], n=NEARBY_NAMES)
        listed = ", ".join(map(shown, close or names[:NEARBY_NAMES]))
        more = "" if len(close or names) <= NEARBY_NAMES else f" and {len(names) - NEARBY_NAMES} more"
        below = (
            f". If it is below {prefixes[0]!r}, say group={prefixes[0]!r}" if not path and len(prefixes) == 1 else ""
        )
        return f"; {parent or '/'!r} has {listed}{more}{below}"


def _children_in(tree: ConsolidatedTree, path: str) -> Children:
    branch = tree.find(path)
    return {} if branch is None else {name: child.documents for name, child in branch.children.items()}
