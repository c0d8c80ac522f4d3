"""Damage stored chunks in every way and read them: the right answer or one located error, memory bounded, no crash.

    python ci/fuzz_codecs.py --count 100000 --seed 1

Each input is a small array of one codec chain whose objects are damaged: bits flipped, cut short, lengthened, header
fields replaced by lies, spans zeroed or copied over, shard indexes rewritten (with a right checksum too). An input counts as

- ``right``: the values are those that were written,
- ``error``: one `ChunkError` that names array, key and byte range,
- ``silent``: other values; a failure where a checksum covers what was damaged, expected elsewhere.

Ends with an error on the first input that behaves otherwise, and says how to repeat it.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa
import zarr.codecs as zc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support_codecs import DictStore, Written, write

from gpuzarr.codecs.checksums import crc32c
from gpuzarr.errors import ChunkError

SLACK = 16 << 20
SPECIAL = (
    0,
    1,
    2,
    15,
    16,
    127,
    128,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 16,
    2**64 - 2,
)


@dataclass(frozen=True)
class Case:
    """An array to damage.

    Parameters
    ----------
    name
        Of its chain.
    written
        Its objects.
    expected
        Its values.
    is_verified
        Whether checksums cover every byte whose change could change a value.
    """

    name: str
    written: Written
    expected: np.ndarray
    is_verified: bool


def cases() -> list[Case]:
    """One small array per kind of chain."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-2, 3, (40, 33)), axis=0)
    found: list[Case] = []

    def add(name: str, dtype: str, verified: bool, **options: Any) -> None:
        data = smooth.astype(dtype)
        options.setdefault("chunks", (23, 17))
        written = write(data, fill_value=0, **options)
        expected = written.read()
        if not name.startswith("lossy"):
            assert (expected == data).all(), name
        found.append(Case(name, written, expected, verified))

    def v2(name: str, dtype: str, verified: bool, compressor: Any, filters: Any = (), order: str = "C") -> None:
        add(name, dtype, verified, zarr_format=2, compressors=compressor, filters=list(filters), order=order)

    v2("none", "<f4", False, None)
    v2("zstd", "<f4", False, numcodecs.Zstd(3))
    v2("zstd+checksum", "<f4", True, numcodecs.Zstd(3, checksum=True))
    v2("gzip", ">f4", True, numcodecs.GZip(1), order="F")
    v2("zlib", "<i2", True, numcodecs.Zlib(1))
    v2("bz2", "<i2", True, numcodecs.BZ2(1))
    v2("lzma", "<i2", True, numcodecs.LZMA(check=1, preset=0))
    v2("lzma-raw", "<i2", False, numcodecs.LZMA(format=3, filters=[{"id": 33, "preset": 0}]))
    v2("lz4", "<f8", False, numcodecs.LZ4())
    for cname in ("lz4", "zstd", "zlib", "blosclz"):
        for shuffle in (0, 1, 2):
            v2(f"blosc-{cname}-{shuffle}", "<f4", False, numcodecs.Blosc(cname, 5, shuffle, blocksize=512))
    v2("delta+shuffle+zlib", "<i4", True, numcodecs.Zlib(1), [numcodecs.Delta("<i4"), numcodecs.Shuffle(4)])
    v2("packbits", "|b1", False, None, [numcodecs.PackBits()])
    for checksum in (numcodecs.CRC32(), numcodecs.CRC32C(), numcodecs.Adler32(), numcodecs.JenkinsLookup3()):
        v2(checksum.codec_id, "<i4", True, None, [checksum])
    v2("fletcher32", "<i4", False, None, [numcodecs.Fletcher32()])  # it cannot tell words of 0x0000 from 0xffff
    v2("blosc+crc32", "<i4", True, numcodecs.Blosc("zstd"), [numcodecs.CRC32()])
    add("crc32c-v3", "<f4", True, compressors=[zc.Crc32cCodec()])
    add("zstd+crc32c", "<f4", True, compressors=[zc.ZstdCodec(level=1), zc.Crc32cCodec()])
    add("blosc+crc32c", "<f4", True, compressors=[zc.BloscCodec(cname="lz4", blocksize=512), zc.Crc32cCodec()])
    for location in ("start", "end"):
        for codec, verified in (([], False), ([zc.ZstdCodec(level=1)], False), ([zc.Crc32cCodec()], True)):
            shards = {"shape": (46, 34), "index_location": location}
            name = f"shard-{location}-{'+'.join(type(c).__name__ for c in codec)}"
            add(name, "<f4", verified, chunks=(23, 17), shards=shards, compressors=codec)
    blosc = [zc.BloscCodec(cname="lz4", blocksize=256)]
    add("shard-blosc", "<f4", False, chunks=(23, 17), shards=(46, 34), compressors=blosc)
    inner = zc.ShardingCodec(chunk_shape=(4, 5), codecs=[zc.BytesCodec(), zc.Crc32cCodec()])
    outer = zc.ShardingCodec(chunk_shape=(8, 10), codecs=[inner])
    add("shard-nested", "<f4", True, chunks=(24, 20), serializer=outer, compressors=[])
    unchecked = {"shape": (46, 34), "index_codecs": [zc.BytesCodec()], "index_location": "end"}
    add("shard-unchecked", "<f4", False, chunks=(23, 17), shards=unchecked, compressors=[zc.ZstdCodec(level=1)])
    words = np.array([["", "a", "größe", "word" * 9][i] for i in rng.integers(0, 4, 60)], object)
    stored = numcodecs.VLenUTF8().encode(words)
    for compressor in (None, numcodecs.Zstd(1), numcodecs.Blosc("lz4")):
        config = None if compressor is None else compressor.get_config()
        document = {
            "zarr_format": 2, "shape": [60], "chunks": [60], "dtype": "|O", "order": "C", "fill_value": "",
            "compressor": config, "filters": [{"id": "vlen-utf8"}],
        }  # fmt: skip
        packed = bytes(stored if compressor is None else compressor.encode(stored))
        written = Written.open(DictStore({".zarray": json.dumps(document).encode(), "0": packed}))
        found.append(Case(f"vlen-{compressor and compressor.codec_id}", written, words, False))
    return found


