"""What gpuzarr means to reach: its time over the best peer's, by query. Losses are printed, not hidden."""

from __future__ import annotations

__all__ = ["OF_FULL_SCAN", "TARGETS"]

TARGETS = {
    "full_scan": 0.6,
    "box": 1.0,
    "box_season": 1.0,
    "point_series": 1.0,
    "value_filter_1pct": 0.4,
    "value_filter_0.01pct": 0.4,
    "wide_filter_clustered_0.01pct": 0.3,
    "wide_filter_scattered_1pct": 0.6,
    "mean_by_time": 0.7,
    "mean_by_cell": 0.7,
    "novel_boxes": 0.8,
}
OF_FULL_SCAN = {"len": 0.05, "head": 0.05}
"""Share of gpuzarr's own full scan of the same store."""
