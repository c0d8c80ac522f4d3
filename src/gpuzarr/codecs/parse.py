"""`parse_chain`: the codecs of a document become a checked `CodecChain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpuzarr.codecs.cast_value import CastValue
from gpuzarr.codecs.chain import CodecChain, FixedWidth, Serializer, WholeShard
from gpuzarr.codecs.configuration import Configuration
from gpuzarr.codecs.filters import FlatArray, FlatBytes, Transpose
from gpuzarr.codecs.registry import byte_step, flat_filter, refuse
from gpuzarr.codecs.scale_offset import ScaleOffset
from gpuzarr.codecs.sharding import ShardLayout
from gpuzarr.codecs.steps import ArrayStep, ByteStep
from gpuzarr.codecs.variable import VariableLength
from gpuzarr.errors import Kind, MetadataError
from gpuzarr.metadata.model import ArrayDType, ArrayMetadata, CodecMetadata

__all__ = ["parse_chain"]

MAX_CHUNK_NBYTES = 1 << 46
MAX_INDEX_NBYTES = 1 << 28
MAX_DEPTH = 4
MAX_CODECS = 32

_INDEX_DTYPE = ArrayDType("uint", np.dtype(np.uint64), name="uint64")


def parse_chain(array: ArrayMetadata) -> CodecChain:
    """Parse and check the codecs of an array.

    Parameters
    ----------
    array
        Its document.

    Returns
    -------
    CodecChain
        Ready to decode.

    Raises
    ------
    MetadataError
        CODEC_REFUSED for a codec that is not on the list, METADATA_UNSUPPORTED or METADATA_INVALID for a configuration
        that is not readable or not legal, METADATA_LIMIT for sizes beyond all bounds. Names array and codec.
    """
    if len(array.codecs) > MAX_CODECS:
        raise _limit(array.path, f"{len(array.codecs)} codecs, at most {MAX_CODECS} are read")
    nbytes = array.dtype.itemsize
    if nbytes == 0:
        raise MetadataError(
            f"data type {array.dtype.name!r} has elements of 0 bytes", kind=Kind.METADATA_UNSUPPORTED, array=array.path
        )
    for n in array.chunk_shape:
        nbytes *= n
    if nbytes > MAX_CHUNK_NBYTES:
        raise _limit(array.path, f"chunks of {nbytes} bytes, at most {MAX_CHUNK_NBYTES} are read")
    if array.zarr_format == 2:
        return _parse_v2(array)
    return _parse_v3(array, array.codecs, array.dtype, array.chunk_shape, 0)


def _limit(path: str, what: str) -> MetadataError:
    return MetadataError(f"{what}; check the array's document", kind=Kind.METADATA_LIMIT, array=path)


def _invalid(path: str, what: str) -> MetadataError:
    return MetadataError(f"{what}; correct the array's document", kind=Kind.METADATA_INVALID, array=path)


def _variable(name: str, array: ArrayMetadata) -> VariableLength:
    wanted: Any = {"vlen-utf8": "string", "vlen-bytes": "bytes"}[name]
    if array.dtype.kind != wanted:
        raise _invalid(array.path, f"codec {name!r} does not write elements of type {array.dtype.name!r}")
    return VariableLength(wanted)


def _parse_v2(array: ArrayMetadata) -> CodecChain:
    path, dtype = array.path, array.dtype
    serializer: Serializer | None = None
    codecs = array.codecs
    if codecs and codecs[0].name in ("vlen-utf8", "vlen-bytes"):
        serializer = _variable(codecs[0].name, array)
        codecs = codecs[1:]
    steps: list[ByteStep] = []
    for codec in codecs:
        values = flat_filter(codec, path, 2, None)
        step: ByteStep | None = FlatBytes(values) if values is not None else byte_step(codec, path, 2, dtype.itemsize)
        if step is None or codec.name.startswith("numcodecs."):
            raise refuse(codec.name, path)
        if values is not None and (serializer is not None or any(s.encoded_size(8) is None for s in steps)):
            raise _invalid(path, f"codec {codec.name!r} follows one whose result has no fixed size")
        steps.append(step)
    if serializer is None:
        if dtype.numpy.hasobject:
            raise MetadataError(
                f"data type {dtype.name!r} needs the filter vlen-utf8 or vlen-bytes",
                kind=Kind.METADATA_UNSUPPORTED,
                array=path,
            )
        serializer = FixedWidth("big" if dtype.stored_big_endian else "little")
    chain = CodecChain(dtype, array.chunk_shape, (), serializer, tuple(steps), array.order)
    _check_filter_sizes(chain, path)
    return chain


def _check_filter_sizes(chain: CodecChain, path: str) -> None:
    """Every filter of a v2 chain must see a whole number of its elements."""
    size: int | None = chain.chunk_nbytes
    for step in chain.byte_steps:
        if isinstance(step, FlatBytes) and step.filter.decoded_dtype is not None:
            itemsize = step.filter.decoded_dtype.itemsize
            if size is None or size % itemsize:
                raise _invalid(path, f"codec {step.name!r}: {size} bytes are no whole number of {itemsize}-byte values")
        size = step.encoded_size(size) if size is not None else None


def _parse_v3(
    array: ArrayMetadata, codecs: Sequence[CodecMetadata], dtype: ArrayDType, shape: tuple[int, ...], depth: int
) -> CodecChain:
    path = array.path
    array_steps: list[ArrayStep] = []
    byte_steps: list[ByteStep] = []
    serializer: Serializer | None = None
    sharded: CodecChain | None = None
    here, kind = shape, dtype.numpy
    for codec in codecs:
        if serializer is None and sharded is None:
            before = _array_step(codec, path, here, kind)
            if before is not None:
                array_steps.append(before)
                here, kind = before.encoded(here, kind)
                continue
            if codec.name == "sharding_indexed":
                sharded = _sharded(array, codec, dtype, here, depth)
                continue
            serializer = _serializer(codec, array, dtype, kind)
            if serializer is not None:
                continue
            if byte_step(codec, path, 3, kind.itemsize) is not None:
                raise _invalid(path, f"codec {codec.name!r} comes before the codec that turns the array into bytes")
        else:
            after = byte_step(codec, path, 3, kind.itemsize)
            if after is not None:
                byte_steps.append(after)
                continue
            if _is_array_codec(codec.name):
                raise _invalid(path, f"codec {codec.name!r} comes after the codec that turns the array into bytes")
        raise refuse(codec.name, path)
    if sharded is not None:
        if not array_steps and not byte_steps:
            return sharded
        if not all(isinstance(step, Transpose) for step in array_steps):
            raise MetadataError(
                "codecs other than transpose before sharding_indexed are not supported; put them inside of it",
                kind=Kind.METADATA_UNSUPPORTED,
                array=path,
            )
        serializer = WholeShard(sharded.shards[0], _inside(sharded, array.fill_value), array.fill_value)
    if serializer is None:
        raise _invalid(path, "no codec turns the array into bytes")
    return CodecChain(dtype, shape, tuple(array_steps), serializer, tuple(byte_steps))


def _inside(chain: CodecChain, fill_value: Any) -> CodecChain:
    """The chain of the inner chunks of the outermost shard, as one that decodes them whole."""
    if len(chain.shards) == 1:
        return replace(chain, shards=())
    below = replace(chain, shards=chain.shards[1:])
    return CodecChain(
        chain.dtype,
        chain.shards[1].shard_shape,
        (),
        WholeShard(below.shards[0], _inside(below, fill_value), fill_value),
        (),
    )


def _is_array_codec(name: str) -> bool:
    return name in (
        "transpose",
        "scale_offset",
        "cast_value",
        "bytes",
        "endian",
        "sharding_indexed",
        "vlen-utf8",
        "vlen-bytes",
    )


def _array_step(codec: CodecMetadata, path: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> ArrayStep | None:
    if codec.name == "transpose":
        return _transpose(Configuration(codec.name, codec.configuration, path), len(shape))
    if codec.name == "scale_offset":
        return ScaleOffset.parse(Configuration(codec.name, codec.configuration, path), kind)
    if codec.name == "cast_value":
        return CastValue.parse(Configuration(codec.name, codec.configuration, path), kind)
    values = flat_filter(codec, path, 3, kind if not kind.hasobject else None)
    if values is None:
        return None
    if values.decoded_dtype is not None and values.decoded_dtype.newbyteorder("=") != kind:
        raise _invalid(path, f"codec {codec.name!r} writes {values.decoded_dtype}, the values before it are {kind}")
    return FlatArray(values)


def _transpose(configuration: Configuration, ndim: int) -> Transpose:
    order = configuration.any("order")
    configuration.finish()
    if order == "C":
        order = list(range(ndim))
    elif order == "F":
        order = list(range(ndim))[::-1]
    if (
        not isinstance(order, list | tuple)
        or any(isinstance(i, bool) or not isinstance(i, int) for i in order)
        or sorted(order) != list(range(ndim))
    ):
        raise configuration.invalid(f"'order' must be a permutation of {ndim} dimensions, found {order!r}")
    return Transpose(tuple(order))


def _serializer(
    codec: CodecMetadata, array: ArrayMetadata, dtype: ArrayDType, kind: np.dtype[Any]
) -> Serializer | None:
    if codec.name in ("vlen-utf8", "vlen-bytes"):
        Configuration(codec.name, codec.configuration, array.path).finish()
        return _variable(codec.name, array)
    if codec.name not in ("bytes", "endian"):
        return None
    configuration = Configuration(codec.name, codec.configuration, array.path)
    endian: Any = "little"
    if configuration.has("endian"):
        endian = configuration.choice("endian", ("little", "big"))
    elif kind.itemsize > 1 and kind.kind not in "SV":
        raise configuration.invalid("'endian' is required for elements of several bytes")
    configuration.finish()
    if kind.hasobject:
        raise _invalid(array.path, f"codec {codec.name!r} cannot write elements of type {dtype.name!r}")
    return FixedWidth(endian)


def _sharded(
    array: ArrayMetadata, codec: CodecMetadata, dtype: ArrayDType, shape: tuple[int, ...], depth: int
) -> CodecChain:
    path = array.path
    configuration = Configuration(codec.name, codec.configuration, path)
    if depth >= MAX_DEPTH:
        raise _limit(path, f"shards nested more than {MAX_DEPTH} deep")
    inner_shape = configuration.shape("chunk_shape", len(shape))
    if any(s % c for s, c in zip(shape, inner_shape, strict=True)):
        raise configuration.invalid(f"'chunk_shape' {inner_shape} does not divide the shard {shape}")
    location: Any = configuration.choice("index_location", ("start", "end"), "end")
    inner_codecs = _codec_list(configuration, "codecs")
    index_codecs = _codec_list(configuration, "index_codecs")
    configuration.finish()
    inner = _parse_v3(array, inner_codecs, dtype, inner_shape, depth + 1)
    grid = tuple(s // c for s, c in zip(shape, inner_shape, strict=True))
    count = 1
    for n in grid:
        count *= n
    if count * 16 > MAX_INDEX_NBYTES:
        raise _limit(path, f"a shard index of {count} chunks")
    if any(c.name == "sharding_indexed" for c in index_codecs):
        raise configuration.invalid("'index_codecs' must not shard")
    index_chain = _parse_v3(array, index_codecs, _INDEX_DTYPE, (*grid, 2), depth + 1)
    index_nbytes = index_chain.fixed_stored_nbytes
    if index_nbytes is None:
        raise configuration.invalid("'index_codecs' must have a fixed size; compressors are not allowed")
    layout = ShardLayout(shape, inner_shape, index_chain, index_nbytes, location)
    return replace(inner, shards=(layout, *inner.shards))


def _codec_list(configuration: Configuration, name: str) -> tuple[CodecMetadata, ...]:
    listed = configuration.any(name)
    if not isinstance(listed, list | tuple) or not 0 < len(listed) <= MAX_CODECS:
        raise configuration.invalid(f"{name!r} must be a list of 1 to {MAX_CODECS} codecs")
    codecs = []
    for entry in listed:
        if isinstance(entry, str):
            entry = {"name": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise configuration.invalid(f"{name!r} must hold codecs with names, found {entry!r}")
        inner = entry.get("configuration")
        if inner is not None and not isinstance(inner, dict):
            raise configuration.invalid(f"{name!r}: the configuration of {entry['name']!r} must be an object")
        codecs.append(CodecMetadata(entry["name"], inner or {}))
    return tuple(codecs)
