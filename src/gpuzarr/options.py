"""Options of a scan: frozen, passed as arguments, never global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpuzarr.errors import RequestError

__all__ = ["MissingPolicy", "Order", "ScanOptions"]

MissingPolicy = Literal["fill", "null", "raise"]
Order = Literal["tile", "C"]


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How a table is scanned; what the table is, `gpuzarr.table.TableOptions` says.

    Parameters
    ----------
    device
        ``"cpu"``; ``"cuda"``: chunks are decoded and filtered on the GPU; ``"auto"``: on the GPU for the Polars GPU engine,
        on the host for the others.
    order
        ``"tile"``: tile by tile, C order inside a tile. ``"C"``: C order of the whole row space.
    on_missing
        A chunk that is not stored is the fill value (``"fill"``), null (``"null"``) or an error (``"raise"``).
    max_bytes, max_rows, max_chunks_to_read
        Guards: refuse a scan whose plan exceeds them, before anything is read. Bytes are decoded bytes of the chunks to
        read; rows are rows before filtering by variables.
    memory_budget
        Bytes that frames and chunks in flight may take, on top of what the consumer keeps.
    workers
        Threads that read and decode; None chooses by store and cores.
    """

    device: str = "cpu"
    order: Order = "tile"
    on_missing: MissingPolicy = "fill"
    max_bytes: int | None = None
    max_rows: int | None = None
    max_chunks_to_read: int | None = None
    memory_budget: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.order not in ("tile", "C"):
            raise RequestError(f"order must be 'tile' or 'C', not {self.order!r}.")
        if self.on_missing not in ("fill", "null", "raise"):
            raise RequestError(f"on_missing must be 'fill', 'null' or 'raise', not {self.on_missing!r}.")
        for name in ("max_bytes", "max_rows", "max_chunks_to_read", "memory_budget", "workers"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise RequestError(f"{name} must be a non-negative int or None, not {value!r}.")
        if self.workers == 0:
            raise RequestError("workers must be at least 1.")
