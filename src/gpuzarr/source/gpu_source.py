"""The source that the Polars GPU engine calls: a scan with its predicate and row limit bound, one share per rank.

Only the translator of the GPU engine makes one (see `gpuzarr.source.gpu_hook`), so a call of it means that the GPU engine
runs the query; a call of `gpuzarr.source.polars_source.ZarrSource` means a CPU engine. The engine's contract: every rank
calls the source once; it is told the exact number of chunks before the first one comes; a chunk is a `polars.DataFrame`,
which the engine copies to the device, or a ``cudf_polars.containers.DataFrame``, which it takes as it is; successive chunks
may be asked for from different threads, and several calls may run at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import polars as pl

from gpuzarr.device.base import Device
from gpuzarr.errors import EnvironmentLacksError
from gpuzarr.plan.model import FRAME_ROWS, Frame, ScanPlan
from gpuzarr.plan.ranks import Run, frame_count
from gpuzarr.probe import require_cuda
from gpuzarr.source.dataset import Dataset
from gpuzarr.source.polars_source import refuse_fork
from gpuzarr.source.tracing import Trace, TracedScan
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.row_bytes import nbytes_of

__all__ = [
    "DEFAULT_FRAME_BYTES",
    "Bound",
    "BoundSource",
    "FrameSource",
    "ScanFunction",
    "Share",
    "device_chunks",
    "frame_rows",
    "host_chunks",
    "reads_on_device",
    "row_nbytes",
    "share_of_rank",
    "share_of_tiles",
]

DEFAULT_FRAME_BYTES = 2**29
"""Size of frames for an engine that names no partition size."""

AHEAD = 2
"""Frames on the device at once, besides those that the engine holds."""

MAX_ROWS = 2**31 - 1
"""Rows of a column in libcudf."""


@dataclass(frozen=True)
class Share:
    """The part of a plan that one rank reads, and its frames, known before any chunk is read.

    Parameters
    ----------
    start, stop
        Positions of the rank's tiles.
    rows
        Rows of a frame before filtering, at most, where the innermost dimension allows.
    count
        Number of frames.
    """

    plan: ScanPlan
    start: int
    stop: int
    rows: int
    count: int

    def frames(self) -> Iterator[Frame]:
        """The frames, in row order."""
        return self.plan.frames(self.start, self.stop, rows_wanted=self.rows, rows_most=self.rows)


class FrameSource(Protocol):
    """Runs a share: one chunk for the engine per frame, in order, empty where no row of it is left."""

    def __call__(self, dataset: Dataset, share: Share, statistics: ScanStatistics) -> Iterator[Any]: ...


def row_nbytes(plan: ScanPlan) -> int:
    """Bytes of a row of the output on the device; an estimate for strings."""
    return nbytes_of(plan.table.schema[name] for name in plan.projection)


def share_of_rank(plan: ScanPlan, rank: int, nranks: int, frame_bytes: int) -> Share:
    """What one of several ranks reads, in frames of about ``frame_bytes`` bytes of output before filtering."""
    ((start, stop),) = Run([plan]).share(rank, nranks)
    return share_of_tiles(plan, start, stop, frame_rows(frame_bytes, row_nbytes(plan)))


def frame_rows(frame_bytes: int, nbytes: int) -> int:
    """Rows of a frame of a size, ``nbytes`` each."""
    return min(MAX_ROWS, max(FRAME_ROWS, frame_bytes // nbytes))


def share_of_tiles(plan: ScanPlan, start: int, stop: int, rows: int) -> Share:
    """Some tiles of a plan in frames of about so many rows."""
    return Share(plan, start, stop, rows, frame_count(plan, start, stop, rows_wanted=rows, rows_most=rows))


Part = TypeVar("Part")


class _Whole(Generic[Part]):
    """A device whose frames give exactly one result each."""

    def __init__(self, device: Device[Part], merge: Callable[[list[Part]], Any]) -> None:
        self.device = device
        self.merge = merge

    def submit(self, frame: Frame) -> Any:
        return _Merged(self.device.submit(frame), self.merge)

    def wait(self, future: Any, seconds: float) -> bool:
        return self.device.wait(future.parts, seconds)

    def nbytes(self, frame: Frame) -> int:
        return self.device.nbytes(frame)

    def retire(self, frame: Frame) -> None:
        self.device.retire(frame)

    def close(self) -> None:
        self.device.close()


@dataclass(frozen=True)
class _Merged(Generic[Part]):
    parts: Future[list[Part]]
    merge: Callable[[list[Part]], Any]

    def result(self) -> list[Any]:
        return [self.merge(self.parts.result())]


def host_chunks(dataset: Dataset, share: Share, statistics: ScanStatistics) -> Iterator[pl.DataFrame]:
    """Read, decode and filter on the host."""
    empty = pl.DataFrame(schema={name: share.plan.table.schema[name] for name in share.plan.projection})

    def merge(parts: list[pl.DataFrame]) -> pl.DataFrame:
        return pl.concat(parts) if parts else empty

    device = _Whole(dataset.device(share.plan, statistics), merge)
    yield from dataset.run(share.plan, device, statistics, frames=share.frames())


def device_chunks(dataset: Dataset, share: Share, statistics: ScanStatistics) -> Iterator[Any]:
    """Read, decode and filter on the GPU; columns stay there."""
    from gpuzarr.device import cuda_frames

    empty = pl.DataFrame(schema={name: share.plan.table.schema[name] for name in share.plan.projection})

    def merge(parts: list[Any]) -> Any:
        if not parts:
            return empty  # of no bytes: the engine makes the device columns
        (frame,) = parts
        return cuda_frames.to_cudf_polars(frame)

    device = _Whole(cuda_frames.open_device(dataset, share.plan, statistics), merge)
    # The next frame is read while the engine works on one. The engine has chosen their size; the budget of the host, for
    # frames that are much smaller, would let none be read ahead.
    given = dataset.options.memory_budget
    budget = given if given is not None else AHEAD * (share.rows * row_nbytes(share.plan) + 2**30)
    yield from dataset.run(share.plan, device, statistics, frames=share.frames(), budget=budget, ahead=AHEAD)


def reads_on_device(device: str) -> bool:
    """Whether a scan of a query on the GPU engine runs on the GPU: with ``"cuda"``, and with ``"auto"`` where it can."""
    if device == "auto":
        try:
            require_cuda()
        except EnvironmentLacksError:  # libraries for reading are missing; the engine has its own
            return False
    return device != "cpu"


class Bound(ABC):
    """A scan of one query on the GPU engine, with what the plan pushed into it; picklable.

    A virtual subclass of ``cudf_polars.streaming.rank_aware_source.RankAwareSource``: `gpuzarr.source.gpu_hook` registers it.

    Attributes
    ----------
    left
        Parts of the query's filter that the scan does not apply and that the engine evaluates, by name.
    """

    left: tuple[str, ...]

    def __call__(
        self,
        with_columns: list[str] | None,
        predicate: None = None,
        n_rows: None = None,
        batch_size: None = None,
        rank: int = 0,
        nranks: int = 1,
    ) -> Any:
        """Chunks of one rank, as ``SizedChunks``. The engine gives neither predicate nor row limit: they are bound."""
        from cudf_polars.streaming.rank_aware_source import SizedChunks

        count, chunks = self.read(with_columns, rank, nranks, on_device=reads_on_device(self.device))
        return SizedChunks(count, chunks)

    def output_duplicated(self, rank: int = 0, nranks: int = 1) -> bool:
        """Ranks read different rows."""
        return False

    @property
    @abstractmethod
    def device(self) -> str:
        """``device=`` of the scan."""

    @abstractmethod
    def read(
        self, with_columns: list[str] | None, rank: int, nranks: int, *, on_device: bool
    ) -> tuple[int, Iterator[Any]]:
        """How many chunks a rank reads, and these."""

    @abstractmethod
    def planned(self, with_columns: list[str] | None, *, on_device: bool) -> tuple[int, list[TracedScan]]:
        """How many chunks a single rank would read, and the scans that they come from; reads coordinates at most."""


@dataclass(frozen=True, eq=False)
class BoundSource(Bound):
    """The scan of one table.

    Parameters
    ----------
    dataset
        The opened table.
    predicate
        Rows to keep, applied completely here; None for all.
    n_rows
        Only the first rows of the table, before the predicate.
    frame_bytes
        Size of a frame that the engine wants.
    left
        Parts of the query's filter that have no counterpart in `predicate` and that the engine evaluates, by name.
    trace
        Where to record plans and statistics, in this process only.
    """

    dataset: Dataset
    predicate: pl.Expr | None
    n_rows: int | None
    frame_bytes: int = DEFAULT_FRAME_BYTES
    left: tuple[str, ...] = ()
    trace: Trace | None = field(default=None, compare=False)
    chunks: FrameSource | None = None

    @property
    def device(self) -> str:
        """See `Bound.device`."""
        return self.dataset.options.device

    def read(
        self, with_columns: list[str] | None, rank: int, nranks: int, *, on_device: bool
    ) -> tuple[int, Iterator[Any]]:
        """See `Bound.read`."""
        share, dataset, statistics = self.open(with_columns, rank, nranks, on_device=on_device)
        chunks = self.chunks if self.chunks is not None else device_chunks if on_device else host_chunks
        return share.count, chunks(dataset, share, statistics)

    def planned(self, with_columns: list[str] | None, *, on_device: bool) -> tuple[int, list[TracedScan]]:
        """See `Bound.planned`."""
        share, dataset, statistics = self.open(with_columns, on_device=on_device, guarded=False)
        return share.count, [TracedScan(dataset, share.plan, statistics)]

    def open(
        self,
        with_columns: list[str] | None,
        rank: int = 0,
        nranks: int = 1,
        *,
        on_device: bool = False,
        guarded: bool = True,
    ) -> tuple[Share, Dataset, ScanStatistics]:
        """Plan the share of a rank; reads coordinates at most. For ``guarded`` see `Dataset.plan`."""
        refuse_fork(self.dataset)
        dataset = self.dataset.for_query()
        plan = dataset.plan(with_columns, self.predicate, self.n_rows, guarded=guarded)
        statistics = ScanStatistics()
        if self.trace is not None:
            self.trace.record(dataset, plan, statistics)
        frame_bytes = self.frame_bytes
        if not on_device:  # so that several fit into host memory, and the next are read while the engine works
            frame_bytes = min(frame_bytes, dataset.budget // 4)
        return share_of_rank(plan, rank, nranks, frame_bytes), dataset, statistics

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.dataset, self.predicate, self.n_rows, self.frame_bytes, self.left, self.chunks)


def _rebuild(
    dataset: Dataset,
    predicate: pl.Expr | None,
    n_rows: int | None,
    frame_bytes: int,
    left: tuple[str, ...],
    chunks: FrameSource | None,
) -> BoundSource:
    from gpuzarr.source.gpu_hook import install

    install()  # on a worker: the engine there must know the class
    return BoundSource(dataset, predicate, n_rows, frame_bytes, left, chunks=chunks)


@dataclass(frozen=True)
class _Cell:
    cell_contents: Bound


@dataclass(frozen=True, eq=False)
class ScanFunction:
    """The scan function of a plan node: cudf-polars 26.10 looks for a source in ``__closure__``; picklable, unlike a closure."""

    io_source: Bound

    @property
    def __closure__(self) -> tuple[_Cell, ...]:
        return (_Cell(self.io_source),)

    def __call__(self, with_columns: list[str] | None, predicate: None, n_rows: None, batch_size: None) -> Any:
        return self.io_source(with_columns), True
