"""Plots of a record: ``python -m benchmarks.gpu.plots RECORD FOLDER``. Needs matplotlib."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["plots"]

ACCENT = "#c2185b"


def plots(record: Mapping[str, Any], stem: str, folder: Path) -> list[Path]:
    """Write one plot per part and codec, named after the record; those of host memory say so."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    timed = [entry for entry in record["results"] if "median_s" in entry]
    written = []
    for part in dict.fromkeys(_name(entry) for entry in timed):
        figure = _batches(plt, timed) if part == "batches" else _bars(plt, [e for e in timed if _name(e) == part])
        title = record.get("card") or record["memory"]
        figure.suptitle(f"{part}: {title}", fontsize=9)
        figure.tight_layout()
        target = folder / f"{stem}-{part}.png"
        figure.savefig(target, dpi=90)
        plt.close(figure)
        written.append(target)
    return written


def _name(entry: Mapping[str, Any]) -> str:
    """The plot that shows an entry: of its part, of scans one per codec."""
    return str(entry.get("codec") or entry["part"])


def _bars(plt: Any, entries: list[Mapping[str, Any]]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 0.8 + 0.22 * len(entries)))
    ours = [ACCENT if "peer" not in entry else "0.6" for entry in entries]
    axis.barh(range(len(entries)), [entry["gb_per_s"] for entry in entries], color=ours)
    axis.set_yticks(range(len(entries)), [entry["case"] for entry in entries], fontsize=6)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set_xscale("log")
    axis.set_xlabel("GB/s")
    return figure


def _batches(plt: Any, entries: list[Mapping[str, Any]]) -> Any:
    """GB/s against streams per launch, a line per stream size, a panel per algorithm."""
    found = [entry for entry in entries if "algorithm" in entry]
    algorithms = list(dict.fromkeys(entry["algorithm"] for entry in found))
    figure, axes = plt.subplots(1, len(algorithms), figsize=(3 * len(algorithms), 3), sharey=True, squeeze=False)
    for axis, algorithm in zip(axes[0], algorithms, strict=True):
        for size in sorted({entry["stream_nbytes"] for entry in found}):
            line = [e for e in found if e["algorithm"] == algorithm and e["stream_nbytes"] == size]
            axis.plot([e["streams"] for e in line], [e["gb_per_s"] for e in line], ".-", label=f"{size >> 10} KiB")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(algorithm, fontsize=8)
        axis.set_xlabel("streams per launch")
    axes[0][0].set_ylabel("GB/s decoded")
    axes[0][-1].legend(fontsize=6)
    return figure


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    for path in plots(json.loads(source.read_text()), source.stem, target):
        print(path)
