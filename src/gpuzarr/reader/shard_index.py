"""Finding inner chunks: the indexes of shards, nested ones too, each read once and kept under a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.sharding import ShardIndex
from gpuzarr.codecs.steps import Bytes, truncated
from gpuzarr.errors import ChunkError
from gpuzarr.reader.requests import ObjectRequests, Range

__all__ = ["IndexCache", "ShardLocator"]

Int64Array = npt.NDArray[np.int64]
_CACHE_NBYTES = 64 << 20


class IndexCache:
    """Least recently used shard indexes by key, level of nesting and start in the object.

    Parameters
    ----------
    capacity
        Most bytes kept; the newest index is kept whatever its size.
    """

    def __init__(self, capacity: int = _CACHE_NBYTES) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, int, int], ShardIndex] = OrderedDict()
        self._nbytes = 0
        self._gates: dict[str, tuple[threading.Lock, int]] = {}

    def get(self, key: str, level: int, start: int) -> ShardIndex | None:
        """The index, None if it is not kept."""
        with self._lock:
            index = self._entries.get((key, level, start))
            if index is not None:
                self._entries.move_to_end((key, level, start))
            return index

    def put(self, key: str, level: int, start: int, index: ShardIndex) -> None:
        """Keep an index."""
        with self._lock:
            old = self._entries.pop((key, level, start), None)
            self._nbytes += index.nbytes - (old.nbytes if old is not None else 0)
            self._entries[key, level, start] = index
            while self._nbytes > self._capacity and len(self._entries) > 1:
                _, dropped = self._entries.popitem(last=False)
                self._nbytes -= dropped.nbytes

    @contextmanager
    def gate(self, key: str) -> Iterator[None]:
        """Held while indexes of an object may be read: a second thread that wants them waits and finds them here."""
        with self._lock:
            lock, waiting = self._gates.get(key, (threading.Lock(), 0))
            self._gates[key] = lock, waiting + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._gates.pop(key)
                if waiting > 1:
                    self._gates[key] = lock, waiting - 1


class ShardLocator:
    """Where inner chunks lie in their object.

    Parameters
    ----------
    chain
        Codecs of a sharded array.
    requests
        How to read.
    cache
        Where indexes are kept.
    """

    def __init__(self, chain: CodecChain, requests: ObjectRequests, cache: IndexCache) -> None:
        self._chain = chain
        self._requests = requests
        self._cache = cache

    def spans(self, key: str, chunks: Int64Array, whole: Bytes | None = None) -> tuple[Int64Array, Int64Array] | None:
        """Starts and lengths in bytes of inner chunks, start -1 where one is not stored; None if there is no object.

        Parameters
        ----------
        key
            Of the object.
        chunks
            Grid indices ``(n, ndim)`` in the array, all of this object.
        whole
            The object where it is at hand: then nothing is read.
        """
        with self._cache.gate(key):
            outer = self._outer(key, whole)
            if outer is None:
                return None
            shards = self._chain.shards
            cells = chunks * np.array(self._chain.chunk_shape, np.int64)
            starts = np.zeros(len(chunks), np.int64)
            lengths = np.full(len(chunks), -1, np.int64)  # of the object: not known
            for level, layout in enumerate(shards):
                inside = cells % np.array(layout.shard_shape, np.int64) // np.array(layout.chunk_shape, np.int64)
                flat = (
                    np.ravel_multi_index(tuple(inside.T), layout.grid_shape)
                    if inside.shape[1]
                    else np.zeros(len(chunks), np.intp)
                )
                if level == 0:
                    offsets, sizes = outer.offsets[flat], outer.lengths[flat]
                else:
                    offsets, sizes = self._nested(key, level, starts, lengths, flat, whole)
                found = (starts >= 0) & (offsets >= 0)
                starts = np.where(found, starts + offsets, -1)
                lengths = np.where(found, sizes, 0)
            return starts, lengths

    def _outer(self, key: str, whole: Bytes | None) -> ShardIndex | None:
        index = self._cache.get(key, 0, 0)
        if index is not None:
            return index
        layout = self._chain.shards[0]
        n, at_end = layout.index_nbytes, layout.index_location == "end"
        size = len(whole) if whole is not None else self._requests.size(key)
        if whole is not None:
            data: Bytes | None = whole[max(0, len(whole) - n) :] if at_end else whole[:n]
        else:
            data = self._requests.tail(key, n) if at_end else self._requests.head(key, n)
        if data is None:
            return None
        return self._parse(key, 0, data, (0, size), at=0 if not at_end or size is None else max(0, size - n))

    def _nested(
        self, key: str, level: int, starts: Int64Array, lengths: Int64Array, flat: Int64Array, whole: Bytes | None
    ) -> tuple[Int64Array, Int64Array]:
        """Entries ``flat`` of the indexes of nested shards, which are read in one go."""
        layout = self._chain.shards[level]
        indexes: dict[int, ShardIndex] = {}
        wanted: list[tuple[int, int, int]] = []
        for start, length in sorted(set(zip(starts.tolist(), lengths.tolist(), strict=True))):
            if start < 0:
                continue
            kept = self._cache.get(key, level, start)
            if kept is not None:
                indexes[start] = kept
                continue
            if length < layout.index_nbytes:
                error = truncated("sharding_indexed", f"a nested shard of {length} bytes is shorter than its index")
                raise self._requests.located(error, key, start, start + length)
            at = start if layout.index_location == "start" else start + length - layout.index_nbytes
            wanted.append((start, length, at))
        ranges: list[Range] = [(at, layout.index_nbytes) for _, _, at in wanted]
        if whole is not None:
            pieces = [whole[at : at + n] for at, n in ranges]
        else:
            pieces = self._requests.ranges(key, ranges)
        for (start, length, at), piece in zip(wanted, pieces, strict=True):
            indexes[start] = self._parse(key, level, piece, (start, length), at=at)
        offsets = np.full(len(starts), -1, np.int64)
        sizes = np.zeros(len(starts), np.int64)
        for start, index in indexes.items():
            here = starts == start
            offsets[here], sizes[here] = index.offsets[flat[here]], index.lengths[flat[here]]
        return offsets, sizes

    def _parse(self, key: str, level: int, data: Bytes, shard: tuple[int, int | None], *, at: int) -> ShardIndex:
        start, length = shard
        layout = self._chain.shards[level]
        innermost = level + 1 == len(self._chain.shards)
        try:
            index = layout.read_index(
                data,
                length,
                max_length=self._chain.max_stored_nbytes if innermost else None,
                exact_length=self._chain.fixed_stored_nbytes if innermost else None,
            )
        except ChunkError as error:
            raise self._requests.located(error, key, at, at + layout.index_nbytes) from error
        self._cache.put(key, level, start, index)
        return index
