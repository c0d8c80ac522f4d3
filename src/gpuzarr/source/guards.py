"""The guards of a scan: what a query may need at most (``max_rows``, ``max_chunks_to_read``, ``max_bytes``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuzarr.errors import PlanLimitError
from gpuzarr.options import ScanOptions

__all__ = ["Excess", "excess"]


@dataclass(frozen=True)
class Excess:
    """What a guard refuses.

    Attributes
    ----------
    option
        The guard.
    what
        What it counts.
    needed, limit
        How many the query needs, and how many it may need.
    """

    option: str
    what: str
    needed: int
    limit: int

    def __str__(self) -> str:
        return f"by {self.option}: {self.needed:,} {self.what} needed, limit is {self.limit:,}"

    def error(self, *, store: str, group: str | None = None, of: str = "") -> PlanLimitError:
        """The error of a query that was to run."""
        return PlanLimitError(
            f"{self.option} exceeded: {self.needed} {self.what} needed{of}, limit is {self.limit}. Nothing was read; "
            f"filter or select less, or raise {self.option}.",
            store=store,
            array=group or None,
        )


def excess(options: ScanOptions, *, rows: int, chunks: Iterable[tuple[int, int]]) -> Excess | None:
    """The first guard that is exceeded, if any.

    Parameters
    ----------
    options
        The guards.
    rows
        Rows that the query selects.
    chunks
        Per array: how many chunks are to be read, and their decoded bytes together. Looked at only where a guard counts them.
    """
    if options.max_rows is not None and rows > options.max_rows:
        return Excess("max_rows", "rows", rows, options.max_rows)
    if options.max_chunks_to_read is None and options.max_bytes is None:
        return None
    number = nbytes = 0
    for count, decoded in chunks:
        number += count
        nbytes += decoded
    if options.max_chunks_to_read is not None and number > options.max_chunks_to_read:
        return Excess("max_chunks_to_read", "chunks", number, options.max_chunks_to_read)
    if options.max_bytes is not None and nbytes > options.max_bytes:
        return Excess("max_bytes", "decoded bytes", nbytes, options.max_bytes)
    return None
