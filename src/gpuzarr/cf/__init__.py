"""CF conventions: what the stored numbers of an array mean, decided from its document alone."""

from __future__ import annotations

from gpuzarr.cf.decide import check_type, decoding_for, decoding_of_values
from gpuzarr.cf.decoding import Decoding
from gpuzarr.cf.roles import CoordinateRoles, coordinate_names, with_inherited_attributes
from gpuzarr.cf.times import TimeUnit

__all__ = [
    "CoordinateRoles",
    "Decoding",
    "TimeUnit",
    "check_type",
    "coordinate_names",
    "decoding_for",
    "decoding_of_values",
    "with_inherited_attributes",
]
