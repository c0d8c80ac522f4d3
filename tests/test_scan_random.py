"""Random queries over random stores give what plain Polars gives on the table that was written."""

from __future__ import annotations

import pytest
from scan_queries import Outcome, run


@pytest.mark.parametrize("seed", range(50))
def test_random_queries_equal_plain_polars(seed: int) -> None:
    outcome = Outcome()
    run(seed, 12, outcome)
    assert not outcome.differences, "\n".join(outcome.differences)
    assert outcome.queries == 12
