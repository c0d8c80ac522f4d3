"""Scans through the wave engine on host memory: what a scan would do with a GPU, with numpy twins in place of kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from gpuzarr.backends.cached_dataset import CachedDataset
from gpuzarr.device.runtime_host import HostRuntime
from gpuzarr.device.wave import WaveDevice
from gpuzarr.plan.model import ScanPlan
from gpuzarr.source.dataset import Dataset
from gpuzarr.statistics import ScanStatistics


def wave_device(
    dataset: Dataset, plan: ScanPlan, statistics: ScanStatistics, runtime: Any, **options: Any
) -> WaveDevice:
    """The device of one scan on a runtime."""
    options = {"workers": 2, "budget": dataset.budget, **options}
    return WaveDevice(
        plan, dataset.coordinates, dataset.reader(statistics), dataset.options, statistics, runtime, **options
    )


@contextlib.contextmanager
def scans_on(make: Callable[[], Any] = HostRuntime, **options: Any) -> Iterator[list[tuple[WaveDevice, HostRuntime]]]:
    """All scans inside run through the wave engine, each on a runtime of its own; gives them."""
    made: list[tuple[WaveDevice, Any]] = []

    def device(dataset: Dataset, plan: ScanPlan, statistics: ScanStatistics, *, inline: bool = False) -> WaveDevice:
        runtime = make()
        found = wave_device(dataset, plan, statistics, runtime, **options)
        made.append((found, runtime))
        return found

    none_small: Any = lambda _dataset, _plan, _statistics: None  # noqa: E731  # small scans need no device
    with (
        mock.patch.object(Dataset, "device", device),
        mock.patch.object(Dataset, "small", none_small),
        mock.patch.object(CachedDataset, "small", none_small),
    ):
        yield made
