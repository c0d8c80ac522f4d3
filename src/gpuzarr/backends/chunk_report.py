"""Which chunks a plan touches, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuzarr.plan.chunks import touched
from gpuzarr.plan.model import ScanPlan
from gpuzarr.table import Column

__all__ = ["chunk_report"]


def chunk_report(plan: ScanPlan, columns: Iterable[Column]) -> list[dict[str, Any]]:
    """One entry per dimensions and inner chunk shape of the arrays of some columns.

    Returns
    -------
    list of dict
        ``dims``, ``variables`` (sorted) and ``chunks``: ``indices``, ``origin`` and ``shape`` of every inner chunk (its
        full shape, also at the end of the array), and the ``shards`` that hold it (theirs cut at the end of the array). An
        array of which nothing is touched is left out.
    """
    grids: dict[tuple[Any, ...], list[Column]] = {}
    for column in columns:
        assert column.array is not None
        assert column.chain is not None
        key = (column.dims, column.chain.chunk_shape, column.array.chunk_shape)
        grids.setdefault(key, []).append(column)
    out = []
    for (dims, inner, outer), members in grids.items():
        chain, array = members[0].chain, members[0].array
        assert chain is not None
        assert array is not None
        indices = touched(members[0], plan)
        if not len(indices):
            continue
        chunks = [
            {
                **_place(index, inner, None),
                "shards": [_place(_shard(index, inner, outer), outer, array.shape)] if chain.is_sharded else [],
            }
            for index in indices
        ]
        out.append({"dims": list(dims), "variables": sorted(m.name for m in members), "chunks": chunks})
    return out


def _shard(index: np.ndarray, inner: tuple[int, ...], outer: tuple[int, ...]) -> np.ndarray:
    return index * np.array(inner, np.int64) // np.array(outer, np.int64)


def _place(index: np.ndarray, cells: tuple[int, ...], shape: tuple[int, ...] | None) -> dict[str, list[int]]:
    origin = [int(i) * c for i, c in zip(index.tolist(), cells, strict=True)]
    size = list(cells)
    if shape is not None:
        size = [min(c, n - o) for o, c, n in zip(origin, cells, shape, strict=True)]
    return {"indices": [int(i) for i in index.tolist()], "origin": origin, "shape": size}
