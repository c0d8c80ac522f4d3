"""Ten thousand injected faults against the object-store reader: no wrong byte, bounded time and requests.

Usage: ``PYTHONPATH=src:tests python ci/fault_run.py [faults]``. Ends with status 1 where a promise is broken.
"""

from __future__ import annotations

import sys
import time

from test_store_faults import check_many_faults

READS_PER_RUN = 2_000


def main(wanted: int) -> int:
    """Run until ``wanted`` faults were injected; 0 if every promise held."""
    total = {"right": 0, "errors": 0, "wrong": 0, "missing": 0, "faults": 0, "requests": 0}
    kinds: dict[str, int] = {}
    longest, reads, seed = 0.0, 0, 0
    begin = time.monotonic()
    while total["faults"] < wanted:
        seed += 1
        outcome = check_many_faults(READS_PER_RUN, seed=seed, slow=0.003)
        reads += READS_PER_RUN
        for name in total:
            total[name] += outcome[name]
        for name, count in outcome["kinds"].items():
            kinds[name] = kinds.get(name, 0) + count
        longest = max(longest, outcome["longest"])
    per_read = total["requests"] / reads
    print(
        f"{reads} reads in {time.monotonic() - begin:.0f} s, {total}, longest read {longest:.2f} s, {per_read:.2f} requests a read"
    )
    print(dict(sorted(kinds.items())))
    # six attempts a read at most, of up to four ranges, each perhaps answered by the whole object
    return int(total["wrong"] > 0 or longest > 31.0 or per_read > 6 * 4 * 2)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
