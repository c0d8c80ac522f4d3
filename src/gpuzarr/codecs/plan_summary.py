"""A stream plan in numbers: how many streams, of which algorithms, and what stays on the host and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.stream_plan import StreamPlan
from gpuzarr.codecs.tables import Algorithm, ChecksumKind, FilterKind, HostReason

__all__ = ["PlanSummary", "Volume", "summarise"]


@dataclass(frozen=True, slots=True)
class Volume:
    """Rows of a table and the bytes they stand for."""

    count: int
    stored_nbytes: int
    decoded_nbytes: int


@dataclass(frozen=True)
class PlanSummary:
    """What a plan amounts to.

    Parameters
    ----------
    chunks
        How many.
    stored_nbytes, decoded_nbytes
        Of all chunks.
    streams
        By algorithm, without the chunks that go through the host.
    host
        Chunks that go through the host, by reason.
    filters
        By kind; stored bytes are zero.
    checksums
        By kind, how many.
    """

    chunks: int
    stored_nbytes: int
    decoded_nbytes: int
    streams: Mapping[Algorithm, Volume]
    host: Mapping[HostReason, Volume]
    filters: Mapping[FilterKind, Volume]
    checksums: Mapping[ChecksumKind, int]

    @property
    def stream_count(self) -> int:
        """Streams, without the chunks that go through the host."""
        return sum(volume.count for volume in self.streams.values())

    @property
    def stored_share(self) -> float:
        """Share of the decoded bytes that are plain copies, from 0 to 1."""
        stored = self.streams.get(Algorithm.STORED)
        return 0.0 if stored is None or not self.decoded_nbytes else stored.decoded_nbytes / self.decoded_nbytes

    @property
    def text(self) -> str:
        """One line for reports: ``"640 streams: 320 lz4, 320 stored (50 % of the bytes); 2 chunks on the host: …"``."""
        if not self.chunks:
            return "nothing to decode"
        counts = [f"{volume.count} {algorithm.name.lower()}" for algorithm, volume in self.streams.items()]
        parts = []
        if counts:
            share = f" ({100 * self.stored_share:.0f} % of the bytes)" if Algorithm.STORED in self.streams else ""
            parts.append(f"{self.stream_count} streams: {', '.join(counts)}{share}")
        if self.host:
            reasons = ", ".join(f"{volume.count} × {reason.text}" for reason, volume in self.host.items())
            parts.append(f"{sum(volume.count for volume in self.host.values())} chunks on the host: {reasons}")
        return "; ".join(parts) or f"{self.chunks} chunks of which nothing is needed"


def summarise(plan: StreamPlan) -> PlanSummary:
    """Count the rows and bytes of a plan."""
    table = plan.streams
    on_host = table.algorithm == Algorithm.HOST
    return PlanSummary(
        len(plan),
        int(plan.chunks.nbytes.sum()),
        int(plan.dst_nbytes.sum()),
        {
            Algorithm(key): volume
            for key, volume in _volumes(table.algorithm, table.src_nbytes, table.dst_nbytes, ~on_host).items()
        },
        {
            HostReason(key): volume
            for key, volume in _volumes(table.reason, table.src_nbytes, table.dst_nbytes, on_host).items()
        },
        {
            FilterKind(key): volume
            for key, volume in _volumes(
                plan.filters.kind,
                np.zeros_like(plan.filters.dst_nbytes),
                plan.filters.dst_nbytes,
                np.ones(len(plan.filters), np.bool_),
            ).items()
        },
        {
            ChecksumKind(int(key)): int(count)
            for key, count in zip(*np.unique(plan.checksums.kind, return_counts=True), strict=True)
        },
    )


def _volumes(
    keys: npt.NDArray[np.uint8],
    stored: npt.NDArray[np.int64],
    decoded: npt.NDArray[np.int64],
    rows: npt.NDArray[np.bool_],
) -> dict[int, Volume]:
    found = {}
    for key in np.unique(keys[rows]).tolist():
        these = rows & (keys == key)
        found[key] = Volume(int(these.sum()), int(stored[these].sum()), int(decoded[these].sum()))
    return found
