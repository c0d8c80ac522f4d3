"""Where chunks are decoded, and why not on the device: decided here, per chunk of a wave, and told per column before a scan."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.batch import MAX_STREAM_NBYTES
from gpuzarr.codecs.stream_plan import StreamPlan
from gpuzarr.codecs.tables import Algorithm, HostReason
from gpuzarr.device.runtime import Runtime
from gpuzarr.device.wave_source import WaveSource

__all__ = ["FEW_STREAMS", "HUGE_NBYTES", "column_route", "count_reasons", "host_entries"]

FEW_STREAMS = 16
HUGE_NBYTES = 16 << 20

FEW, TOO_LARGE, NO_DECODER, UNVERIFIED, FAILED = range(100, 105)

_TEXTS = {reason.value: reason.text for reason in HostReason} | {
    FEW: f"fewer than {FEW_STREAMS} zstd frames of more than {HUGE_NBYTES >> 20} MiB in a wave",
    TOO_LARGE: "a stream larger than its decoder takes",
    NO_DECODER: "no batch decoder for this codec",
    UNVERIFIED: "a checksum that only the host computes",
    FAILED: "its batch failed",
}


def host_entries(plan: StreamPlan, runtime: Runtime) -> npt.NDArray[np.int64]:
    """Why each entry of a plan is decoded by the host; 0 for those that the device decodes."""
    decoder, table, sums = runtime.decoder, plan.streams, plan.checksums
    why = np.zeros(len(plan), np.int64)
    zstd = np.flatnonzero(table.algorithm == Algorithm.ZSTD)
    if 0 < len(zstd) < FEW_STREAMS and int(table.dst_nbytes[zstd].min()) > HUGE_NBYTES:
        why[table.chunk[zstd]] = FEW
    why[sums.chunk[sums.decoded & ~np.isin(sums.kind, [*runtime.verifies, *decoder.verifies])]] = UNVERIFIED
    why[table.chunk[~np.isin(table.algorithm, [Algorithm.STORED, *decoder.algorithms])]] = NO_DECODER
    for algorithm, most in MAX_STREAM_NBYTES.items():
        why[table.chunk[(table.algorithm == algorithm) & (table.dst_nbytes > most)]] = TOO_LARGE
    planned = table.algorithm == Algorithm.HOST
    why[table.chunk[planned]] = table.reason[planned]
    return why


def count_reasons(paths: list[str], why: npt.NDArray[np.int64]) -> Counter[str]:
    """Chunks by "array: reason", of those that the host decoded; ``paths`` by entry."""
    return Counter(f"{paths[row] or '/'}: {_TEXTS[int(why[row])]}" for row in np.flatnonzero(why).tolist())


def column_route(source: WaveSource | str) -> str:
    """How a device reads a column, in words; ``source`` as `gpuzarr.device.wave_source.wave_source` gives it."""
    if isinstance(source, str):
        return f"whole column on the host: {source}"
    route = source.route
    if route.reason != HostReason.NONE:
        return f"chunks decoded on the host, then copied: {route.reason.text}"
    if route.compressor is None:
        how = "gathered as stored" if source.is_payload_free else "copied as stored"
    else:
        how = f"{route.compressor} in batches"
    if route.compressor == "zstd" and route.nbytes > HUGE_NBYTES:
        how += f", on the host where a wave has fewer than {FEW_STREAMS} frames"
    if source.shuffled_itemsize and (route.shuffles or route.compressor == "blosc"):
        how += ", byte shuffles read in place"
    if route.checks:
        how += ", checksums on the host"
    return how
