"""What the caller may choose about a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from gpuzarr.cf import TimeUnit
from gpuzarr.errors import RequestError

__all__ = ["GroupsMode", "TableOptions"]

GroupsMode = Literal["struct"]


@dataclass(frozen=True)
class TableOptions:
    """Which table of a group, and how its values are decoded.

    Parameters
    ----------
    variables
        Names of arrays. The row space is the union of their dimensions; those with fewer are broadcast.
    dims
        Names of dimensions: the variables on exactly these. In this order if there are such variables, else (or if a set
        is given) in any order. With `variables`: an assertion about their union. With `broadcast`: also the variables on
        a part of these dimensions.
    broadcast
        All variables of the group, on the union of their dimensions.
    groups
        ``"struct"`` adds child groups whose dimensions (name and size) are in the row space as Struct columns. Coordinates
        of the child are left out; whether they hold the same values is not looked at.
    decode_cf, time_unit, nan_to_null
        See `gpuzarr.cf.decoding_for`. Which arrays are coordinates does not depend on them.
    """

    variables: tuple[str, ...] | None = None
    dims: tuple[str, ...] | frozenset[str] | None = None
    broadcast: bool = False
    groups: GroupsMode | None = None
    decode_cf: bool = True
    time_unit: TimeUnit = "ns"
    nan_to_null: bool = False

    def __post_init__(self) -> None:
        if self.variables is not None:
            names = _names("variables", self.variables)
            if not names:
                raise RequestError("variables=[] names no variable; leave it out to get the table of the whole group")
            object.__setattr__(self, "variables", tuple(dict.fromkeys(names)))
        if self.dims is not None:
            dims = _names("dims", self.dims)
            if len(set(dims)) != len(dims):
                raise RequestError(f"dims={dims!r} names a dimension twice")
            unordered = isinstance(self.dims, (set, frozenset))
            object.__setattr__(self, "dims", frozenset(dims) if unordered else dims)
        if self.groups is not None and self.groups not in get_args(GroupsMode):
            raise RequestError(f"groups={self.groups!r} is unknown; it is None or 'struct'")
        if self.time_unit not in get_args(TimeUnit):
            raise RequestError(f"time_unit={self.time_unit!r} is unknown; it is 'ns', 'us' or 'ms'")
        for name in ("broadcast", "decode_cf", "nan_to_null"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name}={getattr(self, name)!r} has to be True or False")


def _names(argument: str, value: Any) -> tuple[str, ...]:
    """Names as a tuple; one name may stand for itself."""
    if isinstance(value, str):
        return (value,)
    try:
        names = tuple(value)
    except TypeError as error:
        raise RequestError(f"{argument}={value!r} has to be names, like {argument}=['a', 'b']") from error
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise RequestError(f"{argument} holds {wrong[0]!r}, which is no name: names are strings")
    return names
