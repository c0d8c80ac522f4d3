"""Tables of real stores: dimensions, rows, columns and the values of coordinates, against recorded facts."""

from __future__ import annotations

import json
import math
import warnings
from functools import partial
from pathlib import Path

import pytest

from gpuzarr.describe import schema
from gpuzarr.errors import GpuzarrError
from gpuzarr.metadata import open_node, walk
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata
from gpuzarr.store import open_store
from gpuzarr.table import Coordinates, GpuzarrWarning, TableOptions, build_table, build_tables
from gpuzarr.table.whole import read_whole


@pytest.fixture(autouse=True)
def quiet():
    """Real stores hold what has to be warned of; that it is, other tests show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GpuzarrWarning)
        warnings.filterwarnings("ignore", ".*stays numeric")
        yield


def entries(corpus: Path) -> list[dict]:
    return json.loads((corpus / "manifest.json").read_text())["entries"]


def column_problems(coordinates: Coordinates, facts: dict, name: str, repeats: int) -> list[str]:
    values = coordinates.values(name)
    wanted = facts.get("missing", 0)
    missing = values.null_count() + (values.is_nan().sum() if values.dtype.is_float() else 0)
    problems = [] if missing * repeats == wanted else [f"{name}: {missing} x {repeats} missing, not {wanted}"]
    if values.dtype.is_numeric() and "min" in facts and not isinstance(facts["min"], str) and facts["min"] is not None:
        numbers = values.fill_nan(None) if values.dtype.is_float() else values
        for key, got in (("min", numbers.min()), ("max", numbers.max())):
            if not math.isclose(got, facts[key], rel_tol=2e-6, abs_tol=1e-6):
                problems.append(f"{name}.{key}: {got}, not {facts[key]}")
    return problems


def test_named_variables_make_the_recorded_tables(corpus: Path) -> None:
    checked, problems = 0, []
    for entry in entries(corpus):
        for group, group_facts in entry["facts"]["groups"].items():
            for facts in group_facts.get("tables", []):
                store = open_store(corpus / entry["path"]).store
                node = open_node(store, "" if group == "." else group)
                read_raw = partial(read_whole, store)
                options = TableOptions(variables=facts["data_vars"])
                table = build_table(node, store_label=store.label, options=options, read_raw=read_raw)
                got = ([d.name for d in table.dims], table.rows, [c.name for c in table.columns])
                want = (facts["dims"], facts["rows"], list(facts["columns"]))
                found = [] if got == want else [f"{got}, not {want}"]
                coordinates = Coordinates(table, read_raw)
                for name in coordinates.names:
                    repeats = table.repeats(table.by_name[name])
                    found += column_problems(coordinates, facts["columns"][name], name, repeats)
                assert math.prod(table.grid_shape) >= 1
                problems += [f"{entry['name']} {group} {facts['dims']}: {p}" for p in found]
                checked += 1
    assert not problems, "\n".join(problems)
    assert checked == 57


def test_every_group_has_tables_or_a_clear_reason(corpus: Path) -> None:
    reported, refused = 0, []
    for entry in entries(corpus):
        path = corpus / entry["path"]
        try:
            store = open_store(path).store
            node = open_node(store, "")
            groups = [node] if isinstance(node, ArrayMetadata) else list(walk(store, ""))
        except GpuzarrError as error:
            refused.append((entry["name"], error))
            continue
        for group in groups:
            report = schema(path, group=group.path)
            text = str(report)
            assert text.startswith(store.label)
            if isinstance(group, ArrayMetadata):
                assert len(report.tables) + len(report.unreadable) == 1
            else:
                inside = {c.path for t in report.tables.values() for c in t.columns} - {None}
                others = {f"{group.path}/{name}".strip("/") for name in report.others}
                everything = {a.path for a in group.arrays.values()} | report.unreadable.keys()
                assert inside | others | report.unreadable.keys() == everything
                assert not inside & others
                assert set(report.others) <= _coordinates_and_bounds(group), (entry["name"], group.path)
            reported += 1
        try:
            tables = build_tables(
                node if isinstance(node, ArrayMetadata) else groups,
                store_label=store.label,
                options=TableOptions(),
                read_raw=partial(read_whole, store),
            )
        except GpuzarrError as error:
            refused.append((entry["name"], error))
        else:
            assert tables
            assert all(key for key in tables)
    assert reported > 100
    must_read = {e["name"] for e in entries(corpus) if e["facts"]["expect"] == "must_read"}
    assert not [(name, str(error)) for name, error in refused if name in must_read]
    assert all(name in str(error) for name, error in refused)


def _coordinates_and_bounds(group: GroupMetadata) -> set[str]:
    """Arrays that attributes or dimension names call so: they may be on dimensions that no table of the group has."""
    attributes = [group.attributes, *(a.attributes for a in group.arrays.values())]
    texts = [a[key] for a in attributes for key in ("coordinates", "bounds") if isinstance(a.get(key), str)]
    dims = {d for a in group.arrays.values() for d in a.dimension_names or ()}
    return {*(name for text in texts for name in text.split()), *dims}
