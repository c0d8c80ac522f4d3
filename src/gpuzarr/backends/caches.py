"""The caches of one backend, shared by all of its scans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict
from typing import Any

from gpuzarr.backends.byte_cache import ByteCache, Entry, Key
from gpuzarr.backends.cached_reader import value_nbytes
from gpuzarr.backends.freshness import Freshness
from gpuzarr.backends.options import BackendOptions
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.reader.shard_index import IndexCache
from gpuzarr.table.coordinates import Decoded
from gpuzarr.table.model import Column

__all__ = ["Caches", "Done", "StatisticsReport"]


class Done:
    """Nothing, which may be awaited: what was asked for is done already."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


class StatisticsReport(dict[str, Any]):
    """A dict that may be awaited, for programs that expect a coroutine."""

    def __await__(self) -> Generator[Any, None, StatisticsReport]:
        yield from ()
        return self


class Caches:
    """Decoded coordinates, decoded chunks (in host and in device memory) and shard indexes, each with a budget of its own.

    Parameters
    ----------
    freshness
        Says what may still be used.
    options
        Budgets.
    """

    def __init__(self, freshness: Freshness, options: BackendOptions) -> None:
        self.freshness = freshness
        self.coordinates = ByteCache(options.coord_cache_bytes, options.coord_cache_max_entries)
        self.chunks = ByteCache(options.var_cache_bytes, options.var_cache_max_entries)
        self.indexes = ByteCache(options.index_cache_bytes)
        self.on_device = ByteCache(options.device_cache_bytes)
        self.gates = IndexCache()
        self._sources: dict[str, tuple[tuple[tuple[str, Any], ...], float]] = {}
        self._lock = threading.Lock()

    def coordinate_key(self, column: Column, order: tuple[str, ...], on_missing: str) -> Key:
        """Under which the decoded values of a coordinate are kept: also other tables with the same decoding find them."""
        assert column.array is not None
        return Key(column.array.path, column.array.shape, column.dims, order, on_missing, column.decoding)

    def coordinate(self, key: Key, array: ArrayMetadata, make: Callable[[], Decoded]) -> Decoded:
        """Decoded values of a coordinate, kept or made."""

        def entry() -> Entry:
            began = time.monotonic()
            values, valid = make()
            with self._lock:
                objects, read_at = self._sources.pop(array.path, ((), began))
            nbytes = value_nbytes(values) + (0 if valid is None else valid.nbytes)
            return Entry((values, valid), nbytes, objects, read_at)

        found: Decoded = self.coordinates.load(key, entry).value
        return found

    def note_source(self, path: str, objects: tuple[tuple[str, Any], ...], read_at: float) -> None:
        """The objects that a coordinate's array was read from, for the entry that is made of it next."""
        with self._lock:
            self._sources[path] = objects, read_at

    def drop_outdated(self, keys: Mapping[str, Key]) -> None:
        """Forget kept coordinates that changed in the store."""
        for key in keys.values():
            entry = self.coordinates.peek(key)
            if entry is not None and not self.freshness.is_current(entry):
                self.coordinates.drop(key, entry)

    def clear_chunks(self) -> None:
        """Forget coordinates, chunks and indexes."""
        for cache in (self.coordinates, self.chunks, self.indexes, self.on_device):
            cache.clear()

    def report(self, *, has_metadata: bool) -> StatisticsReport:
        """Counters of all caches."""
        caches = {
            "coordinates": self.coordinates,
            "variables": self.chunks,
            "indexes": self.indexes,
            "device": self.on_device,
        }
        figures = {name: cache.statistics() for name, cache in caches.items()}
        return StatisticsReport(
            coord_entries=figures["coordinates"].entries,
            var_entries=figures["variables"].entries,
            has_metadata=has_metadata,
            **{name: asdict(figure) for name, figure in figures.items()},
        )
