"""Which table of a group: its row space and its variables. Decisions only; nothing is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuzarr.errors import Kind, MetadataError, NotFoundError, RequestError
from gpuzarr.table.dimensions import Dims, dims_text, union
from gpuzarr.table.inventory import Inventory
from gpuzarr.table.options import TableOptions

__all__ = ["Selection", "dimension_groups", "select", "selection_on"]

_SHOWN_GROUPS = 12
_SHOWN_NAMES = 8


@dataclass(frozen=True)
class Selection:
    """The row space of a table and the arrays that are asked for in it, sorted by name; coordinates come along anyway."""

    dims: Dims
    names: tuple[str, ...]


def select(inventory: Inventory, options: TableOptions) -> Selection:
    """Choose the table that the options ask for.

    Raises
    ------
    RequestError
        ``TABLE_AMBIGUOUS``: the options leave it open; the message lists the dimension groups and the calls that work.
    NotFoundError
        A variable or a combination of dimensions that the group does not have.
    """
    if options.variables is not None:
        selection = _named(inventory, options.variables)
        return selection if options.dims is None else _asserted(selection, options.dims)
    _require_arrays(inventory)
    if options.dims is not None:
        return _on_dims(inventory, options.dims, broadcast=options.broadcast)
    variables = inventory.names_of(bounds=False)
    spanning = {inventory.members[name].dims for name in variables} - {()}
    if not spanning:
        return _without_variables(inventory)
    if len(spanning) > 1 and not options.broadcast:
        raise _ambiguous(inventory)
    return _spanned(inventory, variables)


def dimension_groups(inventory: Inventory) -> dict[Dims, tuple[str, ...]]:
    """Variables by their dimensions, 0-D ones included, bounds too; if there are none, the coordinates on their union."""
    groups: dict[Dims, tuple[str, ...]] = {}
    for name in inventory.names_of():
        dims = inventory.members[name].dims
        groups[dims] = (*groups.get(dims, ()), name)
    if not groups and inventory.members:
        selection = _without_variables(inventory)
        groups[selection.dims] = selection.names
    return groups


def selection_on(dims: Dims, names: Iterable[str]) -> Selection:
    """Selection of variables that all have these dimensions."""
    return Selection(dims, tuple(sorted(names)))


def _named(inventory: Inventory, names: tuple[str, ...]) -> Selection:
    members = [inventory.member(name) for name in sorted(names)]
    widening = [m for m in members if m.name not in inventory.bounds] or members
    widening.sort(key=lambda m: m.name in inventory.coordinates)  # variables decide about the order of the dimensions
    dims = union({m.name: m.dims for m in widening})
    for member in members:
        outside = set(member.dims) - set(dims)
        if outside:
            message = (
                f"{member.name!r} holds bounds {dims_text(member.dims)}, and bounds do not widen the table "
                f"{dims_text(dims)} of the other variables; scan it alone with variables=[{member.name!r}]"
            )
            raise RequestError(message, kind=Kind.TABLE_AMBIGUOUS, array=member.array.path)
    return Selection(dims, tuple(m.name for m in members))


def _asserted(selection: Selection, dims: tuple[str, ...] | frozenset[str]) -> Selection:
    if {d.name for d in selection.dims} != set(dims):
        message = (
            f"the variables {_quoted(selection.names)} span {dims_text(selection.dims)}, not dims={_spelled(dims)}; "
            "leave dims out, or name a variable that has them"
        )
        raise RequestError(message, kind=Kind.TABLE_AMBIGUOUS)
    return selection


def _on_dims(inventory: Inventory, dims: tuple[str, ...] | frozenset[str], *, broadcast: bool) -> Selection:
    names = inventory.names_of() or inventory.names_of(coordinates=True)
    exact = [n for n in names if inventory.members[n].dim_names == dims]
    spanning = exact or [n for n in names if set(inventory.members[n].dim_names) == set(dims)]
    if not spanning:
        coordinates = inventory.names_of(coordinates=True)
        spanning = [n for n in coordinates if set(inventory.members[n].dim_names) == set(dims)]
    if not spanning:
        message = f"no variable has exactly the dimensions {_spelled(dims)}; {_listing(inventory)}"
        raise NotFoundError(message)
    if len({frozenset(inventory.members[n].dims) for n in spanning}) > 1:
        message = (
            f"dims={_spelled(dims)} fits several tables, whose dimensions differ in size: {_listing(inventory)}. "
            "Name the variables of one with variables=[...]"
        )
        raise RequestError(message, kind=Kind.TABLE_AMBIGUOUS)
    selection = _spanned(inventory, spanning)
    if not broadcast:
        return selection
    fitting = [n for n in inventory.names_of() if set(inventory.members[n].dims) <= set(selection.dims)]
    return Selection(selection.dims, tuple(sorted({*fitting, *selection.names})))


def _spanned(inventory: Inventory, names: list[str]) -> Selection:
    """The union of these variables, with the bounds that are on exactly its dimensions."""
    dims = union({name: inventory.members[name].dims for name in sorted(names)})
    bounds = [n for n in inventory.names_of() if n in inventory.bounds and inventory.members[n].dims == dims]
    return Selection(dims, tuple(sorted({*names, *bounds})))


def _without_variables(inventory: Inventory) -> Selection:
    """No variable has a dimension: the grid of the coordinates, 0-D variables as constants; bounds only if all else fails."""
    constants = [n for n in inventory.names_of(bounds=False) if not inventory.members[n].dims]
    coordinates = [n for n in inventory.names_of(coordinates=True) if n not in inventory.bounds]
    names = [*constants, *coordinates] or list(inventory.members)
    members = {name: inventory.members[name].dims for name in sorted(names)}
    return Selection(union(members), tuple(sorted(constants or names)))


def _require_arrays(inventory: Inventory) -> None:
    if inventory.members:
        return
    where = f"group {inventory.path or '/'!r}"
    if inventory.excluded:
        reasons = " ".join(
            f"{name!r}: {getattr(e.error, 'message', e.error)}" for name, e in inventory.excluded.items()
        )
        raise MetadataError(f"no array of {where} can be read. {reasons}", kind=Kind.METADATA_UNSUPPORTED)
    if inventory.groups:
        message = (
            f"{where} holds no arrays itself but the groups {_quoted(inventory.groups)}; "
            f"scan one with group={inventory.path_of(inventory.groups[0])!r}, or all with scan_tables(store)"
        )
        raise RequestError(message, kind=Kind.TABLE_AMBIGUOUS)
    raise NotFoundError(f"{where} holds no arrays and no groups: there is nothing to scan")


def _ambiguous(inventory: Inventory) -> RequestError:
    groups = dimension_groups(inventory)
    variables = {n: inventory.members[n].dims for n in inventory.names_of(bounds=False)}
    largest = max(variables.values(), key=len)
    first = [name for name, dims in variables.items() if dims == largest]
    calls = [f"variables={first[:_SHOWN_NAMES]!r}"]
    dim_names = inventory.members[first[0]].dim_names
    if [tuple(d.name for d in dims) for dims in groups].count(dim_names) == 1:
        calls.append(f"dims={dim_names!r}")
    try:
        union(variables)
    except RequestError:
        pass  # sizes clash, so there is no table of all of them
    else:
        calls.append("broadcast=True (repeats the variables that have fewer dimensions)")
    message = (
        f"the variables of group {inventory.path or '/'!r} do not share one tuple of dimensions: {_listing(inventory)}. "
        f"Choose a table with {', or '.join(calls)}; scan_tables(store) returns one table per tuple"
    )
    return RequestError(message, kind=Kind.TABLE_AMBIGUOUS)


def _listing(inventory: Inventory) -> str:
    """Dimension groups with their variables."""
    parts = [f"{dims_text(dims)}: {_quoted(names)}" for dims, names in dimension_groups(inventory).items()]
    more = [f"{len(parts) - _SHOWN_GROUPS} more"] if len(parts) > _SHOWN_GROUPS else []
    return "; ".join([*parts[:_SHOWN_GROUPS], *more])


def _quoted(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    more = [f"{len(listed) - _SHOWN_NAMES} more"] if len(listed) > _SHOWN_NAMES else []
    return ", ".join([*listed[:_SHOWN_NAMES], *more])


def _spelled(dims: tuple[str, ...] | frozenset[str]) -> str:
    return repr(dims) if isinstance(dims, tuple) else f"{{{', '.join(map(repr, sorted(dims)))}}}"
