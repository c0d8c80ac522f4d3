"""The bill, what really happens, and a store that counts: all three agree."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from expressions import random_predicate
from scan_queries import small_frames
from scan_stores import RandomStore, random_store
from support_counting import CountingStore, Request
from support_stores import MemoryStore

import gpuzarr
from gpuzarr.errors import PlanLimitError, RequestError

CHUNK_READS = ("get", "get_range", "get_suffix", "get_ranges")


def chunk_requests(store: CountingStore) -> list[Request]:
    """Reads of anything but documents."""
    documents = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
    return [r for r in store.requests if r.method in CHUNK_READS and not r.key.endswith(documents)]


def nbytes(store: RandomStore, request: Request) -> int:
    """Bytes that a request returned."""
    size = len(store.objects.get(request.key, b""))
    return size if request.length is None else min(request.length, size)


def stored_keys(store: RandomStore, name: str, rows: np.ndarray) -> set[str]:
    """Objects that hold the cells of `rows` (C-order numbers in the row space) of an array, stored or not."""
    array = store.arrays[name]
    index = dict(zip(store.dims, np.unravel_index(rows, store.shape) if store.dims else (), strict=True))
    size = array.shard or array.chunk
    numbers = [index[d] // s for d, s in zip(array.dims, size, strict=True)]
    at = {tuple(int(n[i]) for n in numbers) for i in range(len(rows))}
    if any(key == f"{name}/.zarray" for key in store.objects):
        return {f"{name}/{'.'.join(map(str, a)) or '0'}" for a in at}
    return {"/".join([name, "c", *map(str, a)]) for a in at}


def coordinate_query(
    rng: np.random.Generator, store: RandomStore, lf: pl.LazyFrame, table: pl.DataFrame
) -> tuple[pl.LazyFrame, pl.DataFrame]:
    """A filter over coordinates, perhaps a limit before it, perhaps some columns only; for both sides."""
    specs = [s for s in store.specs(table) if s.is_coordinate]
    plain = table.lazy()
    if rng.random() < 0.3:
        n = int(rng.integers(0, table.height + 2))
        lf, plain = lf.head(n), plain.head(n)
    if specs and rng.random() < 0.9:
        p = random_predicate(rng, specs, int(rng.integers(0, 3)), python_functions=False)
        lf, plain = lf.filter(p), plain.filter(p)
    if rng.random() < 0.5:
        columns = [str(c) for c in rng.permutation(store.columns)[: int(rng.integers(1, len(store.columns) + 1))]]
        lf, plain = lf.select(columns), plain.select(columns)
    return lf, plain.collect()


def bill_equals_reads(seed: int, queries: int) -> int:
    """Random queries over coordinates: the bill, the statistics and the counting store agree; returns the exact ones."""
    rng = np.random.default_rng(seed)
    store = random_store(rng)
    exact = 0
    with small_frames(rng) as tile_rows:
        counting = CountingStore(MemoryStore(store.objects, is_local=bool(rng.random() < 0.5)))
        lf = gpuzarr.scan_zarr(counting, broadcast=True)
        lf.select(*sorted(store.coordinates)).collect()  # coordinates are read once, before the bill
        table = store.expected(lf.collect_schema(), tile_rows=tile_rows)
        for number in range(queries):
            where = f"seed {seed} query {number}"
            query, want = coordinate_query(rng, store, lf, table)
            bill = gpuzarr.explain(query)
            assert bill.is_exact or any(s.filter for s in bill.scans), where
            counting.clear()
            profile = gpuzarr.profile(query, engine=str(rng.choice(["in-memory", "streaming"])))
            requests = chunk_requests(counting)
            assert profile.frame.equals(want, null_equal=True), where
            assert len(bill.scans) == len(profile.scans), where
            if not bill.scans:  # Polars knows the answer: head(0)
                assert not requests, where
                continue
            statistics = profile.scans[0].statistics
            assert statistics["bytes_read"] == sum(nbytes(store, r) for r in requests), where
            read = [r.key.rsplit("/c", 1)[0].split("/")[0] for r in requests]
            assert not set(read) & store.coordinates, where
            if not bill.is_exact:
                assert statistics["bytes_read"] <= bill.stored_bytes, where  # type: ignore[operator]
                continue
            exact += 1
            assert bill.scans[0].rows == statistics["rows"], where
            if not any(step in query.explain() for step in ("FILTER", "SLICE")):  # all of it was pushed into the scan
                assert statistics["rows"] == want.height, where
            assert statistics["chunks_read"] + statistics["chunks_missing"] == bill.chunks, where
            assert (statistics["requests"], statistics["bytes_read"]) == (bill.requests, bill.stored_bytes), (
                f"{where}\n{bill}\n{profile}"
            )
            whole = Counter(r.key for r in requests if r.method == "get")
            assert all(n == 1 for n in whole.values()), where
    return exact


@pytest.mark.parametrize("seed", range(20))
def test_bill_equals_what_is_read(seed: int) -> None:
    bill_equals_reads(seed, 5)


@pytest.mark.parametrize(
    ("guard", "needed"), [("max_rows", "2,400 rows"), ("max_chunks_to_read", "[1-9]"), ("max_bytes", "[1-9]")]
)
def test_bill_of_a_refused_query(tmp_path: Path, guard: str, needed: str) -> None:
    """A guard is a line of the bill; the query itself, and its profile, raise."""
    stores = []
    for name in ("a", "b"):
        group = zarr.create_group(tmp_path / name)
        group.create_array("t", shape=(40, 30), chunks=(10, 10), dtype="f4", dimension_names=("y", "x"))
        stores.append(str(tmp_path / name))
    free = str(gpuzarr.explain(gpuzarr.scan_zarr(stores[0])))
    for target, rows in ((stores[0], needed.replace("2,400", "1,200")), (stores, needed)):
        lf = gpuzarr.scan_zarr(target, **{guard: 1})
        bill = gpuzarr.explain(lf)
        assert all(re.search(f"by {guard}: {rows}.* needed, limit is 1$", str(scan.refused)) for scan in bill.scans)
        assert all(str(scan).splitlines()[-1] == f"  refused   {scan.refused}" for scan in bill.scans)
        assert str(bill.scans[0]).splitlines()[:-1] == free.splitlines()
        for run in (lf.collect, lambda lf=lf: gpuzarr.profile(lf)):
            with pytest.raises((PlanLimitError, pl.exceptions.ComputeError), match=f"{guard} exceeded"):
                run()
    assert gpuzarr.explain(gpuzarr.scan_zarr(stores, **{guard: 10**9})).scans[0].refused is None


def test_engine_that_does_not_exist(tmp_path: Path) -> None:
    """An unknown engine is an error of the tree, before anything runs."""
    zarr.create_array(tmp_path / "a", shape=(3,), dtype="f4")
    for call in (gpuzarr.profile, gpuzarr.explain):
        with pytest.raises(RequestError, match="engine='zzz' is unknown; it is 'auto'"):
            call(gpuzarr.scan_zarr(tmp_path / "a"), engine="zzz")


@pytest.mark.parametrize("shards", [None, (600, 300)])
def test_bill_of_rows_of_a_chunk_that_is_not_stored(tmp_path: Path, shards: tuple[int, int] | None) -> None:
    """Nothing is read of it, which takes one request, however many rows are wanted."""
    array = zarr.create_group(tmp_path / "a").create_array(
        "t",
        shape=(600, 900),
        chunks=(300, 300),
        shards=shards,
        dtype="f4",
        compressors=None,
        dimension_names=("y", "x"),
    )
    array[:, 300:600] = 1
    lf = gpuzarr.scan_zarr(str(tmp_path / "a"))
    for box in (pl.col("y") == 7, pl.col("x") == 7, pl.col("x") == 307, pl.col("y").is_in([7, 200, 400])):
        bill, read = gpuzarr.explain(lf.filter(box)), gpuzarr.profile(lf.filter(box)).scans[0].statistics
        assert bill.is_exact
        assert (bill.requests, bill.stored_bytes) == (read["requests"], read["bytes_read"])
