"""Hostile and damaged chunks: one located error, never more memory than the metadata allow."""

from __future__ import annotations

import importlib.util
import lzma
import struct
import subprocess
import sys
import tracemalloc
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zstandard
from support_codecs import DictStore, Written, document_v2, document_v3

from gpuzarr.codecs import parse_chain
from gpuzarr.errors import ChunkError, Kind
from gpuzarr.metadata import open_node

ROOT = Path(__file__).resolve().parent.parent
SLACK = 16 << 20
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def fuzzer() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_codecs", ROOT / "ci" / "fuzz_codecs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_codecs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not (ROOT / "ci" / "fuzz_codecs.py").exists(), reason="the ci folder is not here")
def test_random_damage():
    table = fuzzer().run(1500, 3)
    assert sum(sum(row.values()) for row in table.values()) == 1500
    assert all(row["error"] for row in table.values())  # every chain notices something


def chain_of(document: bytes) -> Any:
    name = ".zarray" if b'"zarr_format": 2' in document else "zarr.json"
    return parse_chain(open_node(DictStore({name: document}), ""))


@cache
def frames(size: int) -> dict[str, tuple[bytes, bytes]]:
    """Per chain a document of ``size`` bytes and the stored bytes of as many zeros."""
    zeros = np.zeros(size, "u1")
    v2 = {"shape": (size,), "dtype": "|u1"}
    zstd = numcodecs.Zstd(1, checksum=True)
    found = {
        name: (document_v2(codec.get_config(), **v2), bytes(codec.encode(zeros)))
        for name, codec in {
            "zstd": zstd,
            "gzip": numcodecs.GZip(1),
            "zlib": numcodecs.Zlib(1),
            "lz4": numcodecs.LZ4(),
            "bz2": numcodecs.BZ2(1),
            "lzma": numcodecs.LZMA(preset=0),
            "blosc-lz4": numcodecs.Blosc("lz4"),
            "blosc-zstd": numcodecs.Blosc("zstd"),
            "none": None,
        }.items()
        if codec is not None
    }
    found["none"] = (document_v2(None, **v2), bytes(size))
    found["crc32c"] = (document_v2(None, [{"id": "crc32c"}], **v2), bytes(numcodecs.CRC32C().encode(zeros)))
    found["zstd twice"] = (
        document_v3([LITTLE, {"name": "zstd"}, {"name": "gzip"}], shape=(size,), data_type="uint8"),
        numcodecs.GZip(1).encode(zstd.encode(zeros)),
    )
    return found


@pytest.mark.parametrize("name", list(frames(8)))
def test_every_truncation_and_trailing_byte(name):
    document, stored = frames(300)[name]
    chain = chain_of(document)
    assert chain.decode(stored).tobytes() == bytes(300)
    for end in range(len(stored)):
        with pytest.raises(ChunkError) as caught:
            chain.decode(stored[:end])
        assert caught.value.kind in (
            Kind.CHUNK_TRUNCATED,
            Kind.CHUNK_SIZE_MISMATCH,
            Kind.CHUNK_DECODE,
            Kind.CHUNK_CHECKSUM,
        )
    for tail in (b"\0", b"\0" * 16, b"tail"):
        with pytest.raises(ChunkError):
            chain.decode(stored + tail)


def peak_of(chain: Any, stored: bytes) -> int:
    """Bytes that Python and numpy held at most while a refused chunk was decoded."""
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError):
            chain.decode(stored)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [n for n in frames(8) if n not in ("none", "crc32c")])
def test_bombs_are_not_unpacked(name):
    document, _ = frames(1000)[name]
    _, bomb = frames(64 << 20)[name]
    assert len(bomb) < 1 << 20
    assert peak_of(chain_of(document), bomb) < SLACK


def test_inner_bombs_are_not_unpacked():
    """The size between two compressors is bounded too: here by what the outer one may yield for 1,000 values."""
    codecs = [LITTLE, {"name": "gzip"}, {"name": "zstd"}]
    chain = chain_of(document_v3(codecs, shape=(1000,), data_type="uint8"))
    outer = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    assert peak_of(chain, outer) < SLACK
    inner = numcodecs.GZip(9).encode(bytes(64 << 20))
    assert peak_of(chain, zstandard.ZstdCompressor().compress(inner)) < SLACK


