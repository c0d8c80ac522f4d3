"""Checksums stored beside the bytes: verified, then left out."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gpuzarr.codecs.steps import Bytes, size_mismatch, truncated
from gpuzarr.errors import ChunkError, Kind

__all__ = ["ALGORITHMS", "Checksum", "crc32c"]

Location = Literal["start", "end"]


def crc32c(data: Bytes) -> int:
    """CRC-32C (Castagnoli)."""
    import google_crc32c  # a dependency of zarr

    return int(google_crc32c.value(data))  # an ndarray: it refuses memoryviews


def _crc32(data: Bytes) -> int:
    return zlib.crc32(data)


def _adler32(data: Bytes) -> int:
    return zlib.adler32(data)


def _fletcher32(data: Bytes) -> int:
    """HDF5's Fletcher-32 (H5checksum.c): sums of big-endian 16-bit words modulo 65535; an odd last byte is a high byte."""
    words = data[: len(data) // 2 * 2].view(">u2").astype(np.uint64)
    if len(data) % 2:
        words = np.append(words, np.uint64(int(data[-1]) << 8))
    n = len(words)
    low = high = 0
    step = 1 << 20  # sums of 2^20 words weighted by at most 2^20 stay below 2^56
    for start in range(0, n, step):
        part = words[start : start + step]
        weights = np.arange(len(part), 0, -1, dtype=np.uint64)
        high += low * len(part) + int(np.dot(part, weights))
        low += int(part.sum())
    return _fold(high) << 16 | _fold(low)


def _fold(value: int) -> int:
    """Remainder modulo 65535 as the end-around-carry sums leave it: 65535, not 0, for a positive multiple."""
    return value % 65535 or (65535 if value else 0)


ALGORITHMS: dict[str, Callable[[Bytes], int]] = {
    "crc32c": crc32c,
    "crc32": _crc32,
    "adler32": _adler32,
    "fletcher32": _fletcher32,
}


def _jenkins(prefix: bytes, initval: int) -> Callable[[Bytes], int]:
    from numcodecs.jenkins import jenkins_lookup3

    def value(data: Bytes) -> int:
        buffer = np.concatenate([np.frombuffer(prefix, np.uint8), data]) if prefix else data
        return int(jenkins_lookup3(np.ascontiguousarray(buffer), initval))

    return value


@dataclass(frozen=True)
class Checksum:
    """Four bytes, little-endian, before or after what they cover.

    Parameters
    ----------
    name
        ``crc32c``, ``crc32``, ``adler32``, ``fletcher32``, ``jenkins_lookup3``.
    location
        Where they are.
    initval, prefix
        Seed and leading bytes of ``jenkins_lookup3``.
    """

    name: str
    location: Location = "end"
    initval: int = 0
    prefix: bytes = b""
    is_verified: bool = True

    def encoded_size(self, size: int) -> int:
        """Four more."""
        return size + 4

    def _value(self, data: Bytes) -> int:
        function: Any = ALGORITHMS.get(self.name)
        if function is None:
            function = _jenkins(self.prefix, self.initval)
        return int(function(data)) & 0xFFFFFFFF

    def decode(self, data: Bytes, size: int | None, limit: int, out: Bytes | None) -> Bytes:
        """See `ByteStep.decode`; always a view of ``data``."""
        if len(data) < 4:
            raise truncated(self.name, "shorter than the checksum")
        if size is not None and len(data) != size + 4:
            raise size_mismatch(self.name, size + 4, len(data)) if len(data) > size else truncated(self.name)
        payload, stored = (data[4:], data[:4]) if self.location == "start" else (data[:-4], data[-4:])
        expected = int.from_bytes(stored.tobytes(), "little")
        found = self._value(payload)
        if found != expected:
            raise ChunkError(
                f"{self.name}: stored checksum {expected:08x}, the bytes have {found:08x}; the chunk is damaged",
                kind=Kind.CHUNK_CHECKSUM,
            )
        return payload
