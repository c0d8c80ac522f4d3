"""Limits on metadata: what a document may cost before anything of it is believed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gpuzarr.errors import RequestError

__all__ = ["DEFAULT_LIMITS", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much metadata is accepted. Raise a limit by passing ``limits=Limits(name=value)`` where metadata are opened.

    The defaults keep the opening of any document, however hostile, near one second and 100 MiB.

    Parameters
    ----------
    max_document_bytes
        Size of one document decoded to text (a character outside of the basic plane makes all take four bytes), and of
        all documents of a group's direct children together.
    max_document_values
        Values, names and escapes in one document, and in all documents of a group's direct children together; an array
        takes about 40 to 80.
    max_document_depth
        Nesting of lists and objects in one document.
    max_ndim
        Dimensions of an array.
    max_itemsize
        Bytes of one element of a fixed-width type (strings, raw bytes, structures).
    max_arrays
        Nodes directly below one group.
    max_nodes
        Nodes in one consolidated document; groups visited by one walk.
    max_group_depth
        Nesting of groups below the start of a walk or below consolidated metadata.
    """

    max_document_bytes: int = 32 * 2**20
    max_document_values: int = 1_000_000
    max_document_depth: int = 64
    max_ndim: int = 32
    max_itemsize: int = 2**20
    max_arrays: int = 20_000
    max_nodes: int = 50_000
    max_group_depth: int = 32

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not isinstance(value, int) or value < 1:
                raise RequestError(f"Limits.{limit.name} has to be a positive int, not {value!r}.")


DEFAULT_LIMITS = Limits()
