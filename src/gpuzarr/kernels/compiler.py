"""From a Polars expression to a program of the predicate kernel, or to None where Polars has to evaluate it.

Only public calls are used, as in `gpuzarr.predicate.tree`: ``meta.pop`` gives operands, and an expression that ``meta.eq`` the
one rebuilt from them is that operation. How Polars converts operands and in which order it computes is not documented and has
changed before, so nothing is taken for granted: every operation is compared with Polars itself on awkward values of its operands'
types (extremes, neighbours of constants, NaN, infinities, zeros of both signs, null) the first time it occurs in a process, and
the whole predicate on random rows of such values each time. What differs anywhere is left to Polars.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import polars as pl

from gpuzarr.kernels.compiler_samples import agrees_number, agrees_outcome, random_rows, sample_values
from gpuzarr.kernels.program import CellType, Domain, Op, Program, cell_bits, cell_type, instruction, make_program
from gpuzarr.predicate.tree import Syntax, parse

__all__ = ["compile_predicate"]

MAX_MEMBERS = 16
"""Longest list of ``is_in``."""

SAMPLE_ROWS = 512
MAX_KNOWN = 4096
"""Operations remembered per process; their constants are part of them."""


class _CannotError(Exception):
    """The expression is for Polars."""


@dataclass(frozen=True, eq=False)
class _Operand:
    """A number: a constant, or what some instructions leave on the stack.

    Parameters
    ----------
    expr
        The expression.
    dtype
        Its type as Polars gives it; for a constant the type that it has by itself.
    steps
        Instructions; empty for a constant.
    value
        Of a constant: a Python or numpy scalar, None for null.
    is_constant, is_free
        Whether it is a constant, and one whose type follows the other operand.
    """

    expr: pl.Expr
    dtype: pl.DataType
    steps: tuple[bytes, ...] = ()
    value: Any = None
    is_constant: bool = False
    is_free: bool = False

    @property
    def key(self) -> Any:
        """What decides how an operation on it is computed."""
        return ("constant", repr(self.value), str(self.dtype), self.is_free) if self.is_constant else str(self.dtype)

    @property
    def kind(self) -> CellType:
        """Type of its cells."""
        kind = cell_type(self.dtype)
        if kind is None:
            raise _CannotError(f"no cells of type {self.dtype}")
        return kind


Lowering = Callable[[Sequence[_Operand]], tuple[bytes, ...]]

_known: dict[Any, int | None] = {}
_lock = threading.Lock()


def compile_predicate(
    expression: pl.Expr, schema: Mapping[str, pl.DataType], *, codes: Collection[str] = ()
) -> Program | None:
    """Compile a predicate.

    Parameters
    ----------
    expression
        Boolean, elementwise.
    schema
        Types of the columns that it may refer to.
    codes
        Names of Boolean columns of the expression that are handed to the kernel as outcome codes; not part of ``schema``.

    Returns
    -------
    Program or None
        None: more than the kernel can do, or not exactly what Polars does.
    """
    try:
        types: dict[str, pl.DataType] = {}
        for name in expression.meta.root_names():
            types[name] = pl.Boolean() if name in codes else _instance(schema[name])
        compiler = _Compiler(types, frozenset(codes))
        steps = compiler.outcome(parse(expression))
        program = make_program(compiler.columns, steps)
        if program is None:
            return None
        rows = random_rows(types, compiler.constants, SAMPLE_ROWS)
        return program if agrees_outcome(program.instructions, program.columns, codes, rows, expression) else None
    except (
        _CannotError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        KeyError,
        OverflowError,
        ValueError,
        TypeError,
    ):
        return None


class _Compiler:
    """Lowers one expression; collects its columns and constants."""

    def __init__(self, types: Mapping[str, pl.DataType], codes: frozenset[str]) -> None:
        self.types = types
        self.codes = codes
        self.columns: list[str] = []
        self.constants: list[Any] = []
        self._empty = pl.LazyFrame(schema=dict(types))

    # -- outcomes ------------------------------------------------------------------------------------------------

    def outcome(self, syntax: Syntax) -> tuple[bytes, ...]:
        """Instructions that leave the outcome of a part of the predicate."""
        if syntax.kind == "leaf":
            return self._leaf(syntax.expr)
        parts = [self.outcome(part) for part in syntax.operands]
        if syntax.kind == "not":
            if self._dtype(syntax.expr) != pl.Boolean or self._dtype(syntax.operands[0].expr) != pl.Boolean:
                raise _CannotError("bitwise not")
            return (*parts[0], instruction(Op.NOT))
        op = {"and": Op.AND, "or": Op.OR, "xor": Op.XOR}[syntax.kind]
        return reduce(lambda a, b: (*a, *b, instruction(op)), parts)

    def _leaf(self, expr: pl.Expr) -> tuple[bytes, ...]:
        if self._dtype(expr) != pl.Boolean:
            raise _CannotError("an integer among booleans")
        if _is_constant(expr):
            value = pl.select(expr).item()
            return (instruction(Op.OUTCOME, extra=4 if value is None else 1 if value else 2),)
        name = _column_name(expr)
        if name is not None:
            return (instruction(Op.LOAD_OUTCOME if name in self.codes else Op.LOAD_BOOLEAN, column=self._number(name)),)
        operands = _popped(expr)
        if len(operands) == 1:
            return self._test(expr, operands[0])
        if len(operands) == 2:
            return self._binary(expr, operands)
        if len(operands) == 3:
            return self._between(expr, operands)
        raise _CannotError("unknown operation")

    def _test(self, expr: pl.Expr, inner: pl.Expr) -> tuple[bytes, ...]:
        boolean = self._dtype(inner) == pl.Boolean
        tests: list[tuple[Op, Op | None, Callable[[pl.Expr], pl.Expr]]] = [
            (Op.IS_NULL, Op.OUTCOME_IS_NULL, lambda e: e.is_null()),
            (Op.IS_NOT_NULL, Op.OUTCOME_IS_NOT_NULL, lambda e: e.is_not_null()),
            (Op.IS_NAN, None, lambda e: e.is_nan()),
            (Op.IS_NOT_NAN, None, lambda e: e.is_not_nan()),
        ]
        for op, of_outcome, build in tests:
            if not build(inner).meta.eq(expr):
                continue
            if boolean and of_outcome is not None:
                return (*self.outcome(parse(inner)), instruction(of_outcome))
            operand = self._operand(inner)
            if op in (Op.IS_NAN, Op.IS_NOT_NAN) and operand.kind.domain != Domain.FLOAT:
                raise _CannotError("NaN of an integer")

            def lower(o: Sequence[_Operand], op: Op = op) -> tuple[bytes, ...]:
                return (*_pushed(o[0], o[0].kind), instruction(op))

            return self._operation(op.name, [operand], _spread(build), [lower], outcome=True)
        raise _CannotError("unknown test")

    def _binary(self, expr: pl.Expr, operands: list[pl.Expr]) -> tuple[bytes, ...]:
        for op, build in _COMPARISONS:
            if not build(operands[0], operands[1]).meta.eq(expr):
                continue
            if pl.Boolean in (self._dtype(operands[0]), self._dtype(operands[1])):
                return self._boolean_comparison(op, operands)
            found = [self._operand(o) for o in operands]
            return self._operation(
                op.name,
                found,
                _spread(build),
                [self._comparison(op)],
                outcome=True,
            )
        if operands[0].is_in(operands[1]).meta.eq(expr):
            return self._member(operands)
        raise _CannotError("unknown operation")

    def _boolean_comparison(self, op: Op, operands: list[pl.Expr]) -> tuple[bytes, ...]:
        if op not in (Op.EQUAL, Op.NOT_EQUAL) or any(self._dtype(o) != pl.Boolean for o in operands):
            raise _CannotError("order of booleans")
        a, b = (self.outcome(parse(o)) for o in operands)
        differ = (*a, *b, instruction(Op.XOR))
        return differ if op == Op.NOT_EQUAL else (*differ, instruction(Op.NOT))

    def _between(self, expr: pl.Expr, operands: list[pl.Expr]) -> tuple[bytes, ...]:
        for closed, (lower_op, upper_op) in _BETWEEN.items():
            if not operands[0].is_between(operands[1], operands[2], closed=closed).meta.eq(expr):
                continue
            found = [self._operand(o) for o in operands]

            def lower(o: Sequence[_Operand], ops: tuple[Op, Op] = (lower_op, upper_op)) -> tuple[bytes, ...]:
                above, below = self._compared(ops[0], o[0], o[1]), self._compared(ops[1], o[0], o[2])
                return (*above, *below, instruction(Op.AND))

            def build(e: Sequence[pl.Expr], closed: Any = closed) -> pl.Expr:
                return e[0].is_between(e[1], e[2], closed=closed)

            return self._operation(f"between {closed}", found, build, [lower], outcome=True)
        raise _CannotError("unknown operation")

    def _member(self, operands: list[pl.Expr]) -> tuple[bytes, ...]:
        if not _is_constant(operands[1]):
            raise _CannotError("members that are no constants")
        members = pl.select(operands[1]).to_series()
        if isinstance(members.dtype, (pl.List, pl.Array)):
            if len(members) != 1:
                raise _CannotError("a list per row")
            members = members[0]
        if len(members) > MAX_MEMBERS:
            raise _CannotError("a long list")
        operand = self._operand(operands[0])
        values = members.drop_nulls().to_list()
        constants = [_Operand(pl.lit(v, members.dtype), members.dtype, value=v, is_constant=True) for v in values]
        self.constants += values

        def lower(o: Sequence[_Operand]) -> tuple[bytes, ...]:
            kind, domain = o[0].kind, o[0].kind.domain
            if constants:
                kind, domain = self._common(o[0], constants[0])
            bits = [_constant_bits(c, o[0].dtype, kind, domain) for c in constants]
            return (
                *_pushed(o[0], kind),
                instruction(Op.IN, kind=int(domain), extra=len(bits)),
                *(instruction(Op.CONSTANT, constant=b) for b in bits),
            )

        return self._operation(
            f"in {members.to_list()!r} {members.dtype}",
            [operand],
            lambda e: e[0].is_in(operands[1]),
            [lower],
            outcome=True,
            constants=values,
        )

    def _comparison(self, op: Op) -> Lowering:
        return lambda o: self._compared(op, o[0], o[1])

    def _compared(self, op: Op, a: _Operand, b: _Operand) -> tuple[bytes, ...]:
        kind, domain = self._common(a, b)
        return (
            *self._converted(a, b.dtype, kind, domain),
            *self._converted(b, a.dtype, kind, domain),
            instruction(op, kind=int(domain)),
        )

    def _converted(self, a: _Operand, other: pl.DataType, kind: CellType, domain: Domain) -> tuple[bytes, ...]:
        if not a.is_constant:
            return _pushed(a, kind)
        if a.value is None:
            return (instruction(Op.CONSTANT, extra=1),)
        return (instruction(Op.CONSTANT, constant=_constant_bits(a, other, kind, domain)),)

    def _common(self, a: _Operand, b: _Operand) -> tuple[CellType, Domain]:
        """The type in which two numbers are compared; integers are compared as they are."""
        if a.dtype.is_temporal() or b.dtype.is_temporal():
            dtype = b.dtype if a.is_constant else a.dtype
            if not (a.is_constant or b.is_constant or a.dtype == b.dtype):
                raise _CannotError("times of different units")
            if not isinstance(dtype, (pl.Datetime, pl.Duration)):
                raise _CannotError("other times")
            return CellType.I64, Domain.SIGNED
        if a.value is None and a.is_constant:
            return b.kind, b.kind.domain
        if b.value is None and b.is_constant:
            return a.kind, a.kind.domain
        together = _instance(
            pl.LazyFrame(schema={"a": a.dtype, "b": b.dtype})
            .select(_free(a, "a") + _free(b, "b"))
            .collect_schema()
            .dtypes()[0]
        )
        kind = cell_type(together)
        if kind is None:
            raise _CannotError("no common type")
        if kind.domain == Domain.FLOAT:
            return kind, Domain.FLOAT
        kinds = [o.kind for o in (a, b) if not o.is_constant]
        values = [o.value for o in (a, b) if o.is_constant]
        if CellType.U64 not in kinds:
            return CellType.I64, Domain.SIGNED
        if any(k.domain == Domain.SIGNED for k in kinds) or any(v < 0 for v in values):
            raise _CannotError("signed and unsigned 64-bit numbers")
        return CellType.U64, Domain.UNSIGNED

    # -- numbers -------------------------------------------------------------------------------------------------

    def _operand(self, expr: pl.Expr) -> _Operand:
        if _is_constant(expr):
            return self._constant(expr)
        name = _column_name(expr)
        if name is not None:
            dtype = self.types[name]
            operand = _Operand(expr, dtype)
            return replace(operand, steps=(instruction(Op.LOAD, kind=int(operand.kind), column=self._number(name)),))
        operands = _popped(expr)
        dtype = self._dtype(expr)
        if len(operands) == 1:
            output = expr.meta.output_name(raise_if_undetermined=False)
            if output is not None and operands[0].alias(output).meta.eq(expr):
                return self._operand(operands[0])
            return self._cast(expr, operands[0], dtype)
        if len(operands) == 2:
            for op, build in _ARITHMETIC:
                if build(operands[0], operands[1]).meta.eq(expr):
                    return self._arithmetic(op, build, operands, expr, dtype)
        raise _CannotError("unknown arithmetic")

    def _constant(self, expr: pl.Expr) -> _Operand:
        series = pl.select(expr).to_series()
        if len(series) != 1 or isinstance(series.dtype, (pl.List, pl.Array, pl.String, pl.Binary)):
            raise _CannotError("a constant of another kind")
        value = series.item()
        if value is not None and series.dtype.is_temporal():
            value = series.to_physical().item()  # in its own unit, see `_constant_bits`
        free = isinstance(value, (int, float)) and not series.dtype.is_temporal() and pl.lit(value).meta.eq(expr)
        self.constants.append(series.item())
        return _Operand(expr, series.dtype, value=value, is_constant=True, is_free=free or value is None)

    def _cast(self, expr: pl.Expr, inner: pl.Expr, dtype: pl.DataType) -> _Operand:
        options = (True, False)
        strict = next((s for s in options if inner.cast(dtype, strict=s).meta.eq(expr)), None)
        if strict is None:
            raise _CannotError("unknown function")
        operand = self._operand(inner)
        target = _Operand(expr, dtype).kind
        if operand.is_constant or not _is_lossless(operand, dtype, target):
            raise _CannotError("a conversion that can fail")
        steps = self._operation(
            f"cast {dtype} {strict}",
            [operand],
            lambda e: e[0].cast(dtype, strict=strict),
            [lambda o: _pushed(o[0], target)],
            outcome=False,
            dtype=dtype,
        )
        return _Operand(expr, dtype, steps)

    def _arithmetic(
        self,
        op: Op,
        build: Callable[[pl.Expr, pl.Expr], pl.Expr],
        operands: list[pl.Expr],
        expr: pl.Expr,
        dtype: pl.DataType,
    ) -> _Operand:
        target = _Operand(expr, dtype).kind
        if dtype.is_temporal() or (op == Op.DIVIDE and target.domain != Domain.FLOAT):
            raise _CannotError("arithmetic of times")
        found = [self._operand(o) for o in operands]
        if any(o.dtype.is_temporal() for o in found):
            raise _CannotError("arithmetic of times")

        def direct(o: Sequence[_Operand]) -> tuple[bytes, ...]:
            a, b = (self._converted(x, dtype, target, target.domain) for x in o)
            return (*a, *b, instruction(op, kind=int(target)))

        def reciprocal(o: Sequence[_Operand]) -> tuple[bytes, ...]:
            number = np.dtype("f4" if target == CellType.F32 else "f8").type
            with np.errstate(all="ignore"):
                inverse = float(number(1) / number(o[1].value))
            constant = instruction(Op.CONSTANT, constant=cell_bits(inverse, Domain.FLOAT))
            return (
                *self._converted(o[0], dtype, target, target.domain),
                constant,
                instruction(Op.MULTIPLY, kind=int(target)),
            )

        lowerings: list[Lowering] = [direct]
        if op == Op.DIVIDE and found[1].is_constant and found[1].value is not None:
            lowerings = [reciprocal, direct]  # Polars multiplies by the reciprocal of a constant
        steps = self._operation(f"{op.name} {dtype}", found, _spread(build), lowerings, outcome=False, dtype=dtype)
        return _Operand(expr, dtype, steps)

    # -- an operation, compared with Polars -----------------------------------------------------------------------

    def _operation(
        self,
        name: str,
        operands: Sequence[_Operand],
        build: Callable[[Sequence[pl.Expr]], pl.Expr],
        lowerings: Sequence[Lowering],
        *,
        outcome: bool,
        dtype: pl.DataType | None = None,
        constants: Sequence[Any] = (),
    ) -> tuple[bytes, ...]:
        """Instructions of an operation, in the first way of computing it that agrees with Polars."""
        key = (name, *(o.key for o in operands))
        with _lock:
            found = _known.get(key, -1)
        if found == -1:
            found = None
            for i, lowering in enumerate(lowerings):
                if self._agrees(operands, build, lowering, outcome, dtype, constants):
                    found = i
                    break
            with _lock:
                if len(_known) >= MAX_KNOWN:
                    _known.clear()
                _known[key] = found
        if found is None:
            raise _CannotError(f"{name} is computed in another way")
        return lowerings[found](operands)

    def _agrees(
        self,
        operands: Sequence[_Operand],
        build: Callable[[Sequence[pl.Expr]], pl.Expr],
        lowering: Lowering,
        outcome: bool,
        dtype: pl.DataType | None,
        constants: Sequence[Any],
    ) -> bool:
        names: list[str] = []
        alone: list[_Operand] = []
        near = [*constants, *(o.value for o in operands if o.is_constant and not o.dtype.is_temporal())]
        near += [pl.select(o.expr).item() for o in operands if o.is_constant and o.dtype.is_temporal()]
        for operand in operands:
            if operand.is_constant:
                alone.append(operand)
                continue
            load = instruction(Op.LOAD, kind=int(operand.kind), column=len(names))
            names.append(f"x{len(names)}")
            alone.append(replace(operand, expr=pl.col(names[-1]), steps=(load,)))
        if not names:
            return False
        columns = [o for o in alone if not o.is_constant]
        values = [sample_values(o.dtype, near, many=len(columns) == 1) for o in columns]
        rows = _crossed(names, values)
        steps = lowering(alone)
        expr = build([o.expr for o in alone])
        if outcome:
            return agrees_outcome(steps, names, (), rows, expr)
        assert dtype is not None
        return agrees_number(steps, names, rows, expr, dtype)

    # -- columns and types ----------------------------------------------------------------------------------------

    def _number(self, name: str) -> int:
        if name not in self.columns:
            self.columns.append(name)
        return self.columns.index(name)

    def _dtype(self, expr: pl.Expr) -> pl.DataType:
        return _instance(self._empty.select(expr.alias("_")).collect_schema().dtypes()[0])


_COMPARISONS: tuple[tuple[Op, Callable[[pl.Expr, pl.Expr], pl.Expr]], ...] = (
    (Op.GREATER, lambda a, b: a > b),
    (Op.GREATER_EQUAL, lambda a, b: a >= b),
    (Op.LESS, lambda a, b: a < b),
    (Op.LESS_EQUAL, lambda a, b: a <= b),
    (Op.EQUAL, lambda a, b: a == b),
    (Op.NOT_EQUAL, lambda a, b: a != b),
    (Op.EQUAL_MISSING, lambda a, b: a.eq_missing(b)),
    (Op.NOT_EQUAL_MISSING, lambda a, b: a.ne_missing(b)),
)
_ARITHMETIC: tuple[tuple[Op, Callable[[pl.Expr, pl.Expr], pl.Expr]], ...] = (
    (Op.ADD, lambda a, b: a + b),
    (Op.SUBTRACT, lambda a, b: a - b),
    (Op.MULTIPLY, lambda a, b: a * b),
    (Op.DIVIDE, lambda a, b: a / b),
)
_BETWEEN: dict[Any, tuple[Op, Op]] = {
    "both": (Op.GREATER_EQUAL, Op.LESS_EQUAL),
    "left": (Op.GREATER_EQUAL, Op.LESS),
    "right": (Op.GREATER, Op.LESS_EQUAL),
    "none": (Op.GREATER, Op.LESS),
}
_POPS_LAST_FIRST = (pl.col("a") > pl.col("b")).meta.pop()[0].meta.eq(pl.col("b"))  # not documented, so asked


def _spread(build: Callable[..., pl.Expr]) -> Callable[[Sequence[pl.Expr]], pl.Expr]:
    return lambda operands: build(*operands)


def _popped(expr: pl.Expr) -> list[pl.Expr]:
    operands = expr.meta.pop()
    return operands[::-1] if _POPS_LAST_FIRST else operands


def _is_constant(expr: pl.Expr) -> bool:
    """A literal, or one converted to another type (as Polars < 1.36 writes dates)."""
    if expr.meta.root_names():
        return False
    if expr.meta.is_literal():
        return True
    operands = expr.meta.pop()
    if len(operands) != 1 or not operands[0].meta.is_literal():
        return False
    dtype = pl.select(expr).to_series().dtype
    return any(operands[0].cast(dtype, strict=strict).meta.eq(expr) for strict in (True, False))


def _column_name(expr: pl.Expr) -> str | None:
    names = expr.meta.root_names()
    return names[0] if len(names) == 1 and pl.col(names[0]).meta.eq(expr) else None


def _instance(dtype: Any) -> pl.DataType:
    found: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return found


def _free(operand: _Operand, name: str) -> pl.Expr:
    return operand.expr if operand.is_constant else pl.col(name)


def _pushed(operand: _Operand, kind: CellType) -> tuple[bytes, ...]:
    """The operand on the stack as a number of another type; integers need no conversion to compare."""
    own = operand.kind
    if own == kind or kind.domain != Domain.FLOAT:
        return operand.steps if own == kind else (*operand.steps, instruction(Op.CAST, kind=int(own), extra=int(kind)))
    return (*operand.steps, instruction(Op.CAST, kind=int(own), extra=int(kind)))


def _constant_bits(constant: _Operand, other: pl.DataType, kind: CellType, domain: Domain) -> int:
    value = constant.value
    if constant.dtype.is_temporal() or other.is_temporal():
        if not isinstance(other, (pl.Datetime, pl.Duration)) or not constant.dtype.is_temporal():
            raise _CannotError("a time and a number")
        physical = pl.select(constant.expr.cast(other)).to_series().to_physical().item()
        if physical is None:
            raise _CannotError("a time that does not fit")
        return cell_bits(physical, Domain.SIGNED)
    if domain == Domain.FLOAT:
        with np.errstate(all="ignore"):
            return cell_bits(float(np.float32(value)) if kind == CellType.F32 else float(value), domain)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _CannotError("a constant of another type")
    low, high = (0, 2**64) if domain == Domain.UNSIGNED else (-(2**63), 2**63)
    if not low <= value < high:
        raise _CannotError("a constant out of range")
    return cell_bits(value, domain)


def _is_lossless(operand: _Operand, dtype: pl.DataType, target: CellType) -> bool:
    """Whether a conversion fails on no value (rounding is no failure)."""
    if operand.dtype.is_temporal() or dtype.is_temporal():
        return False
    source = operand.kind
    if target.domain == Domain.FLOAT:
        return True
    if source.domain == Domain.FLOAT:
        return False
    bits, wide = 8 << (int(source) % 4), 8 << (int(target) % 4)
    if source.domain == target.domain:
        return wide >= bits
    return source.domain == Domain.UNSIGNED and wide > bits


def _crossed(names: Sequence[str], values: Sequence[pl.Series]) -> pl.DataFrame:
    """Every combination of the values, in one column each."""
    total = math.prod(len(v) for v in values)
    columns, inner = [], total
    for name, series in zip(names, values, strict=True):
        inner //= len(series)
        index = (np.arange(total) // inner) % len(series)
        columns.append(series.gather(index).alias(name))
    return pl.DataFrame(columns)
