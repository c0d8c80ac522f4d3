"""The public functions: a store becomes LazyFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from gpuzarr.describe import schema
from gpuzarr.errors import RequestError
from gpuzarr.many import is_many, scan_many
from gpuzarr.metadata import ArrayMetadata, GroupMetadata, open_node, walk
from gpuzarr.metadata.limits import DEFAULT_LIMITS, Limits
from gpuzarr.options import MissingPolicy, Order, ScanOptions
from gpuzarr.probe import require_cuda
from gpuzarr.progress import Progress, progress_factory
from gpuzarr.source.bill import Bill, Profile, explain, profile
from gpuzarr.source.dataset import Dataset, RawReader
from gpuzarr.source.polars_source import lazy_frame
from gpuzarr.source.together import small_coordinates
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store import ByteStore, open_store
from gpuzarr.table import TableOptions, build_table, build_tables
from gpuzarr.table.whole import read_whole

if TYPE_CHECKING:
    from gpuzarr.backends.backend import Backend

__all__ = ["Bill", "Profile", "explain", "open_dataset", "profile", "read_device", "scan_tables", "scan_zarr", "schema"]

Device = Literal["auto", "cpu", "cuda"]


def scan_zarr(
    store: Any,
    *,
    group: str | None = None,
    variables: Iterable[str] | None = None,
    dims: Iterable[str] | None = None,
    broadcast: bool = False,
    groups: Literal["struct"] | None = None,
    device: Device = "auto",
    order: Order = "tile",
    decode_cf: bool = True,
    time_unit: Literal["ns", "us", "ms"] = "ns",
    on_missing: MissingPolicy = "fill",
    nan_to_null: bool = False,
    max_bytes: int | None = None,
    max_rows: int | None = None,
    max_chunks_to_read: int | None = None,
    memory_budget: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: bool | Progress | None = None,
) -> pl.LazyFrame:
    """A group of Zarr arrays as one lazy table: a row per cell, a column per coordinate and variable.

    Documents are read now, chunks when the query runs: exactly those that its filters, columns and limits can need.

    Parameters
    ----------
    store
        A path, a URL, a zarr ``Store``, ``Group`` or ``Array``, or what `gpuzarr.store.open_store` accepts besides. A backend
        (`gpuzarr.ZarrBackend`), whose caches are used. Many stores as one table: a list, a pattern such as
        ``"s3://bucket/*.zarr"``, a frame with a column ``url`` (its other columns become columns of the table, and filters
        on them exclude stores before they are opened); a dict ``{"tas": store, "pr": store}`` of variables with equal
        coordinates, side by side.
    group
        Path of the group (or array) inside the store.
    variables
        Names of arrays; the row space is the union of their dimensions, and those with fewer are repeated.
    dims
        Names of dimensions: the variables on exactly these. With ``variables``: asserts that these are the dimensions.
    broadcast
        All variables, on the union of their dimensions; with ``dims``, on these dimensions: the variables on a part of them.
    groups
        ``"struct"``: child groups whose dimensions are in the row space as Struct columns.
    device
        ``"cpu"``; ``"cuda"`` raises where it cannot run; ``"auto"`` chooses.
    order
        ``"tile"``: tile by tile, C order inside; the same for every query on the table. ``"C"``: C order of the array.
    decode_cf
        Apply CF conventions (missing values, scale and offset, times) as xarray does; what it masks is null here.
    time_unit
        Unit of Datetime and Duration columns.
    on_missing
        A chunk that is not stored is the fill value (``"fill"``), null (``"null"``) or an error (``"raise"``). A chunk
        that cannot be read is always an error.
    nan_to_null
        Also NaN without a missing-value marker becomes null.
    max_bytes, max_rows, max_chunks_to_read
        Refuse a query before it reads if it would decode more bytes, select more rows or read more chunks.
    memory_budget
        Bytes that frames in flight may take.
    storage_options
        Credentials and options for a URL.
    limits
        How much metadata is accepted, see `gpuzarr.Limits`; errors of the kind ``metadata-limit`` name the one to raise.
    progress
        True: a progress bar per scan (needs tqdm). A function: called with every `gpuzarr.progress.ProgressEvent`.

    Returns
    -------
    polars.LazyFrame
        Plain; nothing about it is special but its source.

    Raises
    ------
    NotFoundError
        No such store, group or variable.
    RequestError
        The arguments are ambiguous or wrong; the message lists the calls that work.
    MetadataError
        A document is malformed or asks for something unsupported.
    EnvironmentLacksError
        The device or a library is missing; the message names it.
    """
    backend = _as_backend(store)
    if backend is not None:
        if group is not None or storage_options is not None or limits is not DEFAULT_LIMITS:
            raise RequestError("A backend is open already: give group, storage_options and limits where it is opened.")
        choices = {
            "variables": variables, "dims": dims, "broadcast": broadcast, "groups": groups, "device": device, "order": order,
            "decode_cf": decode_cf, "time_unit": time_unit, "on_missing": on_missing, "nan_to_null": nan_to_null,
            "max_bytes": max_bytes, "max_rows": max_rows, "max_chunks_to_read": max_chunks_to_read,
            "memory_budget": memory_budget, "progress": progress,
        }  # fmt: skip
        usual = signature(scan_zarr).parameters
        return backend.lazy(**{name: value for name, value in choices.items() if value != usual[name].default})
    arguments: dict[str, Any] = {
        "group": group,
        "table": _table_options(variables, dims, broadcast, groups, decode_cf, time_unit, nan_to_null),
        "options": _scan_options(device, order, on_missing, max_bytes, max_rows, max_chunks_to_read, memory_budget),
        "storage_options": storage_options,
        "limits": limits,
    }
    factory = progress_factory(progress)
    if is_many(store):
        return scan_many(store, **arguments, progress=factory)
    dataset = open_dataset(store, **arguments)
    dataset.progress = factory
    return lazy_frame(dataset, ordered=True)


def read_device(
    store: Any,
    *,
    group: str | None = None,
    variables: Iterable[str] | None = None,
    dims: Iterable[str] | None = None,
    broadcast: bool = False,
    columns: Sequence[str] | None = None,
    predicate: pl.Expr | None = None,
    n_rows: int | None = None,
    memory_budget: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Columns of a query as CuPy arrays, which never leave the GPU and which DLPack hands on. Not yet run on a GPU.

    Parameters
    ----------
    store
        One store: a path, a URL, a zarr ``Store``, ``Group`` or ``Array``; no backend, and not many stores.
    group, variables, dims, broadcast, memory_budget, storage_options
        As in `scan_zarr`.
    columns
        To read; None for all.
    predicate
        Rows to keep, over any columns.
    n_rows
        Only the first rows, counted before the predicate.

    Returns
    -------
    dict
        Column → array; a column with missing rows → (array, array of bool that is True where there is a value). Datetime and
        Duration as int64 ticks. Text is left out.

    Raises
    ------
    EnvironmentLacksError
        There is no GPU, or a library is missing.
    """
    options = _scan_options("cuda", "tile", "fill", None, None, None, memory_budget)
    dataset = open_dataset(
        store,
        group=group,
        table=_table_options(variables, dims, broadcast, None, True, "ns", False),
        options=options,
        storage_options=storage_options,
    )
    from gpuzarr.device.cuda_frames import arrays, open_device

    plan, statistics = dataset.plan(columns, predicate, n_rows), ScanStatistics()
    device = open_device(dataset, plan, statistics)
    return arrays(dataset.run(plan, device, statistics, frames=dataset.large_frames(plan)))


