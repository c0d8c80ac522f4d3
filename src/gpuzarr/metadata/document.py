"""From the bytes of a document to checked JSON values; refusals of documents."""

from __future__ import annotations

import json
import re
import reprlib
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpuzarr.errors import Kind, MetadataError
from gpuzarr.metadata.limits import Limits
from gpuzarr.metadata.paths import child_path
from gpuzarr.store.base import Buffer

__all__ = [
    "DocumentUsage",
    "Refusal",
    "above_limit",
    "check_configuration",
    "check_extensions",
    "in_document",
    "integer",
    "invalid",
    "mapping",
    "named",
    "parse_object",
    "require",
    "shown",
    "text",
    "unsupported",
]

INT64_MAX = 2**63 - 1
MAX_TEXT_LENGTH = 2**20

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxlist = _repr.maxdict = 6
_repr.maxlevel = 3


def shown(value: Any) -> str:
    """A value from a document for a message: short whatever it is."""
    return _repr.repr(value)


class Refusal(Exception):
    """A document is refused; becomes a `MetadataError` where the places are known.

    Not one itself, as a hostile group can hold thousands of refused arrays, and an error that the user sees costs more.

    Parameters
    ----------
    message, kind
        As of the error.
    document
        Name of the document below its node, if known.
    """

    def __init__(self, message: str, kind: Kind, document: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.document = document

    def error(self, store: str, path: str) -> MetadataError:
        """The error for the user, naming store, node and document."""
        key = None if self.document is None else child_path(path, self.document)
        return MetadataError(self.message, kind=self.kind, store=store, array=path, key=key)


@contextmanager
def in_document(name: str) -> Iterator[None]:
    """Name the document in every refusal that arises inside."""
    try:
        yield
    except Refusal as refusal:
        refusal.document = name
        raise


def invalid(message: str) -> Refusal:
    """The document breaks the format."""
    return Refusal(message, Kind.METADATA_INVALID)


def unsupported(message: str) -> Refusal:
    """The document asks for something that gpuzarr does not read."""
    return Refusal(message, Kind.METADATA_UNSUPPORTED)


def above_limit(what: str, value: int, limit: str, maximum: int) -> Refusal:
    """The document exceeds a limit; says which and how to raise it."""
    return Refusal(
        f"{what}: {value}, above the limit of {maximum}; if the store is trusted, raise it with limits=Limits({limit}=...)",
        Kind.METADATA_LIMIT,
    )


class DocumentUsage:
    """What the documents of one node and its children cost so far; safe under threads.

    The limits hold for each document and for all of them together, so a group costs no more listed than consolidated.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.is_exhausted = False
        self._nbytes = 0
        self._values = 0
        self._lock = threading.Lock()

    def check(self, nbytes: int, values: int) -> None:
        """Refuse a document for its own size."""
        if nbytes > self.limits.max_document_bytes:
            raise above_limit("bytes of the document", nbytes, "max_document_bytes", self.limits.max_document_bytes)
        if values > self.limits.max_document_values:
            raise above_limit("values in the document", values, "max_document_values", self.limits.max_document_values)

    def add(self, nbytes: int, values: int) -> None:
        """Count a document that is going to be parsed; refuses all further ones once the sum is too large."""
        self.check(nbytes, values)
        with self._lock:
            self._nbytes += nbytes
            self._values += values
            nbytes, values = self._nbytes, self._values
            self.is_exhausted = nbytes > self.limits.max_document_bytes or values > self.limits.max_document_values
        if nbytes > self.limits.max_document_bytes:
            raise above_limit("bytes of all documents", nbytes, "max_document_bytes", self.limits.max_document_bytes)
        if values > self.limits.max_document_values:
            raise above_limit("values in all documents", values, "max_document_values", self.limits.max_document_values)


def parse_object(data: Buffer, usage: DocumentUsage) -> dict[str, Any]:
    """Parse a document whose top level has to be an object.

    ``NaN``, ``Infinity`` and ``-Infinity`` are accepted as numbers, as real writers put them into attributes and fill
    values. Of a repeated key the last value counts, as in every common reader.

    Parameters
    ----------
    data
        UTF-8, with or without byte order mark.
    usage
        Limits, and what other documents cost already. The cost is known before anything is allocated.

    Raises
    ------
    Refusal
        METADATA_LIMIT for too many bytes, values or levels; METADATA_INVALID for everything else.
    """
    content = bytes(data)
    usage.check(len(content), 0)
    counts = [content.count(mark) for mark in _MARKS]
    usage.add(_decoded_nbytes(content, has_escapes=counts[-1] > 0), sum(counts))
    may_be_deep = counts[2] + counts[3] > usage.limits.max_document_depth
    max_depth = usage.limits.max_document_depth
    too_deep = (
        f"the document is nested more than {max_depth} deep; if the store is trusted, raise it with"
        " limits=Limits(max_document_depth=...)"
    )
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise invalid(f"the document is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise Refusal(too_deep, Kind.METADATA_LIMIT) from None
    except json.JSONDecodeError as error:
        raise invalid(f"the document is not JSON: {error.msg} at character {error.pos} of {len(content)}") from None
    except ValueError:  # an integer of thousands of digits
        raise invalid("the document holds a number that is too long to be one") from None
    if not isinstance(document, dict):
        raise invalid(f"the document has to be a JSON object, not {shown(document)}")
    if may_be_deep and _is_deeper(document, max_depth):
        raise Refusal(too_deep, Kind.METADATA_LIMIT)
    return document


_MARKS = (b",", b":", b"[", b"{", b"\\")
"""Each value, name and escape of a document costs at least one of these."""

_WIDE_ESCAPE = re.compile(rb"\\u(?!00)")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89abAB]")


def _decoded_nbytes(content: bytes, *, has_escapes: bool) -> int:
    """Upper bound of what the text, or the strings in it, take in memory: CPython stores 1, 2 or 4 bytes per character."""
    if not has_escapes and content.isascii():
        return len(content)
    highest = int(np.frombuffer(content, np.uint8).max(initial=0))
    if highest >= 0xF0 or _SURROGATE_ESCAPE.search(content):
        return 4 * len(content)
    return (2 if highest >= 0xC4 or _WIDE_ESCAPE.search(content) else 1) * len(content)


def _is_deeper(document: Any, depth: int) -> bool:
    level = [document]
    for _ in range(depth):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, dict | list)
        ]
        if not level:
            return False
    return True


def require(document: Mapping[str, Any], name: str) -> Any:
    """The value of a field that the format demands."""
    try:
        return document[name]
    except KeyError:
        raise invalid(f"the document has no {name!r}") from None


def text(value: Any, what: str) -> str:
    """A string that can be written as UTF-8 (JSON can spell lone surrogates, which cannot)."""
    if not isinstance(value, str):
        raise invalid(f"{what} has to be a string, not {shown(value)}")
    if len(value) > MAX_TEXT_LENGTH:
        raise invalid(f"{what} is a string of {len(value)} characters, more than {MAX_TEXT_LENGTH}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(f"{what} is not valid Unicode: {shown(value)}") from None
    return value


def integer(value: Any, what: str, *, minimum: int = 0) -> int:
    """An integer between ``minimum`` and the largest int64."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"{what} has to be an integer, not {shown(value)}")
    if not minimum <= value <= INT64_MAX:
        raise invalid(f"{what} has to be between {minimum} and 2^63 - 1, not {shown(value)}")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise invalid(f"{what} has to be an object, not {shown(value)}")
    return value


def named(value: Any, what: str) -> tuple[str, dict[str, Any]]:
    """Name and configuration of a v3 extension point, which may be written as a bare string (specification 3.1)."""
    if isinstance(value, str):
        return text(value, what), {}
    if not isinstance(value, dict):
        raise invalid(f"{what} has to be a name or an object with a name, not {shown(value)}")
    configuration = value.get("configuration")
    if configuration is None:
        configuration = {}
    return text(value.get("name"), f"the name of {what}"), mapping(configuration, f"the configuration of {what}")


def check_configuration(configuration: Mapping[str, Any], known: Collection[str], what: str) -> None:
    """Refuse parameters that could change the meaning of the others."""
    for name in configuration:
        if name not in known:
            raise unsupported(f"{what} has the parameter {shown(name)}, which gpuzarr does not know")


def check_extensions(document: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse v3 fields that a reader has to understand: all unknown ones without ``"must_understand": false``."""
    for name, value in document.items():
        if name not in known and not (isinstance(value, dict) and value.get("must_understand") is False):
            raise unsupported(
                f"the document has the field {shown(name)}, which gpuzarr does not know and which is not marked"
                ' "must_understand": false'
            )
