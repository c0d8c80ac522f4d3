"""Programs of the predicate kernel: C++ against the numpy twin, compiled expressions against Polars."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest
from expressions import ColumnSpec, random_predicate
from support_kernels import (
    address,
    aligned,
    assert_same,
    kernels_fixture,  # noqa: F401
    needs_compiler,
    run_both,
)

from gpuzarr.kernels import compiler, launch
from gpuzarr.kernels.compiler import compile_predicate
from gpuzarr.kernels.program import CellType, Domain, Op, Program, cell_bits, instruction, make_program, numpy_type

pytestmark = needs_compiler


def device_column(series: pl.Series, *, as_codes: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Values and validity bitmap as they are in device memory."""
    valid = series.is_not_null().to_numpy()
    if series.dtype == pl.Boolean:
        values = series.fill_null(False).to_numpy().astype(np.uint8)
        if as_codes:
            values = np.where(valid, np.where(values, 1, 2), 4).astype(np.uint8)
    else:
        values = series.to_physical().fill_null(0).to_numpy()
    memory = aligned(values.nbytes)
    memory[:] = np.ascontiguousarray(values).view(np.uint8)
    if as_codes or not series.null_count():
        return memory, None
    bitmap = aligned(launch.bitmap_nbytes(len(series)))
    bitmap[: -(-len(series) // 8)] = np.packbits(valid, bitorder="little")
    return memory, bitmap


def run_program(kernels, program: Program, frame: pl.DataFrame, codes: Any = ()) -> np.ndarray:
    columns = [device_column(frame[name], as_codes=name in codes) for name in program.columns]
    addresses = [(address(values), address(bitmap)) for values, bitmap in columns]
    mask = aligned(frame.height + 5)
    mask[:] = 9
    begin = 32 if frame.height > 100 else 0

    def make():
        return [
            launch.predicate(program, addresses, address(mask), 0, begin),
            launch.predicate(program, addresses, address(mask), begin, frame.height),
        ]

    twin, native = run_both(kernels, [mask], make)
    assert_same(twin, native)
    assert (native[0][frame.height :] == 9).all()
    return native[0][: frame.height].astype(bool)


def frame_of(rng: np.random.Generator, rows: int) -> pl.DataFrame:
    def nulls(series: pl.Series, share: float = 0.1) -> pl.Series:
        return series.zip_with(pl.Series(rng.random(rows) >= share), pl.Series([None], dtype=series.dtype))

    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, 3.0, 1e30])
    columns = {}
    for name, dtype in (("f4", pl.Float32), ("f8", pl.Float64)):
        values = np.where(rng.random(rows) < 0.3, rng.choice(special, rows), np.round(rng.normal(0, 4, rows) * 4) / 4)
        columns[name] = pl.Series(name, values).cast(dtype)
    for name, dtype in (
        ("i1", pl.Int8),
        ("i2", pl.Int16),
        ("i4", pl.Int32),
        ("i8", pl.Int64),
        ("u1", pl.UInt8),
        ("u2", pl.UInt16),
        ("u4", pl.UInt32),
        ("u8", pl.UInt64),
    ):
        signed = name[0] == "i"
        values = rng.integers(-9 if signed else 0, 10, rows)
        column = pl.Series(name, values).cast(dtype)
        edges = pl.select(low=dtype.min(), high=dtype.max()).row(0)
        pick = rng.random(rows)
        column = column.zip_with(pl.Series(pick > 0.05), pl.Series([edges[0]], dtype=dtype))
        columns[name] = column.zip_with(pl.Series(pick < 0.95), pl.Series([edges[1]], dtype=dtype))
    columns["t"] = pl.Series("t", rng.integers(0, 40, rows) * 43_200_000_000_000).cast(pl.Datetime("ns"))
    columns["b"] = pl.Series("b", rng.random(rows) < 0.5)
    columns["leaf"] = pl.Series("leaf", rng.random(rows) < 0.5)
    return pl.DataFrame(
        {name: nulls(series, 0.0 if name in ("i4", "u1") else 0.1).alias(name) for name, series in columns.items()}
    )


c = pl.col
COMPILES = [
    c("f4") > 305,
    c("f4") > 0.1,
    (c("f4") >= 1.5) & (c("f8") < 3) | ~(c("i2") == 2),
    (c("f4") - 1.25).is_between(0, 2),
    c("f8") / 3 > 0.5,
    c("f4") / 3 > 0.5,
    c("i2") / 3 > 0.5,
    2 / c("f8") > 0.5,
    c("i1") * 100 > 3,
    c("i2") + c("i4") * 2 > c("i8") - 1,
    c("u8") > 5,
    c("i4") > c("f4"),
    c("f4").is_nan() | c("f8").is_not_nan(),
    c("f4").is_null() ^ c("leaf"),
    c("leaf").is_null() | c("b").is_not_null(),
    c("i4").is_in([1, 2, 3]),
    c("f8").is_in([1.5, float("nan")]) & c("leaf"),
    c("f4").eq_missing(c("f8")),
    c("i8").ne_missing(3),
    c("i4").cast(pl.Int64) > 4,
    c("f4").cast(pl.Float64) > 0.1,
    c("f8").cast(pl.Float32) == c("f4"),
    c("b") == c("leaf"),
    pl.all_horizontal(c("b"), c("leaf"), c("f4") > 0),
    pl.any_horizontal(c("b"), c("leaf"), c("f4") > 0),
    c("f8") > c("f4") + 1,
    pl.lit(None, dtype=pl.Boolean) | (c("f4") > 0),
    (c("t") > c("t")) | c("t").is_null(),
]