def scan_tables(
    store: Any,
    *,
    group: str | None = None,
    device: Device = "auto",
    order: Order = "tile",
    decode_cf: bool = True,
    time_unit: Literal["ns", "us", "ms"] = "ns",
    on_missing: MissingPolicy = "fill",
    nan_to_null: bool = False,
    max_bytes: int | None = None,
    max_rows: int | None = None,
    max_chunks_to_read: int | None = None,
    memory_budget: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, pl.LazyFrame]:
    """Every table of a group and of the groups below it, by name.

    A table holds the variables that have exactly the same dimensions; its name is theirs, joined by ``_``, below the path
    of its group (``"fine/deep/time_lat_lon"``).

    Parameters
    ----------
    store
        One store: a path, a URL, a zarr ``Store``, ``Group`` or ``Array``; no backend, and not many stores.
    group, device, order, decode_cf, time_unit, on_missing, nan_to_null, max_bytes, max_rows, max_chunks_to_read, \
memory_budget, storage_options, limits
        As in `scan_zarr`.

    Raises
    ------
    NotFoundError, MetadataError, EnvironmentLacksError
        As in `scan_zarr`.
    """
    options = _scan_options(device, order, on_missing, max_bytes, max_rows, max_chunks_to_read, memory_budget)
    opened, node, statistics = _open(store, group, storage_options, limits)
    nodes = node if isinstance(node, ArrayMetadata) else list(walk(opened, node.path, limits=limits))
    tables = build_tables(
        nodes,
        store_label=opened.label,
        options=_table_options(None, None, False, None, decode_cf, time_unit, nan_to_null),
        read_raw=lambda array: read_whole(opened, array, on_missing=on_missing, statistics=statistics),
    )
    return {
        name: lazy_frame(Dataset(opened, table, options, statistics, limits=limits), ordered=True)
        for name, table in tables.items()
    }