LIES = {
    "blosc: nbytes": struct.pack("<BBBBiii", 2, 1, 0x21, 1, 2**31 - 17, 2**20, 16 + 4 * 2048 + 16)
    + bytes(4 * 2048 + 16),
    "blosc: plain copy": struct.pack("<BBBBiii", 2, 1, 0x23, 1, 2**31 - 17, 2**20, 2**31 - 1),
    "blosc: negative": struct.pack("<BBBBiii", 2, 1, 0x21, 1, -8, 8, 40) + bytes(24),
    "blosc: block size": struct.pack("<BBBBiii", 2, 1, 0x21, 1, 8000, 2**31 - 1, 40) + bytes(24),
    "blosc: block size 0": struct.pack("<BBBBiii", 2, 1, 0x21, 1, 8000, 0, 40) + bytes(24),
    "blosc: block offset": struct.pack("<BBBBiiii", 2, 1, 0x31, 1, 8000, 8000, 40, -4) + bytes(20),
    "blosc: cbytes": struct.pack("<BBBBiiii", 2, 1, 0x31, 1, 8000, 8000, 2**30, 20) + bytes(20),
    "blosc: stream size": struct.pack("<BBBBiiiii", 2, 1, 0x31, 1, 8000, 8000, 40, 20, 2**31 - 1) + bytes(16),
    "blosc: empty": struct.pack("<BBBBiii", 2, 1, 0x21, 1, 0, 0, 16),
    "lz4: size": struct.pack("<i", 2**31 - 1) + bytes(8),
    "lz4: negative size": struct.pack("<i", -1) + bytes(8),
    "lz4: short stream": struct.pack("<i", 8000) + b"\x10a",
    "zstd: content size": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + b"\x01\x00\x00",
    "lzma: dictionary": lzma.compress(
        bytes(8000), lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    ),
    "zlib: dictionary": zlib.compress(bytes(8000))[:1] + b"\xbb" + zlib.compress(bytes(8000))[2:],
}


@pytest.mark.parametrize("lie", list(LIES))
def test_lying_headers(lie):
    codec = lie.partition(":")[0]
    fixed = chain_of(document_v2({"id": codec}, shape=(8000,), dtype="|u1"))
    assert peak_of(fixed, LIES[lie]) < SLACK
    if codec != "zlib":  # where no size is fixed
        loose = chain_of(document_v2({"id": codec}, [{"id": "vlen-utf8"}], shape=(8,), dtype="|O"))
        assert peak_of(loose, LIES[lie]) < SLACK


def test_variable_length_lies():
    chain = chain_of(document_v2(None, [{"id": "vlen-utf8"}], shape=(2,), dtype="|O"))
    good = struct.pack("<II", 2, 1) + b"a" + struct.pack("<I", 2) + b"bc"
    assert chain.decode(good).tolist() == ["a", "bc"]
    for stored, kind in (
        (b"", Kind.CHUNK_TRUNCATED),
        (good[:-1], Kind.CHUNK_TRUNCATED),
        (good + b"x", Kind.CHUNK_SIZE_MISMATCH),
        (struct.pack("<I", 2**32 - 1) + good[4:], Kind.CHUNK_SIZE_MISMATCH),
        (struct.pack("<III", 2, 2**32 - 1, 0), Kind.CHUNK_TRUNCATED),
        (struct.pack("<II", 2, 1) + b"\xff" + struct.pack("<I", 0), Kind.CHUNK_DECODE),
    ):
        with pytest.raises(ChunkError) as caught:
            chain.decode(stored)
        assert caught.value.kind is kind, stored


def test_unusable_values_are_errors_of_the_chunk():
    packed = chain_of(document_v2(None, [{"id": "packbits"}], shape=(9,), dtype="|b1"))
    assert packed.decode(bytes([7, 0xFF, 0x80])).all()
    with pytest.raises(ChunkError):
        packed.decode(bytes([6, 0xFF, 0x80]))
    with pytest.raises(ChunkError):
        packed.decode(bytes([7, 0xFF]))


@pytest.mark.slow
def test_peak_memory_of_the_process():
    """Foreign decoders included: a child process meets the bombs, its high-water mark hardly moves."""
    code = """
import resource, sys
sys.path[:0] = [{tests!r}]
import test_codecs_damage as t
from gpuzarr.errors import ChunkError
names = [n for n in t.frames(8) if n not in ("none", "crc32c")]
chains = {{n: t.chain_of(t.frames(1000)[n][0]) for n in names}}
for n in names:
    chains[n].decode(t.frames(1000)[n][1])
import pickle
bombs = pickle.load(open({path!r}, "rb"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in names:
    try:
        chains[n].decode(bombs[n])
    except ChunkError:
        continue
    raise SystemExit(f"{{n}} was decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    import pickle
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bombs")
        Path(path).write_bytes(pickle.dumps({n: stored for n, (_, stored) in frames(64 << 20).items() if n != "none"}))
        script = code.format(tests=str(Path(__file__).parent), path=path)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < SLACK >> 10


def test_errors_name_array_key_and_bytes():
    document = document_v2({"id": "zstd"}, shape=(4, 4), chunks=(2, 2))
    written = Written.open(DictStore({".zarray": document, "0.0": b"\0" * 20}))
    with pytest.raises(ChunkError) as caught:
        written.read()
    error = caught.value
    assert (error.array, error.key, error.byte_range) == ("", "0.0", (0, 20))
    assert "key '0.0'" in str(error)
