"""Chunks read in part: values, boxes, and what a reader hands out for them."""

from __future__ import annotations

import itertools

import numpy as np
from support_codecs import Written

from gpuzarr.reader import ChunkReader


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Compresses to about half."""
    return np.random.default_rng(2).integers(0, 1 << 16, shape).astype("<u4").view("<f4")


def random_boxes(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Points, rows and boxes in chunks."""
    boxes = np.empty((count, len(shape), 2), np.int64)
    for i, (axis, n) in itertools.product(range(count), enumerate(shape)):
        low = int(rng.integers(0, n))
        high = {0: low + 1, 1: n, 2: int(rng.integers(low + 1, n + 1))}[int(rng.integers(0, 3))]
        boxes[i, axis] = (0 if high == n and rng.random() < 0.5 else low, high)
    return boxes


def check_boxes(
    written: Written, data: np.ndarray, reader: ChunkReader, indices: np.ndarray, boxes: np.ndarray
) -> None:
    """Read chunks in part and compare what was asked for."""
    shape = np.array(written.chain.chunk_shape)
    seen: list[int] = []

    def place(position: int, chunk: np.ndarray | None) -> None:
        seen.append(position)
        low = indices[position] * shape
        inside = tuple(
            slice(int(a), max(int(a), min(int(b), n - int(o))))
            for (a, b), n, o in zip(boxes[position], data.shape, low, strict=True)
        )
        expected = data[tuple(slice(int(o) + s.start, int(o) + s.stop) for s, o in zip(inside, low, strict=True))]
        got = np.zeros_like(expected) if chunk is None else chunk[inside]
        assert got.tobytes() == expected.tobytes()

    for group in reader.groups(indices):
        reader.read(group, indices, place, boxes=boxes)
    assert sorted(seen) == list(range(len(indices)))
