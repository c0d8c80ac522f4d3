"""Plots of records: bars per query, and how cost grows. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen

from benchmarks.report import OURS, best_peer, ratio

__all__ = ["plots"]

ACCENT = "#c2185b"
DPI = 80


def plots(record: Mapping[str, Any], stem: str, folder: Path) -> list[Path]:
    """Write the plots of a record, named after it."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _scaling(record["scaling"]) if "scaling" in record else _bars(record)
    written = []
    for name, figure in drawn.items():
        target = folder / f"{stem}-{name}.png"
        figure.tight_layout()
        figure.savefig(target, dpi=DPI)
        plt.close(figure)
        written.append(target)
    return written


def _bars(record: Mapping[str, Any]) -> dict[str, Any]:
    figures = {}
    for name in record["datasets"]:
        results = [r for r in record["results"] if r["dataset"] == name and ratio(r) is not None]
        if len(results) < 2:
            continue
        peers = list(dict.fromkeys(p for r in results for p, o in r["peers"].items() if "wall_s" in o))
        figure, axis = plt.subplots(figsize=(8, 0.8 + 0.5 * len(results)))
        height = 0.8 / len(peers)
        best = [found[1] if (found := best_peer(r)) else float("nan") for r in results]
        for i, peer in enumerate(peers):
            values = [
                r["peers"].get(peer, {}).get("wall_s", float("nan")) / b for r, b in zip(results, best, strict=True)
            ]
            places = [j + (i - (len(peers) - 1) / 2) * height for j in range(len(results))]
            color = ACCENT if peer == OURS else plt.get_cmap("Greys")(0.3 + 0.6 * i / len(peers))
            axis.barh(places, [v - 1 for v in values], height, left=1, label=peer, color=color)
        axis.set_yticks(range(len(results)), [r["query"] for r in results])
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xlabel(f"time over that of the best reader of the same store ({name})")
        axis.legend(fontsize=7)
        figures[name] = figure
    return figures


def _scaling(parts: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    figures = {}
    if "planning" in parts:
        numbers = {float(label): values for label, values in parts["planning"].items() if "," not in label}
        figures["planning"] = _lines(
            list(numbers), {"open and plan": [v["open_and_plan_s"] for v in numbers.values()]}, "chunks of the store"
        )
    if "fraction" in parts:
        lines: dict[str, list[float]] = {}
        shares: list[float] = []
        for label, values in parts["fraction"].items():
            kind, share = label.rsplit(" ", 1)
            lines.setdefault(kind, []).append(values["wall_s"])
            if float(share) not in shares:
                shares.append(float(share))
        figures["fraction"] = _lines(shares, lines, "share of the rows selected")
    if "store_size" in parts:
        sizes = {float(label.split()[0]): values["wall_s"] for label, values in parts["store_size"].items()}
        figures["size"] = _lines(list(sizes), {"streamed sum": list(sizes.values())}, "decoded MB of the store")
    return figures


def _lines(x: list[float], lines: Mapping[str, list[float]], label: str) -> Any:
    figure, axis = plt.subplots(figsize=(5, 3))
    for (name, values), style in zip(lines.items(), ("o-", "s--", "^:"), strict=False):
        axis.plot(x, values, style, label=name, color=ACCENT)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(bottom=min(min(values) for values in lines.values()) / 3)
    axis.set_xlabel(label)
    axis.set_ylabel("seconds")
    axis.legend(fontsize=8)
    return figure
