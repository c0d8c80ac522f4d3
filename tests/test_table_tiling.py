"""Tiles: invariants for any row space and any chunk grids."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from support_documents import array, group

from gpuzarr.metadata.model import ceil_div
from gpuzarr.table import TILE_ROWS, Dimension, TableOptions, build_table
from gpuzarr.table.tiling import tile_shape

AXES = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 500)), max_size=4)


@given(AXES, st.integers(1, 5000))
def test_tiles_are_whole_chunks_merged_from_the_last_dimension(axes: list[tuple[int, int]], wanted: int) -> None:
    dims = [Dimension(f"d{i}", size) for i, (size, _) in enumerate(axes)]
    chunk = [max(1, min(size, length)) for size, length in axes]
    tile = tile_shape(dims, [{f"d{i}": length for i, (_, length) in enumerate(axes)}], tile_rows=wanted)
    assert len(tile) == len(dims)
    sizes = [max(1, size) for size, _ in axes]
    for t, c, n in zip(tile, chunk, sizes, strict=True):
        assert 1 <= t <= n
        assert t >= c
        assert t % c == 0 or t == n  # tiles end where chunks end
    rows = math.prod(tile)
    assert rows <= max(wanted, math.prod(chunk))
    # merged from the last dimension: a dimension is merged only if all after it are whole
    for axis, (t, c) in enumerate(zip(tile, chunk, strict=True)):
        if t > c:
            assert list(tile[axis + 1 :]) == sizes[axis + 1 :]
    # no room for one more chunk: the last dimension that is not whole could not take another
    growing = [axis for axis, (t, n) in enumerate(zip(tile, sizes, strict=True)) if t < n]
    if growing:
        axis = growing[-1]
        assert rows // tile[axis] * (tile[axis] + chunk[axis]) > wanted


@given(AXES, AXES)
def test_the_first_grid_that_has_a_dimension_decides(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    dims = [Dimension(f"d{i}", size) for i, (size, _) in enumerate(first)]
    spanning = {f"d{i}": length for i, (_, length) in enumerate(first)}
    other = {f"d{i}": length for i, (_, length) in enumerate(second)}
    assert tile_shape(dims, [spanning, other]) == tile_shape(dims, [spanning])
    half = dict(list(spanning.items())[::2])
    assert tile_shape(dims, [half, spanning]) == tile_shape(dims, [spanning])


def test_worked_examples() -> None:
    era5 = [Dimension("time", 350_000), Dimension("lat", 721), Dimension("lon", 1440)]
    assert tile_shape(era5, [{"time": 1, "lat": 721, "lon": 1440}]) == (1, 721, 1440)  # one chunk is large enough
    assert tile_shape(era5, [{"time": 100, "lat": 10, "lon": 10}]) == (100, 10, 130)  # 131 chunks of 1000 rows
    assert tile_shape(era5, [{"time": 1, "lat": 45, "lon": 1440}]) == (1, 90, 1440)
    assert tile_shape(era5, [{"time": 8760, "lat": 1, "lon": 1}]) == (8760, 1, 14)
    assert tile_shape([], []) == ()
    assert tile_shape([Dimension("x", 0)], [{"x": 7}]) == (1,)
    assert ceil_div(0, 1) == 0
    assert tile_shape([Dimension("x", 10**9)], [{"x": 1000}]) == (131_000,)
    assert TILE_ROWS == 131_072


def test_the_variable_that_decides_is_the_first_spanning_one_by_name() -> None:
    node = group(
        array("x", ("x",), (600,), (600,)),
        array("b", ("y", "x"), (500, 600), (50, 600)),  # transposed: lengths go by name
        array("c", ("x", "y"), (600, 500), (300, 500)),
        array("a", ("y",), (500,), (7,)),
        array("aux", ("x", "y"), (600, 500), (1, 1)),
        array("bounded", ("x",), (600,), bounds="abnds"),
        array("abnds", ("x", "y"), (600, 500), (3, 3)),
        attributes={"coordinates": "aux"},
    )
    options = TableOptions(broadcast=True)
    table = build_table(node, store_label="mem", options=options, read_raw=lambda a: 1 / 0)
    assert [d.name for d in table.dims] == ["y", "x"]
    assert table.tile_shape == (200, 600)
    assert table.grid_shape == (3, 1)
    named = build_table(node, store_label="mem", options=TableOptions(variables=["c"]), read_raw=lambda a: 1 / 0)
    assert named.tile_shape == (300, 500)
