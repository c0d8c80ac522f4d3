"""Programs of the predicate kernel: what its instructions are and how a list of them becomes bytes.

The machine has two stacks: numbers (`NUMBER_DEPTH` deep), each a 64-bit cell with a bit that says whether it is null, and
outcomes (`OUTCOME_DEPTH` deep): true, false or null. A cell is an int64 (signed types), a uint64 (unsigned types) or a double
(both float types: what is computed in float32 is rounded to it).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import polars as pl

from gpuzarr.kernels.descriptors import MAX_COLUMNS, MAX_INSTRUCTIONS, Instruction

__all__ = [
    "NUMBER_DEPTH",
    "OUTCOME_DEPTH",
    "CellType",
    "Domain",
    "Op",
    "Program",
    "cell_bits",
    "cell_type",
    "instruction",
    "make_program",
]

NUMBER_DEPTH = 4
OUTCOME_DEPTH = 16


class CellType(IntEnum):
    """Types of numbers."""

    I8 = 0
    I16 = 1
    I32 = 2
    I64 = 3
    U8 = 4
    U16 = 5
    U32 = 6
    U64 = 7
    F32 = 8
    F64 = 9

    @property
    def domain(self) -> Domain:
        """How its cells are held."""
        return Domain(min(int(self) // 4, 2))


class Domain(IntEnum):
    """How a cell is to be understood."""

    SIGNED = 0
    UNSIGNED = 1
    FLOAT = 2


class Op(IntEnum):
    """Instructions. ``a`` and ``b`` are the operands, ``b`` the one on top."""

    LOAD = 0  # push column as type
    CONSTANT = 1  # push constant; null if extra is 1
    CAST = 2  # a from type to the type in extra
    ADD = 3
    SUBTRACT = 4
    MULTIPLY = 5
    DIVIDE = 6  # float types
    LESS = 7  # comparisons: type is a Domain; total order in which NaN equals itself and is largest
    LESS_EQUAL = 8
    GREATER = 9
    GREATER_EQUAL = 10
    EQUAL = 11
    NOT_EQUAL = 12
    EQUAL_MISSING = 13  # null equals null and nothing else
    NOT_EQUAL_MISSING = 14
    IS_NULL = 15
    IS_NOT_NULL = 16
    IS_NAN = 17
    IS_NOT_NAN = 18
    IN = 19  # extra constants follow as CONSTANT instructions; type is a Domain
    LOAD_BOOLEAN = 20  # push the outcome of a Boolean column (one byte per row)
    LOAD_OUTCOME = 21  # push a column of outcome codes (1 true, 2 false, 4 null)
    OUTCOME = 22  # push the code in extra
    AND = 23
    OR = 24
    XOR = 25
    NOT = 26
    OUTCOME_IS_NULL = 27
    OUTCOME_IS_NOT_NULL = 28


_PUSH_NUMBER = {Op.LOAD, Op.CONSTANT}
_POP_TWO = {Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE}
_COMPARE = set(range(Op.LESS, Op.NOT_EQUAL_MISSING + 1))
_TEST = {Op.IS_NULL, Op.IS_NOT_NULL, Op.IS_NAN, Op.IS_NOT_NAN, Op.IN}
_PUSH_OUTCOME = {Op.LOAD_BOOLEAN, Op.LOAD_OUTCOME, Op.OUTCOME}
_LOGIC = {Op.AND, Op.OR, Op.XOR}

_CELL_TYPES: dict[type[pl.DataType], CellType] = {
    pl.Int8: CellType.I8,
    pl.Int16: CellType.I16,
    pl.Int32: CellType.I32,
    pl.Int64: CellType.I64,
    pl.UInt8: CellType.U8,
    pl.UInt16: CellType.U16,
    pl.UInt32: CellType.U32,
    pl.UInt64: CellType.U64,
    pl.Float32: CellType.F32,
    pl.Float64: CellType.F64,
    pl.Datetime: CellType.I64,
    pl.Duration: CellType.I64,
}


@dataclass(frozen=True)
class Program:
    """A predicate, ready for `gpuzarr.kernels.launch.predicate`.

    Parameters
    ----------
    columns
        Names, in the order in which instructions number them.
    instructions
        Bytes of one `Instruction` each.
    """

    columns: tuple[str, ...]
    instructions: tuple[bytes, ...]


def cell_type(dtype: pl.DataType) -> CellType | None:
    """Type of the cells of a column; None for columns that are not numbers."""
    return _CELL_TYPES.get(type(dtype))


def cell_bits(value: float, domain: Domain) -> int:
    """A number as the bits of a cell."""
    if domain == Domain.FLOAT:
        return int.from_bytes(struct.pack("<d", value), "little")
    return int(value) % 2**64


def instruction(op: Op, *, kind: int = 0, column: int = 0, extra: int = 0, constant: int = 0) -> bytes:
    """The bytes of one instruction."""
    return bytes(Instruction(int(op), int(kind), column, 0, extra, constant))


def make_program(columns: Iterable[str], instructions: Iterable[bytes]) -> Program | None:
    """A program, if it fits into the machine.

    Raises
    ------
    ValueError
        Instructions that do not leave exactly one outcome.
    """
    program = Program(tuple(columns), tuple(instructions))
    if len(program.columns) > MAX_COLUMNS or len(program.instructions) > MAX_INSTRUCTIONS:
        return None
    numbers = outcomes = skip = 0
    most_numbers = most_outcomes = 0
    for raw in program.instructions:
        step = Instruction.from_buffer_copy(raw)
        op = Op(step.op)
        if skip:
            skip -= 1
            if op != Op.CONSTANT:
                raise ValueError("a list of constants is cut short")
            continue
        taken_numbers = 2 if op in _POP_TWO or op in _COMPARE else 1 if op in _TEST or op == Op.CAST else 0
        taken_outcomes = 2 if op in _LOGIC else 1 if op in (Op.NOT, Op.OUTCOME_IS_NULL, Op.OUTCOME_IS_NOT_NULL) else 0
        if numbers < taken_numbers or outcomes < taken_outcomes:
            raise ValueError(f"{op.name} lacks an operand")
        if step.column >= max(len(program.columns), 1):
            raise ValueError(f"{op.name} refers to column {step.column}")
        numbers += (op in _PUSH_NUMBER or op in _POP_TWO or op == Op.CAST) - taken_numbers
        gives_outcome = op in _COMPARE or op in _TEST or op in _PUSH_OUTCOME or taken_outcomes > 0
        outcomes += int(gives_outcome) - taken_outcomes
        skip = step.extra if op == Op.IN else 0
        most_numbers, most_outcomes = max(most_numbers, numbers), max(most_outcomes, outcomes)
    if numbers or outcomes != 1 or skip:
        raise ValueError("a program must leave one outcome")
    return program if most_numbers <= NUMBER_DEPTH and most_outcomes <= OUTCOME_DEPTH else None


def numpy_type(kind: CellType) -> np.dtype[np.generic]:
    """The type of a column in memory."""
    return np.dtype(kind.name[0].lower() + str(int(kind.name[1:]) // 8))
