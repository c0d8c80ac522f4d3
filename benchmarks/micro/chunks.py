"""One chunk of ERA5-like values per codec, encoded by numcodecs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numcodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks.fields import SURFACE, Field, Grid
from gpuzarr.codecs import CodecChain, parse_chain
from gpuzarr.metadata.model import ArrayDType, ArrayMetadata, CodecMetadata, KeyEncoding

__all__ = ["CODECS", "EncodedChunk", "encoded"]

CODECS: dict[str, tuple[Any, ...]] = {
    "none": (),
    "zstd": (numcodecs.Zstd(level=3),),
    "gzip": (numcodecs.GZip(level=5),),
    "zlib": (numcodecs.Zlib(level=5),),
    "lz4": (numcodecs.LZ4(),),
    "shuffle+zstd": (numcodecs.Shuffle(elementsize=4), numcodecs.Zstd(level=3)),
    "zstd+crc32c": (numcodecs.Zstd(level=3), numcodecs.CRC32C(location="end")),
    **{
        f"blosc-{cname}-{shuffle}": (numcodecs.Blosc(cname, 3 if cname == "zstd" else 5, number),)
        for cname in ("lz4", "lz4hc", "zstd", "zlib", "blosclz")
        for number, shuffle in enumerate(("noshuffle", "shuffle", "bitshuffle"))
    },
}
"""Filters, the compressor, a checksum: in the order of writing."""


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk as it is stored, what it decodes to, and our chain for it."""

    data: bytes
    values: NDArray[np.float32]
    chain: CodecChain
    codecs: tuple[Any, ...]

    def numcodecs_decode(self, out: NDArray[np.float32]) -> None:
        """The same by numcodecs, into the same buffer."""
        data: Any = self.data
        if not self.codecs:
            out[...] = np.frombuffer(data, out.dtype).reshape(out.shape)
            return
        for codec in reversed(self.codecs[1:]):
            data = codec.decode(data)
        self.codecs[0].decode(data, out=out)


@cache
def encoded(name: str, megabytes: float = 1.0) -> EncodedChunk:
    """A chunk of about so many decoded megabytes."""
    side = max(8, round((megabytes * 2**20 / 4 / 16) ** 0.5))
    values = Field(SURFACE[0], Grid(16, 6, side, side)).block(slice(None))
    data: Any = values
    codecs = CODECS[name]
    for codec in codecs:
        data = codec.encode(data)
    array = ArrayMetadata(
        "v",
        2,
        values.shape,
        values.shape,
        ArrayDType("float", np.dtype("f4"), False, "<f4"),
        0.0,
        tuple(_document(codec) for codec in codecs),
        "C",
        KeyEncoding("v2", "."),
        None,
        {},
    )
    return EncodedChunk(bytes(data), values, parse_chain(array), codecs)


def _document(codec: Any) -> CodecMetadata:
    configuration = codec.get_config()
    name = configuration.pop("id")
    return CodecMetadata(name, configuration)
