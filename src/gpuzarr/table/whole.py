"""Reading a small array as a whole, undecoded: coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gpuzarr.codecs import CodecChain, parse_chain
from gpuzarr.errors import ChunkError, Kind
from gpuzarr.metadata.model import ArrayMetadata, ceil_div
from gpuzarr.options import MissingPolicy
from gpuzarr.reader import ChunkGroup, ChunkReader
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import ByteStore

__all__ = ["read_whole"]

_LOCAL_WORKERS = 8
_REMOTE_WORKERS = 32
_BATCH = 2**16
"""Chunks that are listed at once: a time axis that grew by appending can have hundreds of thousands."""


def read_whole(
    store: ByteStore,
    array: ArrayMetadata,
    *,
    on_missing: MissingPolicy = "fill",
    statistics: ScanStatistics | None = None,
    verify: Callable[[], None] | None = None,
) -> np.ndarray:
    """Raw values of a whole array, in its own shape.

    Parameters
    ----------
    store
        Where the chunks are.
    array
        Its document.
    on_missing
        What a chunk that is not stored means: its cells are the fill value, masked, or an error.
    statistics
        Requests and bytes are added as those of metadata.
    verify
        See `gpuzarr.reader.ChunkReader`.

    Returns
    -------
    ndarray
        Native dtype, objects for variable-length kinds. A masked array if `on_missing` is ``"null"`` and a chunk is missing.

    Raises
    ------
    ChunkError
        Bytes are damaged, or a chunk is missing and `on_missing` is ``"raise"``.
    StoreError
        Reading failed.
    """
    chain = parse_chain(array)
    if 0 in array.shape:
        return np.empty(array.shape, array.dtype.numpy)
    counters = ScanStatistics()
    reader = ChunkReader(store, array, chain, counters, verify=verify)
    if all(n <= c for n, c in zip(array.shape, chain.chunk_shape, strict=True)):
        try:
            only = _only_chunk(reader, array)
        finally:
            _count(statistics, counters)
        if only is not None:
            return only
        if on_missing == "raise":
            raise _not_stored(store, array, chain, (0,) * array.ndim)
        values = np.empty(array.shape, array.dtype.numpy)
        values[...] = _fill_value(array)
        return np.ma.MaskedArray(values, np.ones(array.shape, np.bool_)) if on_missing == "null" else values
    values = np.empty(array.shape, array.dtype.numpy)
    grid = tuple(ceil_div(n, c) for n, c in zip(array.shape, chain.chunk_shape, strict=True))
    indices = np.indices(grid, dtype=np.int64).reshape(len(grid), -1).T if grid else np.empty((1, 0), np.int64)
    indices = np.ascontiguousarray(indices)
    missing = np.zeros(math.prod(grid), np.bool_)

    def cells(position: int) -> tuple[slice, ...]:
        starts = indices[position] * np.array(chain.chunk_shape, np.int64)
        return tuple(
            slice(int(a), min(int(a) + c, n)) for a, c, n in zip(starts, chain.chunk_shape, array.shape, strict=True)
        )

    def place(position: int, chunk: np.ndarray | None) -> None:
        where = cells(position)
        if chunk is None:
            missing[position] = True
            values[where] = _fill_value(array)
        else:
            values[where] = chunk[tuple(slice(0, s.stop - s.start) for s in where)]

    workers = _LOCAL_WORKERS if store.is_local else _REMOTE_WORKERS
    try:
        for first in range(0, len(indices), _BATCH):
            batch = indices[first : first + _BATCH]

            def read(group: ChunkGroup, first: int = first, batch: np.ndarray = batch) -> None:
                reader.read(group, batch, lambda position, chunk: place(first + position, chunk))

            _for_each(read, reader.groups(batch), workers=workers)
    finally:
        _count(statistics, counters)
    if missing.any() and on_missing == "raise":
        index = tuple(indices[int(np.argmax(missing))].tolist())
        raise _not_stored(store, array, chain, index)
    if missing.any() and on_missing == "null":
        mask = np.zeros(array.shape, np.bool_)
        for position in np.flatnonzero(missing).tolist():
            mask[cells(position)] = True
        return np.ma.MaskedArray(values, mask)
    return values


def _only_chunk(reader: ChunkReader, array: ArrayMetadata) -> np.ndarray | None:
    """The array, of which all is in one chunk; None if that is not stored."""
    found: list[np.ndarray | None] = []
    index = np.zeros((1, array.ndim), np.int64)
    reader.read(reader.groups(index)[0], index, lambda _, chunk: found.append(chunk))
    chunk = found[0]
    if chunk is None:
        return None
    if chunk.shape != array.shape:  # copied, so that the rest is not held
        chunk = chunk[tuple(slice(0, n) for n in array.shape)].copy()
    return chunk.astype(array.dtype.numpy, copy=False)


def _count(statistics: ScanStatistics | None, counters: ScanStatistics) -> None:
    if statistics is not None:
        statistics.add(metadata_requests=counters.requests, metadata_bytes=counters.bytes_read)


def _not_stored(store: ByteStore, array: ArrayMetadata, chain: CodecChain, index: tuple[int, ...]) -> ChunkError:
    message = f"chunk {index} is not stored, and on_missing='raise'; use on_missing='fill' for the fill value"
    key = None if chain.is_sharded else array.key(index)
    return ChunkError(message, kind=Kind.CHUNK_MISSING, array=array.path, key=key, store=store.label)


def _for_each(read: Callable[[ChunkGroup], None], groups: list[ChunkGroup], *, workers: int) -> None:
    if len(groups) == 1:
        read(groups[0])
        return
    pool = ThreadPoolExecutor(min(workers, len(groups)), thread_name_prefix="gpuzarr-coordinate")
    try:
        for _ in pool.map(read, groups):
            pass
    finally:  # after an error or Ctrl-C, what has not begun does not begin
        pool.shutdown(cancel_futures=True)


def _fill_value(array: ArrayMetadata) -> Any:
    if array.fill_value is not None:
        return array.fill_value
    if array.dtype.numpy == np.dtype(object):
        return "" if array.dtype.kind == "string" else b""
    return np.zeros((), array.dtype.numpy)[()]
