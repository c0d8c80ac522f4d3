"""Which arrays of a group are coordinates and bounds, and what bounds inherit, as xarray decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuzarr.metadata.model import ArrayMetadata

__all__ = ["CoordinateRoles", "coordinate_names", "with_inherited_attributes"]


@dataclass(frozen=True, slots=True)
class CoordinateRoles:
    """The parts that arrays of one group play for each other.

    Parameters
    ----------
    dimensions
        1-D arrays named like their own dimension: the coordinates of dimensions.
    auxiliary
        Other arrays that a ``coordinates`` attribute of an array or of the group names, or that are named like a dimension.
    bounds
        Arrays that a ``bounds`` attribute names. An array can be auxiliary and bounds at once.
    """

    dimensions: frozenset[str]
    auxiliary: frozenset[str]
    bounds: frozenset[str]

    @property
    def coordinates(self) -> frozenset[str]:
        """Every coordinate: those of dimensions and the auxiliary ones."""
        return self.dimensions | self.auxiliary


def coordinate_names(arrays: Mapping[str, ArrayMetadata], group_attributes: Mapping[str, Any]) -> CoordinateRoles:
    """Which arrays are coordinates, as ``xarray.open_zarr`` (``decode_coords=True``) finds them.

    Parameters
    ----------
    arrays
        Arrays of the group by name.
    group_attributes
        Attributes of the group; their ``coordinates`` counts too.

    Returns
    -------
    CoordinateRoles
        Names that occur in `arrays`; names in attributes that do not exist are left out.
    """
    named = set(_words(group_attributes.get("coordinates")))
    bounds = set()
    for array in arrays.values():
        named.update(_words(array.attributes.get("coordinates")))
        target = array.attributes.get("bounds")
        if isinstance(target, str) and target in arrays:
            bounds.add(target)
        named.update(name for name in array.dimension_names or () if name is not None)
    dimensions = frozenset(name for name, array in arrays.items() if array.dimension_names == (name,))
    return CoordinateRoles(dimensions, frozenset(named & arrays.keys()) - dimensions, frozenset(bounds))


def with_inherited_attributes(arrays: Mapping[str, ArrayMetadata]) -> dict[str, ArrayMetadata]:
    """The same arrays, bounds of time coordinates with the ``units`` and ``calendar`` they inherit (CF 7.1).

    As ``xarray``: a variable with date units passes both to its ``bounds`` variable where that has none of its own.
    """
    inherited: dict[str, dict[str, Any]] = {}
    for array in arrays.values():
        units, target = array.attributes.get("units"), array.attributes.get("bounds")
        if not (isinstance(units, str) and "since" in units and isinstance(target, str) and target in arrays):
            continue
        attributes = inherited.setdefault(target, dict(arrays[target].attributes))
        attributes.setdefault("units", units)
        if "calendar" in array.attributes:
            attributes.setdefault("calendar", array.attributes["calendar"])
    return {
        name: dataclasses.replace(array, attributes=inherited[name]) if name in inherited else array
        for name, array in arrays.items()
    }


def _words(attribute: Any) -> list[str]:
    return attribute.split() if isinstance(attribute, str) else []
