"""Blocking scans from a coroutine: they run in the backend's own threads, and cancelling the coroutine stops them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Self, TypeVar

import polars as pl

from gpuzarr.backends.backend import Backend
from gpuzarr.backends.cancellation import Cancellation
from gpuzarr.errors import RequestError

__all__ = ["AsyncBackend"]

T = TypeVar("T")


class AsyncBackend(Backend):
    """A backend whose scans are awaited."""

    async def scan_zarr_async(
        self,
        expr: pl.Expr | None = None,
        max_concurrency: int | None = None,
        max_chunks_to_read: int | None = None,
        *,
        predicate: pl.Expr | None = None,
        with_columns: Sequence[str] | None = None,
        n_rows: int | None = None,
    ) -> pl.DataFrame:
        """Plan a scan from an expression, read what it needs, and evaluate ``select([expression])``.

        Parameters
        ----------
        expr
            Any expression: ``pl.col(columns).filter(condition)``, ``pl.all()``, an aggregate. The result is that of
            ``lazy().select(expression)``, while only rows are read that its filters keep. A bare condition gives a Boolean
            column over the rows where, going by the coordinates, it can hold.
        max_concurrency
            Threads that read and decode for this scan.
        max_chunks_to_read
            Refuse the scan before it reads if it needs more chunks.
        predicate
            Only these rows of the table. Alone, without ``expr``, it is the expression itself.
        with_columns
            Only these columns of the table (what ``pl.all()`` stands for).
        n_rows
            Only the first rows of the table, before anything is filtered.

        Raises
        ------
        PlanLimitError
            More chunks than ``max_chunks_to_read`` are needed.
        StoreError, DataError
            Reading or decoding failed.
        """
        limits = {"workers": max_concurrency, "max_chunks_to_read": max_chunks_to_read}
        if expr is None:
            if predicate is None:
                raise RequestError("Give an expression, for example pl.all() for the whole table.")
            expr, predicate = predicate, None

        def work(cancellation: Cancellation) -> pl.DataFrame:
            return self._evaluate(
                expr,
                predicate=predicate,
                with_columns=with_columns,
                n_rows=n_rows,
                limits=limits,
                cancellation=cancellation,
            )

        return await self._in_thread(work)

    async def scan_zarr_streaming(
        self,
        predicate: pl.Expr | None = None,
        with_columns: Sequence[str] | None = None,
        max_chunks_to_read: int | None = None,
        n_rows: int | None = None,
        batch_size: int | None = None,
        max_concurrency: int | None = None,
    ) -> AsyncIterator[pl.DataFrame]:
        """Rows that pass a condition, frame by frame, without blocking the loop.

        Parameters
        ----------
        predicate
            Rows to keep.
        with_columns, max_chunks_to_read, n_rows, max_concurrency
            As in `scan_zarr_async`.
        batch_size
            Rows of a frame at most.
        """
        limits = {"workers": max_concurrency, "max_chunks_to_read": max_chunks_to_read}
        cancellation = self._begin()
        loop = asyncio.get_running_loop()
        threads = self._executor()
        feed = _Feed(lambda: self._stream(predicate, with_columns, n_rows, batch_size, limits, cancellation))
        try:
            while (frame := await loop.run_in_executor(threads, feed.next)) is not None:
                yield frame
        finally:
            cancellation.cancel()
            self._running.discard(cancellation)
            try:
                threads.submit(feed.close)
            except RuntimeError:  # the backend was closed meanwhile: its threads have ended
                feed.close()

    async def _in_thread(self, work: Callable[[Cancellation], T]) -> T:
        """The result of ``work`` in a thread of the backend; where the caller is cancelled, so is the work."""
        cancellation = self._begin()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor(), work, cancellation)
        except asyncio.CancelledError:
            cancellation.cancel()
            raise
        finally:
            self._running.discard(cancellation)

    async def aclose(self) -> None:
        """`close`, without blocking the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Feed:
    """A generator that several threads use in turn."""

    def __init__(self, make: Callable[[], Iterator[pl.DataFrame]]) -> None:
        self._make: Callable[[], Iterator[pl.DataFrame]] | None = make
        self._frames: Iterator[pl.DataFrame] | None = None
        self._lock = threading.Lock()

    def next(self) -> pl.DataFrame | None:
        """The next frame, None after the last."""
        with self._lock:
            if self._make is not None:
                make, self._make = self._make, None
                self._frames = make()
            return None if self._frames is None else next(self._frames, None)

    def close(self) -> None:
        """End the generator, once the thread that uses it is done."""
        with self._lock:
            frames, self._frames, self._make = self._frames, None, None
            close = getattr(frames, "close", None)
            if close is not None:
                close()