def flip(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    for _ in range(int(rng.integers(1, 5))):
        data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    return data


def flip_in_head(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    data[int(rng.integers(0, min(len(data), 40)))] = int(rng.integers(0, 256))
    return data


def cut(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def lengthen(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    return data + rng.bytes(int(rng.integers(1, 40))) if rng.random() < 0.5 else data + bytes(int(rng.integers(1, 40)))


def lie(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    width = int(rng.choice([4, 8]))
    at = int(rng.integers(0, min(max(1, len(data) - width), 80)))
    value = int(SPECIAL[int(rng.integers(0, len(SPECIAL)))]) & (2 ** (8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, "little")
    return data


def wipe(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    a, b = sorted(int(x) for x in rng.integers(0, len(data) + 1, 2))
    data[a:b] = bytes(b - a) if rng.random() < 0.5 else rng.bytes(b - a)
    return data


def move(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    n = int(rng.integers(1, len(data) + 1))
    a, b = (int(x) for x in rng.integers(0, len(data) - n + 1, 2))
    data[a : a + n] = data[b : b + n]
    return data


def rewrite_index(data: bytearray, rng: np.random.Generator, case: Case) -> bytearray:
    """Entries of a shard index replaced, with the checksum made right again half of the time."""
    if not case.written.chain.shards:
        return flip(data, rng, case)
    layout = case.written.chain.shards[0]
    n = layout.index_nbytes
    start = 0 if layout.index_location == "start" else len(data) - n
    checked = n % 16 != 0
    entries = np.frombuffer(bytes(data[start : start + n - 4 * checked]), "<u8").copy()
    for _ in range(int(rng.integers(1, 4))):
        what = int(rng.integers(0, len(entries)))
        choice = rng.random()
        if choice < 0.4:
            entries[what] = np.uint64(SPECIAL[int(rng.integers(0, len(SPECIAL)))])
        elif choice < 0.7:
            entries[what] = np.uint64(int(rng.integers(0, 2 * len(data))))
        else:
            entries[what] = entries[int(rng.integers(0, len(entries)))]
    raw = entries.tobytes()
    data[start : start + len(raw)] = raw
    if checked and rng.random() < 0.7:
        value = crc32c(np.frombuffer(raw, np.uint8))
        data[start + n - 4 : start + n] = struct.pack("<I", value)
    return data


DAMAGES: list[Callable[[bytearray, np.random.Generator, Case], bytearray]] = [
    flip, flip, flip, flip_in_head, cut, cut, lengthen, lie, wipe, move, rewrite_index,
]  # fmt: skip


def boxes_for(written: Written, rng: np.random.Generator) -> np.ndarray:
    """A random box in every chunk."""
    shape = written.chain.chunk_shape
    boxes = np.empty((len(written.indices()), len(shape), 2), np.int64)
    for axis, n in enumerate(shape):
        low = rng.integers(0, n, len(boxes))
        boxes[:, axis, 0], boxes[:, axis, 1] = low, rng.integers(low + 1, n + 1)
    return boxes


def read_boxes(written: Written, expected: np.ndarray, rng: np.random.Generator) -> bool:
    """Read a part of every chunk; whether all that was asked for is right."""
    boxes, indices = boxes_for(written, rng), written.indices()
    right = True

    def place(position: int, chunk: np.ndarray | None) -> None:
        nonlocal right
        low = indices[position] * np.array(written.chain.chunk_shape)
        inside = tuple(
            slice(int(a), max(int(a), min(int(b), n - int(o))))
            for (a, b), n, o in zip(boxes[position], expected.shape, low, strict=True)
        )
        whole = tuple(slice(int(o) + s.start, int(o) + s.stop) for s, o in zip(inside, low, strict=True))
        found = np.zeros((), expected.dtype) if chunk is None else chunk[inside]
        right = right and bool((found == expected[whole]).all())

    reader = written.reader()
    for group in reader.groups(indices):
        reader.read(group, indices, place, boxes=boxes)
    return right


def judge(case: Case, key: str, damaged: bytes, mode: int, rng: np.random.Generator) -> str:
    """Outcome of one input; raises AssertionError where a promise is broken."""
    store = DictStore({**case.written.store.objects, key: damaged}, is_local=bool(mode & 1))
    written = Written(store, case.written.array, case.written.chain)
    budget = case.expected.nbytes + SLACK
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        if mode & 2:
            right = read_boxes(written, case.expected, rng)
        else:
            right = bool((written.read(out=bool(mode & 4)) == case.expected).all())
        outcome = "right" if right else "silent"
    except ChunkError as error:
        located = error.array is not None and error.key == key and error.byte_range is not None
        if not located or not 0 <= error.byte_range[0] <= error.byte_range[1]:
            raise AssertionError(f"not located: {error}") from error
        outcome = "error"
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= budget, f"{peak - before} bytes allocated"
    return outcome


def run(count: int, seed: int, *, progress: bool = False) -> dict[str, collections.Counter[str]]:
    """Damage ``count`` inputs; outcomes per chain."""
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    all_cases = cases()
    for case in all_cases:  # what is allocated once belongs to no input
        judge(case, next(k for k in case.written.store.objects if "z" not in k), b"", 1, np.random.default_rng(0))
    started = not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            case = all_cases[number % len(all_cases)]
            objects = case.written.store.objects
            keys = sorted(k for k in objects if not k.startswith(".z") and not k.endswith("zarr.json"))
            key = keys[int(rng.integers(0, len(keys)))]
            damage = DAMAGES[int(rng.integers(0, len(DAMAGES)))]
            damaged = bytes(damage(bytearray(objects[key]), rng, case))
            mode = int(rng.integers(0, 8))
            try:
                outcome = judge(case, key, damaged, mode, rng)
            except Exception as error:
                note = f"input {number} of seed {seed}: {case.name}, {damage.__name__}, key {key!r}, mode {mode}"
                raise AssertionError(note) from error
            if damaged == objects[key]:
                assert outcome == "right"
                outcome = "undamaged"
            # a rewritten index with a right checksum may say that a chunk is another one or is not stored
            lied = damage is rewrite_index and case.written.chain.is_sharded
            if outcome == "silent" and case.is_verified and not lied:
                raise AssertionError(
                    f"not noticed: input {number} of seed {seed}: {case.name}, {damage.__name__}, {key!r}"
                )
            table[case.name][outcome] += 1
            if progress and number % 10_000 == 9_999:
                print(f"{number + 1} inputs", file=sys.stderr, flush=True)
    finally:
        if started:
            tracemalloc.stop()
    return table


def peak_rss() -> int:
    """High-water mark of the process's memory in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    run(500, options.seed + 1)
    before, begin = peak_rss(), time.monotonic()
    table = run(options.count, options.seed, progress=True)
    outcomes = ("right", "error", "silent", "undamaged")
    print(f"{'chain':28}" + "".join(f"{o:>11}" for o in outcomes))
    for name, row in table.items():
        print(f"{name:28}" + "".join(f"{row[o]:11}" for o in outcomes))
    total = sum(table.values(), collections.Counter())
    print(f"{'all':28}" + "".join(f"{total[o]:11}" for o in outcomes))
    print(
        f"{time.monotonic() - begin:.0f} s; peak memory of the process grew by {(peak_rss() - before) >> 10} KiB, "
        f"of pyarrow's pool at most {pa.default_memory_pool().max_memory() >> 10} KiB"
    )


if __name__ == "__main__":
    main()
