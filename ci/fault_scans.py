"""Thousands of injected faults against whole scans of a backend: no wrong row, bounded time.

Usage: ``PYTHONPATH=src:tests python ci/fault_scans.py [faults]``. Ends with status 1 where a promise is broken.
"""

from __future__ import annotations

import sys
import time

from test_backends_remote import check_faulty_scans


def main(wanted: int) -> int:
    """Run until ``wanted`` faults were injected; 0 if every promise held."""
    total = {"right": 0, "errors": 0, "wrong": 0, "faults": 0, "requests": 0}
    longest, seed = 0.0, 0
    begin = time.monotonic()
    while total["faults"] < wanted:
        seed += 1
        outcome = check_faulty_scans(100, seed=seed)
        for name in total:
            total[name] += outcome[name]
        longest = max(longest, outcome["longest"])
    print(f"{100 * seed} scans in {time.monotonic() - begin:.0f} s, {total}, longest scan {longest:.2f} s")
    return int(total["wrong"] > 0 or longest > 60.0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
