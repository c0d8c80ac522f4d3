"""The bill: what a query will read, before it reads (`explain`), and what it really did (`profile`)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from gpuzarr.device.calls import calls
from gpuzarr.device.loading import ChunkedColumn
from gpuzarr.errors import RequestError
from gpuzarr.metadata.model import ceil_div
from gpuzarr.plan.chunks import chunk_count, touched_boxes
from gpuzarr.source.dataset import chunked_columns
from gpuzarr.source.gpu_bill import GpuScan, gpu_scans
from gpuzarr.source.guards import Excess
from gpuzarr.source.tracing import TracedScan, traced
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.model import Column

__all__ = ["ArrayBill", "Bill", "Profile", "ScanBill", "ScanProfile", "explain", "profile"]

MAX_LOOKUPS = 100_000
"""Objects whose sizes `explain` asks the store for; above, stored bytes are left open."""


_ENGINES = ("auto", "cpu", "in-memory", "streaming", "gpu")


@dataclass(frozen=True)
class ArrayBill:
    """What a scan takes from one array.

    Attributes
    ----------
    path, column
        Array in the store, column of the table.
    used_for
        ``"filter"``: read first, to evaluate the predicate; ``"output"``.
    chunks, chunks_total
        Chunks to read, of all of the array. An upper bound where `at_most`.
    requests, stored_bytes
        Reads sent to the store and bytes they return; None where there are too many objects to ask for.
    decoded_bytes
        Bytes of these chunks when decoded.
    at_most
        The column is read only where a row survives the filter: all of the above are upper bounds.
    route
        The codec chain.
    repeats
        How many rows show the same cell, because the array lacks dimensions of the table.
    on_device
        How a GPU decodes it, or why the host does; empty where no GPU is asked for.
    """

    path: str
    column: str
    used_for: str
    chunks: int
    chunks_total: int
    requests: int | None
    stored_bytes: int | None
    decoded_bytes: int
    at_most: bool
    route: str
    repeats: int
    on_device: str = ""


@dataclass(frozen=True)
class ScanBill:
    """The bill of one scan of a query.

    Attributes
    ----------
    store, group
        What is scanned.
    device, device_reason
        Where it runs, and why.
    columns
        Columns handed to the engine.
    rows, rows_total, rows_exact
        Rows that the scan hands out (before filters on variables where not exact), of all of the table.
    tiles, tiles_total
        Tiles that are visited, of all.
    n_rows
        Row limit that the engine passed on, counted before the filter.
    selection
        Selected indices, of all, by dimension.
    filter
        What remains of the predicate and is evaluated on rows; None if the selection is exact.
    arrays
        One entry per array that is read in chunks.
    notes
        What else is worth knowing.
    refused
        The guard that refuses the scan, with what it needs and may need; None if it may run.
    """

    store: str
    group: str
    device: str
    device_reason: str
    columns: tuple[str, ...]
    rows: int
    rows_total: int
    rows_exact: bool
    tiles: int
    tiles_total: int
    n_rows: int | None
    selection: dict[str, tuple[int, int]]
    filter: str | None
    arrays: tuple[ArrayBill, ...]
    notes: tuple[str, ...] = ()
    refused: Excess | None = None

    @property
    def chunks(self) -> int:
        """Chunks to read over all arrays."""
        return sum(a.chunks for a in self.arrays)

    @property
    def requests(self) -> int | None:
        """Requests over all arrays; None where unknown for one."""
        return _total([a.requests for a in self.arrays])

    @property
    def stored_bytes(self) -> int | None:
        """Bytes to read over all arrays; None where unknown for one."""
        return _total([a.stored_bytes for a in self.arrays])

    @property
    def decoded_bytes(self) -> int:
        """Bytes to decode over all arrays."""
        return sum(a.decoded_bytes for a in self.arrays)

    @property
    def is_exact(self) -> bool:
        """Whether all numbers are exact, not upper bounds."""
        return self.rows_exact and not any(a.at_most or a.stored_bytes is None for a in self.arrays)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        most = "" if self.rows_exact else "at most "
        yield f"SCAN {self.store}" + (f" [{self.group}]" if self.group else "")
        yield f"  device    {self.device} ({self.device_reason})"
        yield f"  rows      {most}{self.rows:,} of {self.rows_total:,}"
        if self.n_rows is not None:
            yield f"  limit     first {self.n_rows:,} rows, before the filter"
        yield f"  tiles     {self.tiles:,} of {self.tiles_total:,}"
        cut = [f"{name} {kept:,} of {size:,}" for name, (kept, size) in self.selection.items() if kept != size]
        if cut:
            yield f"  selected  {', '.join(cut)}"
        if self.filter is not None:
            yield f"  filter    {self.filter}"
        yield f"  columns   {', '.join(self.columns)}"
        for a in self.arrays:
            bound = "at most " if a.at_most else ""
            stored = (
                "size not asked for"
                if a.stored_bytes is None
                else f"{_size(a.stored_bytes)} in {a.requests:,} requests"
            )
            repeat = f", each cell in {a.repeats:,} rows" if a.repeats > 1 else ""
            yield (
                f"  read      {a.path or '/'}: {bound}{a.chunks:,} of {a.chunks_total:,} chunks, {stored}, "
                f"{_size(a.decoded_bytes)} decoded, {a.route}, for {a.used_for}{repeat}"
            )
            if a.on_device:
                yield f"            device: {a.on_device}"
        if not self.arrays:
            yield "  read      no chunk: coordinates answer it"
        else:
            bound = "" if self.is_exact else "at most "
            stored = (
                "sizes not asked for"
                if self.stored_bytes is None
                else f"{_size(self.stored_bytes)} in {self.requests:,} requests"
            )
            yield f"  total     {bound}{self.chunks:,} chunks, {stored}, {_size(self.decoded_bytes)} decoded"
        if self.refused is not None:
            yield f"  refused   {self.refused}"
        for note in self.notes:
            yield f"  note      {note}"


@dataclass(frozen=True)
class Bill:
    """What a query will read: one entry per scan of a Zarr table in it."""

    scans: tuple[ScanBill, ...]

    @property
    def chunks(self) -> int:
        """Chunks to read over all scans."""
        return sum(s.chunks for s in self.scans)

    @property
    def stored_bytes(self) -> int | None:
        """Bytes to read over all scans; None where unknown."""
        return _total([s.stored_bytes for s in self.scans])

    @property
    def requests(self) -> int | None:
        """Requests over all scans; None where unknown."""
        return _total([s.requests for s in self.scans])

    @property
    def decoded_bytes(self) -> int:
        """Bytes to decode over all scans."""
        return sum(s.decoded_bytes for s in self.scans)

    @property
    def is_exact(self) -> bool:
        """Whether all numbers are exact."""
        return all(s.is_exact for s in self.scans)

    def __str__(self) -> str:
        return "\n".join(map(str, self.scans)) if self.scans else "The query scans no Zarr table."


@dataclass(frozen=True)
class ScanProfile:
    """What one scan of a query really did; `statistics` and `notes` as in `gpuzarr.statistics.ScanStatistics`."""

    store: str
    group: str
    columns: tuple[str, ...]
    statistics: dict[str, int]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        s = self.statistics
        lines = [
            f"SCAN {self.store}" + (f" [{self.group}]" if self.group else ""),
            f"  rows      {s['rows']:,} handed out",
            f"  tiles     {s['tiles']:,} visited, {s['tiles_skipped_late']:,} of them without a surviving row",
            f"  read      {_size(s['bytes_read'])} in {s['requests']:,} requests",
            f"  chunks    {s['chunks_read']:,} decoded ({s['chunks_partial']:,} in part), {s['chunks_missing']:,} not stored",
            f"  decoded   {_size(s['bytes_decoded'])}, of which {_size(s['unverified_bytes'])} have no checksum",
        ]
        if s["waves"]:
            lines.append(
                f"  device    {s['waves']:,} waves, {s['streams_batched']:,} streams in batches, "
                f"{s['chunks_on_host']:,} chunks and {s['columns_on_host']:,} columns decoded on the host, "
                f"{s['chunks_retried']:,} chunks retried there, {s['chunks_in_place']:,} gathered while shuffled, "
                f"{s['waves_direct']:,} reads of waves straight to the device"
            )
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Profile:
    """A query's result and what its scans really did.

    Attributes
    ----------
    frame
        The result.
    scans
        One entry per scan of a Zarr table.
    seconds
        Wall time of the query.
    """

    frame: pl.DataFrame
    scans: tuple[ScanProfile, ...]
    seconds: float

    @property
    def bytes_read(self) -> int:
        """Bytes of chunks (and shard indexes) read over all scans."""
        return sum(s.statistics["bytes_read"] for s in self.scans)

    @property
    def requests(self) -> int:
        """Requests over all scans."""
        return sum(s.statistics["requests"] for s in self.scans)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.scans), f"{self.frame.height:,} rows in {self.seconds:.3f} s"])


def explain(lf: pl.LazyFrame, *, engine: Any = "auto", max_lookups: int = MAX_LOOKUPS) -> Bill:
    """What a query will read, before anything is read: a dry run of the real plan, with what Polars pushes into it.

    A copy of the query runs with scans that plan and hand out no rows. Coordinates are read where the plan needs them,
    and the store is asked for the sizes of objects (and for shard indexes), never for a chunk.

    Parameters
    ----------
    lf
        A query over `gpuzarr.scan_zarr` tables. Other sources in it run on as they are.
    engine
        As in `polars.LazyFrame.collect`. ``"gpu"`` or a `polars.GPUEngine`: what its plan pushes into the scans, for one
        rank; nothing runs then, not even other sources, and no GPU is needed. All CPU engines push the same.
    max_lookups
        Objects whose sizes the store is asked for; above, stored bytes stay open.

    Raises
    ------
    RequestError
        The query cannot be copied, or the engine is unknown.
    PlanLimitError
        It selects more than one scan can hold. What a guard (``max_bytes`` …) refuses is a line of the bill.
    EnvironmentLacksError
        The libraries of the GPU engine are missing.
    """
    _check_engine(engine)
    why: str | None = None
    if engine == "gpu" or isinstance(engine, pl.GPUEngine):
        scans, why = gpu_scans(lf, None if engine == "gpu" else engine)
        if why is None:
            return Bill(tuple(_gpu_scan_bill(scan, max_lookups) for scan in scans))
    with traced(lf, dry=True) as (copy, trace):
        copy.collect()
        bill = Bill(tuple(_scan_bill(scan, max_lookups) for scan in trace.scans))
    if why is None:
        return bill
    note = f"the GPU engine cannot run this query, a CPU engine will: {why}"
    return Bill(tuple(replace(scan, notes=(*scan.notes, note)) for scan in bill.scans))


def profile(lf: pl.LazyFrame, *, engine: Any = "auto") -> Profile:
    """Run a query and say what its scans really did.

    Parameters
    ----------
    lf
        A query over `gpuzarr.scan_zarr` tables.
    engine
        As in `polars.LazyFrame.collect`.

    Raises
    ------
    RequestError
        The query cannot be copied, or the engine is unknown.
    """
    _check_engine(engine)
    with traced(lf, dry=False) as (copy, trace):
        start = time.perf_counter()
        frame = copy.collect(engine=engine)
        seconds = time.perf_counter() - start
        scans = tuple(
            ScanProfile(
                s.dataset.table.store,
                s.dataset.table.group,
                s.plan.projection,
                s.statistics.as_dict(),
                s.statistics.notes,
            )
            for s in trace.scans
        )
        return Profile(frame, scans, seconds)


def _check_engine(engine: Any) -> None:
    if not (engine in _ENGINES if isinstance(engine, str) else isinstance(engine, pl.GPUEngine)):
        known = ", ".join(map(repr, _ENGINES))
        raise RequestError(f"engine={engine!r} is unknown; it is {known} or a polars.GPUEngine.")


def _device_reason(device: str) -> str:
    if device == "cuda":
        return "device='cuda' was asked for; not yet run on a GPU"
    return "asked for" if device == "cpu" else "device='auto': queries of the CPU engines are read on the host"


def _scan_bill(scan: TracedScan, max_lookups: int) -> ScanBill:
    plan, table, dataset = scan.plan, scan.dataset.table, scan.dataset
    arrays = []
    for path, column in chunked_columns(plan, dataset.coordinates).items():
        arrays.append(_array_bill(scan, path, column, max_lookups))
    notes = plan.notes
    if dataset.options.device == "cuda":
        arrays = [replace(array, on_device=_device_route(scan, array.path)) for array in arrays]
        notes = (*notes, _fetch_note())
    return ScanBill(
        store=table.store,
        group=table.group,
        device="cuda" if dataset.options.device == "cuda" else "cpu",
        device_reason=_device_reason(dataset.options.device),
        columns=plan.projection,
        rows=plan.selected_rows,
        rows_total=table.rows,
        rows_exact=plan.is_exact,
        tiles=plan.tile_count,
        tiles_total=math.prod(table.grid_shape),
        n_rows=plan.n_rows,
        selection={d.name: (a.selected, d.size) for d, a in zip(table.dims, plan.axes, strict=True)},
        filter=None if plan.filter is None else _filter_text(scan),
        arrays=tuple(arrays),
        notes=notes,
        refused=scan.refused if scan.refused is not None else dataset.excess(plan),
    )


def _device_route(scan: TracedScan, path: str) -> str:
    """How the wave engine reads an array of a scan."""
    from gpuzarr.device.wave_routes import column_route
    from gpuzarr.device.wave_source import wave_source

    column = chunked_columns(scan.plan, scan.dataset.coordinates)[path]
    reader = scan.dataset.reader(ScanStatistics())(column)
    return column_route(wave_source(ChunkedColumn(column, scan.plan, reader, scan.dataset.options.on_missing)))


def _fetch_note() -> str:
    from gpuzarr.device.cuda_files import gds_problem

    problem = gds_problem()
    return f"GPUDirect Storage is {f'not in use: {problem}' if problem else 'in use for files'}"


def _gpu_scan_bill(found: GpuScan, max_lookups: int) -> ScanBill:
    bill = _scan_bill(found.scan, max_lookups)
    device, reason = found.device
    notes = bill.notes + found.notes
    arrays = bill.arrays
    if found.on_device and found.scan.dataset.options.device != "cuda":
        arrays = tuple(replace(array, on_device=_device_route(found.scan, array.path)) for array in arrays)
        notes = (*notes, _fetch_note())
    return replace(bill, device=device, device_reason=reason, arrays=arrays, notes=notes)


def _filter_text(scan: TracedScan) -> str:
    assert scan.plan.filter is not None
    text = str(scan.plan.filter.expression)
    for name, node in scan.plan.filter.leaves.items():
        text = text.replace(f'col("{name}")', f"known from {', '.join(node.dims)}")
    return text


def _array_bill(scan: TracedScan, path: str, column: Column, max_lookups: int) -> ArrayBill:
    plan, dataset = scan.plan, scan.dataset
    assert column.array is not None
    assert column.chain is not None
    in_filter = plan.filter is not None and any(
        column is leaf for name in plan.filter.columns for leaf in plan.table.by_name[name].leaves
    )
    chunks = chunk_count(column, plan)
    requests: int | None = None
    stored: int | None = None
    if chunks <= max_lookups:
        reader = dataset.reader(ScanStatistics())(column)
        chunks = requests = stored = 0
        if plan.boundary is not None or column.chain.is_sharded:  # then it matters which frame asks for what
            source = ChunkedColumn(column, plan, reader, dataset.options.on_missing)
            asked = calls(source, plan, for_filter=in_filter)
        else:
            asked = iter([touched_boxes(column, plan)])
        for indices, boxes in asked:
            chunks += len(indices)
            for group in reader.groups(indices):
                more, size, _ = reader.stored_bytes(group, indices, boxes)
                requests += more
                stored += size
    shape = zip(column.array.shape, column.chain.chunk_shape, strict=True)
    own = math.prod(plan.table.sizes[d] for d in column.dims)
    return ArrayBill(
        path=path,
        column=column.name,
        used_for="filter" if in_filter else "output",
        chunks=chunks,
        chunks_total=math.prod(ceil_div(n, c) for n, c in shape),
        requests=requests,
        stored_bytes=stored,
        decoded_bytes=chunks * column.chain.chunk_nbytes,
        at_most=plan.filter is not None and not plan.is_exact and not in_filter,
        route=column.chain.describe(),
        repeats=plan.table.rows // own if own else 0,
    )


def _total(parts: list[int | None]) -> int | None:
    known = [p for p in parts if p is not None]
    return sum(known) if len(known) == len(parts) else None


def _size(nbytes: int) -> str:
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
