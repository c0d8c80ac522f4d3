"""Random queries through the wave engine on host memory give what plain Polars gives on the table that was written."""

from __future__ import annotations

import gc

import numpy as np
from scan_queries import Outcome, run
from support_wave import scans_on
from test_wave_files import LateReader

from gpuzarr.device.file_reads import PreadReader
from gpuzarr.device.runtime_host import HostRuntime


def test_random_queries_equal_plain_polars() -> None:
    streams = filters = direct = 0
    for seed in range(15):
        outcome = Outcome()
        rng = np.random.default_rng(seed)
        deferred = bool(rng.random() < 0.5)
        budget = int(rng.choice([1, 1000, 2**22]))
        coordinates = bool(rng.random() < 0.5)
        files = (PreadReader(), PreadReader(direct=True), LateReader(direct=True))[int(rng.integers(3))]
        with scans_on(
            lambda deferred=deferred, files=files: HostRuntime(deferred=deferred, files=files),
            budget=budget,
            coordinates_on_device=coordinates,
        ) as made:
            run(seed, 8, outcome)
        assert not outcome.differences, "\n".join(outcome.differences)
        gc.collect()
        for device, runtime in made:
            assert not runtime.damage
            streams += device.scheduler.batched_streams
            direct += device.statistics.waves_direct
            filters += device.device_filter is not None
    # The draws took every way.
    assert streams > 30
    assert filters > 2
    assert direct > 0
