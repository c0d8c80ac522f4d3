"""A store that changes between `scan_zarr` and `collect`: the rows it had, those it has now, or an error; never others."""

from __future__ import annotations

import functools
import http.server
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import polars as pl
import pytest
import zarr
from polars.testing import assert_frame_equal
from support_counting import CountingStore
from support_stores import MemoryStore

import gpuzarr
from gpuzarr.api import open_dataset
from gpuzarr.device import small
from gpuzarr.errors import StoreError
from gpuzarr.metadata import open_node
from gpuzarr.options import ScanOptions
from gpuzarr.source.dataset import Dataset
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store import open_store
from gpuzarr.table import TableOptions, build_table
from gpuzarr.table.whole import read_whole

SHAPE = (6, 8)
DATA = np.arange(48, dtype="f4").reshape(SHAPE)


def write(store: Any, zarr_format: int = 3, *, consolidated: bool = False, **changes: Any) -> None:
    """A store of two coordinates and a variable with a missing chunk."""
    group = zarr.create_group(store, zarr_format=zarr_format, overwrite=True)
    data = changes.pop("data", DATA)
    lat = changes.pop("lat", np.arange(data.shape[0], dtype="f8"))
    attributes = changes.pop("attributes", {})

    def put(name: str, values: np.ndarray, dims: tuple[str, ...], **kwargs: Any) -> zarr.Array:
        if zarr_format == 3:
            kwargs["dimension_names"] = dims
        else:
            kwargs["attributes"] = {**kwargs.get("attributes", {}), "_ARRAY_DIMENSIONS": list(dims)}
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, compressors=None, **kwargs)
        array[...] = values
        return array

    put("lat", lat, ("lat",), chunks=lat.shape)
    put("lon", np.arange(data.shape[1], dtype="f8"), ("lon",), chunks=(data.shape[1],))
    array = put("v", data, ("lat", "lon"), **{"chunks": (2, 4), "fill_value": -7, "attributes": attributes, **changes})
    del array
    if consolidated:
        zarr.consolidate_metadata(store, zarr_format=zarr_format)


REWRITES: dict[str, dict[str, Any]] = {
    "other shape": {"data": np.arange(48, dtype="f4").reshape(8, 6), "chunks": (2, 4)},
    "other data type of the same size": {"data": DATA.astype("i4")},
    "other chunk shape of the same size": {"chunks": (4, 2)},
    "other fill value": {"fill_value": 8},
    "other scale": {"attributes": {"scale_factor": 0.5}},
    "other coordinate": {"lat": np.arange(6, dtype="f8")[::-1].copy()},
}


def expect_changed(lf: pl.LazyFrame, *words: str) -> None:
    """Every engine says so, and so does a scan of one column."""
    for query in (lf, lf.select("v"), lf.filter(pl.col("v") == -7)):
        for engine in ("in-memory", "streaming"):
            with pytest.raises((StoreError, pl.exceptions.ComputeError), match=r"\[store-changed\]") as caught:
                query.collect(engine=engine)  # type: ignore[call-overload]
            assert "Open it again" in str(caught.value), str(caught.value)
            assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("change", [*REWRITES, "deleted"])
@pytest.mark.parametrize("kind", ["local", "memory", "remote", "copy"])
@pytest.mark.filterwarnings("ignore:.*[Cc]onsolidated metadata")
def test_changed_store(tmp_path: Path, zarr_format: int, consolidated: bool, change: str, kind: str) -> None:
    """Deleted or written anew with another layout: an error, whatever is asked."""
    place = tmp_path / "s"
    memory: dict[str, Any] = {}
    target: Any = zarr.storage.MemoryStore(memory) if kind in ("memory", "remote") else place
    write(target, zarr_format, consolidated=consolidated)
    source: Any = target
    if kind == "remote":  # no look is free there
        source = MemoryStore(Bytes(memory), is_local=False)
    del_chunk(target, "v/c/0/0" if zarr_format == 3 else "v/0.0")
    lf = gpuzarr.scan_zarr(source)
    if change == "other coordinate":
        if kind == "remote":
            pytest.skip("documents do not tell, and nothing else is looked at")
        lf.select("lat").collect()
    if kind == "copy":
        lf = pickle.loads(pickle.dumps(lf))
    if change == "deleted":
        drop(target, "v")
        expect_changed(lf, "deleted", "array 'v'")
        return
    time.sleep(0.01)  # another time of the file
    write(target, zarr_format, consolidated=consolidated, **REWRITES[change])
    if kind == "copy" and change == "other coordinate":  # it had read none
        if "hint.sorted" in lf.explain():
            expect_changed(lf, "'lat' is not in order")
        else:
            assert_frame_equal(lf.collect(), gpuzarr.scan_zarr(source).collect())
        return
    if kind == "memory" and change == "other coordinate":
        assert lf.collect()["v"].to_list() == DATA.ravel().tolist()  # the documents are the same, byte by byte
        return
    del_chunk(target, "v/c/0/0" if zarr_format == 3 else "v/0.0")
    expect_changed(lf)
    if change != "other coordinate":
        with pytest.raises((StoreError, pl.exceptions.ComputeError), match=f"(?i){change.split()[1]}"):
            lf.collect()


