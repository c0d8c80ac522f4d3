"""Progress of long scans: a bar of tqdm, or whatever the caller wants to be told.

Off unless asked for. A scan counts the chunks that its plan can need (a scan that filters by variables may need fewer)
and reports every chunk that was decoded, taken from a cache or found not to be stored. Reports come from the scan's
threads, one at a time; the end is reported exactly once, however the scan ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gpuzarr.errors import EnvironmentLacksError, RequestError
from gpuzarr.statistics import ScanStatistics

if TYPE_CHECKING:
    from gpuzarr.plan.model import ScanPlan
    from gpuzarr.source.dataset import Dataset

__all__ = ["Progress", "ProgressEvent", "ProgressFactory", "progress_factory", "watch"]


@dataclass(frozen=True)
class ProgressEvent:
    """Where a scan stands.

    Attributes
    ----------
    store
        What is scanned.
    chunks, chunks_total
        Chunks done, and those that the plan can need.
    bytes_read
        Bytes that the store sent so far.
    bytes_decoded, bytes_total
        Decoded bytes so far (of chunks read), and those of all chunks that the plan can need.
    finished
        The scan has ended: completely, by an error or because it was closed.
    """

    store: str
    chunks: int
    chunks_total: int
    bytes_read: int
    bytes_decoded: int
    bytes_total: int
    finished: bool = False


@runtime_checkable
class Progress(Protocol):
    """Is told where one scan stands; calls do not overlap."""

    def __call__(self, event: ProgressEvent) -> None:
        """Take notice of an event."""
        ...


ProgressFactory = Callable[[], Progress]
"""Makes the object that follows one scan."""


def progress_factory(progress: Any) -> ProgressFactory | None:
    """What the argument ``progress=`` of a scan means.

    Parameters
    ----------
    progress
        None or False: nothing. True: a bar of tqdm per scan. A callable: called with every `ProgressEvent`.

    Raises
    ------
    EnvironmentLacksError
        A bar is asked for and tqdm is not installed.
    RequestError
        It is something else.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        try:
            tqdm = import_module("tqdm.auto").tqdm
        except ImportError as error:
            message = "A progress bar needs tqdm: pip install 'gpuzarr[progress]', or give a function as progress=."
            raise EnvironmentLacksError(message) from error
        return lambda: _Bar(tqdm)
    if callable(progress):
        return lambda: progress
    raise RequestError(f"progress must be True, False or a function of a ProgressEvent, not {progress!r}.")


def watch(factory: ProgressFactory, statistics: ScanStatistics, dataset: Dataset, plan: ScanPlan) -> Callable[[], None]:
    """Report what is added to ``statistics``; returns what reports the end."""
    from gpuzarr.plan.chunks import chunk_count
    from gpuzarr.source.dataset import chunked_columns

    chunks = nbytes = 0
    for column in chunked_columns(plan, dataset.coordinates).values():
        assert column.chain is not None
        number = chunk_count(column, plan)
        chunks += number
        nbytes += number * column.chain.chunk_nbytes
    return _Watch(factory(), statistics, dataset.table.store, chunks, nbytes).end


class _Watch:
    """Turns additions to statistics into events."""

    def __init__(self, progress: Progress, statistics: ScanStatistics, store: str, chunks: int, nbytes: int) -> None:
        self._progress = progress
        self._statistics = statistics
        self._store = store
        self._chunks_total, self._bytes_total = chunks, nbytes
        self._lock = threading.Lock()
        self._ended = False
        statistics.observe(self._added)
        with self._lock:
            progress(self._event())

    def _added(self, counts: dict[str, int]) -> None:
        if not counts.keys() & {"chunks_read", "chunks_missing", "chunks_cached", "bytes_read"}:
            return
        with self._lock:
            if not self._ended:
                self._progress(self._event())

    def end(self) -> None:
        """Report the end, once."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self._progress(self._event())

    def _event(self) -> ProgressEvent:
        s = self._statistics
        chunks = s.chunks_read + s.chunks_missing + s.chunks_cached
        return ProgressEvent(
            self._store, chunks, self._chunks_total, s.bytes_read, s.bytes_decoded, self._bytes_total, self._ended
        )


class _Bar:
    """A bar of tqdm over chunks, with the bytes beside it; closed at the end."""

    def __init__(self, tqdm: Callable[..., Any]) -> None:
        self._tqdm = tqdm
        self._bar: Any = None

    def __call__(self, event: ProgressEvent) -> None:
        """Move the bar."""
        if self._bar is None:
            self._bar = self._tqdm(total=event.chunks_total, unit="chunk", desc="gpuzarr")
        self._bar.update(event.chunks - self._bar.n)
        self._bar.set_postfix_str(f"{event.bytes_read / 2**20:,.1f} MiB read", refresh=event.finished)
        if event.finished:
            self._bar.close()
