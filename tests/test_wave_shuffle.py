"""Byte-shuffled chunks: gathered as they are where that saves a pass over memory, unshuffled before where it does not."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.zarr3
import numpy as np
import polars as pl
import pytest
import zarr
import zarr.codecs
from polars.testing import assert_frame_equal
from test_wave import Flaky, on_host, on_waves, opened

from gpuzarr.device.runtime_host import HostRuntime

SHAPE = (8, 60, 130)
CHUNKS = (4, 30, 130)


def blosc(cname: str = "lz4", *, typesize: int = 4, blocksize: int = 1024, shuffle: str = "shuffle") -> Any:
    return zarr.codecs.BloscCodec(cname=cname, typesize=typesize, blocksize=blocksize, shuffle=shuffle)  # type: ignore[arg-type]


IN_PLACE: dict[str, tuple[str, dict[str, Any]]] = {
    "blocks": ("f4", {"compressors": blosc()}),
    "eight": ("f8", {"compressors": blosc("zstd", typesize=8)}),
    "two": ("i2", {"compressors": blosc("zlib", typesize=2, blocksize=4096)}),
    "one_block": ("f4", {"compressors": blosc(blocksize=0)}),
    "odd": ("f4", {"compressors": blosc("lz4", blocksize=1500)}),
    "sharded": ("f4", {"compressors": blosc(), "shards": (8, 60, 130)}),
}
PASS_BEFORE: dict[str, tuple[str, dict[str, Any]]] = {
    "bits": ("f4", {"compressors": blosc(shuffle="bitshuffle")}),
    "other_typesize": ("f8", {"compressors": blosc(typesize=4)}),
    "big": (">f4", {"compressors": blosc(), "serializer": zarr.codecs.BytesCodec(endian="big")}),
    "transposed": ("f4", {"compressors": blosc(), "filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shuffle") / "s.zarr"
    group = zarr.create_group(path)
    rng = np.random.default_rng(11)
    for name, (dtype, options) in {**IN_PLACE, **PASS_BEFORE}.items():
        array = group.create_array(
            name, shape=SHAPE, chunks=CHUNKS, dtype=dtype, dimension_names=("t", "y", "x"), fill_value=0, **options
        )
        array[...] = (rng.normal(size=SHAPE).cumsum(-1) * 20).round(0)
        chunk = path / name / "c" / "1" / "1" / "0"
        if chunk.exists():
            chunk.unlink()  # not stored
    repeats = group.create_array(
        "repeats", shape=SHAPE[:2], chunks=(8, 40), dtype="f4", dimension_names=("t", "y"), compressors=blosc()
    )
    repeats[...] = rng.normal(size=SHAPE[:2])
    below = group.create_array(
        "below", shape=SHAPE[1:], chunks=(60, 70), dtype="i4", dimension_names=("y", "x"), compressors=blosc()
    )
    below[...] = rng.integers(0, 50, SHAPE[1:])
    below.attrs.update(_FillValue=7, scale_factor=0.5)
    for name, size in zip("tyx", SHAPE, strict=True):
        group.create_array(name, data=np.arange(size), dimension_names=(name,))
    return path


QUERIES: dict[str, dict[str, Any]] = {
    "all": {},
    "rows": {"predicate": pl.col("y").is_in([3, 29, 30, 59])},
    "columns": {"predicate": (pl.col("x") > 127) | (pl.col("x") == 4)},
    "survivors": {"predicate": pl.col("eight") > 300},
    "few": {"predicate": (pl.col("blocks") > 250) & (pl.col("t") > 2)},
    "limit": {"n_rows": 5000},
}


@pytest.mark.parametrize("query", QUERIES)
def test_equal_to_the_host_path(store: Path, query: str) -> None:
    dataset = opened(store)
    plan = dataset.plan(**QUERIES[query])
    want, _ = on_host(dataset, plan)
    assert want.height
    for options in ({"budget": 1}, {"budget": 2**26}, {"deferred": True}):
        runtime = HostRuntime(deferred=options.pop("deferred", False))
        got, statistics, device = on_waves(dataset, plan, runtime, **options)
        assert_frame_equal(got, want)
        assert statistics["chunks_in_place"] > 0
        assert not device.host_reasons
        del device
        gc.collect()
        assert not runtime.damage


@pytest.mark.parametrize("name", [*IN_PLACE, *PASS_BEFORE, "repeats", "below"])
def test_which_chunks_stay_as_they_are(store: Path, name: str) -> None:
    dataset = opened(store)
    plan = dataset.plan(with_columns=["t", "x", name], predicate=pl.col("t") < 8)
    want, _ = on_host(dataset, plan)
    got, statistics, _ = on_waves(dataset, plan, HostRuntime())
    assert_frame_equal(got, want)
    stays = name in IN_PLACE or name == "below"
    assert statistics["chunks_in_place"] == (statistics["chunks_read"] if stays else 0)


def test_a_shuffle_around_any_compressor(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "v2.zarr", zarr_format=2)
    values = np.random.default_rng(2).normal(size=(40, 77)).round(1).astype("f4")
    array = group.create_array(
        "a",
        shape=values.shape,
        chunks=(16, 50),
        dtype="f4",
        filters=[numcodecs.Shuffle(elementsize=4)],
        compressors=numcodecs.Zstd(level=1),
        attributes={"_ARRAY_DIMENSIONS": ["y", "x"]},
    )
    array[...] = values
    dataset = opened(tmp_path / "v2.zarr")
    plan = dataset.plan()
    want, _ = on_host(dataset, plan)
    got, statistics, _ = on_waves(dataset, plan, HostRuntime(deferred=True))
    assert_frame_equal(got, want)
    assert statistics["chunks_in_place"] == statistics["chunks_read"] == 6


def test_chunks_whose_streams_failed_come_from_the_host_unshuffled(store: Path) -> None:
    dataset = opened(store)
    plan = dataset.plan(with_columns=["blocks", "eight"])
    want, _ = on_host(dataset, plan)
    got, statistics, _ = on_waves(dataset, plan, HostRuntime(decoder=Flaky(every=7)))  # type: ignore[arg-type]
    assert_frame_equal(got, want)
    assert statistics["chunks_retried"] > 0
    assert statistics["chunks_in_place"] + statistics["chunks_retried"] == statistics["chunks_read"]


class Watched(HostRuntime):
    """Notes the kernels that run, and the sum of all allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: set[str] = set()
        self.allocated = 0

    def launch(self, launch: Any, stream: Any) -> None:
        self.kernels.add(launch.kernel.partition("<")[0])
        super().launch(launch, stream)

    def allocate(self, nbytes: int, stream: Any) -> Any:
        self.allocated += nbytes
        return super().allocate(nbytes, stream)


def test_a_pass_and_an_arena_are_saved(store: Path) -> None:
    dataset = opened(store)
    runtimes = {}
    for name in ("blocks", "bits"):
        runtimes[name] = Watched()
        _, statistics, _ = on_waves(dataset, dataset.plan(with_columns=[name]), runtimes[name])
    assert runtimes["bits"].kernels - runtimes["blocks"].kernels == {"bit_unshuffle"}
    saved = runtimes["bits"].allocated - runtimes["blocks"].allocated
    assert saved > 0.9 * statistics["bytes_decoded"]