def open_dataset(
    store: Any,
    *,
    group: str | None = None,
    table: TableOptions | None = None,
    options: ScanOptions | None = None,
    storage_options: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Dataset:
    """The opened table behind `scan_zarr`, for engines other than Polars."""
    table = table if table is not None else TableOptions()
    options = options if options is not None else ScanOptions()
    opened, node, statistics = _open(store, group, storage_options, limits)
    below: list[GroupMetadata] = []
    if table.groups is not None and isinstance(node, GroupMetadata):
        below = [g for g in walk(opened, node.path, limits=limits) if g.path != node.path]
    beside = () if opened.is_local else small_coordinates(node)
    read_raw = RawReader(opened, options.on_missing, statistics, beside=beside)
    built = build_table(
        node,
        store_label=opened.label,
        options=table,
        read_raw=read_raw.early,
        descendants=below,
    )
    return Dataset(opened, built, options, statistics, read_raw=read_raw, limits=limits)


def _open(
    store: Any, group: str | None, storage_options: Mapping[str, Any] | None, limits: Limits
) -> tuple[ByteStore, ArrayMetadata | GroupMetadata, ScanStatistics]:
    if not isinstance(limits, Limits):
        raise RequestError(f"limits must be gpuzarr.Limits(...), not {limits!r}.")
    opened = open_store(store, storage_options=storage_options)
    path = "/".join(part for part in (opened.path, (group or "").strip("/")) if part and part != ".")
    return opened.store, open_node(opened.store, path, limits=limits), ScanStatistics()


def _as_backend(store: Any) -> Backend | None:
    if isinstance(store, str | list | dict):
        return None  # the usual cases need no import
    from gpuzarr.backends.backend import Backend

    return store if isinstance(store, Backend) else None


def table_and_scan_options(
    *,
    variables: Iterable[str] | None = None,
    dims: Iterable[str] | None = None,
    broadcast: bool = False,
    groups: Literal["struct"] | None = None,
    device: Device = "auto",
    order: Order = "tile",
    decode_cf: bool = True,
    time_unit: Literal["ns", "us", "ms"] = "ns",
    on_missing: MissingPolicy = "fill",
    nan_to_null: bool = False,
    max_bytes: int | None = None,
    max_rows: int | None = None,
    max_chunks_to_read: int | None = None,
    memory_budget: int | None = None,
) -> tuple[TableOptions, ScanOptions]:
    """The arguments of `scan_zarr` as options of a table and of its scans; raises `RequestError`."""
    return (
        _table_options(variables, dims, broadcast, groups, decode_cf, time_unit, nan_to_null),
        _scan_options(device, order, on_missing, max_bytes, max_rows, max_chunks_to_read, memory_budget),
    )


def _table_options(
    variables: Iterable[str] | None,
    dims: Iterable[str] | None,
    broadcast: bool,
    groups: Literal["struct"] | None,
    decode_cf: bool,
    time_unit: Literal["ns", "us", "ms"],
    nan_to_null: bool,
) -> TableOptions:
    return TableOptions(
        variables=variables,  # type: ignore[arg-type]  # made a tuple of names there
        dims=dims,  # type: ignore[arg-type]
        broadcast=broadcast,
        groups=groups,
        decode_cf=decode_cf,
        time_unit=time_unit,
        nan_to_null=nan_to_null,
    )


def _scan_options(
    device: Device,
    order: Order,
    on_missing: MissingPolicy,
    max_bytes: int | None,
    max_rows: int | None,
    max_chunks_to_read: int | None,
    memory_budget: int | None,
) -> ScanOptions:
    if device not in ("auto", "cpu", "cuda"):
        raise RequestError(f"device must be 'auto', 'cpu' or 'cuda', not {device!r}.")
    if device == "cuda":
        require_cuda()
    return ScanOptions(
        device=device,
        order=order,
        on_missing=on_missing,
        max_bytes=max_bytes,
        max_rows=max_rows,
        max_chunks_to_read=max_chunks_to_read,
        memory_budget=memory_budget,
    )
