"""Records as Markdown and plots: ``python -m benchmarks.report RECORD... [--page docs/benchmarks.md] [--plots docs/images]``.

Of the page, only what lies between the markers is replaced; without ``--page`` the tables are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.targets import OF_FULL_SCAN, TARGETS

__all__ = ["OURS", "best_peer", "markdown", "ratio", "short_table"]

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
OURS = "gpuzarr"
MANY = 3
"""Stores in a record above which one matrix is shown instead of tables per store."""
READERS = ("xarray", "xarray-arrow", "xarray-sql", "rainbear", "zarr-python", "zarrs", "tensorstore", "zarrs-rows")
"""Peers that read the same store. Parquet is another file: it is shown, and is not the best peer."""

Record = Mapping[str, Any]
Result = Mapping[str, Any]


def best_peer(result: Result, what: str = "wall_s", peers: Iterable[str] = READERS) -> tuple[str, float] | None:
    """The fastest peer that reads the same store, and its figure."""
    figures = [(p, result["peers"][p][what]) for p in peers if what in result["peers"].get(p, {})]
    return min(figures, key=lambda pair: pair[1]) if figures else None


def ratio(result: Result, what: str = "wall_s") -> float | None:
    """Our figure over the best peer's."""
    ours, best = result["peers"].get(OURS, {}).get(what), best_peer(result, what)
    return None if ours is None or best is None else ours / best[1]


