"""One array in a store, as its readers share it: requests, counts, where errors happened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from gpuzarr.codecs.chain import CodecChain
from gpuzarr.errors import GpuzarrError, StoreError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.reader.needs import NeedsMemory
from gpuzarr.reader.requests import ObjectRequests
from gpuzarr.reader.shard_index import IndexCache
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import ByteStore

__all__ = ["ArrayAccess", "batches", "foreign_error"]

Item = TypeVar("Item")


class ArrayAccess:
    """What the ways to read an array have in common. Parameters as of `gpuzarr.reader.ChunkReader`."""

    def __init__(
        self,
        store: ByteStore,
        array: ArrayMetadata,
        chain: CodecChain,
        statistics: ScanStatistics,
        indexes: IndexCache,
        verify: Callable[[], None] | None,
    ) -> None:
        self.store = store
        self.array = array
        self.chain = chain
        self.statistics = statistics
        self.indexes = indexes
        self.requests = ObjectRequests(store, array.path, statistics)
        self.needs = NeedsMemory(chain, self.requests.costs)
        self._verify = verify

    @contextlib.contextmanager
    def located(self) -> Iterator[None]:
        """Errors inside name array and store: a store does not know of arrays."""
        try:
            yield
        except GpuzarrError as error:
            if error.array is not None and error.store is not None:
                raise
            raise error.located(array=self.array.path, store=self.store.label) from error

    def check_array(self) -> None:
        """Raise if the array was deleted or written anew."""
        if self._verify is not None:
            self._verify()

    def report_missing(self, positions: list[int], missing: Callable[[int], None]) -> None:
        """Count chunks that are not stored, and call ``missing`` for each."""
        if positions:
            self.check_array()
            self.statistics.add(chunks_missing=len(positions))
        for position in positions:
            missing(position)


def foreign_error(error: Exception, array: str, key: str) -> StoreError:
    """The error for one that a store driver or a codec library raised: where it happened must not be lost."""
    message = f"Reading this object failed: {type(error).__name__}: {error}"
    return StoreError(message, array=array, key=key)


def batches(items: Iterable[Item], nbytes_of: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Runs of items of at most ``most`` bytes together, at least one each."""
    batch: list[Item] = []
    nbytes = 0
    for item in items:
        more = nbytes_of(item)
        if batch and nbytes + more > most:
            yield batch
            batch, nbytes = [], 0
        batch.append(item)
        nbytes += more
    if batch:
        yield batch
