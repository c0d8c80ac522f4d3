"""The closed list of codecs, and how each one's configuration becomes a checked step.

Nothing outside of this list is ever run, whatever packages are installed: codecs that execute what is stored (pickle) or
that turn arrays into free-form documents are refused by name.
"""

from __future__ import annotations

import base64
import binascii
import lzma
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuzarr.codecs import filters
from gpuzarr.codecs.bytes_blosc import Blosc
from gpuzarr.codecs.checksums import Checksum
from gpuzarr.codecs.compressors import LZMA_MEMORY, Bz2, Gzip, Lz4, Lzma, Shuffle, Zlib, Zstd
from gpuzarr.codecs.configuration import Configuration
from gpuzarr.codecs.steps import ByteStep
from gpuzarr.errors import Kind, MetadataError
from gpuzarr.metadata.model import CodecMetadata

__all__ = ["byte_step", "flat_filter", "refuse"]

_NUMCODECS = "numcodecs."

# Bytes that describe themselves: the configuration only guided the writer, unknown keys in it cannot matter.
_SELF_DESCRIBED: dict[str, Callable[[], ByteStep]] = {
    "bz2": Bz2,
    "gzip": Gzip,
    "lz4": Lz4,
    "zlib": Zlib,
    "zstd": Zstd,
}
_CHECKSUM_LOCATION = {
    "crc32": "start",
    "adler32": "start",
    "crc32c": "end",
    "fletcher32": "end",
    "jenkins_lookup3": "end",
}
_UNSAFE = {
    "pickle": "it would execute code from the store",
    "json2": "it stores free-form objects",
    "msgpack2": "it stores free-form objects",
    "msgpack": "it stores free-form objects",
}

FLAT_FILTERS = ("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize")


def refuse(name: str, array: str) -> MetadataError:
    """Error for a codec that is not on the list."""
    bare = name.removeprefix(_NUMCODECS)
    if bare in _UNSAFE:
        return MetadataError(
            f"codec {name!r} is refused: {_UNSAFE[bare]}; rewrite the array with vlen-utf8 or a fixed-width type",
            kind=Kind.CODEC_REFUSED,
            array=array,
        )
    return MetadataError(
        f"codec {name!r} is not on the list of codecs that gpuzarr reads; leave the array out with variables=[...], "
        "or rewrite it with one of those in the documentation of codecs",
        kind=Kind.CODEC_REFUSED,
        array=array,
    )


def byte_step(codec: CodecMetadata, array: str, zarr_format: int, itemsize: int) -> ByteStep | None:
    """The step of a bytes-to-bytes codec, None if ``codec`` is not one.

    Parameters
    ----------
    codec
        As the document lists it.
    array
        Path of the array, for messages.
    zarr_format
        2 or 3: names and some defaults differ.
    itemsize
        Bytes of an element where the codec stands, the default of v3 ``numcodecs.shuffle``.
    """
    configuration = Configuration(codec.name, codec.configuration, array)
    bare = codec.name.removeprefix(_NUMCODECS)
    prefixed = bare != codec.name
    if zarr_format == 3 and not prefixed and bare not in ("blosc", "crc32c", "gzip", "zstd"):
        return None
    if bare in _SELF_DESCRIBED or bare == "blosc":
        for name in ("level", "clevel", "blocksize", "acceleration", "typesize"):
            if configuration.has(name):
                configuration.integer(name)
        return _blosc(configuration, itemsize) if bare == "blosc" else _SELF_DESCRIBED[bare]()
    step: ByteStep | None = None
    if bare == "shuffle":
        default = itemsize if zarr_format == 3 else 4
        step = Shuffle(configuration.integer("elementsize", default, low=0, high=1 << 20))
    elif bare == "lzma":
        step = _lzma(configuration)
    elif bare == "jenkins_lookup3":
        initval = configuration.integer("initval", 0, low=0, high=2**32 - 1)
        step = Checksum(bare, "end", initval, _prefix(configuration))
    elif bare in _CHECKSUM_LOCATION:
        location: Any = _CHECKSUM_LOCATION[bare]
        if bare != "fletcher32" and (zarr_format == 2 or prefixed):
            location = configuration.choice("location", ("start", "end"), location)
        step = Checksum(bare, location)
    if step is not None:
        configuration.finish()
    return step