def markdown(record: Record) -> str:
    """The whole record: machine, data, tables of times and ratios per store; a matrix where there are many stores."""
    parts = [_machine(record)]
    if "scaling" in record:
        parts += [_scaling(name, figures) for name, figures in record["scaling"].items()]
        return "\n\n".join(parts) + "\n"
    by_store = {name: [r for r in record["results"] if r["dataset"] == name] for name in record["datasets"]}
    if len(by_store) > MANY:
        parts += [_matrix(record, by_store), _refused(record["results"])]
        return "\n\n".join(part for part in parts if part) + "\n"
    for name, results in by_store.items():
        if results:
            parts += [
                f"### `{name}`",
                _data(record["datasets"][name]),
                _ratios(results),
                _times(results),
                _refused(results),
            ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _matrix(record: Record, by_store: Mapping[str, Sequence[Result]]) -> str:
    queries = list(dict.fromkeys(r["query"] for r in record["results"]))
    lines = ["| store | " + " | ".join(queries) + " |", "|---|" + "--:|" * len(queries)]
    for name, results in by_store.items():
        found = {r["query"]: r for r in results}
        cells = []
        for query in queries:
            value = ratio(found[query]) if query in found else None
            if value is None:
                cells.append("–")
                continue
            best = best_peer(found[query])
            assert best is not None
            cells.append(f"{value:.2f} / {ratio(found[query], 'cpu_s'):.2f} ({best[0]})")
        about = record["datasets"][name]
        lines.append(
            f"| {name}, {about['codec']}, {' × '.join(map(str, about['chunk']))} | " + " | ".join(cells) + " |"
        )
    return "Time ratio / CPU ratio to the best reader (named):\n\n" + "\n".join(lines)


def _scaling(name: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(column for values in figures.values() for column in values))
    lines = [f"### {name}", "", f"| | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for label, values in figures.items():
        lines.append(f"| {label} | " + " | ".join(_figure(column, values.get(column)) for column in columns) + " |")
    return "\n".join(lines)


def _figure(column: str, value: float | None) -> str:
    if value is None:
        return "–"
    if column.endswith(("per_s", "per_cpu_s")):
        return f"{value / 1e6:,.0f} MB/s"
    if column.endswith("_s"):
        return _seconds(value)
    if column.endswith("bytes"):
        return _mb(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def short_table(record: Record) -> str:
    """For the README: one line per query."""
    lines = [
        "| query | gpuzarr | best reader of the same store | ratio | ratio of CPU time | the table as Parquet |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for result in record["results"]:
        best, ours = best_peer(result), result["peers"].get(OURS, {})
        if best is None or "wall_s" not in ours:
            continue
        parquet = result["peers"].get("parquet", {}).get("wall_s")
        lines.append(
            f"| {_title(result)} | {_seconds(ours['wall_s'])} | {_seconds(best[1])} ({best[0]}) | {ratio(result):.2f} "
            f"| {_number(ratio(result, 'cpu_s'))} | {_seconds(parquet)} |"
        )
    return "\n".join(lines) + "\n"


def _machine(record: Record) -> str:
    hardware = record["hardware"]
    versions: dict[str, set[str]] = {}
    for packages in record.get("versions", {}).values():
        for name, version in packages.items():
            versions.setdefault(name, set()).add(version)
    load = " to ".join(str(hardware[key][0]) for key in ("load_average", "load_average_at_end") if key in hardware)
    shared = record.get("note") or ""
    return "\n".join(
        [
            f"`{' '.join(record['command'])}`, {hardware['date'][:10]}, revision `{hardware['revision']}`. "
            f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_bytes'] / 2**30:.0f} GiB; load average {load}; "
            f"{_between(record)}; medians of {record['repeats']} runs{'' if 'scaling' in record else ', each in a fresh process, peers in turn'}. {shared}".strip(),
            "",
            "Versions: "
            + ", ".join(f"{name} {'/'.join(sorted(found))}" for name, found in sorted(versions.items()))
            + ".",
        ]
    )


def _between(record: Record) -> str:
    if record.get("latency_s") is not None:
        bandwidth = record.get("bandwidth_bytes_per_s")
        limit = f", {bandwidth / 1e6:.0f} MB/s per request" if bandwidth else ""
        if link := record.get("link_bytes_per_s"):
            limit += f", {link / 1e6:.0f} MB/s together"
        return f"local HTTP server, {record['latency_s'] * 1000:.0f} ms before every answer{limit}"
    return f"page cache {record['cache']}" if "cache" in record else "one process"


def _data(about: Mapping[str, Any]) -> str:
    shape = " × ".join(f"{size}" for size in about["shape"])
    parquet = f"; {about['parquet_bytes'] / 1e6:.1f} MB as Parquet" if about.get("parquet_bytes") else ""
    rows = 1
    for size in about["shape"]:
        rows *= size
    return (
        f"{', '.join(about['variables'])} on ({', '.join(about['dims'])}) = {shape} ({rows:,} rows), chunks "
        f"{' × '.join(map(str, about['chunk']))}, {about['codec']}: {about['decoded_bytes'] / 1e6:.1f} MB decoded, "
        f"{about['stored_bytes'] / 1e6:.1f} MB stored{parquet}."
    )


def _ratios(results: Sequence[Result]) -> str:
    scan = next(
        (r["peers"][OURS].get("wall_s") for r in results if r["query"] == "full_scan" and OURS in r["peers"]), None
    )
    lines = [
        "| query | best reader | time ratio | CPU ratio | aim | peak memory, ours / best | read, ours / best |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for result in results:
        best, found = best_peer(result), ratio(result)
        if best is None or found is None:
            continue
        ours, theirs = result["peers"][OURS], result["peers"][best[0]]
        aim = f"≤ {TARGETS[result['query']]}" if result["query"] in TARGETS else ""
        missed = found > TARGETS.get(result["query"], float("inf"))
        if result["query"] in OF_FULL_SCAN and scan:
            share, most = ours["wall_s"] / scan, OF_FULL_SCAN[result["query"]]
            aim, missed = f"{share:.3f} of the full scan (≤ {most})", share > most
        figure = f"**{found:.2f}**" if missed else f"{found:.2f}"
        lines.append(
            f"| {result['query']} | {best[0]} | {figure} | {_number(ratio(result, 'cpu_s'))} | {aim} "
            f"| {_mb(ours['peak_rss'] - ours['baseline_rss'])} / {_mb(theirs['peak_rss'] - theirs['baseline_rss'])} "
            f"| {_mb(ours.get('bytes_requested'))} / {_mb(theirs.get('bytes_requested'))} |"
        )
    return (
        "\n".join(lines)
        + "\n\nBold: an aim that is missed. CPU ratio: user and system time over the least of any reader."
        if len(lines) > 2
        else ""
    )


def _times(results: Sequence[Result]) -> str:
    peers = [
        p
        for p in dict.fromkeys(p for r in results for p in r["peers"])
        if any("wall_s" in r["peers"].get(p, {}) for r in results)
    ]
    if not peers:
        return ""
    lines = ["Seconds (CPU seconds):", "", "| query | " + " | ".join(peers) + " |", "|---|" + "--:|" * len(peers)]
    for result in results:
        cells = [_time(result["peers"].get(peer, {})) for peer in peers]
        lines.append(f"| {result['query']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _time(outcome: Mapping[str, Any]) -> str:
    if "wall_s" in outcome:
        return f"{_seconds(outcome['wall_s'])} ({_seconds(outcome['cpu_s'])})"
    return {"wrong": "wrong answer", "failed": "fails"}.get(outcome.get("status", ""), "–")


def _refused(results: Sequence[Result]) -> str:
    lines = []
    for result in results:
        for peer, outcome in result["peers"].items():
            if outcome["status"] in ("wrong", "failed"):
                lines.append(
                    f"- {result['query']}, {peer}: {outcome['status']}: {outcome['message'].splitlines()[0][:200]}"
                )
    return "Not timed:\n\n" + "\n".join(lines) if lines else ""


def _title(result: Result) -> str:
    return result["query"] if result["dataset"] in ("cube", "features") else f"{result['query']}, {result['dataset']}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.2f} s"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _mb(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e6:.1f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Tables and plots of a record.")
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--page", type=Path, help="Markdown page whose measured part is replaced")
    parser.add_argument("--plots", type=Path, help="folder for plots (needs matplotlib)")
    parser.add_argument("--short", action="store_true", help="only the short table, for the README")
    arguments = parser.parse_args()
    records = [json.loads(path.read_text()) for path in arguments.records]
    if arguments.short:
        print("\n".join(short_table(record) for record in records), end="")
        return
    parts = []
    for path, record in zip(arguments.records, records, strict=True):
        title = record.get("title") or path.stem
        images: list[Path] = []
        if arguments.plots is not None:
            from benchmarks.plots import plots

            images = plots(record, path.stem, arguments.plots)
        shown = "".join(f"\n![{image.stem}](../{image.as_posix()})\n" for image in images)
        parts.append(f"## {title}\n\n{markdown(record)}{shown}")
    text = "\n".join(parts)
    if arguments.page is None:
        print(text)
        return
    page = arguments.page.read_text()
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    arguments.page.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}")


if __name__ == "__main__":
    main()
