"""Counters of what a scan really did; one object per scan, safe under threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

__all__ = ["ScanStatistics"]


@dataclass
class ScanStatistics:
    """What a scan did, in counts and bytes.

    Attributes
    ----------
    requests, bytes_read
        Reads of chunk data sent to the store, and the bytes they returned (payload and shard indexes).
    metadata_requests, metadata_bytes
        The same for documents and coordinates.
    chunks_read, chunks_missing, chunks_partial
        Chunks decoded; not stored and so fill value (or null); decoded in part.
    chunks_cached
        Chunks taken from a backend's cache instead of being read and decoded.
    bytes_decoded
        Bytes of the decoded chunks (of the parts really decoded).
    unverified_bytes
        Decoded bytes that no checksum covers.
    tiles, tiles_skipped_late
        Tiles visited, and those dropped after phase one because no row survived.
    rows
        Rows handed out.
    waves, streams_batched
        Of scans through a device: chunks decoded together, and streams that its batch decoder took.
    waves_direct
        Fetches of those scans that went from files to device memory without passing through host memory.
    bytes_copied
        Stored bytes that were copied once more on the host, from what a store returned into page-locked memory.
    chunks_in_place
        Of those scans: chunks that were gathered as they are, byte-shuffled.
    chunks_on_host, chunks_retried
        Of those scans: chunks that the host decoded because no batch does it, and because a batch failed.
    columns_on_host
        Of those scans: columns that the host read.
    """

    requests: int = 0
    bytes_read: int = 0
    metadata_requests: int = 0
    metadata_bytes: int = 0
    chunks_read: int = 0
    chunks_missing: int = 0
    chunks_partial: int = 0
    chunks_cached: int = 0
    bytes_decoded: int = 0
    unverified_bytes: int = 0
    tiles: int = 0
    tiles_skipped_late: int = 0
    rows: int = 0
    waves: int = 0
    waves_direct: int = 0
    bytes_copied: int = 0
    chunks_in_place: int = 0
    streams_batched: int = 0
    chunks_on_host: int = 0
    chunks_retried: int = 0
    columns_on_host: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    _observer: Callable[[dict[str, int]], None] | None = field(default=None, repr=False, compare=False)

    _notes: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """How the scan was carried out, in words: where bytes went, and what stayed on the host, why and how often."""
        with self._lock:
            return tuple(f"{text} ({count:,} chunks)" if count else text for text, count in self._notes.items())

    def note(self, text: str) -> None:
        """Something worth knowing of the scan as a whole."""
        with self._lock:
            self._notes.setdefault(text, 0)

    def note_counts(self, counts: Mapping[str, int]) -> None:
        """The same of some chunks: text → how many more."""
        with self._lock:
            self._notes.update(counts)

    def observe(self, observer: Callable[[dict[str, int]], None]) -> None:
        """Call ``observer`` with everything that is added from now on, from whatever thread adds it."""
        self._observer = observer

    def add(self, **counts: int) -> None:
        """Add to counters by name."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)
        if self._observer is not None:
            self._observer(counts)

    def as_dict(self) -> dict[str, int]:
        """Counters by name."""
        with self._lock:
            return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