def flat_filter(
    codec: CodecMetadata, array: str, zarr_format: int, dtype: np.dtype[Any] | None
) -> filters.FlatFilter | None:
    """The filter of a numcodecs codec on values, None if ``codec`` is not one.

    Parameters
    ----------
    codec, array, zarr_format
        As for `byte_step`.
    dtype
        Of the elements where the filter stands, the default of some v3 codecs; None in v2.
    """
    bare = codec.name.removeprefix(_NUMCODECS)
    if bare not in FLAT_FILTERS or (zarr_format == 3 and bare == codec.name):
        return None
    configuration = Configuration(codec.name, codec.configuration, array)
    result = _flat_filter(bare, configuration, dtype)
    configuration.finish()
    return result


def _flat_filter(bare: str, configuration: Configuration, default: np.dtype[Any] | None) -> filters.FlatFilter:
    if bare == "bitround":
        configuration.integer("keepbits", low=0, high=64)
        return filters.BitRound()
    if bare == "packbits":
        return filters.PackBits()
    if bare == "astype":
        encoded = configuration.dtype("encode_dtype")
        return filters.AsType(configuration.dtype("decode_dtype", default), encoded)
    decoded = configuration.dtype("dtype", default if bare != "delta" else None)
    encoded = configuration.dtype("astype", decoded)
    if bare == "delta":
        return filters.Delta(decoded, encoded)
    if bare == "quantize":
        configuration.integer("digits", 0)
        if decoded.kind != "f" or encoded.kind != "f":
            raise configuration.invalid("only floating-point types can be quantized")
        return filters.Quantize(decoded, encoded)
    offset, scale = configuration.number("offset"), configuration.number("scale")
    if scale == 0:
        raise configuration.invalid("'scale' must not be 0")
    return filters.FixedScaleOffset(offset, scale, decoded, encoded)


def _blosc(configuration: Configuration, itemsize: int) -> Blosc:
    cname = configuration.any("cname", "lz4")
    return Blosc(
        cname if isinstance(cname, str) else "lz4",
        configuration.integer("clevel", 5),
        configuration.integer("blocksize", 0),
        configuration.integer("typesize", itemsize),
    )


def _lzma(configuration: Configuration) -> Lzma:
    formats = (lzma.FORMAT_XZ, lzma.FORMAT_ALONE, lzma.FORMAT_RAW)
    form = configuration.integer("format", lzma.FORMAT_XZ, low=1, high=3)
    if form not in formats:
        raise configuration.invalid(f"'format' must be one of {[int(f) for f in formats]}, found {form}")
    for name in ("check", "preset"):
        if configuration.has(name):
            configuration.integer(name)
    listed = configuration.any("filters")
    chain: list[tuple[tuple[str, int], ...]] = []
    if listed is not None and not isinstance(listed, list | tuple):
        raise configuration.invalid("'filters' must be a list")
    for entry in listed or ():
        if not isinstance(entry, dict) or not all(
            isinstance(k, str) and isinstance(v, int) and not isinstance(v, bool) for k, v in entry.items()
        ):
            raise configuration.invalid("'filters' must hold objects with integer values")
        chain.append(tuple(sorted(entry.items())))
    if any(dict(entry).get("dict_size", 0) > LZMA_MEMORY for entry in chain):
        raise configuration.unsupported(f"'filters' with a dictionary beyond {LZMA_MEMORY} bytes")
    if form == lzma.FORMAT_RAW:
        try:
            lzma.LZMADecompressor(form, filters=[dict(f) for f in chain])
        except (lzma.LZMAError, ValueError, TypeError, OverflowError) as error:
            raise configuration.invalid(f"'filters' are not usable: {error}") from error
    return Lzma(form, tuple(chain) if form == lzma.FORMAT_RAW else None)


def _prefix(configuration: Configuration) -> bytes:
    value = configuration.any("prefix")
    if value is None:
        return b""
    if isinstance(value, list) and all(isinstance(b, int) and 0 <= b < 256 for b in value):
        return bytes(value)
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise configuration.invalid("'prefix' is not base64") from error
    raise configuration.invalid("'prefix' must be base64 text or a list of bytes")