class Bytes(dict[str, bytes]):
    """The objects of a zarr memory store as bytes, as they are now."""

    def __init__(self, memory: dict[str, Any]) -> None:
        super().__init__()
        self.memory = memory

    def get(self, key: str, default: Any = None) -> Any:
        found = self.memory.get(key)
        return default if found is None else found.to_bytes()

    def __contains__(self, key: object) -> bool:
        return key in self.memory

    def __getitem__(self, key: str) -> bytes:
        return self.memory[key].to_bytes()  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self.memory)


def del_chunk(target: Any, key: str) -> None:
    if isinstance(target, Path):
        (target / key).unlink(missing_ok=True)
    else:
        target._store_dict.pop(key, None)


def drop(target: Any, name: str) -> None:
    if isinstance(target, Path):
        shutil.rmtree(target / name)
    else:
        for key in [key for key in target._store_dict if key.startswith(f"{name}/")]:
            del target._store_dict[key]


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.filterwarnings("ignore:.*[Cc]onsolidated metadata")
def test_what_is_no_change(tmp_path: Path, is_local: bool) -> None:
    """Appended records, other remarks, documents written again, consolidation: the rows of the table, as it was."""
    place = tmp_path / "s"
    write(place)
    source: Any = str(place) if is_local else CountingStore(remote_folder(place))
    lf = gpuzarr.scan_zarr(source)
    want = lf.collect()
    del_chunk(place, "v/c/0/0")
    want = want.with_columns(
        v=pl.when((pl.col("lat") < 2) & (pl.col("lon") < 4)).then(pl.lit(-7.0, pl.Float32)).otherwise(pl.col("v"))
    )
    changes: list[Callable[[], Any]] = [
        lambda: (place / "v" / "zarr.json").write_bytes((place / "v" / "zarr.json").read_bytes()),
        lambda: zarr.open_array(place / "v").attrs.update(history="looked at", title="a"),
        lambda: zarr.consolidate_metadata(place),
        lambda: zarr.open_array(place / "v").resize((12, 8)),
        lambda: zarr.open_array(place / "lat").resize((12,)),
        lambda: (place / "v" / "c" / "5").mkdir(),
    ]
    for change in changes:
        change()
        for engine in ("in-memory", "streaming"):
            assert_frame_equal(lf.collect(engine=engine), want)  # type: ignore[call-overload]
    again = zarr.open_array(place / "v")
    again[6:] = 1.0
    assert_frame_equal(lf.collect(), want)
    again.resize((4, 8))
    expect_changed(lf, "its shape is (4, 8) and was (6, 8)")


def remote_folder(place: Path) -> Any:
    from support_stores import FolderStore

    store = FolderStore(place)
    store.is_local = False
    return store


def test_old_consolidated_metadata(tmp_path: Path) -> None:
    """Whoever scans by them reads by them: attributes that were corrected in one place only are no change."""
    place = tmp_path / "s"
    write(place, 2, consolidated=True)
    zarr.open_array(place / "v", zarr_format=2).attrs["scale_factor"] = 0.5
    del_chunk(place, "v/0.0")
    lf = gpuzarr.scan_zarr(place)
    assert lf.collect()["v"].to_list()[-1] == 47.0
    lf = gpuzarr.scan_zarr(remote_folder(place))
    assert lf.collect()["v"].to_list()[-1] == 47.0
    for name in ("v", "lat", "lon"):  # and some stores have nothing else
        (place / name / ".zarray").unlink()
    for target in (place, remote_folder(place)):
        assert gpuzarr.scan_zarr(target).collect()["v"].to_list()[:4] == [None] * 4


