"""Random queries over random stores, answered by a scan and by plain Polars on the table that was written."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import zarr.storage
from expressions import ColumnSpec, random_predicate
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal
from scan_stores import RandomStore, random_store
from support_stores import MemoryStore

import gpuzarr
import gpuzarr.device.host
import gpuzarr.device.loading
import gpuzarr.device.tabulated
import gpuzarr.plan.model
import gpuzarr.source.dataset
import gpuzarr.table.build

Step = Callable[[pl.LazyFrame], pl.LazyFrame]


@dataclass
class Outcome:
    """Counts of a run, and what went wrong in it."""

    queries: int = 0
    refused: int = 0
    rows: int = 0
    differences: list[str] = field(default_factory=list)
    known: int = 0
    """Answers that differ because of a fault of that Polars, see `is_known_fault`."""


@contextlib.contextmanager
def small_frames(rng: np.random.Generator) -> Iterator[int]:
    """Tiles, frames, tasks and thresholds of a few rows, so that small stores take every path; gives the rows of a tile."""
    tile_rows = int(rng.choice([1, 4, 16, 64, 2**17]))
    frame_rows = int(rng.choice([1, 5, 20, 100, 2**18]))
    patches: list[Any] = [
        mock.patch.object(gpuzarr.plan.model, "FRAME_ROWS", frame_rows),
        mock.patch.object(gpuzarr.device.host, "FRAME_ROWS", frame_rows),
        mock.patch.object(gpuzarr.plan.model, "MAX_FRAME_ROWS", frame_rows * int(rng.choice([1, 2, 4]))),
        mock.patch.object(gpuzarr.device.host, "GATHER_BELOW", float(rng.choice([0.0, 0.3, 2.0]))),
        mock.patch.object(gpuzarr.device.host, "EAGER_AFTER", int(rng.choice([1, 8]))),
        mock.patch.object(gpuzarr.plan.model, "FILTERED_FRAMES", int(rng.choice([1, 4, 16]))),
        mock.patch.object(gpuzarr.device.tabulated, "ROWS_PER_VALUE", int(rng.choice([0, 4]))),
        mock.patch.object(gpuzarr.source.dataset, "INLINE_CHUNKS", int(rng.choice([0, 4, 1000]))),
        mock.patch.object(gpuzarr.device.loading, "TASK_BYTES", int(rng.choice([1, 100, 2**20]))),
        mock.patch.object(
            gpuzarr.table.build,
            "tile_shape",
            functools.partial(gpuzarr.table.build.tile_shape, tile_rows=tile_rows),
        ),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield tile_rows


@contextlib.contextmanager
def opened(rng: np.random.Generator, store: RandomStore) -> Iterator[Any]:
    """The store in one of the forms that a scan accepts."""
    form = rng.choice(["folder", "folder", "local", "remote", "zarr"])
    if form == "folder":
        with tempfile.TemporaryDirectory() as folder:
            yield store.write(Path(folder))
    elif form == "zarr":
        inside = zarr.storage.MemoryStore()
        prototype = zarr.core.buffer.default_buffer_prototype()
        inside._store_dict.update({k: prototype.buffer.from_bytes(v) for k, v in store.objects.items()})
        yield inside
    else:
        yield MemoryStore(store.objects, is_local=form == "local")


SHAPES = ("spanned", "struct", "apart", "constants")


def run(seed: int, count: int, outcome: Outcome, shape: str | None = None) -> None:
    """Draw a store and ask it `count` queries. The shape follows from the seed if it is not given."""
    rng = np.random.default_rng(seed)
    store = random_store(rng, shape if shape is not None else ("spanned", *SHAPES)[seed % 5])
    on_missing = str(rng.choice(["fill", "null"]))
    order = "C" if rng.random() < 0.25 else "tile"
    budget = None if rng.random() < 0.6 else int(rng.choice([0, 1000]))
    with small_frames(rng) as tile_rows, opened(rng, store) as target:
        groups: Any = "struct" if store.fields else None
        lf = gpuzarr.scan_zarr(
            target, broadcast=True, groups=groups, order=order, on_missing=on_missing, memory_budget=budget
        )
        lf = lf.unnest("g") if store.fields else lf
        schema = lf.collect_schema()
        table = store.expected(schema, tile_rows=tile_rows if order == "tile" else None, on_missing=on_missing)
        specs = store.specs(table)
        for number in range(count):
            outcome.queries += 1
            where = f"seed {seed} query {number} ({on_missing}, {order})"
            try:
                outcome.refused += compare(rng, lf, table, specs, outcome)
            except KnownFaultError:
                outcome.known += 1
            except (Exception, pl.exceptions.PanicException) as error:
                outcome.differences.append(f"{where}: {type(error).__name__}: {str(error)[:2000]}")


class KnownFaultError(AssertionError):
    """An answer of Polars that is wrong without a scan of ours, too."""


def is_known_fault(query: Step, table: pl.DataFrame, engine: Any, plan: str, error: BaseException | None) -> bool:
    """Whether a wrong answer is one of two faults of Polars: of that version and kind, and a plain source has it too.

    Polars 1.35 takes NaN for the maximum of columns if the frame has one row, and the number if it has several. The
    streaming engine of 1.44 panics where a limit over a predicate with ``len()`` is under an anti join and any Python source
    gives several frames.
    """
    version = tuple(map(int, pl.__version__.split(".")[:2]))
    if version < (1, 44):
        if error is not None or not ("max_horizontal" in plan or "min_horizontal" in plan):
            return False
    elif version >= (2, 0) or "pipe.send_state == PortState::Done" not in str(error):
        return False
    want = query(table.lazy()).collect()
    for rows in (1, 2, 5):
        try:
            got = query(plain_source(table, rows)).collect(engine=engine)
        except pl.exceptions.PanicException as panic:
            if "pipe.send_state == PortState::Done" in str(panic) and error is not None:
                return True
            continue
        ordered = [frame.sort(frame.columns, nulls_last=True) for frame in (got, want)]
        if error is None and not ordered[0].equals(ordered[1], null_equal=True):
            return True
    return False


def plain_source(table: pl.DataFrame, rows: int) -> pl.LazyFrame:
    """The table through a Python source that knows nothing of Zarr, in frames of some rows."""

    def frames(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        source = table if n_rows is None else table.head(n_rows)
        for start in range(0, max(1, source.height), rows):
            frame = source.slice(start, rows)
            frame = frame if predicate is None else frame.filter(predicate)
            yield frame if with_columns is None else frame.select(with_columns)

    return register_io_source(frames, schema=table.schema)


def compare(
    rng: np.random.Generator, lf: pl.LazyFrame, table: pl.DataFrame, specs: list[ColumnSpec], outcome: Outcome
) -> bool:
    """Ask one query; True if plain Polars refuses it, and then the scan does too."""
    query, is_ordered = random_query(rng, specs, table.height)
    engine: Any = str(rng.choice(["in-memory", "streaming"]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=pl.exceptions.PolarsInefficientMapWarning)
        try:
            want = query(table.lazy()).collect()
        except Exception as refusal:
            try:
                got = query(lf).collect(engine=engine)
            except Exception:
                return True
            raise AssertionError(f"plain Polars refuses: {refusal}; the scan gives {got}") from refusal
        try:
            got = query(lf).collect(engine=engine)
        except pl.exceptions.PanicException as panic:
            kind = (
                KnownFaultError if is_known_fault(query, table, engine, query(lf).explain(), panic) else AssertionError
            )
            raise kind(f"panic: {engine} {query(lf).explain()} {panic}") from panic
    if not is_ordered:
        got, want = got.sort(got.columns, nulls_last=True), want.sort(want.columns, nulls_last=True)
    outcome.rows += want.height
    try:
        assert_frame_equal(got, want, check_exact=True)
    except AssertionError as error:
        plan = query(lf).explain()
        kind = KnownFaultError if is_known_fault(query, table, engine, plan, None) else AssertionError
        raise kind(f"{engine} {plan} {error}") from error
    return False


def random_query(rng: np.random.Generator, specs: list[ColumnSpec], rows: int) -> tuple[Step, bool]:
    """A query as a function of the table, and whether the order of its rows is promised."""
    names = [s.name for s in specs]

    def predicate() -> pl.Expr:
        return random_predicate(rng, specs, int(rng.choice([0, 0, 1, 2, 3])))

    def subset() -> list[str]:
        return [str(n) for n in rng.permutation(names)[: int(rng.integers(1, len(names) + 1))]]

    def number() -> int:
        return int(rng.integers(0, rows + 3)) if rng.random() < 0.8 else int(rng.integers(0, 4))

    def some() -> Step:
        """Steps that keep the order of rows and all columns."""
        steps: list[Step] = []
        for _ in range(int(rng.choice([0, 1, 1, 1, 2, 3]))):
            roll = rng.random()
            if roll < 0.55:
                steps.append(lambda lf, p=predicate(): lf.filter(p))
            elif roll < 0.8:
                steps.append(lambda lf, n=number(): lf.head(n))
            elif roll < 0.9:
                steps.append(lambda lf, a=number(), n=number(): lf.slice(a, n))
            else:
                steps.append(lambda lf, n=number(): lf.tail(n))
        return lambda lf: functools.reduce(lambda x, step: step(x), steps, lf)

    first = some()
    roll = rng.random()
    if roll < 0.2:
        return first, True
    if roll < 0.45:
        columns = subset()
        return lambda lf: first(lf).select(columns), True
    if roll < 0.55:
        return lambda lf: first(lf).select(pl.len()), True
    if roll < 0.62:
        p = predicate()
        return lambda lf: first(lf).with_columns(made=p).select("made", names[-1]), True
    if roll < 0.72:
        key, value = str(rng.choice(names)), str(rng.choice(names))
        return (
            lambda lf: (
                first(lf)
                .group_by(key)
                .agg(pl.len().alias("n"), pl.col(value).null_count().alias("nulls"), pl.col(value).count().alias("m"))
            ),
            False,
        )
    if roll < 0.78:
        value = str(rng.choice(names))
        return lambda lf: first(lf).select(pl.len(), pl.col(value).n_unique().alias("u"), pl.col(value).min()), True
    second = some()
    if roll < 0.88:
        keys = subset()[:2]
        how: Any = str(rng.choice(["inner", "left", "semi", "anti", "full"]))
        n = int(rng.integers(1, 40))
        return lambda lf: first(lf).head(n).join(second(lf).head(n), on=keys, how=how, nulls_equal=True), False
    if roll < 0.94:
        return lambda lf: pl.concat([first(lf), second(lf)]), True
    columns = subset()
    if roll < 0.97:
        keys, falling = subset()[:2], bool(rng.random() < 0.3)
        return lambda lf: second(first(lf).sort(keys, descending=falling, maintain_order=True)), True
    return lambda lf: first(lf).select(columns).unique(), False
