"""The filters of decoded bytes against their definitions, byte by byte and bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuzarr.codecs.tables import FilterKind, FilterTable
from gpuzarr.codecs.unfilter import apply_filters


def by_definition(kind: FilterKind, data: bytes, itemsize: int) -> bytes:
    n = len(data) // itemsize
    out = bytearray(data)
    for i in range(n):
        for j in range(itemsize):
            if kind == FilterKind.BYTE_SWAP:
                out[i * itemsize + j] = data[i * itemsize + itemsize - 1 - j]
            elif kind == FilterKind.BYTE_UNSHUFFLE:
                out[i * itemsize + j] = data[j * n + i]
            else:
                bits = (data[(j * 8 + k) * (n // 8) + i // 8] >> (i % 8) & 1 for k in range(8))
                out[i * itemsize + j] = sum(bit << k for k, bit in enumerate(bits))
    return bytes(out)


@pytest.mark.parametrize("kind", list(FilterKind))
@pytest.mark.parametrize("itemsize", [1, 2, 3, 4, 8, 16, 17, 65, 255])
def test_definition(kind: FilterKind, itemsize: int) -> None:
    rng = np.random.default_rng(itemsize)
    for count, tail in ((8, 0), (8, itemsize - 1), (40, itemsize // 2), (3, 0)):
        if kind == FilterKind.BIT_UNSHUFFLE and count % 8:
            continue
        data = rng.bytes(count * itemsize + tail)
        out = np.frombuffer(b"<<" + data + b">>", np.uint8).copy()
        apply_filters(FilterTable.make([0], stage=0, kind=kind, dst=2, dst_nbytes=len(data), itemsize=itemsize), out)
        assert out.tobytes() == b"<<" + by_definition(kind, data, itemsize) + b">>"


@given(st.data())
def test_any_table_in_order_of_stages(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    gaps = data.draw(st.lists(st.sampled_from([0, 0, 0, 8, 24, 5]), max_size=12))
    sizes = [data.draw(st.sampled_from([64, 64, 64, 72])) for _ in gaps]
    starts = np.cumsum([0, *sizes])[: len(gaps)] + np.cumsum(gaps)
    expected = bytearray(rng.bytes(int(sum(sizes) + sum(gaps))))
    out = np.frombuffer(bytes(expected), np.uint8).copy()
    rows = []
    for stage in range(data.draw(st.integers(1, 3))):
        for start, nbytes in zip(starts.tolist(), sizes, strict=True):
            kind = data.draw(
                st.sampled_from([FilterKind.BYTE_UNSHUFFLE, FilterKind.BIT_UNSHUFFLE, FilterKind.BYTE_SWAP])
            )
            itemsize = data.draw(st.sampled_from([1, 2, 4, 8]))
            if kind == FilterKind.BIT_UNSHUFFLE and nbytes // itemsize % 8:
                continue
            rows.append((stage, kind, start, nbytes, itemsize))
            expected[start : start + nbytes] = by_definition(kind, bytes(expected[start : start + nbytes]), itemsize)
    order = rng.permutation(len(rows))
    stage, kind, dst, nbytes, itemsize = np.array([rows[i] for i in order], np.int64).reshape(-1, 5).T
    table = FilterTable.make(np.zeros(len(rows)), stage=stage, kind=kind, dst=dst, dst_nbytes=nbytes, itemsize=itemsize)
    apply_filters(table, out)
    assert out.tobytes() == bytes(expected)
