"""The predicate kernel with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.kernels.descriptors import Instruction, PredicateArgs, PredicateColumn
from gpuzarr.kernels.launch import Launch
from gpuzarr.kernels.memory import bytes_at, values_at
from gpuzarr.kernels.program import CellType, Domain, Op, numpy_type

__all__ = ["evaluate", "run_predicate"]

Cells = npt.NDArray[Any]
Bits = npt.NDArray[np.bool_]

_CELLS = {Domain.SIGNED: np.dtype("i8"), Domain.UNSIGNED: np.dtype("u8"), Domain.FLOAT: np.dtype("f8")}


def run_predicate(_launch: Launch, args: PredicateArgs) -> None:
    """Twin of ``predicate``."""
    begin, end = args.row_begin, args.row_end

    def column(number: int, dtype: np.dtype[Any]) -> tuple[Cells, Bits]:
        source: PredicateColumn = args.columns[number]
        values = values_at(source.values, dtype, end)[begin:]
        if not source.valid:
            return values, np.ones(end - begin, np.bool_)
        bits = np.unpackbits(bytes_at(source.valid, -(-end // 8)), bitorder="little")
        return values, bits[begin:end].astype(np.bool_)

    program = [Instruction.from_buffer_copy(bytes(args.program[i])) for i in range(args.instruction_count)]
    bytes_at(args.mask, end)[begin:] = evaluate(program, column, end - begin)[0]


def evaluate(program: list[Instruction], column: Any, rows: int) -> tuple[Bits, Bits, list[tuple[Cells, Bits]]]:
    """Run a program.

    Parameters
    ----------
    column
        Function of a column number and a dtype that gives values and validity.

    Returns
    -------
    is_true, is_null
        The outcome on top, if any.
    numbers
        What is left on the stack of numbers.
    """
    numbers: list[tuple[Cells, Bits]] = []
    outcomes: list[tuple[Bits, Bits]] = []  # true, null
    steps = iter(program)
    with np.errstate(all="ignore"):
        for step in steps:
            op = Op(step.op)
            if op == Op.LOAD:
                kind = CellType(step.type)
                values, known = column(step.column, numpy_type(kind))
                numbers.append((values.astype(_CELLS[kind.domain]), known))
            elif op == Op.CONSTANT:
                numbers.append((np.full(rows, step.constant, np.uint64), np.full(rows, not step.extra)))
            elif op == Op.CAST:
                values, known = numbers.pop()
                numbers.append((_cast(values, CellType(step.type), CellType(step.extra)), known))
            elif op in (Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE):
                (b, known_b), (a, known_a) = numbers.pop(), numbers.pop()
                numbers.append((_computed(op, CellType(step.type), a, b), known_a & known_b))
            elif op in (Op.IS_NULL, Op.IS_NOT_NULL):
                _, known = numbers.pop()
                outcomes.append((known if op == Op.IS_NOT_NULL else ~known, np.zeros(rows, np.bool_)))
            elif op in (Op.IS_NAN, Op.IS_NOT_NAN):
                values, known = numbers.pop()
                nan = np.isnan(_as(values, Domain.FLOAT))
                outcomes.append(((nan if op == Op.IS_NAN else ~nan) & known, ~known))
            elif op == Op.IN:
                values, known = numbers.pop()
                found = np.zeros(rows, np.bool_)
                for _ in range(step.extra):
                    member = np.full(rows, next(steps).constant, np.uint64)
                    found |= _order(Domain(step.type), values, member) == 0
                outcomes.append((found & known, ~known))
            elif op < Op.IN:
                (b, known_b), (a, known_a) = numbers.pop(), numbers.pop()
                outcomes.append(_compared(op, _order(Domain(step.type), a, b), known_a, known_b))
            else:
                _logic(op, step, column, rows, outcomes)
    if not outcomes:
        return np.zeros(rows, np.bool_), np.zeros(rows, np.bool_), numbers
    return (*outcomes[-1], numbers)


def _logic(op: Op, step: Instruction, column: Any, rows: int, outcomes: list[tuple[Bits, Bits]]) -> None:
    if op in (Op.LOAD_BOOLEAN, Op.LOAD_OUTCOME):
        codes, known = column(step.column, np.dtype(np.uint8))
        if op == Op.LOAD_BOOLEAN:
            outcomes.append(((codes != 0) & known, ~known))
        else:
            outcomes.append((codes == 1, codes == 4))
        return
    if op == Op.OUTCOME:
        outcomes.append((np.full(rows, step.extra == 1), np.full(rows, step.extra == 4)))
        return
    true_b, null_b = outcomes.pop()
    if op == Op.NOT:
        outcomes.append((~true_b & ~null_b, null_b))
        return
    if op in (Op.OUTCOME_IS_NULL, Op.OUTCOME_IS_NOT_NULL):
        outcomes.append((null_b if op == Op.OUTCOME_IS_NULL else ~null_b, np.zeros(rows, np.bool_)))
        return
    true_a, null_a = outcomes.pop()
    either = null_a | null_b
    if op == Op.AND:
        false = (~true_a & ~null_a) | (~true_b & ~null_b)
        outcomes.append((true_a & true_b, either & ~false))
    elif op == Op.OR:
        true = true_a | true_b
        outcomes.append((true, either & ~true))
    else:
        outcomes.append(((true_a ^ true_b) & ~either, either))


def _as(values: Cells, domain: Domain) -> Cells:
    return values.view(_CELLS[domain])


def _cast(values: Cells, source: CellType, target: CellType) -> Cells:
    values = _as(values, source.domain)
    if target.domain == Domain.FLOAT:
        return values.astype(numpy_type(target)).astype(np.float64)
    return values.astype(numpy_type(target)).astype(_CELLS[target.domain])


def _computed(op: Op, kind: CellType, a: Cells, b: Cells) -> Cells:
    dtype = numpy_type(kind)
    x, y = (_as(v, kind.domain).astype(dtype) for v in (a, b))
    function = {Op.ADD: np.add, Op.SUBTRACT: np.subtract, Op.MULTIPLY: np.multiply, Op.DIVIDE: np.true_divide}[op]
    return np.asarray(function(x, y, dtype=dtype)).astype(_CELLS[kind.domain])


def _order(domain: Domain, a: Cells, b: Cells) -> Cells:
    """-1, 0 or 1; NaN equals itself and is largest."""
    x, y = _as(a, domain), _as(b, domain)
    sign = (x > y).astype(np.int8) - (x < y).astype(np.int8)
    if domain == Domain.FLOAT:
        nan_x, nan_y = np.isnan(x), np.isnan(y)
        sign = np.where(nan_x | nan_y, nan_x.astype(np.int8) - nan_y.astype(np.int8), sign)
    return sign


def _compared(op: Op, sign: Cells, known_a: Bits, known_b: Bits) -> tuple[Bits, Bits]:
    found = {
        Op.LESS: sign < 0,
        Op.LESS_EQUAL: sign <= 0,
        Op.GREATER: sign > 0,
        Op.GREATER_EQUAL: sign >= 0,
        Op.EQUAL: sign == 0,
        Op.EQUAL_MISSING: sign == 0,
        Op.NOT_EQUAL: sign != 0,
        Op.NOT_EQUAL_MISSING: sign != 0,
    }[op]
    both, neither = known_a & known_b, ~known_a & ~known_b
    nothing = np.zeros(len(sign), np.bool_)
    if op == Op.EQUAL_MISSING:
        return (found & both) | neither, nothing
    if op == Op.NOT_EQUAL_MISSING:
        return (found & both) | (known_a ^ known_b), nothing
    return found & both, ~both
