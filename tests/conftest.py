"""Shared fixtures and hypothesis profiles.

``HYPOTHESIS_PROFILE`` chooses how long properties are searched: ``default`` while developing, ``ci`` (the default under
``CI=true``: repeatable), ``long`` for a search of many minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("default", max_examples=30, deadline=None, suppress_health_check=_SLOW)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, print_blob=True, suppress_health_check=_SLOW
)
settings.register_profile("long", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of real stores with expected facts; tests that need it are skipped where it is absent."""
    named = os.environ.get("GPUZARR_CORPUS")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "corpus"
    if not folder.is_dir():
        pytest.skip("no corpus of real stores here: set GPUZARR_CORPUS")
    return folder
