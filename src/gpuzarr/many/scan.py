"""From what stands for many stores to one LazyFrame."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from gpuzarr.errors import RequestError
from gpuzarr.many.joined import join_stores
from gpuzarr.many.listing import is_pattern, matching
from gpuzarr.many.source import ManySource
from gpuzarr.many.stores import Stores
from gpuzarr.metadata.limits import Limits
from gpuzarr.options import ScanOptions
from gpuzarr.progress import ProgressFactory
from gpuzarr.source import gpu_hook
from gpuzarr.source.polars_source import lazy_frame
from gpuzarr.table import TableOptions

__all__ = ["URL_COLUMNS", "is_many", "scan_many"]

URL_COLUMNS = ("url", "zstore", "store", "path", "uri")
"""Names under which a frame of stores may hold their locations; the first that is there counts."""


def is_many(target: Any) -> bool:
    """Whether an argument stands for many stores: a list or tuple, a dict, a frame, or a pattern."""
    if isinstance(target, str):
        return is_pattern(target)
    return isinstance(target, list | tuple | dict | pl.DataFrame | pl.LazyFrame)


def scan_many(
    target: Any,
    *,
    group: str | None,
    table: TableOptions,
    options: ScanOptions,
    storage_options: Mapping[str, Any] | None,
    limits: Limits,
    progress: ProgressFactory | None = None,
) -> pl.LazyFrame:
    """Many stores as one table.

    Parameters
    ----------
    target
        A list or a pattern: stores with equal columns, one below the other in this order (a pattern's by name). A frame:
        one store per row, its location in a column named as in `URL_COLUMNS`; the other columns become columns of the table,
        and filters on them exclude stores before they are opened. A dict: variables side by side, see `join_stores`.
    group, table, options, storage_options, limits, progress
        As `gpuzarr.scan_zarr`; guards such as ``max_rows`` hold for all stores together.
    """
    arguments: dict[str, Any] = {
        "group": group,
        "table": table,
        "options": options,
        "storage_options": storage_options,
        "limits": limits,
    }
    if isinstance(target, dict):
        if not target:
            raise RequestError("The dict of stores is empty.")
        dataset = join_stores(target, **arguments)
        dataset.progress = progress
        return lazy_frame(dataset)
    targets, partitions = _listed(target, storage_options)
    if not targets:
        raise RequestError("There are no stores; a table needs one at least, to know its columns.")
    gpu_hook.install()
    source = ManySource(Stores(targets, partitions, **arguments), progress=progress)
    # Not pure: a shared scan of a self-join would lose its predicates and read everything.
    return register_io_source(source, schema=source.stores.schema, validate_schema=True, is_pure=False)


def _listed(target: Any, storage_options: Mapping[str, Any] | None) -> tuple[list[Any], pl.DataFrame]:
    if isinstance(target, str):
        return list(matching(target, storage_options)), pl.DataFrame()
    if isinstance(target, list | tuple):
        return [os.fspath(t) if isinstance(t, os.PathLike) else t for t in target], pl.DataFrame()
    frame: pl.DataFrame = target.collect() if isinstance(target, pl.LazyFrame) else target
    column = next((name for name in URL_COLUMNS if name in frame.columns), None)
    if column is None:
        raise RequestError(
            f"The frame of stores needs a column with their locations, named {', '.join(map(repr, URL_COLUMNS))}; it has "
            f"{', '.join(frame.columns) or 'no columns'}."
        )
    if frame[column].dtype != pl.String or frame[column].null_count():
        raise RequestError(f"The column {column!r} must hold a path or URL in every row.")
    return frame[column].to_list(), frame.drop(column)
