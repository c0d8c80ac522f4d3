"""Decoding one chunk in one thread, by our chain and by numcodecs, into the same kind of buffer."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.micro.chunks import CODECS, encoded


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("decoder", ["gpuzarr", "numcodecs"])
def test_decode(benchmark, name, decoder):
    chunk = encoded(name)
    out = np.zeros_like(chunk.values)
    benchmark.group = name
    if decoder == "gpuzarr":
        benchmark(lambda: chunk.chain.decode(chunk.data, out))
    else:
        benchmark(lambda: chunk.numcodecs_decode(out))
    np.testing.assert_array_equal(out, chunk.values)


@pytest.mark.parametrize("name", ["blosc-lz4-shuffle", "blosc-zstd-bitshuffle"])
def test_decode_of_one_cell(benchmark, name):
    """A box of one cell needs one block of a Blosc chunk."""
    chunk = encoded(name, 8.0)
    box = tuple((2, 3) for _ in chunk.values.shape)
    got = benchmark(lambda: chunk.chain.decode(chunk.data, box=box))
    assert got[2, 2, 2] == chunk.values[2, 2, 2]
