"""How the waves read files: straight into their arena, by system calls or by kvikio, and into device memory where that can be."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from polars.testing import assert_frame_equal
from test_wave import QUERIES, _read, folder, on_host, on_waves, opened  # noqa: F401  # the fixture

from gpuzarr.device.file_reads import FileRead, PreadReader
from gpuzarr.device.memory_pool import DirectPool, PinnedPool
from gpuzarr.device.runtime_host import HostRuntime
from gpuzarr.device.wave_arena import ArenaPayload, HostArena
from gpuzarr.errors import ChunkError, Kind, StoreError
from gpuzarr.store import open_store
from gpuzarr.store.local import LocalByteStore


class LateReader:
    """Reads in threads of its own, so that nothing is there when it has been submitted; as kvikio does."""

    name = "late"

    def __init__(self, *, direct: bool = False, before: Callable[[], None] = lambda: None) -> None:
        self.not_direct = "" if direct else "for a test"
        self._inner = PreadReader(direct=direct)
        self._before = before
        self._pool = ThreadPoolExecutor(4)
        self.scans = self.most = 0

    def submit(self, descriptor: int, reads: Sequence[FileRead], *, on_device: bool) -> Any:
        own = os.dup(descriptor)

        def work() -> list[int]:
            try:
                self._before()
                return self._inner.submit(own, reads, on_device=on_device).wait()
            finally:
                os.close(own)

        return Late(self._pool.submit(work))

    def scanning(self) -> AbstractContextManager[None]:
        self.scans += 1
        return nullcontext()


class Late:
    is_done = False

    def __init__(self, future: Future[list[int]]) -> None:
        self._future = future

    def wait(self) -> list[int]:
        return self._future.result()


READERS: dict[str, Callable[[], Any]] = {
    "late": LateReader,
    "direct": lambda: PreadReader(direct=True),
    "late and direct": lambda: LateReader(direct=True),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("query", ["all", "few", "text", "limit"])
def test_equal_to_the_host_path(folder: Path, query: str, reader: str) -> None:  # noqa: F811
    dataset = opened(folder)
    plan = dataset.plan(**QUERIES[query])
    want, counted = on_host(dataset, plan)
    for budget, deferred in ((1, False), (2**26, False), (2**26, True)):
        runtime = HostRuntime(deferred=deferred, files=READERS[reader]())
        got, statistics, device = on_waves(dataset, plan, runtime, budget=budget)
        assert_frame_equal(got, want)
        assert _read(statistics) == _read(counted)
        assert statistics["bytes_copied"] == 0
        if query == "all":
            assert (statistics["waves_direct"] > 0) == ("direct" in reader)
        gc.collect()
        assert device.pinned.used == 0
        del device
        gc.collect()
        assert not runtime.damage
        assert runtime.used == 0 or deferred  # then what frees it is still queued


def test_bytes_are_read_where_they_belong_but_for_stores_that_give_bytes(folder: Path) -> None:  # noqa: F811
    from gpuzarr.api import open_dataset
    from gpuzarr.options import ScanOptions
    from gpuzarr.table import TableOptions

    dataset = opened(folder)
    plan = dataset.plan()
    want, local, _ = on_waves(dataset, plan, HostRuntime())
    assert local["bytes_copied"] == 0
    given = zarr.storage.LocalStore(folder, read_only=True)
    other = open_dataset(given, table=TableOptions(broadcast=True), options=ScanOptions())
    if other.store.__class__ is dataset.store.__class__:
        other = open_dataset(
            zarr.storage.WrapperStore(given), table=TableOptions(broadcast=True), options=ScanOptions()
        )
    got, remote, _ = on_waves(other, other.plan(), HostRuntime(files=PreadReader(direct=True)))
    assert_frame_equal(got, want)
    assert 0.9 * remote["bytes_read"] < remote["bytes_copied"] <= remote["bytes_read"]  # all but the shard indexes
    assert remote["waves_direct"] == 0


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uncompressed chunks large enough that rows of them are read alone, in files and in shards."""
    path = tmp_path_factory.mktemp("parted") / "s.zarr"
    group = zarr.create_group(path)
    data = np.random.default_rng(3).integers(0, 2**15, (12, 300, 512), dtype="i2")
    options = {"dimension_names": ("t", "y", "x"), "compressors": None}
    group.create_array("a", shape=data.shape, chunks=(4, 300, 512), dtype="i2", **options)[...] = data
    group.create_array("s", shape=data.shape, chunks=(2, 150, 512), shards=(4, 300, 512), dtype=">i2", **options)[
        ...
    ] = data
    for name, size in zip("tyx", data.shape, strict=True):
        group.create_array(name, data=np.arange(size), dimension_names=(name,))
    return path


