"""The arrays of one group, sorted by what part they play in a table and by whether they can be in one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpuzarr.cf import (
    CoordinateRoles,
    Decoding,
    check_type,
    coordinate_names,
    decoding_for,
    decoding_of_values,
    with_inherited_attributes,
)
from gpuzarr.codecs import CodecChain, parse_chain
from gpuzarr.errors import GpuzarrError, MetadataError, NotFoundError
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata
from gpuzarr.table.characters import with_joined_characters
from gpuzarr.table.dimensions import Dims, dims_of
from gpuzarr.table.options import TableOptions

__all__ = ["ROOT_ARRAY_NAME", "Excluded", "Inventory", "Member"]

ROOT_ARRAY_NAME = "value"
"""Name of the variable of a root array, which has none of its own."""


@dataclass(frozen=True)
class Member:
    """An array that can be a column, its dimensions named. Its codecs and its decoding are worked out when first needed."""

    name: str
    array: ArrayMetadata
    dims: Dims
    options: TableOptions

    @property
    def dim_names(self) -> tuple[str, ...]:
        """Names of the dimensions in the array's own axis order."""
        return tuple(d.name for d in self.dims)

    @cached_property
    def chain(self) -> CodecChain:
        """Its codecs; raises `GpuzarrError` if they are refused."""
        return parse_chain(self.array)

    @cached_property
    def decoding(self) -> Decoding:
        """Its decoding without looking at values; raises `GpuzarrError` if no column can hold it."""
        return decoding_for(
            self.array,
            decode_cf=self.options.decode_cf,
            time_unit=self.options.time_unit,
            nan_to_null=self.options.nan_to_null,
        )

    def decoding_with(self, values: np.ndarray) -> Decoding:
        """Its decoding where the unit of times is to be nanoseconds, raw values decided about that."""
        options = self.options
        return decoding_of_values(
            self.array, self.decoding, values, decode_cf=options.decode_cf, nan_to_null=options.nan_to_null
        )

    def check(self) -> None:
        """Raise `GpuzarrError` if codecs or data type rule a column out. Attributes do not count yet, so nothing warns."""
        _ = self.chain
        check_type(self.array, time_unit=self.options.time_unit)


@dataclass(frozen=True)
class Excluded:
    """An array that cannot be a column, and why; `dims` are None where not even they are known."""

    error: Exception
    dims: Dims | None


@dataclass(frozen=True)
class Inventory:
    """What a group offers to tables.

    Parameters
    ----------
    path, attributes, groups
        Of the group.
    is_array
        Whether it is no group at all but an array scanned alone; `path` is its own then.
    members
        Arrays that can be columns, by name, sorted.
    excluded
        The others, by name, sorted.
    coordinates, bounds
        Names of coordinates as xarray finds them, and of arrays that a ``bounds`` attribute names, members or not.
    """

    path: str
    is_array: bool
    attributes: Mapping[str, Any]
    groups: tuple[str, ...]
    members: Mapping[str, Member]
    excluded: Mapping[str, Excluded]
    coordinates: frozenset[str]
    bounds: frozenset[str]

    @classmethod
    def of(cls, node: GroupMetadata | ArrayMetadata, options: TableOptions) -> Inventory:
        """Look at every array of a group; reads nothing.

        Where variables are named, the codecs and types of the others are not looked at: a group can hold very many arrays.
        """
        if isinstance(node, ArrayMetadata):
            alone = {node.name or ROOT_ARRAY_NAME: node}
            node = GroupMetadata(node.path, node.zarr_format, {}, alone, ())
            return dataclasses.replace(cls._of(node, options), is_array=True)
        return cls._of(node, options)

    @classmethod
    def _of(cls, group: GroupMetadata, options: TableOptions) -> Inventory:
        arrays, unreadable = group.arrays, group.unreadable
        documents = {name: array for name, array in sorted(arrays.items()) if name not in unreadable}
        if options.decode_cf:
            documents = with_joined_characters(with_inherited_attributes(documents))
        members: dict[str, Member] = {}
        excluded = {name: Excluded(error, None) for name, error in unreadable.items()}
        for name, array in documents.items():
            dims = None
            try:
                dims = dims_of(array)
                members[name] = Member(name, array, dims, options)
                if options.variables is None:
                    members[name].check()
            except GpuzarrError as error:
                members.pop(name, None)
                excluded[name] = Excluded(error.located(array=array.path), dims)
        coordinates, bounds = _roles(documents, group.attributes)
        return cls(
            path=group.path,
            is_array=False,
            attributes=group.attributes,
            groups=group.groups,
            members=members,
            excluded=dict(sorted(excluded.items())),
            coordinates=coordinates,
            bounds=bounds,
        )

    def without(self, name: str, error: GpuzarrError) -> Inventory:
        """The same without a member that turned out not to fit a column."""
        members = {other: member for other, member in self.members.items() if other != name}
        excluded = {**self.excluded, name: Excluded(error, self.members[name].dims)}
        return dataclasses.replace(self, members=members, excluded=dict(sorted(excluded.items())))

    def names_of(self, *, coordinates: bool = False, bounds: bool = True) -> list[str]:
        """Names of the variables, or of the coordinates, sorted."""
        return [
            name
            for name in self.members
            if (name in self.coordinates) == coordinates and (bounds or name not in self.bounds)
        ]

    def member(self, name: str) -> Member:
        """Member by name.

        Raises
        ------
        NotFoundError
            There is no array of this name.
        GpuzarrError
            There is, but it cannot be a column: the reason.
        """
        if name in self.members:
            return self.members[name]
        if name in self.excluded:
            raise _reason(self.excluded[name].error, self.path_of(name))
        where = f"{'array' if self.is_array else 'group'} {self.path or '/'!r}"
        if self.is_array:
            message = f"{where} is no group: its only variable is {_quoted(self.members)}, not {name!r}"
        elif name in self.groups:
            message = f"{name!r} is a group, not an array, of {where}; scan it with group={self.path_of(name)!r}"
        else:
            near = difflib.get_close_matches(name, [*self.members, *self.excluded], n=3, cutoff=0.5)
            there = f"did you mean {_quoted(near)}?" if near else f"there are {_quoted(self.members)}"
            message = f"{where} has no array {name!r}; {there}"
        raise NotFoundError(message)

    def path_of(self, name: str) -> str:
        """Path of an array or group below this group."""
        if self.is_array:
            return self.path
        return f"{self.path}/{name}" if self.path else name


def _roles(arrays: Mapping[str, ArrayMetadata], attributes: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Coordinates and bounds.

    xarray also makes a coordinate of every array that has the name of some array's dimension, whatever its own dimensions
    are: ``lat(lat, lon)`` of a curvilinear grid.
    """
    roles: CoordinateRoles = coordinate_names(arrays, attributes)
    dimension_names = {name for array in arrays.values() for name in array.dimension_names or ()}
    return roles.coordinates | (arrays.keys() & dimension_names), roles.bounds


def _reason(error: Exception, path: str) -> GpuzarrError:
    if isinstance(error, GpuzarrError):
        return error.located(array=path)
    wrapped = MetadataError(f"this array cannot be read: {error}", array=path)
    wrapped.__cause__ = error
    return wrapped


def _quoted(names: Iterable[str], limit: int = 10) -> str:
    listed = [repr(name) for name in names]
    more = [f"{len(listed) - limit} more"] if len(listed) > limit else []
    return ", ".join([*listed[:limit], *more]) or "none"
