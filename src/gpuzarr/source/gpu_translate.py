"""Nodes of a Polars plan to nodes of the GPU engine, for our scans. Registered by `gpuzarr.source.gpu_hook`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from gpuzarr.many.source import ManySource
from gpuzarr.source.gpu_expressions import Unconvertible, conjuncts, to_polars
from gpuzarr.source.gpu_literals import CutLiteralError, Nanoseconds, count_whole, cut_leaves, nanoseconds_of
from gpuzarr.source.gpu_many import BoundStores
from gpuzarr.source.gpu_source import DEFAULT_FRAME_BYTES, Bound, BoundSource, ScanFunction
from gpuzarr.source.polars_source import ZarrSource

__all__ = ["bound_source", "find_source", "projection", "scan"]

Translate = Callable[[Any, Any, Any], Any]


def find_source(scan_function: Any) -> ZarrSource | ManySource | None:
    """Our source in a scan function that Polars made: an attribute from Polars 2 on, a closure cell before."""
    cells = getattr(scan_function, "__closure__", None) or ()
    candidates = [getattr(scan_function, "io_source", None), *(cell.cell_contents for cell in cells)]
    return next((c for c in candidates if isinstance(c, ZarrSource | ManySource)), None)


def bound_source(node: Any) -> Bound | None:
    """The source of a scan node of the engine, if it is ours."""
    options = getattr(node, "options", None)
    function = options[0] if isinstance(options, tuple) and options else None
    return function.io_source if isinstance(function, ScanFunction) else None


def scan(node: Any, translator: Any, schema: Any, original: Translate) -> Any:
    """A scan of ours with everything that the plan pushes bound to the source; any other as before.

    Raises
    ------
    NotImplementedError
        The filter holds something that Polars does not hand over exactly: a CPU engine has to run the query.
    """
    from cudf_polars.dsl import ir

    scan_function, with_columns, source_type, predicate, n_rows = node.options
    source = find_source(scan_function) if source_type == "io_plugin" else None
    if source is None or (predicate is not None and predicate[0] != "polars"):
        return original(node, translator, schema)
    if not schema:  # what becomes of rows without columns is up to the engine
        raise NotImplementedError("a scan of no column, for the number of its rows")
    table = source.stores.schema if isinstance(source, ManySource) else source.dataset.table.schema
    pushed: list[pl.Expr] = []
    left: list[str] = []
    remaining: list[Any] = []
    if predicate is not None:
        nanoseconds = _nanoseconds(translator.visitor, predicate[1])
        for part in conjuncts(translator.visitor, predicate[1]):
            try:
                pushed.append(to_polars(translator.visitor, part, table, nanoseconds))
            except Unconvertible as reason:
                value = _left_to_engine(translator, part, schema, nanoseconds)
                if value is not None:
                    remaining.append(value)
                    left.append(str(reason))
    bound = _bind(source, _all(pushed), n_rows, _frame_bytes(translator), tuple(left))
    options = (ScanFunction(bound), with_columns, source_type, translator.visitor.get_node())
    return ir.PythonScan(schema, options, _named_conjunction(remaining))


def projection(node: Any, translator: Any, schema: Any, original: Translate) -> Any:
    """A projection of a scan of ours makes the scan narrower: columns that only its filter needs are not made."""
    from cudf_polars.dsl import ir

    out = original(node, translator, schema)
    if not isinstance(out, ir.Projection):
        return out
    narrower = _narrowed(out.children[0], out.schema)
    if narrower is None:
        return out
    return narrower if list(narrower.schema) == list(out.schema) else ir.Projection(out.schema, narrower)


def _narrowed(node: Any, wanted: Any) -> Any:
    """A scan of ours, or a run of rows of one, with the wanted columns only, in the scan's order; None for other nodes."""
    from cudf_polars.dsl import ir

    schema = {name: dtype for name, dtype in node.schema.items() if name in wanted}
    if isinstance(node, ir.Slice):
        child = _narrowed(node.children[0], wanted)
        return None if child is None else ir.Slice(schema, node.offset, node.length, child)
    if bound_source(node) is None or node.predicate is not None:
        return None
    function, _, source_type, index = node.options
    return ir.PythonScan(schema, (function, list(schema), source_type, index), None)


def _bind(
    source: ZarrSource | ManySource, predicate: pl.Expr | None, n_rows: int | None, size: int, left: tuple[str, ...]
) -> Bound:
    if isinstance(source, ManySource):
        return BoundStores(source.stores, predicate, n_rows, size, left, source.trace, source.progress)
    return BoundSource(source.dataset, predicate, n_rows, size, left, source.trace)


def _nanoseconds(visitor: Any, n: int) -> Nanoseconds:
    try:
        return nanoseconds_of(visitor, n)
    except pl.exceptions.PanicException as error:  # left alone, it would end the query, which a CPU engine can run
        raise NotImplementedError(f"a literal that Polars cannot show: {error}") from error


def _left_to_engine(translator: Any, part: int, schema: Any, nanoseconds: Nanoseconds) -> Any:
    """A part of the filter for the engine to evaluate; None for a hint of its own, which may be dropped."""
    from cudf_polars.dsl import expr, translate
    from cudf_polars.dsl.traversal import traversal

    named = translate.translate_predicate(translator, n=part, output_name="_predicate", schema=schema)
    if named is None:
        return None
    known = count_whole(translator.visitor, part, nanoseconds)
    for node in traversal([named.value]):  # the engine's literals lack the same
        value = node.value if isinstance(node, expr.Literal) else None
        if isinstance(node, expr.LiteralColumn):
            value = node.value.to_list()
        known -= bool(cut_leaves(value, node.dtype.polars_type))
    if known < 0:
        raise CutLiteralError
    return named.value


def _named_conjunction(parts: list[Any]) -> Any:
    import pylibcudf as plc
    from cudf_polars.containers import DataType
    from cudf_polars.dsl import expr

    if not parts:
        return None
    value, boolean = parts[0], DataType(pl.Boolean())
    for part in parts[1:]:
        value = expr.BinOp(boolean, plc.binaryop.BinaryOperator.LOGICAL_AND, value, part)
    return expr.NamedExpr("_predicate", value)


def _all(parts: list[pl.Expr]) -> pl.Expr | None:
    out: pl.Expr | None = None
    for part in parts:
        out = part if out is None else out & part
    return out


def _frame_bytes(translator: Any) -> int:
    """Size of a partition as the engine wants it; the in-memory engine has none."""
    size = getattr(translator.config_options.executor, "target_partition_size", None)
    return int(size) if size else DEFAULT_FRAME_BYTES