LEFT_TO_POLARS = [
    c("f8") ** 2 > 4,
    c("i4") % 3 == 1,
    c("t").dt.month() == 2,
    c("f4").cast(pl.Int32, strict=False) > 1,
    c("f8").sin() > 0,
    c("f4").is_in(list(map(float, range(40)))),
    (c("i4") & 3) == 1,
    pl.len() > c("i4"),
    c("i4") > pl.lit(pl.Series([1, 2])).max(),
    c("b").cast(pl.Int8) > 0,
    (c("i4") + 1).shift(1) > 0,
    c("f4") > c("f4").mean(),
    pl.when(c("f4") > 0).then(c("b")).otherwise(c("leaf")),
]


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return frame_of(np.random.default_rng(0), 5003)


def schema_of(frame: pl.DataFrame) -> dict[str, pl.DataType]:
    return {name: dtype for name, dtype in frame.schema.items() if name != "leaf"}


@pytest.mark.parametrize("number", range(len(COMPILES)))
def test_compiled_predicates(kernels, frame, number):
    expression = COMPILES[number]
    program = compile_predicate(expression, schema_of(frame), codes=("leaf",))
    assert program is not None
    wanted = frame.select(x=expression)["x"].fill_null(False).to_numpy()
    np.testing.assert_array_equal(run_program(kernels, program, frame, ("leaf",)), wanted)


@pytest.mark.parametrize("number", range(len(LEFT_TO_POLARS)))
def test_left_to_polars(frame, number):
    assert compile_predicate(LEFT_TO_POLARS[number], schema_of(frame), codes=("leaf",)) is None


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 31, 32, 33, 1000])
def test_rows_around_vectors(kernels, rows):
    frame = frame_of(np.random.default_rng(rows), rows)
    expression = (c("f4") > 0) | (c("i1") < 3) ^ c("leaf") | (c("i8") > 1) & c("b")
    program = compile_predicate(expression, schema_of(frame), codes=("leaf",))
    assert program is not None
    wanted = frame.select(x=expression)["x"].fill_null(False).to_numpy()
    np.testing.assert_array_equal(run_program(kernels, program, frame, ("leaf",)), wanted)


def test_times(kernels):
    """Datetimes against constants: where Polars compares in the unit of the column, so does the program."""
    frame = frame_of(np.random.default_rng(3), 2000)
    moment = dt.datetime(1970, 1, 5)
    compiled = 0
    for expression in (
        c("t") >= pl.lit(moment).cast(pl.Datetime("ns")),
        c("t") >= pl.lit(moment, dtype=pl.Datetime("ns")),
        c("t") >= moment,
    ):
        program = compile_predicate(expression, schema_of(frame))
        if program is not None:
            compiled += 1
            wanted = frame.select(x=expression)["x"].fill_null(False).to_numpy()
            np.testing.assert_array_equal(run_program(kernels, program, frame), wanted)
    assert compiled >= 1


def test_random_predicates(kernels):
    rng = np.random.default_rng(5)
    frame = frame_of(rng, 3000)
    schema = schema_of(frame)
    columns = [ColumnSpec(name, frame[name].head(200), is_coordinate=False) for name in schema]
    compiled = 0
    for _ in range(250):
        expression = random_predicate(rng, columns, depth=int(rng.integers(0, 3)), python_functions=False)
        program = compile_predicate(expression, schema)
        if program is None:
            continue
        compiled += 1
        wanted = frame.select(x=expression)["x"]
        wanted = wanted.new_from_index(0, frame.height) if len(wanted) == 1 else wanted
        np.testing.assert_array_equal(
            run_program(kernels, program, frame), wanted.fill_null(False).to_numpy(), err_msg=str(expression)
        )
    assert compiled >= 25


def test_an_operation_that_polars_computes_differently_is_left_to_it(monkeypatch, frame):
    """Were a comparison lowered wrongly, the check on awkward values would find it."""
    expression = c("i4") + 12345 > 3
    assert compile_predicate(expression, schema_of(frame)) is not None
    monkeypatch.setattr(compiler, "_known", {})
    swapped = ((Op.SUBTRACT, compiler._ARITHMETIC[0][1]), *compiler._ARITHMETIC[1:])
    monkeypatch.setattr(compiler, "_ARITHMETIC", swapped)
    assert compile_predicate(expression, schema_of(frame)) is None


