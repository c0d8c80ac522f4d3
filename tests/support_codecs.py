"""Arrays written by zarr-python in memory, and their documents as gpuzarr reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from gpuzarr.codecs import CodecChain, parse_chain
from gpuzarr.metadata import open_node
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.reader import ChunkReader
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import ByteStore


class DictStore:
    """A `ByteStore` over a dictionary."""

    def __init__(self, objects: Mapping[str, bytes], *, is_local: bool = True) -> None:
        self.objects = dict(objects)
        self.is_local = is_local
        self.label = "memory"

    def get(self, key):
        return self.objects.get(key)

    def get_range(self, key, start, length):
        data = self.objects.get(key)
        return None if data is None else data[start : start + length]

    def get_suffix(self, key, length):
        data = self.objects.get(key)
        return None if data is None else data[max(0, len(data) - length) :]

    def get_ranges(self, key, ranges):
        data = self.objects.get(key)
        return None if data is None else [data[start : start + length] for start, length in ranges]

    def size(self, key):
        data = self.objects.get(key)
        return None if data is None else len(data)

    def list_dir(self, prefix):
        lead = f"{prefix}/" if prefix else ""
        rest = [k[len(lead) :] for k in self.objects if k.startswith(lead)]
        return tuple(k for k in rest if "/" not in k), tuple({k.split("/")[0] for k in rest if "/" in k})

    def close(self):
        pass


@dataclass
class Written:
    """An array in a store, with its document parsed."""

    store: ByteStore
    array: ArrayMetadata
    chain: CodecChain

    @classmethod
    def open(cls, store: ByteStore) -> Written:
        array = open_node(store, "")
        assert isinstance(array, ArrayMetadata)
        return cls(store, array, parse_chain(array))

    def reader(self, statistics: ScanStatistics | None = None, store: ByteStore | None = None) -> ChunkReader:
        return ChunkReader(store or self.store, self.array, self.chain, statistics or ScanStatistics())

    def indices(self) -> np.ndarray:
        """Grid indices of all inner chunks."""
        grid = tuple(-(-n // c) for n, c in zip(self.array.shape, self.chain.chunk_shape, strict=True))
        if not grid:
            return np.empty((1, 0), np.int64)
        return np.ascontiguousarray(np.indices(grid, dtype=np.int64).reshape(len(grid), -1).T)

    def read(self, *, out: bool = False, reader: ChunkReader | None = None) -> np.ndarray:
        """The whole array through a `ChunkReader`; ``out`` offers destinations."""
        reader = reader or self.reader()
        indices = self.indices()
        shape = self.chain.chunk_shape
        result = np.empty(self.array.shape, self.array.dtype.numpy)
        offered: dict[int, np.ndarray] = {}

        def out_for(position: int) -> np.ndarray:
            return offered.setdefault(position, np.empty(shape, self.array.dtype.numpy))

        def place(position: int, chunk: np.ndarray | None) -> None:
            low = indices[position] * np.array(shape, np.int64)
            where = tuple(
                slice(int(a), min(int(a) + c, n)) for a, c, n in zip(low, shape, self.array.shape, strict=True)
            )
            if chunk is None:
                fill = self.array.fill_value
                result[where] = np.zeros((), self.array.dtype.numpy) if fill is None else fill
                return
            assert chunk.shape == shape
            assert chunk.dtype == self.array.dtype.numpy
            assert chunk.dtype.isnative
            if out:
                assert np.shares_memory(chunk, offered[position]) or chunk.size == 0
            result[where] = chunk[tuple(slice(0, s.stop - s.start) for s in where)]

        for group in reader.groups(indices):
            reader.read(group, indices, place, out_for=out_for if out else None)
        return result


def objects_of(store: MemoryStore) -> dict[str, bytes]:
    """All objects of a zarr memory store."""
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def write(data: np.ndarray, *, is_local: bool = True, **options: Any) -> Written:
    """``data`` written by zarr-python with the options of ``zarr.create_array``."""
    store = MemoryStore()
    options.setdefault("dtype", data.dtype)
    array = zarr.create_array(store, shape=data.shape, **options)
    if data.ndim:
        array[...] = data
    else:
        sync(array._async_array.setitem((), data))
    return Written.open(DictStore(objects_of(store), is_local=is_local))


def zarr_reads(written: Written) -> np.ndarray:
    """What zarr-python reads from the same objects."""
    store = MemoryStore()
    from zarr.core.buffer import default_buffer_prototype

    for key, value in written.store.objects.items():
        sync(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))
    return np.asarray(zarr.open_array(store, mode="r")[...])


def document_v3(
    codecs: list[Any],
    *,
    shape: tuple[int, ...] = (8,),
    chunk_shape: tuple[int, ...] | None = None,
    data_type: str = "float32",
    fill_value: Any = 0,
) -> bytes:
    """A v3 array document."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": data_type,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape or shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill_value,
            "codecs": codecs,
            "attributes": {},
        }
    ).encode()


def document_v2(
    compressor: Any = None,
    filters: Any = None,
    *,
    shape: tuple[int, ...] = (8,),
    chunks: tuple[int, ...] | None = None,
    dtype: str = "<f4",
    order: str = "C",
    fill_value: Any = 0,
) -> bytes:
    """A v2 array document."""
    return json.dumps(
        {
            "zarr_format": 2,
            "shape": list(shape),
            "chunks": list(chunks or shape),
            "dtype": dtype,
            "order": order,
            "compressor": compressor,
            "filters": filters,
            "fill_value": fill_value,
        }
    ).encode()
