"""The chunk reader: what it requests, what it hands out, and that the bill says the same."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
import zarr.codecs as zc
from hypothesis import given
from hypothesis import strategies as st
from support_codecs import DictStore, Written, write
from support_counting import CountingStore
from support_reading import check_boxes, noise, random_boxes

from gpuzarr.codecs.blosc import HEADER_NBYTES, block_spans, parse_header, parse_offsets
from gpuzarr.codecs.bytes_blosc import touched_blocks
from gpuzarr.codecs.layout import StoredLayout
from gpuzarr.errors import ChunkError, Kind
from gpuzarr.reader.policy import costs_of
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.ranges import coalesce


def smooth(shape: tuple[int, ...], dtype: str = "<f4") -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.cumsum(rng.integers(-3, 4, shape), axis=0).astype(dtype)


def counting(written: Written) -> CountingStore:
    return CountingStore(written.store)


def spans_requested(store: CountingStore, key: str) -> list[tuple[int, int]]:
    """(start, stop) of all bytes asked of an object, whole ones and suffixes too."""
    size = store.inner.size(key) or 0
    spans = []
    for request in store.requests:
        if request.key != key or request.method in ("size", "list_dir"):
            continue
        if request.method == "get":
            spans.append((0, size))
        elif request.start is None:
            spans.append((max(0, size - (request.length or 0)), size))
        else:
            spans.append((request.start, request.start + (request.length or 0)))
    return sorted(spans)


LAYOUTS: list[dict[str, Any]] = [
    {"compressors": []},
    {"compressors": [], "serializer": zc.BytesCodec(endian="big")},
    {"compressors": [], "filters": [zc.TransposeCodec(order=(2, 0, 1))]},
    {"compressors": [zc.BloscCodec(cname="lz4", clevel=5, blocksize=8192)]},
    {"compressors": [zc.BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", blocksize=4096)], "serializer": zc.BytesCodec(endian="big")},
    {"compressors": [zc.BloscCodec(cname="lz4", clevel=0)]},
    {"compressors": [zc.BloscCodec(cname="lz4", blocksize=8192)], "filters": [zc.TransposeCodec(order=(2, 1, 0))]},
    {"compressors": [zc.BloscCodec(cname="lz4", blocksize=8192), zc.Crc32cCodec()]},
    {"compressors": [zc.ZstdCodec(level=1)]},
]  # fmt: skip


@pytest.mark.parametrize("options", LAYOUTS, ids=lambda o: str(o)[:70])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("is_local", [True, False])
def test_partial_reads_and_their_bill(options, sharded, is_local):
    data = noise((60, 100, 70))
    chunks = (40, 64, 48)
    shards = {"shape": (80, 128, 96), "index_location": "start" if is_local else "end"} if sharded else None
    written = write(data, chunks=chunks, shards=shards, fill_value=None, is_local=is_local, **options)
    rng = np.random.default_rng(5)
    everything = written.indices()
    for _ in range(6):
        indices = everything[np.sort(rng.permutation(len(everything))[: rng.integers(1, len(everything) + 1)])]
        boxes = random_boxes(rng, chunks, len(indices))
        store = counting(written)
        statistics = ScanStatistics()
        reader = written.reader(statistics, store)
        bills = [written.reader(store=written.store).stored_bytes(g, indices, boxes) for g in reader.groups(indices)]
        check_boxes(written, data, reader, indices, boxes)
        assert all(exact for _, _, exact in bills)
        assert sum(n for n, _, _ in bills) == statistics.requests
        assert sum(n for _, n, _ in bills) == statistics.bytes_read
        for key in {request.key for request in store.requests}:
            spans = spans_requested(store, key)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), "bytes were asked for twice"
        assert statistics.bytes_read == sum(
            b - a for k in {r.key for r in store.requests} for a, b in spans_requested(store, k)
        )
        assert statistics.chunks_read == len(indices)


def test_one_inner_chunk_reads_the_index_and_its_range():
    data = smooth((64, 64))
    for location in ("start", "end"):
        written = write(data, chunks=(8, 8), shards={"shape": (32, 32), "index_location": location}, fill_value=0)
        layout = written.chain.shards[0]
        for index in ([0, 0], [5, 6], [7, 7]):
            store = counting(written)
            reader = written.reader(store=store)
            indices = np.array([index], np.int64)
            (group,) = reader.groups(indices)
            for _ in range(2):  # the second time the index is known
                reader.read(group, indices, lambda p, a: None)
            size = store.inner.size(group.key)
            assert size is not None
            low = 0 if location == "start" else size - layout.index_nbytes
            spans = [s for s in spans_requested(store, group.key) if s != (low, low + layout.index_nbytes)]
            assert len(spans) == 2
            assert spans[0] == spans[1]
            stored = layout.read_index(
                np.frombuffer(store.inner.get_range(group.key, low, layout.index_nbytes), "u1"), size
            )
            flat = (index[0] % 4) * 4 + index[1] % 4
            start, length = int(stored.offsets[flat]), int(stored.lengths[flat])
            assert spans[0] == (start, start + length)


def test_whole_shards_take_one_request():
    data = smooth((60, 64))  # shards of the second row are cut off by the array's edge
    written = write(data, chunks=(8, 8), shards=(32, 32), fill_value=0)
    store = counting(written)
    assert (written.read(reader=written.reader(store=store)) == data).all()
    assert [r.method for r in store.requests] == ["get"] * 4


def test_a_point_of_every_chunk_does_not_take_the_whole_shard():
    data = noise((8, 512, 512))
    written = write(data, chunks=(1, 512, 512), shards=(8, 512, 512), compressors=[], fill_value=0)
    indices = written.indices()
    boxes = np.broadcast_to(np.array([[0, 1], [7, 8], [9, 10]]), (8, 3, 2))
    statistics = ScanStatistics()
    check_boxes(written, data, written.reader(statistics), indices, boxes)
    assert statistics.bytes_read == 8 * 4 + written.chain.shards[0].index_nbytes
    assert statistics.bytes_decoded == 8 * 4


def test_groups_keep_every_position():
    written = write(smooth((64, 64)), chunks=(4, 4), shards=(16, 16), fill_value=0)
    indices = written.indices()[np.random.default_rng(0).permutation(256)[:100]]
    groups = written.reader().groups(indices)
    assert sorted(np.concatenate([g.positions for g in groups]).tolist()) == list(range(100))
    for group in groups:
        assert (indices[group.positions] // 4 == group.object_index).all()
        assert group.key == f"c/{group.object_index[0]}/{group.object_index[1]}"
    firsts = [int(g.positions[0]) for g in groups]
    assert firsts == sorted(firsts)


def test_nested_shards_read_each_index_once():
    data = smooth((48, 48), "<f8")
    inner = zc.ShardingCodec(chunk_shape=(4, 4), codecs=[zc.BytesCodec(), zc.Crc32cCodec()], index_location="start")
    outer = zc.ShardingCodec(chunk_shape=(12, 12), codecs=[inner])
    written = write(data, chunks=(24, 24), serializer=outer, compressors=[], fill_value=0)
    store = counting(written)
    reader = written.reader(store=store)
    indices = np.array([[0, 0], [1, 1], [4, 4], [5, 0]], np.int64)
    boxes = np.broadcast_to(np.array([[0, 4], [0, 4]]), (4, 2, 2))
    for _ in range(2):
        check_boxes(written, data, reader, indices, boxes)
    indexes = [r for r in store.requests if r.length in {layout.index_nbytes for layout in written.chain.shards}]
    assert len(indexes) == 1 + 3  # the object's, and those of three nested shards


STORED_IN_PART = {
    "whole": {"compressors": [zc.ZstdCodec()]},
    "rows": {"compressors": []},
    "blocks": {"compressors": [zc.BloscCodec(cname="lz4", blocksize=8192)]},
    "shard": {"shards": (512, 512), "compressors": []},
}


@pytest.mark.parametrize("name", list(STORED_IN_PART))
@pytest.mark.parametrize("is_local", [True, False])
def test_what_is_not_stored_is_none(name, is_local):
    data = np.zeros((1024, 1024), "<f4")
    data[300:, 600:] = 1
    written = write(data, chunks=(256, 256), fill_value=0, is_local=is_local, **STORED_IN_PART[name])
    indices = written.indices()
    boxes = np.broadcast_to(np.array([[3, 4], [0, 200]]), (len(indices), 2, 2))
    for chosen in (None, boxes):
        statistics = ScanStatistics()
        reader = written.reader(statistics)
        found: dict[int, bool] = {}
        for group in reader.groups(indices):
            reader.read(group, indices, lambda p, a, found=found: found.update({p: a is not None}), boxes=chosen)
        expected = {
            p: bool(data[i * 256 : i * 256 + 256, j * 256 : j * 256 + 256].any())
            for p, (i, j) in enumerate(indices.tolist())
        }
        assert found == expected
        assert statistics.chunks_missing == sum(not v for v in expected.values())


WHOLE_OBJECTS: list[dict[str, Any]] = [
    *LAYOUTS,
    {"compressors": [zc.GzipCodec(level=1)], "filters": [zc.TransposeCodec(order=(1, 0, 2))]},
    {"compressors": [zc.ZstdCodec(level=1)], "serializer": zc.BytesCodec(endian="big")},
    {"compressors": [zc.ZstdCodec(level=1)], "shards": (80, 128, 96)},
    {"compressors": [], "shards": {"shape": (80, 128, 96), "index_location": "start"}},
]


@pytest.mark.parametrize("options", WHOLE_OBJECTS, ids=lambda o: str(o)[:70])
@pytest.mark.parametrize("into", [True, False])
def test_the_short_way_to_whole_objects_equals_the_long_one(options, into):
    """Values, counts and errors; a reader that may skip chunks goes the long way."""
    data = smooth((60, 100, 70))
    data[40:, 64:, 48:] = 0  # a chunk that is not stored
    written = write(data, chunks=(40, 64, 48), fill_value=0, **options)
    indices = written.indices()
    stored = written.store.objects["c/0/0/0"]
    middle = len(stored) // 3

    def damaged(replaced: bytes) -> Written:
        return Written(DictStore({**written.store.objects, "c/0/0/0": replaced}), written.array, written.chain)

    def read(of: Written, **how: Any) -> tuple[list[Any], dict[str, int]]:
        statistics = ScanStatistics()
        reader = of.reader(statistics)
        found: list[Any] = []

        def out_for(_: int) -> np.ndarray:
            return np.full(of.chain.chunk_shape, np.nan, "f4")

        for group in reader.groups(indices):
            try:
                reader.read(
                    group,
                    indices,
                    lambda p, a: found.append((p, None if a is None else a.tobytes())),
                    out_for=out_for if into else None,
                    **how,
                )
            except ChunkError as error:
                found.append((str(error), error.kind, error.array, error.key, error.byte_range, error.store))
        return found, statistics.as_dict()

    for of in (damaged(stored[:middle] + b"\xff" * 99 + stored[middle + 99 :]), damaged(stored[:-7]), written):
        found, counts = read(of)
        assert (found, counts) == read(of, skip=lambda p: False)
        errors = [entry for entry in found if isinstance(entry[0], str)]
        assert len(errors) == 1 or len(of.store.objects["c/0/0/0"]) == len(stored)
    assert not errors
    assert None in [value for _, value in found]
    assert sorted(position for position, _ in found) == list(range(len(indices)))


def test_skipped_chunks_are_not_fetched():
    written = write(smooth((32, 32)), chunks=(8, 8), shards=(16, 16), fill_value=0)
    store = counting(written)
    reader = written.reader(store=store)
    indices = written.indices()
    seen: list[int] = []
    for group in reader.groups(indices):
        reader.read(group, indices, lambda p, a: seen.append(p), skip=lambda p: p != 5)
    assert seen == [5]
    assert len({r.key for r in store.requests}) == 1


@given(st.data())
def test_runs_cover_a_box_exactly(data):
    ndim = data.draw(st.integers(0, 4))
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(ndim))
    axes = tuple(data.draw(st.permutations(range(ndim))))
    layout = StoredLayout(tuple(shape[a] for a in axes), np.dtype("<i4"), axes)
    box = tuple(tuple(sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)))) for n in shape)
    runs = layout.runs(box)
    cells = layout.view(np.arange(int(np.prod(shape)), dtype=np.int32))
    assert cells.shape == shape
    wanted = np.zeros(cells.size, bool)
    wanted[cells[tuple(slice(a, b) for a, b in box)].reshape(-1)] = True
    covered = np.zeros(cells.size * 4, bool)
    for start, stop in runs.tolist():
        covered[start:stop] = True
    assert (covered.reshape(-1, 4).all(axis=1) == wanted).all()
    assert (covered.reshape(-1, 4).any(axis=1) == wanted).all()
    assert all(a[1] < b[0] for a, b in itertools.pairwise(runs.tolist()))
    gap = data.draw(st.integers(0, 4 * cells.size))
    joined = coalesce([(start, stop - start) for start, stop in runs.tolist()], gap, 1 << 40)
    assert layout.runs(box, gap).tolist() == [[span.start, span.start + span.length] for span in joined]
    assert layout.end(box) == (runs[-1, 1] if len(runs) else 0)


class OptionsStore(DictStore):
    """Remembers how many requests a store of its options makes."""

    def __init__(self, objects, options, *, is_local=True):
        super().__init__(objects, is_local=is_local)
        self.options = options
        self.sent: list[tuple[int, int]] = []

    def get_ranges(self, key, ranges):
        gap = costs_of(is_local=self.is_local).gap if self.options.coalesce_gap is None else self.options.coalesce_gap
        self.sent += [(s.start, s.length) for s in coalesce(ranges, gap, self.options.coalesce_max)]
        return super().get_ranges(key, ranges)


@pytest.mark.parametrize("dtype", ["<f4", ">i8", "<c16"])
@pytest.mark.parametrize("shards", [None, (128, 300, 70)])
@pytest.mark.parametrize(
    "options",
    [{}, {"coalesce_gap": 0}, {"coalesce_gap": 700}, {"coalesce_max": 10_000}, {"coalesce_gap": 1 << 20}],
    ids=str,
)
def test_one_range_is_one_request(dtype, shards, options):
    """Whatever a store joins is joined before it is asked: every range is a request, and every needed cell is there."""
    data = np.arange(64 * 300 * 70).reshape(64, 300, 70).astype(dtype[1:])
    serializer = zc.BytesCodec(endian="big" if dtype[0] == ">" else "little")
    written = write(
        data, chunks=data.shape, shards=shards, compressors=[], filters=[], fill_value=None, serializer=serializer
    )
    indices = written.indices()
    rng = np.random.default_rng(3)
    partial = 0
    for is_local in (True, False):
        for _ in range(8):
            low = np.array([rng.integers(0, n) for n in data.shape])
            high = np.minimum(low + np.array([8, 40, 70]), data.shape)
            boxes = np.stack([low, high], axis=1)[None]
            store = OptionsStore(written.store.objects, StoreOptions(**options), is_local=is_local)
            counted, statistics = CountingStore(store), ScanStatistics()
            counted.options = store.options
            reader = written.reader(statistics, counted)
            bill = written.reader(store=counted).stored_bytes(reader.groups(indices)[0], indices, boxes)
            counted.clear()
            check_boxes(written, data, reader, indices, boxes)
            sent = [r for r in counted.requests if r.method != "size"]
            assert [(r.start, r.length) for r in sent if r.method == "get_ranges"] == store.sent
            assert bill == (len(sent), sum(b - a for a, b in spans_requested(counted, sent[0].key)), True)
            assert (statistics.requests, statistics.bytes_read) == bill[:2]
            partial += statistics.chunks_partial
    assert partial > 3


def blosc_selections(count: int, seed: int) -> None:
    """Random boxes in a Blosc chunk: only header, offsets and touched blocks are asked for, or all of it."""
    data = noise((37, 181, 90))
    written = write(data, chunks=data.shape, compressors=[zc.BloscCodec(cname="lz4", blocksize=32768)], fill_value=0)
    key = "c/0/0/0"
    stored = written.store.objects[key]
    header = parse_header(stored)
    offsets = parse_offsets(header, stored[HEADER_NBYTES:])
    spans = block_spans(header, offsets)
    table = HEADER_NBYTES + 4 * header.nblocks
    layout = written.chain.layout
    indices = np.zeros((1, 3), np.int64)
    rng = np.random.default_rng(seed)
    partial = 0
    for _ in range(count):
        boxes = random_boxes(rng, data.shape, 1)
        store = counting(written)
        check_boxes(written, data, written.reader(store=store), indices, boxes)
        asked = {byte for a, b in spans_requested(store, key) for byte in (a, b)}
        requested = spans_requested(store, key)
        if requested == [(0, len(stored))] or requested[-1] == (table, len(stored)):
            continue
        partial += 1
        blocks = touched_blocks(header.blocksize, layout.runs(tuple(map(tuple, boxes[0]))))
        allowed = np.zeros(len(stored) + 1, bool)
        allowed[:table] = True
        for a, b in spans[blocks]:
            allowed[a:b] = True
        got = np.zeros(len(stored) + 1, bool)
        for a, b in requested:
            got[a:b] = True
        assert (got == allowed).all(), (boxes, asked)
    assert partial > count // 3


def test_partial_blosc_reads_touch_nothing_else():
    blosc_selections(300, 1)


@pytest.mark.slow
def test_partial_blosc_reads_touch_nothing_else_10000_times():
    blosc_selections(10_000, 2)


@pytest.mark.parametrize("is_local", [True, False])
def test_containers_of_very_many_blocks_are_read_whole(is_local):
    """The document says nothing of it, so the read begins with what it takes for the block table."""
    from numcodecs import blosc

    data = noise((1024, 2048))
    written = write(data, chunks=data.shape, compressors=[zc.BloscCodec(cname="lz4")], fill_value=0, is_local=is_local)
    stored = blosc.compress(data, b"zstd", 1, 1, 512)  # not split: such blocks stay small
    assert parse_header(stored).nblocks > 8192
    other = Written(DictStore({"c/0/0": stored}, is_local=is_local), written.array, written.chain)
    store = counting(other)
    check_boxes(other, data, other.reader(store=store), np.zeros((1, 2), np.int64), np.array([[[700, 701], [5, 6]]]))
    assert sum(b - a for a, b in spans_requested(store, "c/0/0")) == len(stored)


def test_errors_of_shards_are_located():
    data = smooth((16, 16))
    written = write(data, chunks=(4, 4), shards=(8, 8), compressors=[], fill_value=None)
    good = written.store.objects["c/0/1"]
    layout = written.chain.shards[0]

    def read(stored: bytes, **options: Any) -> ChunkError:
        damaged = Written(
            DictStore({**written.store.objects, "c/0/1": stored}, **options), written.array, written.chain
        )
        reader = damaged.reader()
        indices = np.array([[0, 2], [1, 3]], np.int64)
        (group,) = reader.groups(indices)
        with pytest.raises(ChunkError) as caught:
            reader.read(group, indices, lambda p, a: None)
        assert (caught.value.array, caught.value.key) == ("", "c/0/1")
        assert caught.value.byte_range is not None
        return caught.value

    def with_index(entries: np.ndarray) -> bytes:
        from gpuzarr.codecs.checksums import crc32c

        raw = entries.astype("<u8").tobytes()
        return good[: -layout.index_nbytes] + raw + crc32c(np.frombuffer(raw, "u1")).to_bytes(4, "little")

    entries = np.frombuffer(good[-layout.index_nbytes : -4], "<u8").reshape(-1, 2)
    assert read(good[:-1]).kind in (Kind.CHUNK_CHECKSUM, Kind.SHARD_INDEX)
    assert read(good[:10]).kind is Kind.CHUNK_TRUNCATED
    for what, value in (
        ((0, 0), len(good)), ((0, 0), 2**63), ((0, 0), 2**64 - 32), ((0, 1), 2**63 - 1), ((0, 1), 2**64 - 1), ((0, 0), 2**64 - 1),
        ((0, 1), 63), ((3, 0), entries[0, 0] + np.uint64(1)), ((0, 1), 0),
    ):  # fmt: skip
        lying = entries.copy()
        lying[what] = value
        for is_local in (True, False):
            assert read(with_index(lying), is_local=is_local).kind in (Kind.SHARD_INDEX, Kind.CHUNK_TRUNCATED), (
                what,
                value,
            )


def test_errors_of_inner_chunks_name_bytes_of_the_object():
    blosc = zc.BloscCodec(cname="lz4", blocksize=4096)
    written = write(smooth((64, 64)), chunks=(32, 32), shards=(64, 64), compressors=[blosc], fill_value=0)
    stored = bytearray(written.store.objects["c/0/0"])
    layout = written.chain.shards[0]
    index = layout.read_index(np.frombuffer(stored[-layout.index_nbytes :], "u1"), len(stored))
    start, length = int(index.offsets[3]), int(index.lengths[3])
    stored[start] = 9  # the version of the container
    damaged = Written(DictStore({"c/0/0": bytes(stored)}), written.array, written.chain)
    with pytest.raises(ChunkError, match="version") as caught:
        damaged.read()
    assert caught.value.byte_range == (start, start + length)


def test_threads_share_one_index_read():
    written = write(smooth((64, 64)), chunks=(4, 4), shards=(64, 64), fill_value=0)
    store = counting(written)
    reader = written.reader(store=store)
    indices = written.indices()
    (group,) = reader.groups(indices)
    errors: list[BaseException] = []

    def work(position: int) -> None:
        try:
            (one,) = reader.groups(indices[position : position + 1])
            reader.read(one, indices[position : position + 1], lambda p, a: None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(r.length == written.chain.shards[0].index_nbytes for r in store.requests) == 1
    assert group.positions.tolist() == list(range(256))
