"""The work on one frame whose columns are in device memory: load, filter, load the rest, hand over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from gpuzarr.device.columns import positions
from gpuzarr.device.host import FrameJob
from gpuzarr.device.loading import (
    ChunkedColumn,
    Requests,
    RowLoad,
    Task,
    begin_full,
    begin_rows,
    claimed_boxes,
    full_requests,
    row_requests,
)
from gpuzarr.device.memory_pool import Lease
from gpuzarr.device.runtime import Stream
from gpuzarr.device.shared_chunks import SharedChunks
from gpuzarr.device.wave_fetch import ChunkRequest
from gpuzarr.device.wave_frame import DeviceColumn, DeviceFrame, download, series
from gpuzarr.device.wave_kept import without_kept
from gpuzarr.device.wave_load import COUNTERS_NBYTES, ColumnBuffers, DeviceRows, WaveLoad
from gpuzarr.device.wave_schedule import waves
from gpuzarr.device.wave_source import WaveSource
from gpuzarr.device.wave_tables import PackedTables
from gpuzarr.kernels import launch as launches
from gpuzarr.plan.model import Frame, Piece
from gpuzarr.table.model import Column

if TYPE_CHECKING:
    from gpuzarr.device.wave import WaveDevice

__all__ = ["WaveJob", "chunk_requests"]


class WaveJob(FrameJob):
    """The work on one frame, with columns in device memory."""

    device: WaveDevice

    def __init__(self, device: WaveDevice, frame: Frame) -> None:
        super().__init__(device, frame)
        self.on_device: dict[str, WaveLoad] = {}
        self.stream: Stream = device.runtime.stream()
        self.keep: list[PackedTables] = []
        self.null_counts: dict[str, int] = {}

    # -- loading -------------------------------------------------------------------------------------------------

    def _load_full(self, sources: dict[str, ChunkedColumn], then: Callable[[], None]) -> None:
        units: list[tuple[Piece, slice | None]] = [(piece, None) for piece in self.frame.pieces]

        def host(source: ChunkedColumn) -> tuple[Any, list[Task], list[Future[Any]]]:
            return begin_full(
                source, self.frame, self.device.shared, self.device.scratch, together=self.device.together
            )

        self._load(
            sources,
            host,
            lambda column: self._new_load(column, units, self.frame.rows, None),
            lambda source: full_requests(source, self.frame, self.device.shared),
            lambda place: place[0],
            then,
        )

    def _load_rows(self, sources: dict[str, ChunkedColumn], rows: DeviceRows, then: Callable[[], None]) -> None:
        numbers = rows.numbers.astype(np.int64)
        places = positions(numbers, self.frame)
        starts = np.array([at.start for _, at, _ in places], np.int64)
        counted = 0

        def host(source: ChunkedColumn) -> tuple[Any, list[Task], list[Future[Any]]]:
            nonlocal counted
            load, tasks, waits, chunks = begin_rows(
                source,
                places,
                len(numbers),
                self.device.shared,
                self.device.scratch,
                together=self.device.together,
            )
            counted += chunks
            return load, tasks, waits

        def needed(source: ChunkedColumn) -> Requests:
            nonlocal counted
            requests = row_requests(source, places, self.device.shared)
            counted += len(requests.own) + len(requests.shared)
            return requests

        units: list[tuple[Piece, slice | None]] = [(piece, at) for piece, at, _ in places]
        self._load(
            sources,
            host,
            lambda column: self._new_load(column, units, len(numbers), rows),
            needed,
            lambda cells: int(np.searchsorted(starts, cells[1][0], side="right")) - 1,
            then,
        )
        self.device.count_late(counted, self._chunks_under(sources))

    def _new_load(
        self, column: WaveSource, units: list[tuple[Piece, slice | None]], total: int, rows: DeviceRows | None
    ) -> WaveLoad:
        device = self.device
        return WaveLoad(column, units, total, rows, self.stream, device.runtime, device.pinned, device.note_ready)

    def _load(
        self,
        sources: dict[str, ChunkedColumn],
        host: Callable[[ChunkedColumn], tuple[Any, list[Task], list[Future[Any]]]],
        new: Callable[[WaveSource], WaveLoad],
        needed: Callable[[ChunkedColumn], Requests],
        unit_of: Callable[[Any], int],
        then: Callable[[], None],
    ) -> None:
        """Start loading columns, each where it is decoded."""
        device = self.device
        tasks: list[Task] = []
        waits: list[Future[Any]] = []
        loads: list[WaveLoad] = []
        fetches: list[ChunkRequest] = []
        for path, source in sources.items():
            column = device.columns.get(path)
            if column is None:
                self.loads[path], more, others = host(source)
                tasks += more
                waits += others
                continue
            load = new(column)
            requests = needed(source)
            fetches += chunk_requests(column, requests, load, unit_of, device)
            self.on_device[path] = load
            loads.append(load)
            waits.append(load.done)
        self.run(tasks, waits, then)
        for load in loads:
            load.start()
        device.schedule_gather(self)
        apart = device.scheduler.direct is not None
        device.scheduler.submit(waves(self.frame.number, fetches, device.wave_nbytes, apart=apart))

    # -- the phases ----------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Evaluate the filter and decide how the rest is read; as on the host."""
        self.device.runtime.activate()
        if not self._settle(self._choose):
            return
        for load in self.loads.values():
            load.place_shared()
        with self.device.gate.working():
            rows = self.device.gate.run(self._evaluate, "the filter of a frame") if self.frame.filtered else None
        if rows is not None and len(rows.numbers) == 0:
            self.device.statistics.add(tiles_skipped_late=len({p.tile for p in self.frame.pieces}))
            self._finish([])
            return
        if rows is not None and len(rows.numbers) == self.frame.rows:
            rows = None
        rest = {
            path: s
            for path, s in self.device.output_columns.items()
            if path not in self.loads and path not in self.on_device
        }

        def after() -> None:
            self.device.runtime.activate()
            if not self._settle(after):
                return
            for path in rest:
                if path in self.loads:
                    self.loads[path].place_shared()
            with self.device.gate.working():
                self.device.gate.run(lambda: self._hand_over(rows), "the result of a frame")

        if not rest:
            after()
        elif rows is None:
            self._load_full(rest, after)
        else:
            self._load_rows(rest, rows, after)

    def _settle(self, again: Callable[[], None]) -> bool:
        """Wait for the device and look at what the gathers say; False if columns have to be read by the host first."""
        device = self.device
        fresh = [path for path in self.on_device if path not in self.null_counts]
        lease: Lease | None = None
        try:
            if fresh:
                lease = device.pinned.lend(COUNTERS_NBYTES * len(fresh))
                for i, path in enumerate(fresh):
                    target = lease.data[COUNTERS_NBYTES * i : COUNTERS_NBYTES * (i + 1)]
                    device.runtime.download(target, self.on_device[path].buffers.counters.address, self.stream)
            self.stream.synchronize()
            bad = []
            for i, path in enumerate(fresh):
                assert lease is not None
                nulls, status = lease.data[COUNTERS_NBYTES * i : COUNTERS_NBYTES * (i + 1)].view(np.uint64).tolist()
                self.null_counts[path] = nulls
                if status:
                    bad.append(path)
        finally:
            if lease is not None:
                lease.release()
        for load in self.on_device.values():
            load.release()
        if bad:
            self._read_by_host(bad, again)
        return not bad

    def _read_by_host(self, paths: list[str], then: Callable[[], None]) -> None:
        """Load columns again whose values only the host's decoder gets right, or refuses in words."""
        tasks: list[Task] = []
        waits: list[Future[Any]] = []
        for path in paths:
            old = self.on_device.pop(path)
            self.null_counts.pop(path)
            source, shared = old.column.source, SharedChunks()
            if old.rows is None:
                load, more, others = begin_full(
                    source, self.frame, shared, self.device.scratch, together=self.device.together
                )
                self.loads[path] = load
            else:
                places = positions(old.rows.numbers.astype(np.int64), self.frame)
                row_load, more, others, _ = begin_rows(
                    source, places, old.total, shared, self.device.scratch, together=self.device.together
                )
                self.loads[path] = row_load
            tasks += more
            waits += others

        def placed() -> None:
            for path in paths:
                self.loads[path].place_shared()
            then()

        self.run(tasks, waits, placed)

    def _evaluate(self) -> DeviceRows:
        """Surviving rows of the frame."""
        filter_ = self.device.device_filter
        with self.device.runtime.stage("filter"):
            if filter_ is not None and all(path in self.on_device for path in filter_.columns):
                return filter_.rows(self)
            numbers = np.flatnonzero(self._mask().to_numpy()).astype(np.int32)
            return self.upload_rows(numbers)

    def upload_rows(self, numbers: np.ndarray) -> DeviceRows:
        """Row numbers to the device."""
        device = self.device
        buffer = device.runtime.allocate(max(4, numbers.nbytes), self.stream)
        if numbers.nbytes:
            lease = device.pinned.lend(numbers.nbytes)
            lease.data[: numbers.nbytes] = numbers.view(np.uint8)
            device.runtime.upload(buffer.address, lease.data[: numbers.nbytes], self.stream)
            self.stream.synchronize()
            lease.release()
        return DeviceRows(numbers, buffer)

    def _whole(self, column: Column) -> pl.Series:
        """A column over all rows of the frame, on the host."""
        load = self.on_device.get(column.array.path) if column.array is not None else None
        if load is None or column.role == "struct":
            return super()._whole(column)
        dtype = load.column.source.decoding.numpy
        nulls = self.null_counts[load.column.source.array.path]
        device = self.device
        ((values, valid),) = download([load.buffers], [dtype], [nulls], device.runtime, device.pinned, self.stream)
        return series(column.name, column.dtype, values, valid, nulls)

    # -- the result ----------------------------------------------------------------------------------------------

    def _hand_over(self, rows: DeviceRows | None) -> None:
        """Make the frame of the projection."""
        with self.device.runtime.stage("hand over"):
            result = self._handed_over(rows)
        self._finish([result])

    def _handed_over(self, rows: DeviceRows | None) -> Any:
        device, plan = self.device, self.device.plan
        host: dict[str, pl.Series] = {}
        found: dict[str, DeviceColumn] = {}
        for name in plan.projection:
            column = plan.table.by_name[name]
            path = column.array.path if column.array is not None else None
            if path is not None and path in self.on_device and column.role != "struct":
                found[name] = self._device_column(self.on_device[path], rows)
            elif device.device_coordinates is not None and device.device_coordinates.holds(column):
                found[name] = device.device_coordinates.column(column, self, rows)
            else:
                host[name] = self._host_column(column, rows)
        total = self.frame.rows if rows is None else len(rows.numbers)
        frame = DeviceFrame(total, found, host, plan.projection, self.stream, device.runtime, device.pinned)
        self.stream.synchronize()
        for tables in self.keep:
            tables.release()
        self.keep.clear()
        self._settled_counts(frame)
        return device.finish(frame)

    def _device_column(self, load: WaveLoad, rows: DeviceRows | None) -> DeviceColumn:
        source = load.column.source
        buffers = load.buffers
        nulls = self.null_counts[source.array.path]
        if rows is not None and load.rows is None:
            buffers = self._taken(load, rows)
            nulls = -1 if nulls else 0
        return DeviceColumn(source.decoding.dtype, source.decoding.numpy, buffers, nulls)

    def _taken(self, load: WaveLoad, rows: DeviceRows) -> ColumnBuffers:
        """The survivors of a column that is in device memory whole."""
        runtime, itemsize = self.device.runtime, load.column.program.out.itemsize
        whole = load.buffers
        nullable = whole.valid is not None and self.null_counts[load.column.source.array.path] > 0
        out = ColumnBuffers.allocate(len(rows.numbers), itemsize, nullable, runtime, self.stream)
        launch = launches.take(
            itemsize,
            rows=rows.buffer.address,
            count=len(rows.numbers),
            values=whole.values.address,
            out_values=out.values.address,
            valid=whole.valid.address if nullable and whole.valid is not None else 0,
            out_valid=out.valid.address if out.valid is not None else 0,
            null_count=out.counters.address if nullable else 0,
        )
        runtime.launch(launch, self.stream)
        return out

    def _settled_counts(self, frame: DeviceFrame) -> None:
        """Fill in the null counts that `take` found."""
        unknown = [name for name, column in frame.device.items() if column.null_count < 0]
        if not unknown:
            return
        lease = self.device.pinned.lend(8 * len(unknown))
        for i, name in enumerate(unknown):
            target = lease.data[8 * i : 8 * i + 8]
            self.device.runtime.download(target, frame.device[name].buffers.counters.address, self.stream)
        self.stream.synchronize()
        for name, nulls in zip(unknown, lease.data[: 8 * len(unknown)].view(np.uint64).tolist(), strict=True):
            column = frame.device[name]
            frame.device[name] = DeviceColumn(column.dtype, column.numpy, column.buffers, nulls)
        lease.release()

    def _host_column(self, column: Column, rows: DeviceRows | None) -> pl.Series:
        if rows is None:
            return self._whole(column)
        if column.role == "struct":
            return pl.DataFrame([self._host_column(f, rows) for f in column.fields]).to_struct(column.name)
        path = column.array.path if column.array is not None else None
        if path is not None and path in self.on_device:
            taken = self._device_column(self.on_device[path], rows)
            frame = DeviceFrame(
                len(rows.numbers),
                {column.name: taken},
                {},
                (column.name,),
                self.stream,
                self.device.runtime,
                self.device.pinned,
            )
            self._settled_counts(frame)
            return frame.to_polars()[column.name]
        load = self.loads.get(path) if path is not None else None
        if load is None:
            return self.device.coordinates.at_rows(column, rows.numbers.astype(np.int64), self.frame)
        if isinstance(load, RowLoad):
            assert load.out is not None
            assert column.decoding is not None
            return column.decoding.to_series(column.name, load.out.values, load.out.valid)
        return self._whole(column).gather(pl.Series(rows.numbers))

    def drop(self) -> None:
        """Let go of memory that the device may still be copying, once it has done so."""
        with contextlib.suppress(Exception):  # the scan has ended; what went wrong has been said
            self.stream.synchronize()
        for load in self.on_device.values():
            load.release()
        self.on_device.clear()

    def _finish(self, frames: list[pl.DataFrame]) -> None:
        self.on_device.clear()
        self.null_counts.clear()
        super()._finish(frames)
        self.device.gate.released()


