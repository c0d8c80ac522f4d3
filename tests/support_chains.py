"""Codec chains with the encoder that other people's libraries make of them, and Blosc containers built by hand."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa

from gpuzarr.codecs import CodecChain, parse_chain
from gpuzarr.metadata.model import ArrayDType, ArrayMetadata, CodecMetadata, KeyEncoding

KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex", "M": "datetime", "m": "timedelta"}
KINDS |= {"U": "fixed_string", "S": "fixed_bytes", "V": "raw"}


@dataclass(frozen=True)
class Chain:
    """A Zarr v2 chain: codec configurations in the order of writing."""

    codecs: tuple[dict[str, Any], ...]
    dtype: str = "<f4"
    shape: tuple[int, ...] = (100,)
    order: Any = "C"

    @property
    def name(self) -> str:
        return "+".join(str(c["id"]) for c in self.codecs) or "uncompressed"

    def parse(self) -> CodecChain:
        dtype = np.dtype(self.dtype)
        kind: Any = KINDS[dtype.kind]
        codecs = [CodecMetadata(c["id"], {k: v for k, v in c.items() if k != "id"}) for c in self.codecs]
        described = ArrayDType(kind, dtype.newbyteorder("="), not dtype.isnative, self.dtype)
        encoding = KeyEncoding("v2", ".")
        return parse_chain(
            ArrayMetadata("a", 2, self.shape, self.shape, described, 0, tuple(codecs), self.order, encoding, None, {})
        )

    def encode(self, array: np.ndarray) -> bytes:
        """By numcodecs, in the order of zarr's v2 format."""
        data: Any = array.astype(self.dtype).reshape(-1, order=self.order)
        for configuration in self.codecs:
            data = numcodecs.get_codec(dict(configuration)).encode(data)
        return data.tobytes() if isinstance(data, np.ndarray) else bytes(data)

    def decode(self, data: bytes) -> np.ndarray:
        """By numcodecs: differs from what was encoded where a filter loses something."""
        found: Any = data
        for configuration in reversed(self.codecs):
            found = numcodecs.get_codec(dict(configuration)).decode(found)
        flat = np.frombuffer(
            bytes(np.ascontiguousarray(found).view(np.uint8)) if isinstance(found, np.ndarray) else found, self.dtype
        )
        return flat.reshape(self.shape, order=self.order).astype(np.dtype(self.dtype).newbyteorder("="))


def payload(kind: str, dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Values of one kind: walk (compressible), zeros, noise."""
    rng = np.random.default_rng(seed)
    native = np.dtype(dtype).newbyteorder("=")
    count = int(np.prod(shape))
    if kind == "zeros":
        return np.zeros(shape, native)
    if native.kind == "U":
        return rng.choice(np.array(["", "a", "bc", "ä" * 3], native), shape)
    if native.kind == "b":
        return rng.random(shape) < 0.5
    if kind == "noise" and native.kind not in "fc":
        return np.frombuffer(rng.bytes(count * native.itemsize), native).reshape(shape).copy()
    steps = np.cumsum(rng.integers(-3, 4, count)) if kind == "walk" else rng.random(count) * 1e6
    if native.kind == "S":
        return steps.astype(np.int64).astype(native).reshape(shape)
    if native.kind in "Mm":
        return steps.astype(np.int64).view(native).reshape(shape)
    return steps.astype(native).reshape(shape)


def blosc(cname: str, shuffle: int, blocksize: int = 0, clevel: int = 5) -> dict[str, Any]:
    return {"id": "blosc", "cname": cname, "clevel": clevel, "shuffle": shuffle, "blocksize": blocksize}


def build_container(
    data: bytes, codec: int, *, typesize: int = 4, shuffle: int = 0, blocksize: int = 4096, split: bool = True
) -> bytes:
    """Write a Blosc1 container with pyarrow's codecs: 1 LZ4, 2 snappy, 4 zstd. ``shuffle``: 0 none, 1 byte, 2 bit."""
    compressor = pa.Codec({1: "lz4_raw", 2: "snappy", 4: "zstd"}[codec])
    blocksize = min(blocksize, len(data))
    blocks, offsets = [], []
    nblocks = -(-len(data) // blocksize)
    position = 16 + 4 * nblocks
    for i in range(nblocks):
        block = _shuffled(data[i * blocksize : (i + 1) * blocksize], typesize, shuffle)
        splits = (
            typesize if split and typesize <= 16 and len(block) == blocksize and blocksize // typesize >= 128 else 1
        )
        part = len(block) // splits
        offsets.append(position)
        for j in range(splits):
            piece = block[j * part : (j + 1) * part]
            packed = compressor.compress(piece, asbytes=True)
            packed = piece if len(packed) >= len(piece) else packed
            blocks.append(struct.pack("<i", len(packed)) + packed)
            position += len(blocks[-1])
    flags = codec << 5 | (0x01, 0x01, 0x04)[shuffle] * (shuffle > 0) | (0 if split else 0x10)
    head = struct.pack("<BBBBiii", 2, 1, flags, typesize, len(data), blocksize, position)
    return head + np.array(offsets, "<i4").tobytes() + b"".join(blocks)


def _shuffled(block: bytes, typesize: int, shuffle: int) -> bytes:
    count = len(block) // typesize
    body, tail = np.frombuffer(block[: count * typesize], np.uint8), block[count * typesize :]
    if shuffle == 1 and typesize > 1:
        return body.reshape(count, typesize).T.tobytes() + tail
    if shuffle == 2 and count and count % 8 == 0:
        bits = np.unpackbits(body.reshape(count, typesize), axis=1, bitorder="little")
        return np.packbits(bits.T, axis=1, bitorder="little").tobytes() + tail
    return block
