"""What chains are refused, with which error, and what the accepted ones say about themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support_codecs import DictStore, Written, document_v2, document_v3

from gpuzarr.codecs import parse_chain
from gpuzarr.errors import Kind, MetadataError
from gpuzarr.metadata import open_node

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CRC = {"name": "crc32c"}


def named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def shard(
    chunk_shape: list[int], codecs: list[Any] | None = None, index_codecs: list[Any] | None = None, **more: Any
) -> Any:
    return named(
        "sharding_indexed",
        chunk_shape=chunk_shape,
        codecs=[LITTLE] if codecs is None else codecs,
        index_codecs=[LITTLE, CRC] if index_codecs is None else index_codecs,
        **more,
    )


def parse(document: bytes, path: str = "deep/temperature") -> Any:
    name = ".zarray" if b'"zarr_format": 2' in document else "zarr.json"
    return parse_chain(open_node(DictStore({f"{path}/{name}": document}), path))


V2_REFUSED: list[tuple[dict[str, Any], Kind, str]] = [
    ({"filters": [{"id": "pickle"}], "dtype": "|O"}, Kind.CODEC_REFUSED, "pickle"),
    ({"filters": [{"id": "pickle", "protocol": 5}]}, Kind.CODEC_REFUSED, "pickle"),
    ({"compressor": {"id": "pickle"}}, Kind.CODEC_REFUSED, "pickle"),
    ({"filters": [{"id": "msgpack2"}]}, Kind.CODEC_REFUSED, "msgpack2"),
    ({"filters": [{"id": "json2"}]}, Kind.CODEC_REFUSED, "json2"),
    ({"compressor": {"id": "imagecodecs_jpeg2k"}}, Kind.CODEC_REFUSED, "imagecodecs_jpeg2k"),
    ({"compressor": {"id": "numcodecs.zstd"}}, Kind.CODEC_REFUSED, "numcodecs.zstd"),
    ({"compressor": {"id": "pcodec"}}, Kind.CODEC_REFUSED, "pcodec"),
    ({"filters": [{"id": "delta"}]}, Kind.METADATA_INVALID, "dtype"),
    ({"filters": [{"id": "delta", "dtype": "|O"}]}, Kind.METADATA_UNSUPPORTED, "|O"),
    ({"filters": [{"id": "delta", "dtype": "<f4,<f4"}]}, Kind.METADATA_INVALID, "dtype"),
    ({"filters": [{"id": "delta", "dtype": "<f4", "order": 2}]}, Kind.METADATA_UNSUPPORTED, "order"),
    ({"filters": [{"id": "delta", "dtype": "<f8"}], "shape": (7,)}, Kind.METADATA_INVALID, "whole number"),
    ({"filters": [{"id": "zlib"}, {"id": "delta", "dtype": "<f4"}]}, Kind.METADATA_INVALID, "delta"),
    (
        {"filters": [{"id": "fixedscaleoffset", "dtype": "<f4", "scale": 0, "offset": 0}]},
        Kind.METADATA_INVALID,
        "scale",
    ),
    (
        {"filters": [{"id": "fixedscaleoffset", "dtype": "<f4", "scale": "1", "offset": 0}]},
        Kind.METADATA_INVALID,
        "scale",
    ),
    ({"filters": [{"id": "quantize", "dtype": "<i4", "digits": 3}]}, Kind.METADATA_INVALID, "floating"),
    ({"filters": [{"id": "quantize", "dtype": "<f4", "digits": "3"}]}, Kind.METADATA_INVALID, "digits"),
    ({"filters": [{"id": "shuffle", "elementsize": -4}]}, Kind.METADATA_INVALID, "elementsize"),
    ({"filters": [{"id": "crc32", "location": "middle"}]}, Kind.METADATA_INVALID, "location"),
    ({"filters": [{"id": "astype", "encode_dtype": "<f4"}]}, Kind.METADATA_INVALID, "decode_dtype"),
    ({"compressor": {"id": "lzma", "format": 9}}, Kind.METADATA_INVALID, "format"),
    ({"compressor": {"id": "lzma", "format": 3, "filters": [{"id": 1}]}}, Kind.METADATA_INVALID, "filters"),
    (
        {"compressor": {"id": "lzma", "format": 3, "filters": [{"id": 33, "dict_size": 1 << 30}]}},
        Kind.METADATA_UNSUPPORTED,
        "dictionary",
    ),
    ({"compressor": {"id": "lzma", "filters": [{"id": "x"}]}}, Kind.METADATA_INVALID, "filters"),
    ({"compressor": {"id": "zstd", "level": "high"}}, Kind.METADATA_INVALID, "level"),
    ({"filters": [{"id": "jenkins_lookup3", "initval": -1}]}, Kind.METADATA_INVALID, "initval"),
    ({"filters": [{"id": "jenkins_lookup3", "prefix": "?"}]}, Kind.METADATA_INVALID, "prefix"),
    ({"filters": [{"id": "vlen-utf8"}]}, Kind.METADATA_INVALID, "vlen-utf8"),
    ({"filters": [{"id": "crc32"}] * 40}, Kind.METADATA_LIMIT, "40"),
    ({"shape": (10**9, 10**9)}, Kind.METADATA_LIMIT, "bytes"),
]


@pytest.mark.parametrize(("options", "kind", "text"), V2_REFUSED, ids=lambda v: str(v)[:50])
def test_v2_is_refused(options, kind, text):
    options = dict(options)
    compressor, filters = options.pop("compressor", None), options.pop("filters", None)
    with pytest.raises(MetadataError) as caught:
        parse(document_v2(compressor, filters, **options))
    assert caught.value.kind is kind
    assert caught.value.array == "deep/temperature"
    assert text in str(caught.value)


V3_REFUSED: list[tuple[list[Any], Kind, str]] = [
    ([LITTLE, named("pickle")], Kind.CODEC_REFUSED, "pickle"),
    ([named("numcodecs.pickle")], Kind.CODEC_REFUSED, "numcodecs.pickle"),
    ([LITTLE, named("numcodecs.msgpack2")], Kind.CODEC_REFUSED, "msgpack2"),
    ([LITTLE, named("zfp")], Kind.CODEC_REFUSED, "zfp"),
    ([LITTLE, named("lz4")], Kind.CODEC_REFUSED, "'lz4'"),
    ([named("zstd"), LITTLE], Kind.METADATA_INVALID, "before"),
    ([LITTLE, named("transpose", order=[0])], Kind.METADATA_INVALID, "after"),
    ([LITTLE, LITTLE], Kind.METADATA_INVALID, "after"),
    ([named("transpose", order=[0])], Kind.METADATA_INVALID, "No codec turns"),
    ([named("transpose", order=[1]), LITTLE], Kind.METADATA_INVALID, "order"),
    ([named("transpose", order=[True]), LITTLE], Kind.METADATA_INVALID, "order"),
    ([named("transpose", order=[0], axes=1), LITTLE], Kind.METADATA_UNSUPPORTED, "axes"),
    ([named("bytes", endian="middle")], Kind.METADATA_INVALID, "endian"),
    ([named("bytes")], Kind.METADATA_INVALID, "endian"),
    ([named("vlen-utf8")], Kind.METADATA_INVALID, "vlen-utf8"),
    ([named("numcodecs.delta", dtype="<i8"), LITTLE], Kind.METADATA_INVALID, "delta"),
    ([named("scale_offset", offset=1, scale=0), LITTLE], Kind.METADATA_INVALID, "scale"),
    ([named("scale_offset", offset=[1], scale=1), LITTLE], Kind.METADATA_INVALID, "offset"),
    ([named("scale_offset", offset=1, scale=1, bias=1), LITTLE], Kind.METADATA_UNSUPPORTED, "bias"),
    ([named("cast_value", data_type="bool"), LITTLE], Kind.METADATA_UNSUPPORTED, "bool"),
    ([named("cast_value"), LITTLE], Kind.METADATA_INVALID, "data_type"),
    ([named("cast_value", data_type="uint8", rounding="up"), LITTLE], Kind.METADATA_INVALID, "rounding"),
    ([named("cast_value", data_type="float64", out_of_range="wrap"), LITTLE], Kind.METADATA_INVALID, "wrap"),
    ([named("cast_value", data_type="uint8", scalar_map={"decode": [[256, 1]]}), LITTLE], Kind.METADATA_INVALID, "256"),
    ([named("cast_value", data_type="uint8", scalar_map={"decode": [1]}), LITTLE], Kind.METADATA_INVALID, "pairs"),
    ([named("scale_offset", offset=1, scale=2), shard([2])], Kind.METADATA_UNSUPPORTED, "before sharding"),
    ([shard([3])], Kind.METADATA_INVALID, "chunk_shape"),
    ([shard([2, 2])], Kind.METADATA_INVALID, "chunk_shape"),
    ([shard([2], index_location="middle")], Kind.METADATA_INVALID, "index_location"),
    ([shard([2], index_codecs=[LITTLE, named("gzip")])], Kind.METADATA_INVALID, "fixed size"),
    ([shard([2], index_codecs=[])], Kind.METADATA_INVALID, "index_codecs"),
    ([shard([2], codecs=[{"nam": "bytes"}])], Kind.METADATA_INVALID, "codecs"),
    ([shard([2], codecs=[LITTLE, named("numcodecs.pickle")])], Kind.CODEC_REFUSED, "pickle"),
    ([shard([2], index_codecs=[shard([1], index_codecs=[LITTLE]), CRC])], Kind.METADATA_INVALID, "index_codecs"),
    ([shard([8], [shard([8], [shard([8], [shard([8], [shard([8])])])])])], Kind.METADATA_LIMIT, "nested"),
]


@pytest.mark.parametrize(("codecs", "kind", "text"), V3_REFUSED, ids=lambda v: str(v)[:60])
def test_v3_is_refused(codecs, kind, text):
    with pytest.raises(MetadataError) as caught:
        parse(document_v3(codecs))
    assert caught.value.kind is kind
    assert caught.value.array == "deep/temperature"
    assert text in str(caught.value)


def test_a_shard_index_has_bounds():
    document = json.loads(document_v3([shard([1])], shape=(2**40,), data_type="int8"))
    with pytest.raises(MetadataError, match="index") as caught:
        parse(json.dumps(document).encode())
    assert caught.value.kind is Kind.METADATA_LIMIT


def test_what_chains_say_about_themselves():
    def chain(codecs: list[Any], **options: Any) -> Any:
        return parse(document_v3(codecs, **options))

    plain = chain([LITTLE])
    assert plain.describe() == "uncompressed"
    assert plain.identity
    assert not plain.is_verified
    assert plain.chunk_nbytes == 32
    assert not chain([named("bytes", endian="big")]).identity
    assert not chain([named("transpose", order=[1, 0]), LITTLE], shape=(2, 3)).identity
    assert chain([named("transpose", order=[1, 0]), LITTLE], shape=(1, 3)).identity  # the same bytes
    assert chain([named("transpose", order="F"), LITTLE, named("zstd")], shape=(2, 3)).describe() == "transpose+zstd"
    assert chain([LITTLE, named("gzip")]).is_verified
    assert chain([LITTLE, named("blosc"), CRC]).is_verified
    assert not chain([LITTLE, named("blosc")]).is_verified
    nested = chain([shard([4], [shard([2], [LITTLE, named("numcodecs.zlib")])])])
    assert nested.describe() == "sharded(sharded(zlib))"
    assert nested.chunk_shape == (2,)
    assert nested.is_sharded
    assert [s.index_nbytes for s in nested.shards] == [36, 36]
    # a codec may be given by its name alone, extra keys of a compressor are for the writer
    assert chain(["bytes"], data_type="int8").identity
    assert chain([LITTLE, named("zstd", level=3, checksum=False, strategy="fast")]).describe() == "zstd"
    v2 = parse(document_v2({"id": "blosc", "cname": "lz4"}, [{"id": "delta", "dtype": "<f4"}], order="F", shape=(4, 2)))
    assert v2.describe() == "delta+blosc"


def test_refused_codecs_run_no_code(tmp_path):
    import pickle

    canary = tmp_path / "canary"

    class Bad:
        def __reduce__(self):
            return open, (str(canary), "w")

    document = document_v2(None, [{"id": "pickle"}], dtype="|O")
    with pytest.raises(MetadataError):
        Written.open(DictStore({".zarray": document, "0": pickle.dumps([Bad()])})).read()
    assert not canary.exists()
