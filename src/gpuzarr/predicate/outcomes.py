"""Outcomes of three-valued logic, and sets of them.

A predicate is true, false or null in a row. What it can be in *some* row of a tile is a set of outcomes, a bit mask:
``T | F | N`` (``ANY``) for a tile about which nothing is known. The connectives below work on such sets, element by
element over numpy arrays, and a single outcome is a set of one, so they are at the same time Polars' own (Kleene)
``&``, ``|``, ``^`` and ``~`` on nullable booleans.

Applied to sets, a connective gives every outcome that some pair of members gives. It assumes that the operands vary
independently; where they do not, the result may hold outcomes that never occur, and never lacks one that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

Outcomes: TypeAlias = npt.NDArray[np.uint8]
"""Sets of outcomes (bit masks 0 to 7), or single outcomes (1, 2 or 4)."""

T, F, N = 1, 2, 4
ANY = T | F | N


def negate(a: Outcomes) -> Outcomes:
    """``~a``: true and false change places, null stays."""
    negated: Outcomes = _bit(a, T) << np.uint8(1) | _bit(a, F) | a & np.uint8(N)
    return negated


def _bit(a: Outcomes, outcome: int) -> Outcomes:
    """1 where `outcome` is in the set."""
    bit: Outcomes = (a >> np.uint8(outcome.bit_length() - 1)) & np.uint8(1)
    return bit


def _decided_by(strong: int, weak: int, a: Outcomes, b: Outcomes) -> Outcomes:
    # `strong` in one operand decides (false in an AND), `weak` needs both, null is left where nothing decides
    null_a: Outcomes = a & np.uint8(N)
    null_b: Outcomes = b & np.uint8(N)
    to_null = np.uint8(N.bit_length() - weak.bit_length())
    weak_a: Outcomes = (a & np.uint8(weak)) << to_null
    weak_b: Outcomes = (b & np.uint8(weak)) << to_null
    null: Outcomes = null_a & null_b | null_a & weak_b | weak_a & null_b
    result: Outcomes = (a | b) & np.uint8(strong) | a & b & np.uint8(weak) | null
    return result


def conjoin(a: Outcomes, b: Outcomes) -> Outcomes:
    """``a & b``: false if either is, else null if either is, else true."""
    return _decided_by(F, T, a, b)


def disjoin(a: Outcomes, b: Outcomes) -> Outcomes:
    """``a | b``: true if either is, else null if either is, else false."""
    return _decided_by(T, F, a, b)


def differ(a: Outcomes, b: Outcomes) -> Outcomes:
    """``a ^ b``: null if either is, else true where they differ."""
    true_a, true_b, false_a, false_b = _bit(a, T), _bit(b, T), _bit(a, F), _bit(b, F)
    unequal = true_a & false_b | false_a & true_b
    equal = true_a & true_b | false_a & false_b
    result: Outcomes = (a | b) & np.uint8(N) | unequal | equal << np.uint8(1)
    return result


_CONNECTIVES = {"and": conjoin, "or": disjoin, "xor": differ}


def combine(kind: str, parts: Sequence[Outcomes]) -> Outcomes:
    """Outcome sets of a connective (``and``, ``or``, ``xor``, ``not``) over those of its operands, broadcast.

    Small operands are combined first, so that a result of full size is made as rarely as possible.
    """
    if kind == "not":
        return negate(parts[0])
    return reduce(_CONNECTIVES[kind], sorted(parts, key=lambda part: part.size))


def outcomes_of(mask: pl.Series) -> Outcomes:
    """One outcome (uint8) per element of a Boolean series."""
    if mask.null_count() == 0:
        return np.uint8(F) - mask.to_numpy().view(np.uint8)
    outcomes = np.uint8(F) - mask.fill_null(False).to_numpy().view(np.uint8)
    outcomes[mask.is_null().to_numpy()] = N
    return outcomes


def outcomes_to_series(name: str, outcomes: Outcomes) -> pl.Series:
    """The nullable Boolean series (C order) of single outcomes: the inverse of :func:`outcomes_of`."""
    flat = outcomes.ravel()
    true = pl.Series(name, flat == T)
    known = pl.Series("known", flat != N)
    if known.all():
        return true
    frame = pl.LazyFrame({"true": true, "known": known})
    return frame.select(pl.when("known").then("true").alias(name)).collect(engine="in-memory").to_series()
