"""Names and sizes of an array's dimensions, and the union of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpuzarr.errors import Kind, MetadataError, RequestError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.table.model import Dimension

__all__ = ["Dims", "dims_of", "dims_text", "union"]

Dims = tuple[Dimension, ...]


def dims_of(array: ArrayMetadata) -> Dims:
    """Dimensions of an array in its own axis order; unnamed ones are ``dim_0``, ``dim_1``, … by axis.

    Raises
    ------
    MetadataError
        One name stands for two axes, as in a covariance matrix over ``(x, x)``: no row of a table could tell them apart.
    """
    given: Sequence[str | None] = array.dimension_names or (None,) * array.ndim
    if len(given) != array.ndim:
        message = f"{len(given)} dimension names for {array.ndim} dimensions"
        raise MetadataError(message, array=array.path)
    taken = {name for name in given if name}
    names: list[str] = []
    for axis, name in enumerate(given):
        unique = name or f"dim_{axis}"
        while not name and unique in taken:
            unique += "_"
        names.append(unique)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = (
            f"dimension {twice[0]!r} occurs twice in {tuple(names)}: a table has one column per dimension. "
            "Store the array with distinct dimension names, or read it with zarr"
        )
        raise MetadataError(message, kind=Kind.METADATA_UNSUPPORTED, array=array.path)
    return tuple(Dimension(name, size) for name, size in zip(names, array.shape, strict=True))


def dims_text(dims: Iterable[Dimension]) -> str:
    """Dimensions for messages: ``(time: 4, lat: 5)``."""
    return f"({', '.join(f'{d.name}: {d.size}' for d in dims)})"


def union(arrays: Mapping[str, Dims]) -> Dims:
    """Union of the dimensions of arrays, in order of precedence.

    The first array that spans the union gives the order. If none does, the first one with most dimensions does, and the
    dimensions that it lacks follow in the order of the others.

    Parameters
    ----------
    arrays
        Dimensions by name of the array, in the order in which arrays take precedence.

    Raises
    ------
    RequestError
        ``TABLE_AMBIGUOUS``: one name has two sizes.
    """
    owners: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for name, dims in arrays.items():
        for d in dims:
            if sizes.setdefault(d.name, d.size) != d.size:
                message = (
                    f"dimension {d.name!r} has {sizes[d.name]} elements in {owners[d.name]!r} and {d.size} in {name!r}, "
                    "so they cannot be columns of one table. Name the variables of one of them with variables=[...], "
                    "or take all with scan_tables(store)"
                )
                raise RequestError(message, kind=Kind.TABLE_AMBIGUOUS)
            owners.setdefault(d.name, name)
    longest_first = sorted(arrays.values(), key=lambda dims: -len(dims))  # stable: precedence among equals
    return tuple(dict.fromkeys(d for dims in longest_first for d in dims))
