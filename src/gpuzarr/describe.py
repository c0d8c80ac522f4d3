"""`schema`: what a store holds and which tables it makes, without a scan."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from gpuzarr.cf import TimeUnit
from gpuzarr.cf.missing import fill_value_attribute
from gpuzarr.errors import Kind, RequestError
from gpuzarr.metadata import open_node, walk
from gpuzarr.metadata.limits import DEFAULT_LIMITS, Limits
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata
from gpuzarr.store import ByteStore, open_store
from gpuzarr.table import Column, Role, Table, TableOptions, build_table, build_tables
from gpuzarr.table.inventory import ROOT_ARRAY_NAME, Inventory
from gpuzarr.table.whole import read_whole

__all__ = ["ColumnReport", "SchemaReport", "TableReport", "describe", "schema"]

_WIDTH = 60


@dataclass(frozen=True)
class ColumnReport:
    """A column and the array behind it.

    Attributes
    ----------
    name, role, dtype, dims
        As in `gpuzarr.table.Column`; dims in the array's own axis order.
    repeats
        How often each value occurs in the full table: the broadcast factor.
    path, stored_dtype
        Of the array; None for an index or a struct.
    chunks
        Shape of the smallest part that can be decoded alone: the inner chunk of a shard.
    shards
        Shape of a stored object that holds several chunks; None if it is not sharded.
    codecs
        The codec chain in words.
    fill_value
        What cells of chunks that are not stored hold.
    missing_markers
        Values that become null, by the name under which the documents give them.
    nullable
        Whether the column can hold nulls.
    units, attributes
        Of the array, as stored.
    fields
        Columns of a struct.
    """

    name: str
    role: Role
    dtype: pl.DataType
    dims: tuple[str, ...]
    repeats: int
    path: str | None
    stored_dtype: str | None
    chunks: tuple[int, ...] | None
    shards: tuple[int, ...] | None
    codecs: str | None
    fill_value: Any
    missing_markers: Mapping[str, Any]
    nullable: bool
    units: str | None
    attributes: Mapping[str, Any]
    fields: tuple[ColumnReport, ...]


@dataclass(frozen=True)
class TableReport:
    """One table: its row space, tiles and columns.

    Attributes
    ----------
    sizes
        Size by dimension, in row order.
    rows
        Number of rows, unfiltered.
    tile_shape
        Cells per dimension of one tile.
    columns
        In table order.
    """

    sizes: Mapping[str, int]
    rows: int
    tile_shape: tuple[int, ...]
    columns: tuple[ColumnReport, ...]

    @property
    def schema(self) -> pl.Schema:
        """Column dtypes in order: that of the LazyFrame."""
        return pl.Schema({column.name: column.dtype for column in self.columns})


@dataclass(frozen=True)
class SchemaReport:
    """What `schema` found.

    Attributes
    ----------
    store, group
        Location without secrets, and path of the group or array.
    tables
        The table that was asked for; or, where nothing was asked for and the group holds several, all of them, by the key
        that `gpuzarr.scan_tables` gives them.
    others
        Arrays that are in none of these tables, by name, with their sizes by dimension: bounds, coordinates on other
        dimensions, and what the arguments did not ask for.
    groups
        Names of the groups directly below.
    unreadable
        Why arrays are left out, by path.
    attributes
        Of the group.
    """

    store: str
    group: str
    tables: Mapping[str, TableReport]
    others: Mapping[str, Mapping[str, int]]
    groups: tuple[str, ...]
    unreadable: Mapping[str, str]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def schema(
    store: Any,
    *,
    group: str | None = None,
    variables: Iterable[str] | None = None,
    dims: Iterable[str] | None = None,
    broadcast: bool = False,
    groups: Literal["struct"] | None = None,
    decode_cf: bool = True,
    time_unit: TimeUnit = "ns",
    nan_to_null: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> SchemaReport:
    """Describe the table that `gpuzarr.scan_zarr` would make, or all tables of a group where it would have to ask.

    Reads documents, and dimension coordinates only where their values decide about a dtype. No scan, and no warning of
    arrays that cannot be represented: they are part of the report.

    Parameters
    ----------
    store
        One store: a path, a URL, a zarr ``Store``, ``Group`` or ``Array``; no backend (it has a method ``schema``), and not
        many stores.
    group, variables, dims, broadcast, groups, decode_cf, time_unit, nan_to_null, storage_options, limits
        As for `gpuzarr.scan_zarr`.

    Returns
    -------
    SchemaReport
        Prints as text; everything in it is an attribute too.

    Raises
    ------
    NotFoundError
        The store, the group or something that is named is not there.
    RequestError
        The arguments contradict each other.
    MetadataError
        A document is damaged, or an array that is named cannot be represented.
    """
    options = TableOptions(
        variables=variables,  # type: ignore[arg-type]  # normalised there
        dims=dims,  # type: ignore[arg-type]
        broadcast=broadcast,
        groups=groups,
        decode_cf=decode_cf,
        time_unit=time_unit,
        nan_to_null=nan_to_null,
    )
    with open_store(store, storage_options=storage_options) as opened:
        path = "/".join(part for part in (opened.path, (group or "").strip("/")) if part and part != ".")
        return describe(opened.store, open_node(opened.store, path, limits=limits), options)


def describe(store: ByteStore, node: GroupMetadata | ArrayMetadata, options: TableOptions) -> SchemaReport:
    """Report on a node of an open store; see `schema`."""

    def read_raw(array: ArrayMetadata) -> Any:
        return read_whole(store, array)

    descendants = list(walk(store, node.path))[1:] if options.groups and isinstance(node, GroupMetadata) else []
    inventory = Inventory.of(node, dataclasses.replace(options, variables=None))
    left_out: dict[str, Exception] = {inventory.path_of(name): e.error for name, e in inventory.excluded.items()}
    tables: dict[str, Table] = {}
    if inventory.members or options.variables is not None or options.dims is not None:
        try:
            table = build_table(
                node,
                store_label=store.label,
                options=options,
                read_raw=read_raw,
                descendants=descendants,
                on_left_out=left_out.update,
            )
            tables[_key(node, table)] = table
        except RequestError as error:
            chosen = options.variables is not None or options.dims is not None or options.broadcast
            if error.kind != Kind.TABLE_AMBIGUOUS or chosen:
                raise
            tables = build_tables(
                node if isinstance(node, ArrayMetadata) else [node],
                store_label=store.label,
                options=options,
                read_raw=read_raw,
                on_left_out=left_out.update,
            )
    inside = {column.name for table in tables.values() for column in table.columns if column.array is not None}
    return SchemaReport(
        store=store.label,
        group=node.path,
        tables={key: _table_report(table) for key, table in tables.items()},
        others={
            name: {d.name: d.size for d in member.dims}
            for name, member in inventory.members.items()
            if name not in inside and inventory.path_of(name) not in left_out
        },
        groups=inventory.groups,
        unreadable={path: str(getattr(error, "message", error)) for path, error in sorted(left_out.items())},
        attributes=inventory.attributes,
    )


def _key(node: GroupMetadata | ArrayMetadata, table: Table) -> str:
    """The key that `build_tables` gives to the only table of a node."""
    return node.name or ROOT_ARRAY_NAME if isinstance(node, ArrayMetadata) else "_".join(table.sizes) or "scalar"


def _table_report(table: Table) -> TableReport:
    return TableReport(
        sizes=dict(table.sizes),
        rows=table.rows,
        tile_shape=table.tile_shape,
        columns=tuple(_column_report(column, table) for column in table.columns),
    )


def _column_report(column: Column, table: Table) -> ColumnReport:
    array, chain = column.array, column.chain
    attributes = {} if array is None else dict(array.attributes)
    units = attributes.get("units")
    return ColumnReport(
        name=column.name,
        role=column.role,
        dtype=column.dtype,
        dims=column.dims,
        repeats=table.repeats(column),
        path=None if array is None else array.path,
        stored_dtype=None if array is None else array.dtype.name or str(array.dtype.numpy),
        chunks=None if chain is None else chain.chunk_shape,
        shards=array.chunk_shape if array is not None and chain is not None and chain.is_sharded else None,
        codecs=None if chain is None else chain.describe(),
        fill_value=None if array is None else array.fill_value,
        missing_markers=_markers(column),
        nullable=column.decoding is not None and column.decoding.nullable,
        units=units if isinstance(units, str) else None,
        attributes=attributes,
        fields=tuple(_column_report(field, table) for field in column.fields),
    )


def _markers(column: Column) -> dict[str, Any]:
    """Values that become null. A v2 ``fill_value`` is one of them where xarray says so, a v3 one is not."""
    array = column.array
    if array is None or column.decoding is None or not column.decoding.nullable:
        return {}
    markers = {name: array.attributes[name] for name in ("_FillValue", "missing_value") if name in array.attributes}
    if "_FillValue" in markers:
        markers["_FillValue"] = fill_value_attribute(array)
    if array.zarr_format == 2 and array.fill_value is not None:
        markers.setdefault("fill_value", array.fill_value)
    return markers


def _lines(report: SchemaReport) -> Iterable[str]:
    yield f"{report.store}  group {report.group or '/'!r}"
    if len(report.tables) > 1:
        yield (
            f"{len(report.tables)} tables: choose one with variables=[...] or dims=(...), or take all with scan_tables(store)"
        )
    for key, table in report.tables.items():
        yield ""
        yield from _table_lines(key, table)
    if report.others:
        yield ""
        texts = (f"{name} ({_sizes_text(sizes)})" for name, sizes in report.others.items())
        yield f"not in {'these tables' if len(report.tables) > 1 else 'this table'}: {', '.join(texts)}"
    if report.groups:
        yield ""
        yield f"groups below: {', '.join(report.groups)}"
    if report.unreadable:
        yield ""
        yield "left out:"
        yield from (f"  {path}: {reason}" for path, reason in report.unreadable.items())


def _table_lines(key: str, table: TableReport) -> Iterable[str]:
    tiles = " x ".join(map(str, table.tile_shape)) or "1"
    yield f"table {key!r}  ({_sizes_text(table.sizes)})  {table.rows:,} rows in tiles of {tiles}"
    header = ("column", "dtype", "role", "dims", "chunks", "codecs", "units", "notes")
    rows = [header, *(row for column in table.columns for row in _rows(column))]
    widths = [min(_WIDTH, max(len(row[i]) for row in rows)) for i in range(len(header))]
    for row in rows:
        yield "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _rows(column: ColumnReport, indent: str = "") -> Iterable[tuple[str, ...]]:
    chunks = "" if column.chunks is None else "x".join(map(str, column.chunks)) or "scalar"
    if column.shards is not None:
        chunks += f" in {'x'.join(map(str, column.shards))}"
    notes = []
    if column.role == "variable" and column.repeats > 1:
        notes.append(f"repeated {column.repeats:,} times")
    if column.missing_markers:
        notes.append(f"null: {', '.join(f'{name}={_short(value)}' for name, value in column.missing_markers.items())}")
    elif column.nullable:
        notes.append("nullable")
    yield (
        indent + column.name,
        _dtype_text(column),
        column.role,
        ", ".join(column.dims),
        chunks,
        column.codecs or "",
        column.units or "",
        "; ".join(notes),
    )
    for field in column.fields:
        yield from _rows(field, indent + "  ")


def _dtype_text(column: ColumnReport) -> str:
    if column.fields:
        return "Struct"
    if isinstance(column.dtype, (pl.Datetime, pl.Duration)):
        return f"{type(column.dtype).__name__}({column.dtype.time_unit})"
    return str(column.dtype)


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {size}" for name, size in sizes.items())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _WIDTH // 3 else f"{text[: _WIDTH // 3]}…"
