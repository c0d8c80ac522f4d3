"""Opening many stores that are much alike: where the documents are those of a store before, so is the table."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from gpuzarr.errors import GpuzarrError, Kind
from gpuzarr.metadata import GroupMetadata, open_node, walk
from gpuzarr.metadata.document import DocumentUsage, Refusal, parse_object
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.nodes import ZARR_JSON, ZATTRS, ZMETADATA
from gpuzarr.options import ScanOptions
from gpuzarr.redact import redact
from gpuzarr.source.dataset import Dataset, RawReader
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store import Buffer, ByteStore, Listing, open_store
from gpuzarr.table import Table, TableOptions, build_table

__all__ = ["Openings", "label_of"]

_TEMPLATES = 8
"""Tables that are remembered; stores of one collection rarely have more kinds of documents, or else all differ."""

_CONCURRENT_READS = 16

Question = tuple[str, str]
"""Method of a store and its argument."""


def label_of(target: Any) -> str:
    """A store's name for messages, without secrets."""
    return redact(target if isinstance(target, str) else str(target))[:500]


class _Documents:
    """What opening asks a store, and what it answered: every question once. Not for chunks."""

    def __init__(self, store: ByteStore) -> None:
        self._store = store
        self.label = store.label
        self.is_local = store.is_local
        self.answers: dict[Question, Any] = {}

    def get(self, key: str) -> Buffer | None:
        """See `ByteStore.get`."""
        data: bytes | None = self.ask(("get", key))
        return data

    def size(self, key: str) -> int | None:
        """See `ByteStore.size`."""
        number: int | None = self.ask(("size", key))
        return number

    def list_dir(self, prefix: str) -> Listing:
        """See `ByteStore.list_dir`."""
        listing: Listing = self.ask(("list_dir", prefix))
        return listing

    def ask(self, question: Question) -> Any:
        """The store's answer; errors are not remembered."""
        if question not in self.answers:
            method, key = question
            answer = getattr(self._store, method)(key)
            self.answers[question] = bytes(answer) if method == "get" and answer is not None else answer
        return self.answers[question]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@dataclass(frozen=True)
class _Template:
    """A store that was opened.

    Parameters
    ----------
    answers
        What it answered.
    own
        Key of the document that holds the attributes of the group itself, in which alike stores differ.
    rest
        That document without them.
    coordinates
        The one attribute of the group that a table depends on.
    """

    table: Table
    answers: Mapping[Question, Any]
    own: str
    rest: Any
    coordinates: Any

    @classmethod
    def of(cls, table: Table, documents: _Documents, limits: Limits) -> _Template | None:
        """A store that was just opened; None if none can be like it."""
        answers = dict(documents.answers)
        for name in (ZARR_JSON, ZMETADATA, ZATTRS):
            own = f"{table.group}/{name}" if table.group else name
            if answers.get(("get", own)) is not None:
                rest, attributes = _split(own, answers["get", own], limits)
                return cls(table, answers, own, rest, attributes.get("coordinates"))
        return None

    def table_of(self, documents: _Documents, limits: Limits) -> Table | None:
        """The table of another store, if opening it would give the same but for the attributes of the group."""
        try:
            if documents.is_local:  # asking costs nothing, so nothing too large is ever read
                DocumentUsage(limits).check(documents.size(self.own) or 0, 0)
            data = documents.get(self.own)
            rest, attributes = ({}, {}) if data is None else _split(self.own, data, limits)
        except Refusal:
            return None
        if data is None or rest != self.rest or attributes.get("coordinates") != self.coordinates:
            return None
        questions = [question for question in self.answers if question != ("get", self.own)]
        if documents.is_local or len(questions) < 3:
            alike = all(self._is_answer(question, documents.ask(question)) for question in questions)
        else:
            with ThreadPoolExecutor(_CONCURRENT_READS, thread_name_prefix="gpuzarr-metadata") as pool:
                alike = all(map(self._is_answer, questions, pool.map(documents.ask, questions)))
        return replace(self.table, store=documents.label, attributes=attributes) if alike else None

    def _is_answer(self, question: Question, answer: Any) -> bool:
        expected = self.answers[question]
        if question == ("size", self.own):
            return answer is not None
        return bool(answer == expected)


def _split(key: str, data: Buffer, limits: Limits) -> tuple[Any, Mapping[str, Any]]:
    """A document without the attributes of its group, and these."""
    document = parse_object(data, DocumentUsage(limits))
    if key.endswith(ZATTRS):
        return {}, document
    holder, name = (document, "attributes") if key.endswith(ZARR_JSON) else (document.get("metadata"), ZATTRS)
    attributes = holder.pop(name, {}) if isinstance(holder, dict) else None
    if not isinstance(attributes, dict):
        raise Refusal("the attributes are no object", Kind.METADATA_INVALID)
    return document, attributes


class Openings:
    """Opens stores one by one, from any thread.

    Parameters
    ----------
    group, table, options, storage_options, limits
        As `gpuzarr.api.open_dataset`.
    """

    def __init__(
        self,
        *,
        group: str | None,
        table: TableOptions,
        options: ScanOptions,
        storage_options: Mapping[str, Any] | None,
        limits: Limits,
    ) -> None:
        self.group = group
        self.table = table
        self.options = options
        self.storage_options = storage_options
        self.limits = limits
        self._templates: deque[_Template] = deque(maxlen=_TEMPLATES)
        self._lock = threading.Lock()

    def open(self, target: Any) -> Dataset:
        """A store's table.

        Raises
        ------
        GpuzarrError
            As `gpuzarr.scan_zarr`; it names the store.
        """
        remote = self.storage_options if isinstance(target, str) and "://" in target else None
        try:
            opened = open_store(target, storage_options=remote)
            store = opened.store
            documents, statistics = _Documents(store), ScanStatistics()
            read_raw = RawReader(store, self.options.on_missing, statistics)
            with self._lock:
                templates = list(self._templates)
            alike = (template.table_of(documents, self.limits) for template in reversed(templates))
            built = next((table for table in alike if table is not None), None)
            if built is None:
                path = "/".join(p for p in (opened.path, (self.group or "").strip("/")) if p and p != ".")
                built = self._build(documents, path, store.label, read_raw)
            return Dataset(store, built, self.options, statistics, read_raw=read_raw, limits=self.limits)
        except GpuzarrError as error:
            raise error.located(store=label_of(target)) from error

    def _build(self, documents: _Documents, path: str, label: str, read_raw: RawReader) -> Table:
        node = open_node(documents, path, limits=self.limits)
        below: list[GroupMetadata] = []
        if self.table.groups is not None and isinstance(node, GroupMetadata):
            below = [g for g in walk(documents, node.path, limits=self.limits) if g.path != node.path]
        built = build_table(node, store_label=label, options=self.table, read_raw=read_raw.early, descendants=below)
        if isinstance(node, GroupMetadata) and not node.unreadable and self._is_by_documents(built):
            template = _Template.of(built, documents, self.limits)
            if template is not None:
                with self._lock:
                    self._templates.append(template)
        return built

    def _is_by_documents(self, table: Table) -> bool:
        """Whether values of coordinates did not change the table: times that nanoseconds cannot hold do.

        The times of a store that has the table of another one by its documents may still not fit. Then reading them fails.
        """
        units = {c.dtype.time_unit for c in table.columns if isinstance(c.dtype, pl.Datetime | pl.Duration)}
        return units <= {self.table.time_unit}
