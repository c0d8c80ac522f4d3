"""Running a copy of a query whose scans report what they plan and do: the ground of `explain` and `profile`.

The query is serialised and read back; while that happens, sources of ours are replaced by traced ones that share the
opened store. So only this query is traced, whatever else runs in the process, and nothing about the user's own
LazyFrame changes.
"""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from gpuzarr.errors import RequestError
from gpuzarr.plan.model import ScanPlan
from gpuzarr.statistics import ScanStatistics

if TYPE_CHECKING:
    from gpuzarr.source.dataset import Dataset
    from gpuzarr.source.guards import Excess

__all__ = ["Trace", "TracedScan", "current_token", "enroll", "resolve", "traced"]

_active = threading.local()
_makers: dict[str, list[Callable[[Trace], Any]]] = {}
_traces: dict[str, Trace] = {}


@dataclass(frozen=True)
class TracedScan:
    """One call of one of our scans; `refused` by a guard that holds for several scans together, if it was."""

    dataset: Dataset
    plan: ScanPlan
    statistics: ScanStatistics
    refused: Excess | None = None


@dataclass
class Trace:
    """Scans of one query, in the order in which they were called.

    Attributes
    ----------
    dry
        Scans only plan, and hand out no rows.
    """

    dry: bool
    scans: list[TracedScan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record(
        self, dataset: Dataset, plan: ScanPlan, statistics: ScanStatistics, refused: Excess | None = None
    ) -> None:
        """Note a call."""
        with self._lock:
            self.scans.append(TracedScan(dataset, plan, statistics, refused))


def current_token() -> str | None:
    """Token of the query that this thread is copying."""
    return getattr(_active, "token", None)


def enroll(token: str, make: Callable[[Trace], Any]) -> int:
    """Remember how to make the traced copy of a source; returns its number."""
    makers = _makers[token]
    makers.append(make)
    return len(makers) - 1


def resolve(token: str, number: int) -> Any:
    """The traced copy of a source, while the query is read back."""
    return _makers[token][number](_traces[token])


@contextmanager
def traced(lf: pl.LazyFrame, *, dry: bool) -> Iterator[tuple[pl.LazyFrame, Trace]]:
    """A copy of the query whose scans of Zarr stores report to the trace.

    Raises
    ------
    RequestError
        The query cannot be copied, because another part of it cannot be serialised.
    """
    if not isinstance(lf, pl.LazyFrame):
        raise RequestError(
            f"Only a LazyFrame can be explained or profiled, not {type(lf).__name__}; leave out collect()."
        )
    token = uuid.uuid4().hex
    trace = Trace(dry)
    _makers[token], _traces[token] = [], trace
    _active.token = token
    try:
        buffer = io.BytesIO()
        try:
            lf.serialize(buffer)
            buffer.seek(0)
            copy = pl.LazyFrame.deserialize(buffer)
        except Exception as error:
            message = f"The query cannot be copied, so it cannot be explained or profiled: {error}"
            raise RequestError(message) from error
        finally:
            _active.token = None
        yield copy, trace
    finally:
        del _makers[token], _traces[token]
