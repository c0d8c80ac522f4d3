"""Chunks without compression: read into the memory where they are wanted, and no more of them than a store would send."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.codecs as zc
from support_codecs import Written, write
from support_counting import CountingStore
from support_reading import check_boxes, noise, random_boxes

from gpuzarr.errors import ChunkError
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import ByteStore, ReadsInto
from gpuzarr.store.local import LocalByteStore
from gpuzarr.store.ranges import coalesce

PLAIN: list[dict[str, Any]] = [
    {},
    {"serializer": zc.BytesCodec(endian="big")},
    {"filters": [zc.TransposeCodec(order=(2, 0, 1))]},
    {"shards": (64, 192, 96)},
]


def on_disk(written: Written, root: Path) -> LocalByteStore:
    for key, data in written.store.objects.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return LocalByteStore(root)


def outcome(
    written: Written, store: ByteStore, boxes: np.ndarray | None, *, offer: bool
) -> tuple[list[Any], tuple[int, ...]]:
    """Needed cells or the error of every chunk, and what was counted."""
    statistics = ScanStatistics()
    reader = written.reader(statistics, store)
    indices = written.indices()
    found: list[Any] = [None] * len(indices)
    offered: dict[int, np.ndarray] = {}

    def out_for(position: int) -> np.ndarray:
        return offered.setdefault(position, np.empty(written.chain.chunk_shape, written.array.dtype.numpy))

    def place(position: int, chunk: np.ndarray | None) -> None:
        if chunk is not None:
            assert (chunk.shape, chunk.dtype) == (written.chain.chunk_shape, written.array.dtype.numpy)
            cells = chunk if boxes is None else chunk[tuple(slice(int(a), int(b)) for a, b in boxes[position])]
            found[position] = cells.tobytes()

    for group in reader.groups(indices):
        try:
            reader.read(group, indices, place, out_for=out_for if offer else None, boxes=boxes)
        except ChunkError as error:
            for position in group.positions.tolist():
                found[position] = (error.kind, error.key, error.byte_range, str(error.array))
    s = statistics
    return found, (s.requests, s.bytes_read, s.chunks_read, s.chunks_partial, s.chunks_missing, s.bytes_decoded)


@pytest.mark.parametrize("options", PLAIN, ids=str)
@pytest.mark.parametrize("damage", ["nothing", "missing", "short", "long", "empty"])
@pytest.mark.parametrize("preadv", [True, False])
def test_reading_into_memory_equals_reading_bytes(options, damage, preadv, tmp_path, monkeypatch):
    """Files read straight to where they are wanted: cells, errors and counts are those of a store that hands out bytes."""
    monkeypatch.setattr("gpuzarr.store.local._PREADV", preadv and hasattr(os, "preadv"))
    data = noise((60, 180, 90))
    written = write(data, chunks=(32, 96, 48), compressors=[], fill_value=7, **options)
    for key in [k for k in written.store.objects if not k.endswith("zarr.json")][1:3]:
        stored = written.store.objects[key]
        written.store.objects[key] = {
            "nothing": stored, "missing": stored, "short": stored[: len(stored) // 2], "long": stored + b"1", "empty": b"",
        }[damage]  # fmt: skip
        if damage == "missing":
            del written.store.objects[key]
    local = on_disk(written, tmp_path)
    assert isinstance(local, ReadsInto)
    assert not isinstance(CountingStore(local), ReadsInto)
    rng = np.random.default_rng(1)
    for number in range(8):
        boxes = None if number == 0 else random_boxes(rng, written.chain.chunk_shape, len(written.indices()))
        for offer in (False, True):
            found, counted = outcome(written, local, boxes, offer=offer)
            expected, want = outcome(written, CountingStore(local), boxes, offer=offer)
            assert found == expected
            assert counted == want
            if damage == "nothing" and number:
                assert counted[3] > 0


def test_remote_stores_are_asked_for_no_more_than_they_would_send():
    """What lies between near rows travels anyway; never more than a saving that is not worth it."""
    data = np.ones((64, 300, 70), "f4")
    written = write(data, chunks=data.shape, compressors=[], fill_value=None, is_local=False)
    indices, layout = written.indices(), written.chain.layout
    costs = written.reader()._requests.costs
    assert layout is not None
    rng = np.random.default_rng(4)
    whole = 0
    for _ in range(100):
        boxes = random_boxes(rng, data.shape, 1)
        rows = layout.runs(tuple(map(tuple, boxes[0])))
        sent = sum(s.length for s in coalesce([(a, b - a) for a, b in rows.tolist()], costs.gap, costs.cap))
        statistics = ScanStatistics()
        check_boxes(written, data, written.reader(statistics), indices, boxes)
        assert sent <= statistics.bytes_read <= sent + costs.least_saved
        whole += statistics.bytes_read == data.nbytes
    assert 5 < whole < 95
