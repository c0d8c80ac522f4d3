"""Variables of several stores side by side, by position, where the coordinates are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from gpuzarr.errors import GpuzarrError, Kind, RequestError
from gpuzarr.many.mounted import MountedStore
from gpuzarr.many.stores import label_of
from gpuzarr.metadata.limits import Limits
from gpuzarr.options import ScanOptions
from gpuzarr.source.dataset import Dataset
from gpuzarr.table import Column, Table, TableOptions
from gpuzarr.table.tiling import tile_shape

__all__ = ["join_stores"]


def join_stores(
    targets: Mapping[str, Any],
    *,
    group: str | None,
    table: TableOptions,
    options: ScanOptions,
    storage_options: Mapping[str, Any] | None,
    limits: Limits,
) -> Dataset:
    """One table of one variable per store.

    Parameters
    ----------
    targets
        By the name of the variable's column: the store that has it. The variable has this name there, or is the only one.
    group, table, options, storage_options, limits
        As `gpuzarr.api.open_dataset`.

    Raises
    ------
    RequestError
        Dimensions or coordinates differ; the message says where.
    """
    names = list(targets)
    for name in names:
        if not _is_name(name):
            raise RequestError(f"{name!r} cannot be the name of a column of one store.")
    opened = {
        name: _open(
            name, target, group=group, table=table, options=options, storage_options=storage_options, limits=limits
        )
        for name, target in targets.items()
    }
    first = opened[names[0]]
    for name in names[1:]:
        _compare(names[0], first, name, opened[name])
    columns = [_mounted(c, names[0], c.name) for c in first.table.columns if c.role != "variable"]
    taken = {c.name for c in columns}
    variables = [_mounted(_variable(opened[name].table, name), name, name) for name in sorted(names)]
    for variable in variables:
        if variable.name in taken:
            raise RequestError(f"{variable.name!r} is a coordinate of the stores; it cannot also be a variable.")
    grids = [
        dict(zip(c.dims, c.chain.chunk_shape, strict=True))
        for c in sorted(variables, key=lambda c: -len(c.dims))
        if c.chain is not None
    ]
    store = MountedStore({name: dataset.store for name, dataset in opened.items()})
    joined = Table(
        store=store.label,
        group="",
        dims=first.table.dims,
        columns=(*columns, *variables),
        tile_shape=tile_shape(first.table.dims, grids),
        attributes=first.table.attributes,
    )
    return Dataset(store, joined, options, limits=limits)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name


def _open(name: str, target: Any, *, table: TableOptions, storage_options: Any, **arguments: Any) -> Dataset:
    from gpuzarr.api import open_dataset

    if table.variables is not None:
        raise RequestError("variables= and a dict of stores exclude each other: the keys name the variables.")
    remote = storage_options if isinstance(target, str) and "://" in target else None
    chosen = replace(table, variables=(name,))
    try:
        try:
            return open_dataset(target, table=chosen, storage_options=remote, **arguments)
        except RequestError as error:
            try:
                dataset = open_dataset(target, table=table, storage_options=remote, **arguments)
            except RequestError:
                raise error from None  # it names the variable that is missing
        found = [c.name for c in dataset.table.columns if c.role == "variable"]
        if len(found) != 1:
            raise RequestError(
                f"There is no variable {name!r}, and not just one: {', '.join(found) or 'none'}. The keys of the dict name "
                f"the variables."
            )
        return dataset
    except GpuzarrError as error:
        raise error.located(store=label_of(target)) from error


def _variable(table: Table, name: str) -> Column:
    found = [c for c in table.columns if c.role == "variable"]
    if not found:
        raise RequestError(f"{name!r} is a coordinate and no variable of the store.", store=table.store)
    return next((c for c in found if c.name == name), found[0])


def _mounted(column: Column, mount: str, name: str) -> Column:
    if column.array is None:
        return replace(column, name=name)
    path = f"{mount}/{column.array.path}" if column.array.path else mount
    return replace(column, name=name, array=replace(column.array, path=path))


def _compare(name: str, first: Dataset, other_name: str, other: Dataset) -> None:
    sizes, others = first.table.sizes, other.table.sizes
    if sizes != others:
        raise _differ(f"The dimensions of {name!r} are {_shape(sizes)}, those of {other_name!r} are {_shape(others)}.")
    for dimension in sizes:
        one, two = _coordinate(first, dimension), _coordinate(other, dimension)
        if one is None and two is None:
            continue
        if one is None or two is None:
            without = name if one is None else other_name
            raise _differ(f"{without!r} has no coordinate for the dimension {dimension!r}, the other store has one.")
        unequal = one.ne_missing(two) if one.dtype == two.dtype else one.ne_missing(two.cast(one.dtype, strict=False))
        at = unequal.arg_true()
        if len(at):
            i = int(at[0])
            raise _differ(
                f"The coordinate {dimension!r} differs between {name!r} and {other_name!r} at {len(at)} of {len(one)} "
                f"indices, first at {i}: {one[i]} and {two[i]}."
            )


def _coordinate(dataset: Dataset, dimension: str) -> pl.Series | None:
    """Values of a dimension's coordinate, None if it has none."""
    for column in dataset.table.columns:
        if column.role == "dimension" and column.dims == (dimension,):
            if dataset.coordinates.dims_of(column.name) is None:
                raise _differ(f"The coordinate {dimension!r} is too long to be compared.")
            return dataset.coordinates.values(column.name)
    return None


def _shape(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {size}" for name, size in sizes.items()) or "none"


def _differ(message: str) -> RequestError:
    return RequestError(
        f"{message} Stores are joined by position only where dimensions and coordinates are equal; scan them one by one and "
        f"join on the coordinates.",
        kind=Kind.ARGUMENT,
    )
