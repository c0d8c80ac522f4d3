"""A scan that reads no chunk and filters nothing: it only repeats coordinates, frame by frame, in the thread that asks.

It hands out the same rows and counts the same as `HostDevice`. A frame that the consumer drops is still in the cache when the
next one is written over it; neighbouring tiles of one shape share the columns that do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from gpuzarr.device.coordinate_columns import CoordinateColumns
from gpuzarr.device.frame_memory import FrameMemory
from gpuzarr.device.host import data_frame
from gpuzarr.device.scan_errors import scan_errors
from gpuzarr.plan.model import Frame, ScanPlan
from gpuzarr.statistics import ScanStatistics
from gpuzarr.table.coordinates import Coordinates

__all__ = ["CoordinateScan"]

ROWS = 2**17
"""Selected rows of a frame: about a tile, so that the next tile can share its columns."""


class CoordinateScan:
    """One scan. `fits` says whether a plan may be scanned like this.

    Parameters
    ----------
    cache_bytes
        Bytes of columns, and of unused frames, that are kept for the next frames.
    """

    def __init__(
        self, plan: ScanPlan, coordinates: Coordinates, statistics: ScanStatistics, *, cache_bytes: int
    ) -> None:
        self.plan = plan
        self._statistics = statistics
        self._memory = FrameMemory(cache_bytes)
        self._coordinates = CoordinateColumns(plan, coordinates, cache_bytes=cache_bytes, memory=self._memory)
        self._columns = [plan.table.by_name[name] for name in plan.projection]

    @staticmethod
    def fits(plan: ScanPlan, coordinates: Coordinates) -> bool:
        """Whether a plan only repeats what is held in memory, and all of its tiles' selections."""
        columns = (plan.table.by_name[name] for name in plan.projection)
        known = all(column.role == "index" or coordinates.holds(column) for column in columns)
        return known and plan.filter is None and plan.boundary is None and plan.n_rows != 0

    def frames(self) -> Iterator[pl.DataFrame]:
        """Data frames in row order.

        Raises
        ------
        ResourceError
            Memory ran out.
        GpuzarrError
            A coordinate could not be read.
        """
        try:
            with scan_errors(self.plan.table.store, "coordinates were repeated"):
                for frame in self.plan.frames(rows_wanted=ROWS):
                    self._statistics.add(tiles=len({p.tile for p in frame.pieces if p.tile <= frame.done}))
                    yield self._data_frame(frame)
        finally:
            self._memory.close()

    def _data_frame(self, frame: Frame) -> pl.DataFrame:
        columns: list[pl.Series] = []
        constants: list[pl.Expr] = []
        for column in self._columns:
            scalar = self._coordinates.scalar(column, None, frame)
            if scalar is not None:
                constants.append(scalar)
            else:
                columns.append(self._coordinates.whole(column, frame))
        made = data_frame(columns, constants, self.plan.projection, frame.rows)
        self._statistics.add(rows=made.height)
        return made
