"""The source that the Polars GPU engine calls for a table of many stores; see `gpuzarr.source.gpu_source`.

Every rank opens the stores that the query needs, to know how many rows there are, and reads a contiguous run of tiles
of all of them together. Small stores that follow one another share a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import polars as pl

from gpuzarr.many.parts import Part, ahead, check_guards, refused
from gpuzarr.many.query import Query
from gpuzarr.many.stores import Stores
from gpuzarr.plan.ranks import Run
from gpuzarr.progress import ProgressFactory
from gpuzarr.source.gpu_source import (
    DEFAULT_FRAME_BYTES,
    Bound,
    FrameSource,
    Share,
    device_chunks,
    frame_rows,
    host_chunks,
    share_of_tiles,
)
from gpuzarr.source.tracing import Trace, TracedScan
from gpuzarr.table.row_bytes import nbytes_of

__all__ = ["BoundStores"]


@dataclass(frozen=True)
class _Shares:
    """What a rank reads of every store, in order, without the stores of which it reads nothing.

    Parameters
    ----------
    together
        How many of them, one after the other, make chunks together: those of one frame each; one of several frames alone.
    """

    parts: list[tuple[Part, Share]]
    together: list[int]

    @property
    def count(self) -> int:
        """Number of chunks."""
        first = count = 0
        for number in self.together:
            count += self.parts[first][1].count if number == 1 else 1
            first += number
        return count


@dataclass(frozen=True, eq=False)
class BoundStores(Bound):
    """The scan of a table of many stores.

    Parameters
    ----------
    stores
        The stores.
    predicate, n_rows, frame_bytes, left, trace, chunks
        As of `gpuzarr.source.gpu_source.BoundSource`.
    progress
        Follows the scan of each store, in this process only.
    """

    stores: Stores
    predicate: pl.Expr | None
    n_rows: int | None
    frame_bytes: int = DEFAULT_FRAME_BYTES
    left: tuple[str, ...] = ()
    trace: Trace | None = field(default=None, compare=False)
    progress: ProgressFactory | None = field(default=None, compare=False)
    chunks: FrameSource | None = None

    @property
    def device(self) -> str:
        """See `Bound.device`."""
        return self.stores.options.device

    def read(
        self, with_columns: list[str] | None, rank: int, nranks: int, *, on_device: bool
    ) -> tuple[int, Iterator[Any]]:
        """See `Bound.read`."""
        parts = self._parts(with_columns)
        excess = check_guards(parts)
        if excess is not None:
            raise refused(excess, parts)
        if self.trace is not None:
            for part in parts:
                self.trace.record(part.dataset, part.plan, part.statistics)
        shares = self._shares(parts, rank, nranks, on_device=on_device)
        chunks = self.chunks if self.chunks is not None else device_chunks if on_device else host_chunks
        # The thread that the engine calls from is on the engine's device; others would have to be told.
        return shares.count, _read(shares, chunks, at_once=None if on_device else self.stores.at_once)

    def planned(self, with_columns: list[str] | None, *, on_device: bool) -> tuple[int, list[TracedScan]]:
        """See `Bound.planned`."""
        parts = self._parts(with_columns)
        excess = check_guards(parts)
        scans = [TracedScan(part.dataset, part.plan, part.statistics, excess) for part in parts]
        return self._shares(parts, 0, 1, on_device=on_device).count, scans

    def _parts(self, with_columns: list[str] | None) -> list[Part]:
        query = Query.of(self.stores, with_columns, self.predicate)
        plan = partial(_part, query, self.progress)
        return list(ahead(query.parts(self.n_rows), plan, self.stores.at_once))

    def _shares(self, parts: list[Part], rank: int, nranks: int, *, on_device: bool) -> _Shares:
        if not parts:
            return _Shares([], [])
        frame_bytes = self.frame_bytes
        if not on_device:  # as of one table
            frame_bytes = min(frame_bytes, parts[0].dataset.budget // 4)
        most = frame_rows(frame_bytes, nbytes_of(self.stores.schema[name] for name in parts[0].query.projection))
        run = Run([part.plan for part in parts])
        kept: list[tuple[Part, Share]] = []
        together: list[int] = []
        rows = most
        for number, (part, (start, stop)) in enumerate(zip(parts, run.share(rank, nranks), strict=True)):
            share = share_of_tiles(part.plan, start, stop, most)
            if share.count == 0:
                continue
            kept.append((part, share))
            size = run.rows(number, start, stop) if share.count == 1 else most
            if rows + size <= most:
                together[-1] += 1
                rows += size
            else:
                together.append(1)
                rows = size
        return _Shares(kept, together)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.stores, self.predicate, self.n_rows, self.frame_bytes, self.left, self.chunks)


def _rebuild(
    stores: Stores,
    predicate: pl.Expr | None,
    n_rows: int | None,
    frame_bytes: int,
    left: tuple[str, ...],
    chunks: FrameSource | None,
) -> BoundStores:
    from gpuzarr.source.gpu_hook import install

    install()  # on a worker: the engine there must know the class
    return BoundStores(stores, predicate, n_rows, frame_bytes, left, chunks=chunks)


def _part(query: Query, progress: ProgressFactory | None, wanted: tuple[int, int | None]) -> Part:
    return Part(query, *wanted, progress)


def _read(shares: _Shares, source: FrameSource, *, at_once: int | None) -> Iterator[Any]:
    """The chunks, in order. Small stores are read ahead, several ``at_once``; a large one has its own threads."""

    def read(item: tuple[Part, Share]) -> Iterator[Any]:
        part, share = item
        chunks = (_completed(part, chunk) for chunk in source(part.dataset, share, part.statistics))
        return iter(list(chunks)) if at_once and part.is_small else chunks

    ready = ahead(iter(shares.parts), read, at_once) if at_once else map(read, shares.parts)
    for number in shares.together:
        if number == 1:
            yield from next(ready)
        else:
            yield _merged([chunk for _ in range(number) for chunk in next(ready)])


def _completed(part: Part, chunk: Any) -> Any:
    """A chunk with the columns that are constant in the store. On the device: not yet run on a GPU."""
    if isinstance(chunk, pl.DataFrame):
        return part.completed(chunk)
    from cudf_polars.containers import DataFrame
    from pylibcudf.filling import repeat

    projection, stream = part.query.projection, chunk.stream
    columns = dict(zip(chunk.column_names, chunk.columns, strict=True))
    names = [name for name in part.row.columns if name in projection]
    if names:
        one = DataFrame.from_polars(part.row.select(names), stream=stream)
        table = repeat(one.table, chunk.num_rows, stream=stream)
        constants = DataFrame.from_table(table, one.column_names, one.dtypes, stream=stream)
        columns |= zip(constants.column_names, constants.columns, strict=True)
    return DataFrame([columns[name] for name in projection], stream=stream, num_rows=chunk.num_rows)


def _merged(chunks: list[Any]) -> Any:
    """Several chunks as one. On the device: not yet run on a GPU."""
    if all(isinstance(chunk, pl.DataFrame) for chunk in chunks):
        return pl.concat(chunks)
    frames = [chunk for chunk in chunks if not isinstance(chunk, pl.DataFrame)]  # the others are empty
    if len(frames) == 1:
        return frames[0]
    from cudf_polars.containers import DataFrame
    from cudf_polars.utils.cuda_stream import get_cuda_stream, stream_ordered_after
    from pylibcudf.concatenate import concatenate

    with stream_ordered_after(get_cuda_stream, upstreams=[frame.stream for frame in frames]) as stream:
        table = concatenate([frame.table for frame in frames], stream=stream)
        return DataFrame.from_table(table, frames[0].column_names, frames[0].dtypes, stream=stream)