def test_costs(tmp_path: Path) -> None:
    """Nothing where no chunk is missing and asking has a price; one request where one is; nothing is read twice locally."""
    objects: dict[str, Any] = {}
    write(zarr.storage.MemoryStore(objects))
    store = CountingStore(MemoryStore({key: value.to_bytes() for key, value in objects.items()}, is_local=False))
    lf = gpuzarr.scan_zarr(store)
    store.clear()
    lf.collect()
    assert not [key for key in store.keys("get") if key.endswith("zarr.json")]
    for gone in ("v/c/0/0", "v/c/1/0", "v/c/2/1"):
        del store.inner.objects[gone]  # type: ignore[attr-defined]
    for _ in range(2):
        store.clear()
        lf.collect()
        assert [key for key in store.keys("get") if key.endswith("zarr.json")] == ["v/zarr.json"]
    store.clear()
    lf.select("lat").collect()
    lf.filter(pl.col("lat") < 4, pl.col("lon") > 3).select("v").collect()
    assert not [key for key in store.keys("get") if key.endswith("zarr.json")]

    write(tmp_path / "s")
    for file in tmp_path.rglob("*"):
        os.utime(file, (1, 1))
    del_chunk(tmp_path / "s", "v/c/0/0")
    lf = gpuzarr.scan_zarr(tmp_path / "s")
    reads: list[str] = []
    real = gpuzarr.store.local.LocalByteStore.get
    try:
        gpuzarr.store.local.LocalByteStore.get = lambda self, key: (reads.append(key), real(self, key))[1]  # type: ignore[method-assign]
        lf.collect()
        lf.collect()
    finally:
        gpuzarr.store.local.LocalByteStore.get = real  # type: ignore[method-assign]
    assert not [key for key in reads if key.endswith("zarr.json")]


def test_zip_file(tmp_path: Path) -> None:
    """A zip file that was replaced is read as it was; one that was written over is an error."""
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        write(store)
    with zarr.storage.ZipStore(tmp_path / "b.zip", mode="w") as store:
        write(store, data=DATA.reshape(8, 6), chunks=(4, 3))
    lf = gpuzarr.scan_zarr(tmp_path / "a.zip")
    want = lf.collect()
    (tmp_path / "b.zip").replace(tmp_path / "a.zip")
    assert_frame_equal(lf.collect(), want)
    lf = gpuzarr.scan_zarr(tmp_path / "a.zip")
    with (tmp_path / "a.zip").open("r+b") as file:
        file.write(b"PK")
    os.utime(tmp_path / "a.zip", (1, 1))
    with pytest.raises((StoreError, pl.exceptions.ComputeError), match=r"store-changed.*Open it again"):
        lf.collect()


@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.filterwarnings("ignore:.*[Cc]onsolidated metadata")
def test_object_stores(tmp_path: Path, consolidated: bool) -> None:
    """The same through obstore, and through a server that cannot list."""
    place = tmp_path / "s"
    write(place, consolidated=consolidated)
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        targets: list[Any] = [obstore.store.LocalStore(str(place))]
        if consolidated:
            targets.append(f"http://127.0.0.1:{server.server_port}/s")
        scans = [gpuzarr.scan_zarr(target) for target in targets]
        del_chunk(place, "v/c/0/0")
        for lf in scans:
            assert lf.filter(pl.col("v") == -7).collect().height == 8
        write(place, consolidated=consolidated, fill_value=9, data=np.full_like(DATA, 9))
        for lf in scans:
            expect_changed(lf, "fill value")
        write(place, consolidated=consolidated)
        drop(place, "v")
        for lf in scans:
            expect_changed(lf, "deleted")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def list_directory(self, path: Any) -> None:
        self.send_error(404)


def test_backends(tmp_path: Path) -> None:
    """What a backend believes is looked at where a chunk is missing, and then no longer believed."""
    objects: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(objects)
    write(store)
    with gpuzarr.ZarrBackendSync(MemoryStore(Bytes(objects)), gpuzarr.BackendOptions(max_age=None)) as backend:
        lf = backend.lazy()
        assert lf.select("lat").collect().height == 48
        drop(store, "v")
        expect_changed(lf, "deleted")
        assert backend.lazy().collect_schema().names() == ["lat", "lon"]


