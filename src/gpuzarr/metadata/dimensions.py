"""Names of dimensions, wherever writers put them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuzarr.metadata.document import invalid, shown, text

__all__ = ["parse_dimension_names"]

XARRAY_KEY = "_ARRAY_DIMENSIONS"
NCZARR_KEYS = ("_nczarr_array", "_NCZARR_ARRAY")
NCZARR_FIELDS = ("dimension_references", "dimension_refs", "dimrefs")

Names = tuple[str | None, ...]


def parse_dimension_names(document: Mapping[str, Any], attributes: Mapping[str, Any], ndim: int) -> Names | None:
    """Names of the dimensions; None where neither document nor attributes tell.

    In this order: ``dimension_names`` of v3, ``_ARRAY_DIMENSIONS`` of xarray, the references of NCZarr (in the document
    or, since netCDF-C 4.9.3, in the attributes), whose last component is the name. xarray reads the same, but neither
    ``_ARRAY_DIMENSIONS`` in v3 nor NCZarr's attributes.

    Raises
    ------
    Refusal
        METADATA_INVALID for names that are no strings or not as many as dimensions (xarray refuses such an array too).
    """
    if document.get("zarr_format") == 3:
        if document.get("dimension_names") is not None:
            return _checked(document["dimension_names"], "'dimension_names'", ndim, optional=True)
        names = attributes.get(XARRAY_KEY)  # an attribute like any other in v3, so it cannot be wrong
        is_usable = isinstance(names, list) and len(names) == ndim and all(isinstance(name, str) for name in names)
        return _checked(names, f"the attribute {XARRAY_KEY!r}", ndim) if is_usable else None
    if XARRAY_KEY in attributes:
        names = attributes[XARRAY_KEY]
        return _checked([names] if isinstance(names, str) else names, f"the attribute {XARRAY_KEY!r}", ndim)
    return _nczarr(document, ndim) or _nczarr(attributes, ndim)


def _checked(names: Any, what: str, ndim: int, *, optional: bool = False) -> Names:
    if not isinstance(names, list):
        raise invalid(f"{what} has to be a list, not {shown(names)}")
    if len(names) != ndim:
        raise invalid(f"{what} names {len(names)} dimensions of an array that has {ndim}: {shown(names)}")
    return tuple(None if name is None and optional else text(name, f"a name in {what}") for name in names)


def _nczarr(fields: Mapping[str, Any], ndim: int) -> Names | None:
    for key in NCZARR_KEYS:
        nczarr = fields.get(key)
        if isinstance(nczarr, dict):
            for field in NCZARR_FIELDS:
                names = nczarr.get(field)
                # netCDF-C stores a scalar with one element and no references: no names then
                if isinstance(names, list) and len(names) == ndim:
                    return tuple(text(name, f"a name in {key!r}").rsplit("/", 1)[-1] for name in names)
    return None
