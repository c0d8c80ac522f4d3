"""The device that reads in waves: fetches of many chunks, one batch of streams, one gather; only survivors come back.

What is read and what is kept is decided as on the host (`gpuzarr.device.host`): the jobs are the host's jobs, whose columns
of fixed width are loaded by `WaveLoad` instead. Columns that only the host can decode take the host's way and are joined.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from gpuzarr.device.host import FrameJob, HostDevice
from gpuzarr.device.memory_pool import DirectPool, PinnedPool
from gpuzarr.device.runtime import Runtime
from gpuzarr.device.wave_coordinates import DeviceCoordinates
from gpuzarr.device.wave_frame import DeviceFrame
from gpuzarr.device.wave_job import WaveJob
from gpuzarr.device.wave_load import WaveLoad
from gpuzarr.device.wave_mask import DeviceFilter, device_filter
from gpuzarr.device.wave_schedule import IN_FLIGHT, MemoryGate, WaveScheduler
from gpuzarr.device.wave_source import WaveSource, wave_source
from gpuzarr.options import ScanOptions
from gpuzarr.plan.model import Frame, ScanPlan
from gpuzarr.reader import ChunkReader
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.coordinates import Coordinates
from gpuzarr.table.model import Column

__all__ = ["WaveDevice"]


class WaveDevice(HostDevice):
    """Turns frames into data frames by way of device memory. One object per scan.

    Parameters
    ----------
    runtime
        The device.
    budget
        Bytes of device memory for waves in flight; the frames' columns come on top.
    finish
        What becomes of a frame; by default it comes back as a `polars.DataFrame`.
    coordinates_on_device
        Whether coordinates are repeated on the device; else on the host, which is cheaper where the frame goes back.

    Attributes
    ----------
    host_reasons
        Array path → why the column is left to the host.
    """

    may_tabulate = False  # kernels decode and compare in one pass

    def __init__(
        self,
        plan: ScanPlan,
        coordinates: Coordinates,
        readers: Callable[[Column], ChunkReader],
        options: ScanOptions,
        statistics: ScanStatistics,
        runtime: Runtime,
        *,
        workers: int,
        budget: int,
        pinned: PinnedPool | None = None,
        direct: DirectPool | None = None,
        in_flight: int = IN_FLIGHT,
        together: int = 2**20,
        cache_bytes: int = 2**26,
        finish: Callable[[DeviceFrame], Any] = DeviceFrame.to_polars,
        coordinates_on_device: bool = False,
    ) -> None:
        super().__init__(
            plan, coordinates, readers, options, statistics, workers=workers, together=together, cache_bytes=cache_bytes
        )
        self.runtime = runtime
        self.pinned = pinned if pinned is not None else PinnedPool(runtime)
        self.finish = finish
        self.gate = MemoryGate(self._make_room)
        self.wave_nbytes = max(1, budget // in_flight)
        self.scheduler = WaveScheduler(
            runtime,
            self.pinned,
            self.pool,  # type: ignore[arg-type]  # made with threads
            self.gate,
            statistics,
            budget=budget,
            in_flight=in_flight,
            arrived=self.gather_ready,
            guard=self.guard,
            direct=direct if direct is not None else DirectPool(runtime),
        )
        self.columns: dict[str, WaveSource] = {}
        self.host_reasons: dict[str, str] = {}
        for path, source in self.sources.items():
            found = wave_source(source)
            if isinstance(found, str):
                self.host_reasons[path] = found
            else:
                self.columns[path] = found
        statistics.add(columns_on_host=len(self.host_reasons))
        files = runtime.files
        statistics.note(
            f"files are read by {files.name}, "
            + (_through_host(files.not_direct) or "straight to the device where no byte has to be looked at")
        )
        for path, reason in self.host_reasons.items():
            statistics.note(f"{path or '/'}: whole column on the host: {reason}")
        self.device_filter: DeviceFilter | None = device_filter(plan, self.columns)
        self.device_coordinates: DeviceCoordinates | None = None
        if coordinates_on_device:
            dims = {d.name: i for i, d in enumerate(plan.table.dims)}
            self.device_coordinates = DeviceCoordinates(coordinates, dims, plan.table.sizes)
        self._ready: list[WaveLoad] = []
        self._ready_lock = threading.Lock()
        self._open = contextlib.ExitStack()
        self._open.enter_context(runtime.files.scanning())

    def make_job(self, frame: Frame) -> FrameJob:
        return WaveJob(self, frame)

    def nbytes(self, frame: Frame) -> int:
        """Bytes of the frame's columns, on the device and on their way back."""
        columns = sum(c.program.out.itemsize + 1 for c in self.columns.values())
        return super().nbytes(frame) + frame.rows * columns

    def close(self) -> None:
        """Stop all work, wait for what the device has begun, and free everything. Idempotent."""
        self.scheduler.close()
        super().close()
        with self._lock:
            jobs = list(self._jobs.values())
            self._jobs.clear()
        for job in jobs:
            assert isinstance(job, WaveJob)
            job.drop()
        with self._ready_lock:
            self._ready.clear()
        self._open.close()

    def fail(self, error: BaseException) -> None:
        self.gate.close()
        super().fail(error)

    def _make_room(self) -> bool:
        """Give up the chunks that are kept on the device for later scans; whether there were any."""
        kept = (column.source.reader.kept_on_device for column in self.columns.values())
        return any(chunks.make_room() for chunks in kept if chunks is not None)

    # -- gathering -----------------------------------------------------------------------------------------------

    def note_ready(self, load: WaveLoad) -> None:
        """A load has pieces to gather."""
        with self._ready_lock:
            self._ready.append(load)

    def gather_ready(self) -> None:
        """Gather what can be gathered."""
        while True:
            with self._ready_lock:
                if not self._ready:
                    return
                load = self._ready.pop(0)
            with self.runtime.stage("gather"):
                self.gate.run(load.gather, f"column {load.column.source.column.name!r} of a frame")

    def schedule_gather(self, job: WaveJob) -> None:
        """Gather soon, for pieces all of whose chunks were there already."""
        with self._ready_lock:
            if not self._ready:
                return

        def step() -> None:
            self.runtime.activate()
            with self.gate.working():
                self.gather_ready()

        self.scheduler.workers.submit(job.frame.number, self.guard(step))


def _through_host(not_direct: str) -> str:
    return f"through page-locked memory: {not_direct}" if not_direct else ""