def test_wave_engine(tmp_path: Path) -> None:
    """Chunks that are loaded for the GPU are asked for by the same code."""
    from support_wave import scans_on

    from gpuzarr.api import open_dataset

    write(tmp_path / "s")
    del_chunk(tmp_path / "s", "v/c/0/0")
    dataset = open_dataset(remote_folder(tmp_path / "s"))
    plan = dataset.plan()
    drop(tmp_path / "s", "v")
    with scans_on(), pytest.raises(StoreError, match=r"store-changed.*deleted"):
        list(dataset.scan(plan))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_rewritten_while_a_scan_runs(tmp_path: Path, zarr_format: int) -> None:
    """Chunks of the same size with another meaning: the query fails at the latest after its last frame."""
    path = tmp_path / "a.zarr"
    large = np.arange(64 * 400 * 50, dtype="f4").reshape(64, -1)
    write(path, zarr_format, data=large, chunks=(1, large.shape[1]))
    past = time.time() - 100
    for file in path.rglob("*"):
        os.utime(file, (past, past))
    dataset = open_dataset(
        str(path), table=TableOptions(), options=ScanOptions(order="C", memory_budget=2**17, workers=1)
    )
    frames = dataset.scan(dataset.plan())
    assert_frame_equal(next(frames).select("v").head(3), pl.DataFrame({"v": large[0, :3]}))
    write(path, zarr_format, data=large.astype("i4"), chunks=(1, large.shape[1]))
    with pytest.raises(StoreError, match="data type") as caught:
        list(frames)
    assert caught.value.kind == "store-changed"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_rewritten_while_a_small_scan_runs(tmp_path: Path, zarr_format: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that gives one data frame hands none out that was read of another array."""
    path = tmp_path / "a.zarr"
    write(path, zarr_format)
    past = time.time() - 100
    for file in path.rglob("*"):
        os.utime(file, (past, past))
    dataset = open_dataset(path)
    read = small.SmallScan.frames

    def late(self: small.SmallScan) -> Iterator[pl.DataFrame]:
        write(path, zarr_format, data=DATA.astype("i4"))
        yield from read(self)

    plan = dataset.plan()
    assert_frame_equal(pl.concat(dataset.scan(plan)).select("v"), pl.DataFrame({"v": DATA.ravel()}))
    monkeypatch.setattr(small.SmallScan, "frames", late)
    with pytest.raises(StoreError, match="data type") as caught:
        next(dataset.scan(plan))
    assert caught.value.kind == "store-changed"


@pytest.mark.parametrize("columns", [["v", "lat"], ["lat"]])
@pytest.mark.parametrize("size", [0, 2**16])
def test_coordinate_rewritten_before_it_is_read(tmp_path: Path, size: int, columns: list[str]) -> None:
    """Its cells mean something else than the table says: no frame, or an error after the last one where there are many."""
    path = tmp_path / "a.zarr"
    data = np.zeros((6, 8 + size), "f4")
    write(path, data=data, chunks=data.shape)
    dataset = open_dataset(path)
    plan = dataset.plan(columns)
    write(path, data=data, chunks=data.shape)
    packed = zarr.open_group(path)["lat"]
    packed.attrs["scale_factor"] = 0.5
    packed[...] = np.arange(6) * 2.0
    assert (dataset.small(plan, ScanStatistics()) is None) == bool(size)
    with pytest.raises(StoreError, match="scale_factor"):
        list(dataset.scan(plan))


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_replaced_while_a_table_is_made(tmp_path: Path, zarr_format: int, consolidated: bool) -> None:
    """What documents looked like is known from when they were read, or from when what said the same was read."""
    for name, changes in (("a.zarr", {}), ("b.zarr", {"attributes": {"scale_factor": 0.5}})):
        write(tmp_path / name, zarr_format, consolidated=consolidated, **changes)
        past = time.time() - 100
        for file in (tmp_path / name).rglob("*"):
            os.utime(file, (past, past))
    store = open_store(tmp_path / "a.zarr").store
    table = build_table(
        open_node(store), store_label="a", options=TableOptions(), read_raw=functools.partial(read_whole, store)
    )
    same = Dataset(store, table, ScanOptions())
    assert same.scan(same.plan())
    (tmp_path / "a.zarr").rename(tmp_path / "c.zarr")
    (tmp_path / "b.zarr").rename(tmp_path / "a.zarr")
    late = Dataset(store, table, ScanOptions())
    for dataset in (same, late, pickle.loads(pickle.dumps(late))):
        with pytest.raises(StoreError, match="scale_factor"):
            dataset.plan()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_rewritten_while_a_table_is_made(tmp_path: Path, zarr_format: int) -> None:
    """What documents looked like is known from when they were read."""
    path = tmp_path / "a.zarr"
    write(path, zarr_format)
    past = time.time() - 100
    for file in path.rglob("*"):
        os.utime(file, (past, past))
    store = open_store(path).store
    table = build_table(
        open_node(store), store_label="a", options=TableOptions(), read_raw=functools.partial(read_whole, store)
    )
    write(path, zarr_format, data=DATA.astype("i4"))
    with pytest.raises(StoreError, match="data type"):
        Dataset(store, table, ScanOptions()).plan()
