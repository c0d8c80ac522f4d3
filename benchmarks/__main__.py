"""``python -m benchmarks``: answers compared, then times; see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.datasets import CATALOGUE
from benchmarks.peers import PEERS
from benchmarks.queries import QUERIES
from benchmarks.runner import Environments, Options, failures, run


def main() -> int:
    """Run what the command line asks for; 1 if an answer of gpuzarr is wrong or, with ``--check``, anybody's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="gpuzarr against its peers.")
    parser.add_argument("--size", default="small", help="tiny, small, medium, large or e.g. 40GB (default: small)")
    parser.add_argument(
        "--datasets", nargs="+", default=["cube"], metavar="NAME", help=f"all, or of: {', '.join(CATALOGUE)}"
    )
    parser.add_argument("--queries", nargs="+", metavar="NAME", help=f"of: {', '.join(QUERIES)} (default: all)")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", default=list(PEERS), help=f"of: {', '.join(PEERS)} (default: all)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each (default: 5)")
    parser.add_argument(
        "--cache", choices=("warm", "cold"), default="warm", help="page cache before each run (default: warm)"
    )
    parser.add_argument(
        "--latency", type=float, metavar="MS", help="through a local HTTP server that waits so long before every answer"
    )
    parser.add_argument(
        "--bandwidth", type=float, metavar="MB/S", help="with --latency: of one request (default: no limit)"
    )
    parser.add_argument(
        "--link", type=float, metavar="MB/S", help="with --latency: of all requests together (default: no limit)"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one run (default: 300)")
    parser.add_argument("--check", action="store_true", help="compare answers, measure nothing")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the record (JSON), after every query")
    parser.add_argument("--note", default="", help="a sentence for the record, e.g. that the machine was shared")
    parser.add_argument(
        "--environments",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get("GPUZARR_BENCH_ENVIRONMENTS"),
        help="virtual environments made by benchmarks/environments.sh (default: $GPUZARR_BENCH_ENVIRONMENTS; else this one)",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="ENVIRONMENT=PATH",
        help="interpreter of one environment (peers, sql, main)",
    )
    arguments = parser.parse_args()
    for kind, asked, known in (
        ("dataset", [] if arguments.datasets == ["all"] else arguments.datasets, CATALOGUE),
        ("query", arguments.queries or [], QUERIES),
        ("peer", arguments.peers, PEERS),
    ):
        for name in asked:
            if name not in known:
                parser.error(f"unknown {kind} {name!r}; there are {', '.join(known)}")
    options = Options(
        size=arguments.size,
        datasets=list(CATALOGUE) if arguments.datasets == ["all"] else arguments.datasets,
        queries=arguments.queries,
        peers=arguments.peers,
        repeats=0 if arguments.check else arguments.repeats,
        cache=arguments.cache,
        timeout=arguments.timeout,
        environments=Environments(_interpreters(arguments)),
        bandwidth=None if arguments.bandwidth is None else arguments.bandwidth * 1e6,
        link=None if arguments.link is None else arguments.link * 1e6,
        latency=None if arguments.latency is None else arguments.latency / 1000,
    )

    def keep(record: dict[str, Any]) -> None:
        if arguments.record is not None:
            arguments.record.parent.mkdir(parents=True, exist_ok=True)
            kept = {**record, "command": shortened(record["command"]), "note": arguments.note}
            arguments.record.write_text(json.dumps(kept, indent=1) + "\n")

    record = run(options, lambda line: print(line, flush=True), keep)
    wrong = [line for line in failures(record) if arguments.check or " gpuzarr: " in line]
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if wrong else 0


def _interpreters(arguments: argparse.Namespace) -> dict[str, str]:
    found = {}
    if arguments.environments is not None:
        for entry in PEERS.values():
            interpreter = Path(arguments.environments) / entry.environment / "bin" / "python"
            if interpreter.exists():
                found[entry.environment] = str(interpreter)
    for pair in arguments.python:
        name, _, path = pair.partition("=")
        found[name] = path
    return found


def shortened(command: list[str]) -> list[str]:
    """The command without paths of this machine."""
    said, skip = [], False
    for part in command:
        if skip:
            skip = False
        elif part in ("--python", "--environments", "--record", "--note"):
            skip = True
        elif not part.startswith(("--python=", "--environments=", "--record=", "--note=")):
            said.append(part)
    return said


if __name__ == "__main__":
    raise SystemExit(main())
