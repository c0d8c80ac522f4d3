"""Query plans as the Polars GPU engine makes them; needs cudf-polars, but no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

# The size of a device is told, so that nobody asks a driver for it: the partition size follows from it.
DEVICE_BYTES = 80 * 10**9
IN_MEMORY = {"executor": "in-memory"}
STREAMING = {"executor": "streaming", "executor_options": {"min_device_size": DEVICE_BYTES}}
SMALL_PARTITIONS = {
    "executor": "streaming",
    "executor_options": {"min_device_size": DEVICE_BYTES, "target_partition_size": 1},
}


def translate(query: pl.LazyFrame, engine: Mapping[str, Any] = IN_MEMORY) -> tuple[Any, Any]:
    """The translated plan of a query, and its translator with errors and configuration."""
    from cudf_polars.dsl.translate import Translator

    translator = Translator(query._ldf.visit(), pl.GPUEngine(**engine))
    return translator.translate_ir(), translator


def scans(root: Any) -> list[Any]:
    """Scans of IO sources in a plan, in the order in which it names them."""
    from cudf_polars.dsl import ir
    from cudf_polars.dsl.traversal import traversal

    return [node for node in traversal([root]) if isinstance(node, ir.PythonScan)]


def plan(query: pl.LazyFrame, engine: Mapping[str, Any] = IN_MEMORY) -> tuple[Any, list[Any]]:
    """The plan of a query that the engine can run, and its scans."""
    root, translator = translate(query, engine)
    assert not translator.errors, translator.errors
    return root, scans(root)
