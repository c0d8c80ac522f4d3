"""From the documents of a group to its table, or to one table per dimension tuple."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from gpuzarr.cf import Decoding
from gpuzarr.errors import GpuzarrError, MetadataError, NotFoundError, PlanLimitError, RequestError
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata
from gpuzarr.table.dimensions import Dims, dims_text
from gpuzarr.table.inventory import ROOT_ARRAY_NAME, Inventory, Member
from gpuzarr.table.model import Column, Dimension, Role, Table
from gpuzarr.table.options import TableOptions
from gpuzarr.table.selection import Selection, dimension_groups, select, selection_on
from gpuzarr.table.tiling import tile_shape
from gpuzarr.table.warning import warn_left_out

__all__ = ["MAX_SCHEMA_CELLS", "ReadRaw", "build_table", "build_tables"]

MAX_SCHEMA_CELLS = 2**23
"""Longest dimension coordinate that is read to choose the unit of its times."""

_MAX_ROWS = 2**63 - 1

ReadRaw = Callable[[ArrayMetadata], np.ndarray]
"""Reads a whole small array, undecoded, in its own shape."""

LeftOut = Callable[[Mapping[str, Exception]], None]


def build_table(
    group: GroupMetadata | ArrayMetadata,
    *,
    store_label: str,
    options: TableOptions,
    read_raw: ReadRaw,
    descendants: Sequence[GroupMetadata] = (),
    on_left_out: LeftOut | None = None,
) -> Table:
    """The table of a group or of a root array.

    Parameters
    ----------
    group
        Document of the group and its arrays.
    store_label
        Location of the store for messages, without secrets.
    options
        Which table, and how values are decoded.
    read_raw
        Called only for dimension coordinates of at most `MAX_SCHEMA_CELLS` elements, and only where the values decide
        whether times fit nanoseconds.
    descendants
        The groups below, in any order; needed with ``options.groups == "struct"`` only.
    on_left_out
        Called once with the arrays that are left out and why, by path; None: they are named in one warning.

    Raises
    ------
    RequestError
        The options leave open which table is meant (``TABLE_AMBIGUOUS``), or name something unknown (`NotFoundError`).
    MetadataError
        A variable that the options name, or every array, cannot be represented.

    Warns
    -----
    GpuzarrWarning
        Once, naming the arrays that belong to the table and cannot be represented.
    """
    try:
        builder = _Builder(Inventory.of(group, options), store_label, options, read_raw, _by_path(descendants))
        table = builder.table(lambda inventory: select(inventory, options))
    except GpuzarrError as error:
        raise error.located(store=store_label) from error.__cause__
    _report(builder.left_out(table) | builder.misfits([table]), store_label, on_left_out)
    return table


def build_tables(
    groups: Iterable[GroupMetadata] | ArrayMetadata,
    *,
    store_label: str,
    options: TableOptions,
    read_raw: ReadRaw,
    on_left_out: LeftOut | None = None,
) -> dict[str, Table]:
    """One table per dimension tuple of a group and of all groups below it.

    The variables of a table have exactly its dimensions; 0-D ones are a table of one row. A group of coordinates alone is
    one table on the union of their dimensions.

    Keys are the names of the dimensions joined by ``_`` (``"time_lat_lon"``), ``"scalar"`` for 0-D variables, below a path
    for child groups (``"fine/deep/time_lat_lon"``), relative to the first group. Tables of one group whose keys would be the
    same get the sizes too: ``"x(10)"``, ``"x(20)"``. A root array's table has its name, or ``"value"``.

    Parameters
    ----------
    groups
        The group itself first, then those below, as `gpuzarr.metadata.walk` gives them; or a root array.
    store_label, options, read_raw, on_left_out
        As in `build_table`; the options choose no table here.

    Raises
    ------
    RequestError
        `variables`, `dims` or `broadcast` are given.
    NotFoundError
        There is no array in any group.
    """
    if options.variables is not None or options.dims is not None or options.broadcast:
        raise RequestError(
            "all tables are asked for, so variables, dims and broadcast cannot choose one; use scan_zarr"
        )
    nodes = [groups] if isinstance(groups, ArrayMetadata) else list(groups)
    by_path = _by_path(node for node in nodes if isinstance(node, GroupMetadata))
    tables: dict[str, Table] = {}
    left_out: dict[str, Exception] = {}
    base = nodes[0].path if nodes else ""
    for node in nodes:
        try:
            builder = _Builder(Inventory.of(node, options), store_label, options, read_raw, by_path)
            relative = node.path[len(base) :].strip("/") if isinstance(node, GroupMetadata) else ""
            found = builder.tables()
            if isinstance(node, ArrayMetadata) and found:
                found = {node.name or ROOT_ARRAY_NAME: next(iter(found.values()))}
            for key, table in found.items():
                tables[f"{relative}/{key}" if relative else key] = table
            left_out |= builder.left_out(None) | builder.misfits(found.values())
        except GpuzarrError as error:
            raise error.located(store=store_label) from error.__cause__
    if not tables:
        message = f"there are no arrays that can be read at or below {base or '/'!r}"
        if left_out:
            path, reason = next(iter(left_out.items()))
            message += f"; the first of {len(left_out)} that cannot: {path!r}: {getattr(reason, 'message', reason)}"
        raise NotFoundError(message, store=store_label)
    _report(left_out, store_label, on_left_out)
    return tables


def _report(left_out: Mapping[str, Exception], store: str, on_left_out: LeftOut | None) -> None:
    if not left_out:
        return
    if on_left_out is None:
        warn_left_out(left_out, store=store)
    else:
        on_left_out(left_out)


def _by_path(groups: Iterable[GroupMetadata]) -> dict[str, GroupMetadata]:
    return {group.path: group for group in groups}


def _keys(found: Mapping[Dims, tuple[str, ...]]) -> dict[str, Dims]:
    """Distinct names for the tables of one group."""
    plain = {dims: "_".join(d.name for d in dims) or "scalar" for dims in found}
    counts = Counter(plain.values())
    keys: dict[str, Dims] = {}
    for dims, name in plain.items():
        key = name if counts[name] == 1 else "_".join(f"{d.name}({d.size})" for d in dims) or name
        number = 2
        while key in keys:
            key, number = f"{name}#{number}", number + 1
        keys[key] = dims
    return keys


class _UnfitError(Exception):
    """A member of an inventory turned out not to fit a column; the table is chosen again without it."""

    def __init__(self, name: str, error: GpuzarrError) -> None:
        super().__init__(name)
        self.name = name
        self.error = error


class _Builder:
    """Assembles tables of one group."""

    def __init__(
        self,
        inventory: Inventory,
        store: str,
        options: TableOptions,
        read_raw: ReadRaw,
        groups: Mapping[str, GroupMetadata],
    ) -> None:
        self.inventory = inventory
        self.store = store
        self.options = options
        self.read_raw = read_raw
        self.groups = groups
        self._left_out_below: dict[str, Exception] = {}
        self._decided: dict[str, Decoding] = {}

    def table(self, choose: Callable[[Inventory], Selection]) -> Table:
        """The chosen table."""
        while True:
            try:
                return self._table(choose(self.inventory))
            except _UnfitError as unfit:
                if unfit.name in (self.options.variables or ()):
                    raise unfit.error from unfit.error.__cause__
                self.inventory = self.inventory.without(unfit.name, unfit.error)

    def tables(self) -> dict[str, Table]:
        """All tables of the group by key."""
        while True:
            try:
                found = dimension_groups(self.inventory)
                return {key: self._table(selection_on(dims, found[dims])) for key, dims in _keys(found).items()}
            except _UnfitError as unfit:
                self.inventory = self.inventory.without(unfit.name, unfit.error)

    def left_out(self, table: Table | None) -> dict[str, Exception]:
        """Arrays that would be in the table if they could be represented, by path; of all tables if None.

        Variables that were named are never here (naming one is an error); with names given, only coordinates are expected.
        """
        named = self.options.variables is not None
        here = {
            self.inventory.path_of(name): excluded.error
            for name, excluded in self.inventory.excluded.items()
            if table is None
            or (
                (excluded.dims is None or set(excluded.dims) <= set(table.dims))
                and (not named or name in table.sizes or name in self.inventory.coordinates)
            )
        }
        return here | self._left_out_below

    def misfits(self, tables: Iterable[Table]) -> dict[str, Exception]:
        """Coordinates that would be in one of these tables but for a size that fits no variable at all, by path."""
        tables = list(tables)
        members = self.inventory.members
        spaces = [set(members[name].dims) for name in self.inventory.names_of()] + [set(t.dims) for t in tables]
        out: dict[str, Exception] = {}
        for name in sorted(self.inventory.coordinates & members.keys()):
            member = members[name]
            if any(set(member.dims) <= space for space in spaces):
                continue
            table = next((t for t in tables if set(member.dim_names) <= t.sizes.keys()), None)
            if table is not None:
                sizes = " and ".join(
                    f"{d.size} elements along {d.name!r}, which has {table.sizes[d.name]} in the variables"
                    for d in member.dims
                    if table.sizes[d.name] != d.size
                )
                out[member.array.path] = MetadataError(f"it has {sizes}", array=member.array.path)
        return out

    def _table(self, selection: Selection) -> Table:
        dims = selection.dims
        rows = math.prod(d.size for d in dims)
        if rows > _MAX_ROWS:
            message = (
                f"the table {dims_text(dims)} would have {rows} rows, more than the {_MAX_ROWS} that can be counted"
            )
            raise PlanLimitError(message + "; choose variables with fewer dimensions")
        coordinates = {d.name: self._dimension_coordinate(d) for d in dims}
        owned = {m.name for m in coordinates.values() if m is not None}
        rest = self._rest(selection, owned)
        structs = self._structs(dims) if self.options.groups == "struct" else []
        taken = {*owned, *(m.name for m in rest), *(c.name for c in structs)}
        columns: list[Column] = []
        for dimension in dims:
            member = coordinates[dimension.name]
            if member is None:
                name = _free_name(dimension.name, taken)
                taken.add(name)
                columns.append(Column(name, "index", (dimension.name,), pl.Int64()))
            else:
                columns.append(_column(member, "dimension", self._decoding))
        auxiliary = [m for m in rest if m.name in self.inventory.coordinates]
        variables = [m for m in rest if m.name not in self.inventory.coordinates]
        columns += [_column(m, "auxiliary") for m in auxiliary]
        columns += sorted([*(_column(m, "variable") for m in variables), *structs], key=lambda c: c.name)
        return Table(
            store=self.store,
            group=self.inventory.path,
            dims=dims,
            columns=tuple(columns),
            tile_shape=tile_shape(dims, self._grids(variables, auxiliary, coordinates)),
            attributes=self.inventory.attributes,
        )

    def _dimension_coordinate(self, dimension: Dimension) -> Member | None:
        member = self.inventory.members.get(dimension.name)
        return member if member is not None and member.dims == (dimension,) else None

    def _rest(self, selection: Selection, owned: set[str]) -> list[Member]:
        """The members asked for and the auxiliary coordinates that fit, by name."""
        space = set(selection.dims)
        names = set(selection.names)
        members = self.inventory.members
        names |= {name for name in self.inventory.coordinates & members.keys() if set(members[name].dims) <= space}
        return [members[name] for name in sorted(names - owned)]

    def _decoding(self, member: Member) -> Decoding:
        """Decoding of a dimension coordinate, whose values may decide about the unit of its times."""
        if member.name not in self._decided:
            self._decided[member.name] = self._decide(member)
        return self._decided[member.name]

    def _decide(self, member: Member) -> Decoding:
        decoding, array = member.decoding, member.array
        undecided = self.options.time_unit == "ns" and getattr(decoding.dtype, "time_unit", None) == "ns"
        if not undecided or not 0 < math.prod(array.shape) <= MAX_SCHEMA_CELLS:
            return decoding
        assert decoding.time is not None
        is_finer = decoding.time.numerator <= decoding.time.denominator
        if array.dtype.kind in ("int", "uint") and (array.dtype.itemsize < 8 or is_finer or decoding.fills):
            limits = np.iinfo(array.dtype.numpy)
            extremes = np.array([limits.min, limits.max], array.dtype.numpy)
            if member.decoding_with(extremes).dtype == decoding.dtype:
                return decoding  # no value of this type needs another unit
        raw = self.read_raw(array)
        return member.decoding_with(np.ma.compressed(raw) if np.ma.isMaskedArray(raw) else raw)

    def _grids(
        self, variables: Sequence[Member], auxiliary: Sequence[Member], coordinates: Mapping[str, Member | None]
    ) -> list[dict[str, int]]:
        """Inner chunk lengths in order of precedence: variables before bounds before coordinates, then most dimensions."""
        bounds = self.inventory.bounds
        ordered = sorted(variables, key=lambda m: (m.name in bounds, -len(m.dims)))
        ordered += sorted(auxiliary, key=lambda m: -len(m.dims))
        ordered += [m for m in coordinates.values() if m is not None]
        return [dict(zip(m.dim_names, m.chain.chunk_shape, strict=True)) for m in ordered]

    def _structs(self, dims: Dims) -> list[Column]:
        """Child groups whose variables all lie in the row space, as Struct columns."""
        columns = []
        for name in self.inventory.groups:
            child = self.groups.get(self.inventory.path_of(name))
            column = None if child is None else self._struct(name, child, dims)
            if column is not None:
                columns.append(column)
        return columns

    def _struct(self, name: str, group: GroupMetadata, dims: Dims) -> Column | None:
        inventory = Inventory.of(group, dataclasses.replace(self.options, variables=None))
        while True:
            members = [inventory.members[n] for n in inventory.names_of(bounds=False)]
            if any(not set(m.dims) <= set(dims) for m in members):
                return None
            try:
                fields = [_column(m, "variable") for m in members]
                break
            except _UnfitError as unfit:
                inventory = inventory.without(unfit.name, unfit.error)
        for child_name in group.groups:
            child = self.groups.get(inventory.path_of(child_name))
            nested = None if child is None else self._struct(child_name, child, dims)
            if nested is not None:
                fields.append(nested)
        if not fields:
            return None
        self._left_out_below |= {inventory.path_of(n): excluded.error for n, excluded in inventory.excluded.items()}
        fields.sort(key=lambda c: c.name)
        used = {d for c in fields for d in c.dims}
        return Column(
            name=name,
            role="struct",
            dims=tuple(d.name for d in dims if d.name in used),
            dtype=pl.Struct({c.name: c.dtype for c in fields}),
            fields=tuple(fields),
        )


def _column(member: Member, role: Role, decide: Callable[[Member], Decoding] = lambda m: m.decoding) -> Column:
    try:
        chain, decoding = member.chain, decide(member)
    except GpuzarrError as error:
        located = error.located(array=member.array.path)
        if isinstance(error, MetadataError):
            raise _UnfitError(member.name, located) from error
        raise located from error.__cause__  # reading or decoding its values failed: no reason to go on without it
    return Column(member.name, role, member.dim_names, decoding.dtype, member.array, chain, decoding)


def _free_name(dimension: str, taken: set[str]) -> str:
    """Name of an index column: the dimension's, unless a stored array or group has it, which keeps its own name."""
    name = dimension
    while name in taken:
        name += "_index" if name == dimension else "_"
    return name