@pytest.mark.parametrize("reader", READERS)
def test_rows_of_uncompressed_chunks(parted: Path, reader: str) -> None:
    dataset = opened(parted)
    for predicate in (pl.col("y") == 17, (pl.col("y") > 280) & (pl.col("t") != 3), pl.col("y") < 140, None):
        plan = dataset.plan(predicate=predicate)
        want, counted = on_host(dataset, plan)
        runtime = HostRuntime(files=READERS[reader]())
        got, statistics, _ = on_waves(dataset, plan, runtime)
        assert_frame_equal(got, want)
        direct = "direct" in reader
        assert statistics["chunks_partial"] == counted["chunks_partial"]
        if not direct:  # a shard that goes to the device is read through its index
            assert _read(statistics) == _read(counted)
        assert (statistics["waves_direct"] == statistics["waves"]) == direct
        gc.collect()
        assert not runtime.damage


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["plain", "big", "zstd", "sharded", "blosc_lz4"])
def test_damage_is_the_error_of_the_host_path(folder: Path, tmp_path: Path, name: str, reader: str) -> None:  # noqa: F811
    root = tmp_path / "s.zarr"
    shutil.copytree(folder / name, root / name)
    for other in ("zarr.json", "t", "x"):
        source = folder / other
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / other)
    chunk = next(p for p in sorted((root / name / "c").rglob("*")) if p.is_file())
    data = chunk.read_bytes()
    for damage in (data[: len(data) // 2], b"", data + bytes(5000), data * 40):
        chunk.write_bytes(damage)
        dataset = opened(root)
        plan = dataset.plan(with_columns=[name])
        outcomes: list[Any] = []
        for scan in (on_host, lambda d, p: on_waves(d, p, HostRuntime(files=READERS[reader]()))[:2]):
            try:
                outcomes.append(scan(dataset, plan)[0])
            except ChunkError as error:
                outcomes.append((error.array, error.key))
        if isinstance(outcomes[0], pl.DataFrame):
            assert_frame_equal(outcomes[1], outcomes[0])
        else:
            assert outcomes[0] == outcomes[1]
    chunk.unlink()
    dataset = opened(root, on_missing="raise")
    with pytest.raises(ChunkError) as caught:
        on_waves(dataset, dataset.plan(with_columns=[name]), HostRuntime(files=READERS[reader]()))
    assert caught.value.array == name


@pytest.mark.parametrize("direct", [False, True])
def test_a_read_that_fails_or_ends_early_is_an_error_that_names_the_object(folder: Path, direct: bool) -> None:  # noqa: F811
    dataset = opened(folder)
    plan = dataset.plan(with_columns=["plain"])

    def fail() -> None:
        raise OSError(5, "the disk says no")

    with pytest.raises(StoreError, match="the disk says no") as caught:
        on_waves(dataset, plan, HostRuntime(files=LateReader(direct=direct, before=fail)))
    assert caught.value.array == "plain"
    assert caught.value.key is not None
    assert caught.value.key.startswith("plain/c/")

    class Short(PreadReader):
        def submit(self, descriptor: int, reads: Sequence[FileRead], *, on_device: bool) -> Any:
            done = super().submit(descriptor, reads, on_device=on_device)
            done._counts[0] -= 1
            return done

    with pytest.raises(StoreError) as caught:
        on_waves(dataset, plan, HostRuntime(files=Short(direct=direct)))
    assert caught.value.kind == Kind.STORE_CHANGED


@pytest.mark.parametrize("given_up", ["released", "dropped"])
def test_memory_is_not_given_back_while_a_read_writes_to_it(folder: Path, given_up: str) -> None:  # noqa: F811
    """A wave that is given up while reads are on their way: its memory must not be lent again before they are made."""
    gate = threading.Event()
    reader = LateReader(before=lambda: gate.wait(20) and None)
    pool = PinnedPool(HostRuntime())
    arena: Any = HostArena(pool, 2**20)
    store = open_store(folder).store
    assert isinstance(store, LocalByteStore)
    delivered: list[Any] = []
    key = next(p for p in sorted(folder.glob("plain/c/**/*")) if p.is_file()).relative_to(folder).as_posix()
    ArenaPayload(store, arena, reader).later(key, [(0, 100), (300, 7)], delivered.append)
    held = [arena]
    del arena

    def give_up() -> None:
        if given_up == "released":
            held[0].release()
        held.clear()
        gc.collect()

    thread = threading.Thread(target=give_up)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert pool.used
    gate.set()
    thread.join(20)
    assert pool.used == 0
    assert not delivered


def test_without_device_memory_for_files_they_go_through_host_memory(folder: Path) -> None:  # noqa: F811
    dataset = opened(folder)
    plan = dataset.plan(with_columns=["plain", "big"])
    want, _ = on_host(dataset, plan)
    runtime = HostRuntime(files=PreadReader(direct=True), fails=lambda number: number <= 2)
    got, statistics, _ = on_waves(dataset, plan, runtime, in_flight=1)
    assert_frame_equal(got, want)
    assert statistics["waves"] > statistics["waves_direct"]


def test_device_memory_for_files_is_reused_once_the_device_has_done_with_it() -> None:
    runtime = HostRuntime(deferred=True)
    pool = DirectPool(runtime, idle_nbytes=1 << 20)
    stream = runtime.stream()
    memory = pool.lend(1000)
    address = memory.address
    out = runtime.pinned(16).data
    memory.owner[:16] = 7
    memory.used_in(stream)
    runtime.download(out, address, stream)
    del memory
    gc.collect()
    assert pool.idle > 0
    again = pool.lend(1000)  # waits for the download that was queued
    assert again.address == address
    assert (out == 7).all()
    large = pool.lend(1 << 21)
    del large, again
    gc.collect()
    assert pool.idle == 1 << 16  # more than its limit is not kept
    pool.clear()
    gc.collect()
    assert runtime.used == 0


def test_links_are_refused_as_by_the_store(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "s.zarr"
    shutil.copytree(folder / "plain", root / "plain")
    for other in ("zarr.json", "t", "x"):
        source = folder / other
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / other)
    chunk = next(p for p in sorted((root / "plain" / "c").rglob("*")) if p.is_file())
    outside = tmp_path / "elsewhere"
    shutil.move(chunk, outside)
    chunk.symlink_to(outside)
    dataset = opened(root)
    for reader in READERS.values():
        with pytest.raises(StoreError) as caught:
            on_waves(dataset, dataset.plan(with_columns=["plain"]), HostRuntime(files=reader()))
        assert caught.value.kind == Kind.KEY_UNSAFE


KVIKIO = """
import gc, sys
from pathlib import Path
import kvikio.defaults
from polars.testing import assert_frame_equal
from test_wave import QUERIES, on_host, on_waves, opened
from gpuzarr.device.cuda_files import THREADS, KvikioReader
from gpuzarr.device.runtime_host import HostRuntime

class Seen(KvikioReader):
    def submit(self, descriptor, reads, *, on_device):
        threads.add(kvikio.defaults.get("num_threads"))
        return super().submit(descriptor, reads, on_device=on_device)

before = kvikio.defaults.get("num_threads")
assert before == 1, before
for folder in sys.argv[1:]:
    dataset = opened(Path(folder))
    for query in ({}, *QUERIES.values()) if "wave" in folder else ({},):
        plan = dataset.plan(**query)
        want, _ = on_host(dataset, plan)
        for direct in (False, True):
            threads = set()
            reader = Seen()
            assert reader.not_direct
            if direct:  # what kvikio is handed then are addresses as of a device; here they are of host memory
                reader.not_direct = ""
            got, statistics, device = on_waves(dataset, plan, HostRuntime(files=reader))
            assert_frame_equal(got, want)
            assert statistics["bytes_copied"] == 0
            assert query or (statistics["waves_direct"] > 0) == direct
            assert not statistics["chunks_read"] or threads == {THREADS}, threads
            assert kvikio.defaults.get("num_threads") == before
with kvikio.defaults.set("num_threads", 3):  # what somebody chose stays
    with KvikioReader().scanning():
        assert kvikio.defaults.get("num_threads") == 3
print("equal")
"""


def test_kvikio_itself_reads_into_the_arena(folder: Path, parted: Path, tmp_path: Path) -> None:  # noqa: F811
    """The real library, with a libcuda that has no device."""
    pytest.importorskip("kvikio")
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs gcc on Linux")
    here = Path(__file__).resolve().parent
    sys.path.insert(0, str(here / "kernel_host"))
    try:
        from stub_libcuda import build
    finally:
        sys.path.pop(0)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(build(tmp_path)),
        "PYTHONPATH": os.pathsep.join([str(here.parent / "src"), str(here)]),
    }
    environment.pop("KVIKIO_NTHREADS", None)
    command = [sys.executable, "-c", KVIKIO, str(folder), str(parted)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]
