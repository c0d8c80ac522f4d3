"""How the chunks of a chain are decoded: which codecs become streams, what remains to be done afterwards.

Written inside out, a chunk is: values, array codecs, serializer, inner byte codecs, compressor, checksums. A stream plan
undoes the checksums, the compressor, byte shuffles directly inside of it and, where nothing else is left, a foreign byte
order. The rest is the *remainder*: a codec chain itself, which turns a chunk of the output arena into its array.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from gpuzarr.codecs.chain import CodecChain, FixedWidth
from gpuzarr.codecs.checksums import Checksum
from gpuzarr.codecs.compressor_streams import COMPRESSORS
from gpuzarr.codecs.compressors import Shuffle
from gpuzarr.codecs.filters import AsType, BitRound, FlatArray, FlatBytes
from gpuzarr.codecs.steps import Bytes, ByteStep, limit_for, size_mismatch
from gpuzarr.codecs.tables import ChecksumKind, HostReason

__all__ = ["Route", "route_for"]

_NATIVE: Literal["little", "big"] = "little" if sys.byteorder == "little" else "big"
_BATCHED_CHECKSUMS = {
    "crc32c": ChecksumKind.CRC32C,
    "crc32": ChecksumKind.CRC32,
    "adler32": ChecksumKind.ADLER32,
    "fletcher32": ChecksumKind.FLETCHER32,
}


@dataclass(frozen=True)
class Route:
    """What happens to the chunks of one chain.

    Parameters
    ----------
    nbytes
        Bytes of every chunk in the output arena; 0 where they are not fixed by the metadata.
    checks
        (kind, at the start?) of the checksums around the compressor, outermost first.
    compressor
        Key of `gpuzarr.codecs.compressor_streams.COMPRESSORS`; None for no compressor.
    shuffles
        Element sizes of the byte shuffles inside of the compressor, in the order in which they are undone.
    swap_itemsize
        Bytes to reverse at the end, 0 for none.
    reason
        Why every chunk goes through the host, if it does.
    host_steps
        The byte codecs that the plan undoes, in the order of writing, for chunks that go through the host.
    remainder
        From a chunk in the output arena to its array.
    """

    nbytes: int
    checks: tuple[tuple[ChecksumKind, bool], ...]
    compressor: str | None
    shuffles: tuple[int, ...]
    swap_itemsize: int
    reason: HostReason
    host_steps: tuple[ByteStep, ...]
    remainder: CodecChain

    @property
    def signature(self) -> tuple[Any, ...]:
        """Chunks of routes with equal signatures are planned together."""
        return self.checks, self.compressor, self.shuffles, self.swap_itemsize, self.reason

    @property
    def has_arena(self) -> bool:
        """Whether chunks have a place in the output arena; the others are decoded by their chain alone."""
        return self.reason != HostReason.VARIABLE_SIZE

    @property
    def is_divisible(self) -> bool:
        """Whether stored bytes of a part of a chunk can be decoded alone."""
        alone = not self.checks and not self.shuffles and not self.remainder.byte_steps
        return self.reason == HostReason.NONE and alone and self.compressor in (None, "blosc")

    def decode_on_host(self, data: Bytes, out: Bytes) -> None:
        """What the plan does, for one chunk, by its codecs: from the stored bytes to its span of the output arena.

        Parameters
        ----------
        data
            The stored bytes.
        out
            Where all of the decoded bytes go.

        Raises
        ------
        ChunkError
            The chunk is damaged, cut short or of another size.
        """
        sizes: list[tuple[int | None, int]] = []
        size: int | None = out.size
        limit = out.size
        for step in self.host_steps:
            sizes.append((size, limit))
            size = step.encoded_size(size) if size is not None else None
            limit = size if size is not None else limit_for(limit)
        for i in reversed(range(len(self.host_steps))):
            size, limit = sizes[i]
            data = self.host_steps[i].decode(data, size, limit, out if i == 0 else None)
        if len(data) != out.size:
            raise size_mismatch("bytes", out.size, len(data))
        if data is not out:
            out[...] = data
        if self.swap_itemsize:
            out.reshape(-1, self.swap_itemsize)[...] = out.reshape(-1, self.swap_itemsize)[:, ::-1].copy()


def route_for(chain: CodecChain) -> Route:
    """The route of a chain's chunks."""
    steps = chain.byte_steps
    if not isinstance(chain.serializer, FixedWidth) or chain.chunk_nbytes == 0:
        return Route(0, (), None, (), 0, HostReason.VARIABLE_SIZE, steps, chain)
    kept = len(steps)
    reason = HostReason.NONE
    checks = []
    while kept and isinstance(steps[kept - 1], Checksum):
        kept -= 1
        check = steps[kept]
        assert isinstance(check, Checksum)
        if check.name in _BATCHED_CHECKSUMS:
            checks.append((_BATCHED_CHECKSUMS[check.name], check.location == "start"))
        else:
            reason = HostReason.CHECKSUM
    compressor: str | None = None
    if kept and _compresses(steps[kept - 1]):
        kept -= 1
        compressor = steps[kept].name
        if compressor not in COMPRESSORS:
            reason = HostReason.CODEC
    shuffles = []
    while kept and (isinstance(steps[kept - 1], Shuffle) or _is_identity(steps[kept - 1])):
        kept -= 1
        step = steps[kept]
        if isinstance(step, Shuffle) and step.elementsize > 1:
            shuffles.append(step.elementsize)
    if any(_compresses(step) or isinstance(step, Checksum) for step in steps[:kept]):
        kept, reason = 0, HostReason.NESTED
    remainder = replace(
        chain,
        byte_steps=steps[:kept],
        array_steps=tuple(step for step in chain.array_steps if not _is_identity(step)),
    )
    swap_itemsize = 0 if kept else _swap_itemsize(chain.stored_dtype)
    if swap_itemsize:
        remainder = replace(remainder, serializer=FixedWidth(_NATIVE))
    nbytes = remainder.fixed_stored_nbytes
    assert nbytes is not None
    if any(nbytes % size for size in shuffles):
        reason = HostReason.CODEC  # no writer makes that; the codec itself says what is wrong
    if reason != HostReason.NONE:
        checks, compressor, shuffles = [], None, []
    return Route(nbytes, tuple(checks), compressor, tuple(shuffles), swap_itemsize, reason, steps[kept:], remainder)


def _compresses(step: ByteStep) -> bool:
    return step.encoded_size(8) is None  # what it writes depends on the data


def _is_identity(step: Any) -> bool:
    """Whether decoding changes nothing: rounding when written."""
    if not isinstance(step, FlatBytes | FlatArray):
        return False
    values: Any = step.filter
    if isinstance(values, AsType):
        return values.decoded_dtype == values.encoded_dtype
    return isinstance(values, BitRound)


def _swap_itemsize(dtype: np.dtype[Any]) -> int:
    """Bytes that form one number of a foreign byte order; 0 where the elements are native or no plain numbers."""
    if dtype.isnative:
        return 0
    if dtype.kind == "c":
        return dtype.itemsize // 2
    if dtype.kind == "U":
        return 4
    return dtype.itemsize if dtype.kind in "iufmM" else 0
