"""Stores that make up one table, opened when they are needed."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from gpuzarr.errors import Kind, MetadataError, RequestError
from gpuzarr.many.openings import Openings, label_of
from gpuzarr.metadata.limits import Limits
from gpuzarr.options import ScanOptions
from gpuzarr.source.dataset import Dataset
from gpuzarr.store.secrets import public_options, public_url
from gpuzarr.store.zip_store import ZipByteStore
from gpuzarr.table import TableOptions

__all__ = ["Stores", "label_of"]

_KEPT = 1024
"""Opened stores that are kept for the next query."""

_AHEAD, _AHEAD_REMOTE = 8, 32

_KEPT_FILES = 64
"""The same for stores that keep a file open."""


class Stores:
    """Stores with equal schemas, in row order.

    Parameters
    ----------
    targets
        What `gpuzarr.scan_zarr` accepts.
    partitions
        One row per store: columns that are constant in it. Zero columns and any height for none.
    group, table, options, storage_options, limits
        As `gpuzarr.api.open_dataset`.
    """

    def __init__(
        self,
        targets: Sequence[Any],
        partitions: pl.DataFrame,
        *,
        group: str | None,
        table: TableOptions,
        options: ScanOptions,
        storage_options: Mapping[str, Any] | None,
        limits: Limits,
        inner: pl.Schema | None = None,
    ) -> None:
        self.targets = tuple(targets)
        self.partitions = partitions
        self.options = options
        self._openings = Openings(
            group=group,
            table=table,
            options=replace(
                options, max_rows=None, max_bytes=None, max_chunks_to_read=None
            ),  # they hold for all together
            storage_options=storage_options,
            limits=limits,
        )
        self._opened: OrderedDict[int, Dataset] = OrderedDict()
        self._lock = threading.Lock()
        self.inner = inner if inner is not None else self._first().table.schema
        both = [name for name in partitions.columns if name in self.inner]
        if both:
            raise RequestError(
                f"{both[0]!r} is a column of the frame of stores and one of the stores; rename it there."
            )
        self.schema = pl.Schema({**partitions.schema, **self.inner})

    def _first(self) -> Dataset:
        return self._kept(0, self._openings.open(self.targets[0]))

    def __len__(self) -> int:
        return len(self.targets)

    def __reduce__(self) -> tuple[Any, ...]:
        targets = [public_url(t) if isinstance(t, str) else t for t in self.targets]
        opening = self._openings
        options = None if opening.storage_options is None else public_options(opening.storage_options)[0]
        arguments = {
            "group": opening.group,
            "table": opening.table,
            "options": self.options,
            "storage_options": options,
            "limits": opening.limits,
            "inner": self.inner,
        }
        return _restore, (targets, self.partitions, arguments)

    @property
    def is_guarded(self) -> bool:
        """Whether a guard may refuse a query, for which all stores must be planned first."""
        options = self.options
        return any(limit is not None for limit in (options.max_rows, options.max_bytes, options.max_chunks_to_read))

    @property
    def at_once(self) -> int:
        """How many stores are opened, planned and (if small) read ahead of the one whose rows are handed out."""
        first = self.targets[0]
        is_path = isinstance(first, str | os.PathLike) and "://" not in os.fspath(first)
        return _AHEAD if is_path else _AHEAD_REMOTE

    def open(self, number: int) -> Dataset:
        """A store's table.

        Raises
        ------
        MetadataError
            Its columns are not those of the first store.
        """
        with self._lock:
            dataset = self._opened.get(number)
            if dataset is not None:
                self._opened.move_to_end(number)
                return dataset
        dataset = self._openings.open(self.targets[number])
        found = dataset.table.schema
        if found != self.inner:
            raise MetadataError(
                f"The stores of one table must have the same columns; {_differences(self.inner, found)} (the first is "
                f"{label_of(self.targets[0])!r}). Leave it out, or name common variables with variables=.",
                kind=Kind.METADATA_UNSUPPORTED,
                store=label_of(self.targets[number]),
            )
        return self._kept(number, dataset)

    def _kept(self, number: int, dataset: Dataset) -> Dataset:
        with self._lock:
            dataset = self._opened.setdefault(number, dataset)
            most = _KEPT_FILES if isinstance(dataset.store, ZipByteStore) else _KEPT
            while len(self._opened) > most:
                self._opened.popitem(last=False)
        return dataset


def _differences(expected: pl.Schema, found: pl.Schema) -> str:
    out = [f"it has no {name!r}" for name in expected if name not in found]
    out += [f"it also has {name!r}" for name in found if name not in expected]
    out += [
        f"{name!r} is {found[name]} and not {dtype}"
        for name, dtype in expected.items()
        if name in found and found[name] != dtype
    ]
    return "; ".join(out[:5]) or f"its columns are in the order {', '.join(found)}, not {', '.join(expected)}"


def _restore(targets: list[Any], partitions: pl.DataFrame, arguments: dict[str, Any]) -> Stores:
    return Stores(targets, partitions, **arguments)