def random_number(rng: np.random.Generator, depth: int, columns: dict[int, CellType]) -> tuple[list[bytes], CellType]:
    if depth == 0 or rng.random() < 0.3:
        number = int(rng.choice(list(columns)))
        return [instruction(Op.LOAD, kind=int(columns[number]), column=number)], columns[number]
    if rng.random() < 0.3:
        inner, kind = random_number(rng, depth - 1, columns)
        targets = [t for t in CellType if t.domain == Domain.FLOAT or kind.domain != Domain.FLOAT]
        target = CellType(int(rng.choice(targets)))
        return [*inner, instruction(Op.CAST, kind=int(kind), extra=int(target))], target
    a, kind = random_number(rng, depth - 1, columns)
    if rng.random() < 0.5:
        value = float(rng.normal()) if kind.domain == Domain.FLOAT else int(rng.integers(0, 50))
        value = float(np.float32(value)) if kind == CellType.F32 else value
        b = [instruction(Op.CONSTANT, constant=cell_bits(value, kind.domain), extra=int(rng.random() < 0.1))]
    else:
        number = int(rng.choice([n for n, k in columns.items() if k == kind] or [-1]))
        b = (
            [instruction(Op.LOAD, kind=int(kind), column=number)]
            if number >= 0
            else [instruction(Op.CONSTANT, extra=1)]
        )
    choices = [Op.ADD, Op.SUBTRACT, Op.MULTIPLY, *([Op.DIVIDE] if kind.domain == Domain.FLOAT else [])]
    return [*a, *b, instruction(Op(int(rng.choice(choices))), kind=int(kind))], kind


def random_outcome(rng: np.random.Generator, depth: int, columns: dict[int, CellType]) -> list[bytes]:
    if depth and rng.random() < 0.7:
        op = Op(int(rng.choice([Op.AND, Op.OR, Op.XOR, Op.NOT, Op.OUTCOME_IS_NULL, Op.OUTCOME_IS_NOT_NULL])))
        parts = [random_outcome(rng, depth - 1, columns) for _ in range(2 if op in (Op.AND, Op.OR, Op.XOR) else 1)]
        return [step for part in parts for step in part] + [instruction(op)]
    roll = rng.random()
    if roll < 0.15:
        return [instruction(Op.LOAD_OUTCOME, column=len(columns))]
    if roll < 0.25:
        return [instruction(Op.LOAD_BOOLEAN, column=len(columns) + 1)]
    if roll < 0.3:
        return [instruction(Op.OUTCOME, extra=int(rng.choice([1, 2, 4])))]
    steps, kind = random_number(rng, 2, columns)
    if roll < 0.45:
        tests = [Op.IS_NULL, Op.IS_NOT_NULL, *([Op.IS_NAN, Op.IS_NOT_NAN] if kind.domain == Domain.FLOAT else [])]
        return [*steps, instruction(Op(int(rng.choice(tests))))]
    if roll < 0.6:
        members = [
            cell_bits(float(v) if kind.domain == Domain.FLOAT else abs(int(v)), kind.domain)
            for v in rng.integers(-3, 5, 4)
        ]
        return [
            *steps,
            instruction(Op.IN, kind=int(kind.domain), extra=4),
            *(instruction(Op.CONSTANT, constant=m) for m in members),
        ]
    number = next((n for n, k in columns.items() if k.domain == kind.domain), None)
    assert number is not None
    op = int(rng.integers(Op.LESS, Op.NOT_EQUAL_MISSING + 1))
    load = instruction(Op.LOAD, kind=int(columns[number]), column=number)
    return [*steps, load, instruction(Op(op), kind=int(kind.domain))]


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(kernels, seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 300))
    frame = frame_of(rng, rows)
    names = ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
    kinds = {i: next(k for k in CellType if numpy_type(k) == np.dtype(n)) for i, n in enumerate(names)}
    program = None
    while program is None:  # deeper than the stacks: another one
        program = make_program([*names, "leaf", "b"], random_outcome(rng, 3, kinds))
    run_program(kernels, program, frame, ("leaf",))


def test_programs_that_make_no_sense():
    with pytest.raises(ValueError, match="lacks an operand"):
        make_program(["a"], [instruction(Op.AND)])
    with pytest.raises(ValueError, match="one outcome"):
        make_program(["a"], [instruction(Op.LOAD)])
    with pytest.raises(ValueError, match="column 3"):
        make_program(["a"], [instruction(Op.LOAD_BOOLEAN, column=3)])
    load = instruction(Op.LOAD, kind=int(CellType.F64))
    deep = [load] * 5 + [instruction(Op.ADD, kind=int(CellType.F64))] * 4 + [instruction(Op.IS_NULL)]
    assert make_program(["a"], deep) is None
    assert make_program(["a"], [instruction(Op.OUTCOME, extra=1)] + [instruction(Op.NOT)] * 64) is None


def test_the_launch_checks_its_columns():
    program = make_program(["a"], [instruction(Op.LOAD_BOOLEAN)])
    assert program is not None
    with pytest.raises(ValueError, match="needs 1 columns"):
        launch.predicate(program, [], 0, 0, 10)
    with pytest.raises(ValueError, match="multiple of 32"):
        launch.predicate(program, [(0, 0)], 0, 5, 10)
