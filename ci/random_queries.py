"""Many random queries over random stores, compared with plain Polars on the tables that were written.

Usage: ``PYTHONPATH=src:tests python ci/random_queries.py [--count N] [--seed S]``. Ends with status 1 where an answer differs.
"""

from __future__ import annotations

import argparse
import sys
import time

import polars as pl
from scan_queries import Outcome, run

PER_STORE = 25


def main() -> int:
    """Run; 0 if no answer differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="queries")
    parser.add_argument("--seed", type=int, default=10_000, help="of the first store; each store takes the next one")
    parser.add_argument("--show", type=int, default=5, help="differences to print")
    arguments = parser.parse_args()
    outcome = Outcome()
    begin = time.monotonic()
    stores = 0
    while outcome.queries < arguments.count:
        run(arguments.seed + stores, PER_STORE, outcome)
        stores += 1
    for difference in outcome.differences[: arguments.show]:
        print(difference)
    print(
        f"polars {pl.__version__}: {outcome.queries} queries on {stores} stores in {time.monotonic() - begin:.0f} s, "
        f"{outcome.rows} rows compared, {outcome.refused} refused by both, {outcome.known} known faults of this Polars, {len(outcome.differences)} differences"
    )
    return int(bool(outcome.differences))


if __name__ == "__main__":
    sys.exit(main())
