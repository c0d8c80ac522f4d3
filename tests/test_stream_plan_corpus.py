"""Stream plans over real stores of many writers: the same arrays as their codec chains give, all stores in one plan each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np

from gpuzarr.codecs import CodecChain, parse_chain
from gpuzarr.codecs.batch_host import HostBatchDecoder
from gpuzarr.codecs.decode_plan import decode_plan
from gpuzarr.codecs.plan_summary import summarise
from gpuzarr.codecs.stream_plan import ChunkLabel, StoredChunks, plan_streams
from gpuzarr.errors import GpuzarrError
from gpuzarr.metadata import open_node, walk
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.store import open_store

PER_ARRAY = 6


def arrays(folder: Path) -> Iterator[ArrayMetadata]:
    opened = open_store(folder)
    node = open_node(opened.store, opened.path)
    if isinstance(node, ArrayMetadata):
        yield node
        return
    for group in walk(opened.store, opened.path):
        yield from group.arrays.values()


def stored_chunks(folder: Path, array: ArrayMetadata, chain: CodecChain) -> Iterator[tuple[bytes, ChunkLabel]]:
    for index in islice(product(*map(range, array.grid_shape)), 200):
        file = folder / array.key(index)
        if not file.is_file():
            continue
        data = file.read_bytes()
        if not chain.is_sharded:
            yield data, ChunkLabel(array.path, array.key(index))
            continue
        if len(chain.shards) > 1:
            return
        layout = chain.shards[0]
        size = layout.index_nbytes
        part = data[-size:] if layout.index_location == "end" else data[:size]
        found = layout.read_index(np.frombuffer(part, np.uint8), len(data))
        for start, nbytes in zip(found.offsets.tolist(), found.lengths.tolist(), strict=True):
            if start >= 0:
                yield data[start : start + nbytes], ChunkLabel(array.path, array.key(index), start)


def test_real_stores(corpus: Path) -> None:
    seen: Counter[str] = Counter()
    for folder in sorted((corpus / "stores").iterdir()):
        chains, data, labels, chain_of = [], [], [], []
        try:
            found = list(arrays(folder))
        except GpuzarrError:
            continue  # stores that are there to be refused
        for array in found:
            try:
                chain = parse_chain(array)
            except GpuzarrError:
                continue
            chains.append(chain)
            for stored, label in islice(stored_chunks(folder, array, chain), PER_ARRAY):
                data.append(stored)
                labels.append(label)
                chain_of.append(len(chains) - 1)
        if not data:
            continue
        plan = plan_streams(chains, StoredChunks.of_bytes(data, chain_of, labels))
        out = np.empty(plan.out_nbytes, np.uint8)
        report = decode_plan(plan, out, HostBatchDecoder())
        assert not report.retried.size, folder
        for i, stored in enumerate(data):
            expected = chains[chain_of[i]].decode(stored)
            got = plan.array(i, out)
            assert got.dtype == expected.dtype
            assert got.shape == expected.shape
            if expected.dtype.hasobject:
                assert got.tolist() == expected.tolist(), labels[i]
            else:
                assert got.tobytes() == expected.tobytes(), labels[i]
        seen.update({a.name: v.count for a, v in summarise(plan).streams.items()})
    assert {"STORED", "LZ4", "ZSTD", "GZIP"} <= set(seen), seen