def chunk_requests(
    column: WaveSource,
    requests: Requests,
    load: WaveLoad,
    unit_of: Callable[[Any], int],
    device: WaveDevice | None = None,
) -> list[ChunkRequest]:
    """What to fetch for a load, object by object; tells the load which chunks it waits for.

    Parameters
    ----------
    device
        Where chunks of earlier scans may be kept; they are announced instead.
    """
    out: list[ChunkRequest] = []
    reader = column.source.reader
    kept = reader.kept_on_device if device is not None else None

    def add(indices: np.ndarray, boxes: np.ndarray | None, slots: list[Future[Any]]) -> None:
        for group in reader.groups(indices):
            left = group
            if kept is not None and device is not None:
                left = without_kept(kept, id(device.runtime), group, indices, slots)
                device.statistics.add(chunks_cached=len(group.positions) - len(left.positions))
            if len(left.positions):  # what is kept is kept whole
                out.append(ChunkRequest(column, left, indices, boxes if kept is None else None, slots))

    for index, place, slot in requests.shared:
        load.needs(unit_of(place), index, slot)
    if requests.claims:
        indices, boxes = claimed_boxes(column.source, requests.claims)
        add(indices, boxes, [slot for _, slot in requests.claims])
    if len(requests.own):
        slots: list[Future[Any]] = [Future() for _ in requests.places]
        for row, place, slot in zip(requests.own.tolist(), requests.places, slots, strict=True):
            load.needs(unit_of(place), tuple(row), slot)
        add(requests.own, requests.boxes, slots)
    return out
