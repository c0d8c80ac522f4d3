"""Which columns a device decodes and gathers, and how their chunks lie in its memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from gpuzarr.codecs.layout import StoredLayout
from gpuzarr.codecs.route import Route, route_for
from gpuzarr.device.loading import ChunkedColumn
from gpuzarr.kernels.cf_program import ColumnProgram, column_program
from gpuzarr.kernels.descriptors import MAX_DIMS
from gpuzarr.kernels.gather_tables import ArrayAxis

__all__ = ["WaveSource", "wave_source"]


@dataclass(frozen=True, eq=False)
class WaveSource:
    """A column whose chunks are decoded in batches and gathered by the device.

    Parameters
    ----------
    source
        The column as the host path has it.
    program
        Its CF decoding.
    route
        How its chunks become streams.
    layout
        Of a chunk's elements in device memory, in native byte order.
    axes
        The array's dimensions for the gather kernel, in the array's order.
    """

    source: ChunkedColumn
    program: ColumnProgram
    route: Route
    layout: StoredLayout
    axes: tuple[ArrayAxis, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return self.route.nbytes

    @cached_property
    def elements(self) -> int:
        """Elements of a decoded chunk."""
        return self.nbytes // self.layout.dtype.itemsize

    @cached_property
    def shuffled_itemsize(self) -> int:
        """Bytes of an element where a gather may read byte-shuffled chunks; 0 where they are unshuffled before.

        Reading in place saves reading and writing the chunk once. It pays where neighbouring rows are neighbours in the
        chunk; else every element would cost a memory transaction per byte. A column that repeats along the last dimension
        is small beside its rows, and would be put together again for each of them.
        """
        size = self.layout.dtype.itemsize
        last = len(self.source.plan.table.dims) - 1
        runs = any(axis.dim == last and axis.stride == 1 for axis in self.axes)
        return size if size > 1 and runs else 0

    @cached_property
    def is_payload_free(self) -> bool:
        """Whether its chunks become streams without a look at their bytes: they may lie in device memory alone."""
        return self.route.is_divisible and self.route.compressor is None

    @property
    def nullable(self) -> bool:
        """Whether the column needs a validity bitmap."""
        return self.program.nullable or self.source.nullable


def wave_source(source: ChunkedColumn) -> WaveSource | str:
    """The column for the device, or why it is left to the host."""
    if not source.decoding.is_fixed_width:
        return f"{source.decoding.dtype} has no fixed width"
    program = column_program(source.decoding)
    if program is None:
        return "CF decoding that only the host does"
    route = route_for(source.chain)
    layout = route.remainder.layout
    if not route.has_arena or route.remainder.byte_steps or layout is None or not layout.dtype.isnative:
        return f"codecs that only the host undoes ({source.chain.describe()})"
    if layout.dtype.itemsize != program.stored.itemsize or layout.nbytes != route.nbytes:
        return f"stored as {layout.dtype}"
    if len(source.plan.table.dims) > MAX_DIMS:
        return f"more than {MAX_DIMS} dimensions"
    strides = [0] * len(layout.axes)
    for stored, axis in enumerate(layout.axes):
        strides[axis] = math.prod(layout.shape[stored + 1 :])
    axes = tuple(
        ArrayAxis(source.dims[name], cells, stride)
        for name, cells, stride in zip(source.column.dims, source.chain.chunk_shape, strides, strict=True)
    )
    return WaveSource(source, program, route, layout, axes)
