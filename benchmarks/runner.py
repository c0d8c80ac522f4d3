"""Runs peers against each other: answers first, then interleaved repetitions, each in a fresh process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import page_cache
from benchmarks.answers import Digest, differences
from benchmarks.datasets import Description, data_folder, prepare, prepare_parquet, served
from benchmarks.hardware import ROOT, describe
from benchmarks.latency_server import serve
from benchmarks.peers import PEERS, Entry
from benchmarks.queries import make_query, query_names

__all__ = ["Environments", "Options", "run"]

ORACLES = ("xarray", "zarr-python")  # the first that answers is what all others must agree with
Say = Callable[[str], None]


@dataclass(frozen=True)
class Environments:
    """Where each environment's interpreter is; what is not named runs in this one."""

    interpreters: Mapping[str, str] = field(default_factory=dict)

    def of(self, entry: Entry) -> str:
        return self.interpreters.get(entry.environment, sys.executable)


@dataclass(frozen=True)
class Options:
    """What to run. ``repeats`` 0: compare answers only."""

    size: str
    datasets: Sequence[str]
    queries: Sequence[str] | None
    peers: Sequence[str]
    repeats: int
    cache: str  # "warm" or "cold"
    timeout: float
    environments: Environments
    latency: float | None = None  # seconds before every answer of an HTTP server between
    bandwidth: float | None = None  # bytes per second of one of its answers
    link: float | None = None  # bytes per second of all of them together


def run(options: Options, say: Say, keep: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """Every query on every dataset by every peer; the record. ``keep`` is given the record after every query."""
    if options.latency is None:
        return _run(options, None, say, keep)
    with serve(data_folder(), options.latency, options.bandwidth, options.link) as url:
        return _run(options, url, say, keep)


def _run(options: Options, url: str | None, say: Say, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "hardware": describe(),
        "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
        "size": options.size,
        "cache": options.cache,
        "latency_s": options.latency,
        "bandwidth_bytes_per_s": options.bandwidth,
        "link_bytes_per_s": options.link,
        "repeats": options.repeats,
        "versions": {},
        "datasets": {},
        "results": [],
    }
    measurements: list[_Measurement] = []
    for name in options.datasets:
        description, tiny = prepare(name, options.size), prepare(name, "tiny")
        if "parquet" in options.peers:
            for d in (description, tiny):
                prepare_parquet(d)
        record["datasets"][name] = _about(description)
        if url is not None:
            description, tiny = served(description, url), served(tiny, url)
        asked = [q for q in query_names(description) if options.queries is None or q in options.queries]
        measurements += [_Measurement(options, description, tiny, query_name, say) for query_name in asked]
    available = _available(options, say)
    if options.repeats == 0:
        results = _checked(measurements, available, options)
    else:
        results = (measurement.run(available) for measurement in measurements)
    for result in results:
        for peer, outcome in result["peers"].items():
            if "versions" in outcome:
                record["versions"][peer] = outcome.pop("versions")
        record["results"].append(result)
        keep(record)
    record["hardware"]["load_average_at_end"] = [round(value, 2) for value in os.getloadavg()]
    keep(record)
    return record


def _available(options: Options, say: Say) -> list[str]:
    """Peers whose packages can be imported; the others are named, with the reason."""
    available = list(options.peers)
    for peer in options.peers:
        outcome = work(peer, [{"peer": peer, "query": None}], options)[0]
        if outcome["status"] == "missing":
            say(f"skipping {peer}: {outcome['message']}")
            available.remove(peer)
    return available


def _checked(measurements: Sequence[_Measurement], peers: Sequence[str], options: Options) -> Iterator[dict[str, Any]]:
    """Compared answers only: one process per peer for all queries."""
    found = {peer: work(peer, [m.request(peer, with_digest=True) for m in measurements], options) for peer in peers}
    for i, measurement in enumerate(measurements):
        outcomes = measurement.compared({peer: found[peer][i] for peer in in_order(found)})
        kept = {
            p: {k: v for k, v in o.items() if k in ("status", "message", "versions", "rows")}
            for p, o in outcomes.items()
        }
        yield measurement.result(kept)


def in_order(peers: Iterable[str]) -> list[str]:
    """Peers with the oracles first."""
    return sorted(peers, key=lambda p: ORACLES.index(p) if p in ORACLES else len(ORACLES))


def _about(description: Description) -> dict[str, Any]:
    about = asdict(description)
    for private in ("store", "thresholds", "version", "extra"):
        about.pop(private)
    parquet = Path(description.parquet)
    about["parquet_bytes"] = parquet.stat().st_size if parquet.exists() else None
    return about


def work(peer: str, requests: Sequence[dict[str, Any]], options: Options) -> list[dict[str, Any]]:
    """Requests in a fresh process of the peer's environment; one outcome for each."""
    path = [str(ROOT)] + ([str(ROOT / "src")] if peer == "gpuzarr" else [])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [options.environments.of(PEERS[peer]), "-m", "benchmarks.worker"]
    given = "".join(json.dumps(request) + "\n" for request in requests)
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=options.timeout * len(requests),
            env=environment,
            cwd=ROOT,
            check=False,
        )
        said, message = done.stdout, f"the process ended with {done.returncode}: {done.stderr[-300:]}"
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
        said = text if isinstance(text, str) else text.decode()
        message = f"no answer within {options.timeout} s"
    outcomes: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    return outcomes + [{"status": "failed", "message": message} for _ in requests[len(outcomes) :]]


@dataclass
class _Measurement:
    options: Options
    description: Description
    tiny: Description
    query_name: str
    say: Say

    def run(self, peers: Sequence[str]) -> dict[str, Any]:
        """Compared answers and times of all peers."""
        if self.options.cache == "warm" and not self.description.is_remote:
            self._warm(peers)
        first = self.first_run(peers)
        outcomes = {peer: first[peer] for peer in peers}
        right = [peer for peer in peers if outcomes[peer]["status"] == "ok"]
        runs = {peer: [outcomes[peer]] for peer in right}
        for repeat in range(1, self.options.repeats):
            turn = repeat % max(1, len(right))
            for peer in [*right[turn:], *right[:turn]]:  # interleaved, and nobody always goes first
                outcome = self._process(peer, with_digest=False)
                if outcome["status"] == "ok":
                    runs[peer].append(outcome)
                else:
                    outcomes[peer] = outcome
        for peer, measured in runs.items():
            kept = {k: v for k, v in outcomes[peer].items() if k in ("status", "message", "versions", "rows")}
            outcomes[peer] = kept | (_summary(measured) if kept["status"] == "ok" else {})
        return self.result(outcomes)

    def result(self, outcomes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The record's entry."""
        self.say(f"{self.title}  {_line(outcomes)}")
        return {"dataset": self.description.name, "query": self.query_name, "peers": outcomes}

    def first_run(self, peers: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The first run of every peer, with its answer compared."""
        return self.compared({peer: self._process(peer, with_digest=True) for peer in in_order(peers)})

    def compared(self, outcomes: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Outcomes with digests, in the order of `in_order`: wrong where they differ from the first peer's that answers."""
        query = make_query(self.query_name, self.description)
        expected: Digest | None = None
        checked = {}
        for peer, outcome in outcomes.items():
            found = outcome.pop("digest", None)
            if found is not None:
                wrong = self._wrong_cells(found) if query.shape == "head" else []
                if expected is None:
                    expected = found
                elif not wrong:
                    wrong = differences(found, expected, query)
                if wrong:
                    outcome = {"status": "wrong", "message": "; ".join(wrong), "versions": outcome.get("versions", {})}
            checked[peer] = outcome
        for peer, outcome in checked.items():
            if outcome["status"] in ("wrong", "failed"):
                self.say(f"{self.title}: {peer} {outcome['status']}: {outcome['message']}")
        return checked

    def _warm(self, peers: Sequence[str]) -> None:
        """Read the files once, so that the first peer finds what the others find."""
        targets = {self.description.parquet if peer == "parquet" else self.description.store for peer in peers}
        for target in targets:
            page_cache.read(Path(target))

    @property
    def title(self) -> str:
        """Store and query, for messages."""
        return f"{self.description.name:14} {self.query_name:30}"

    def request(self, peer: str, *, with_digest: bool) -> dict[str, Any]:
        """What a worker needs to know."""
        return {
            "peer": peer,
            "query": self.query_name,
            "dataset": asdict(self.description),
            "warm_up": asdict(self.tiny),
            "digest": with_digest,
        }

    def _process(self, peer: str, *, with_digest: bool) -> dict[str, Any]:
        is_cold = None
        if self.options.cache == "cold" and self.options.repeats and not self.description.is_remote:
            target = self.description.parquet if peer == "parquet" else self.description.store
            is_cold = page_cache.drop(Path(target))
        started = time.perf_counter()
        outcome = work(peer, [self.request(peer, with_digest=with_digest)], self.options)[0]
        outcome["process_s"] = time.perf_counter() - started
        if is_cold is not None:
            outcome["cold"] = is_cold
        return outcome

    def _wrong_cells(self, found: Digest) -> list[str]:
        """Rows of ``head`` that are no rows of the table, looked up with xarray."""
        import numpy as np
        import xarray as xr

        from benchmarks.peers.zarr_python import zarr_store

        said = []
        with xr.open_zarr(
            zarr_store(self.description.store), chunks=None, consolidated=self.description.consolidated
        ) as ds:
            seen = set()
            for cell in found["cells"]:
                labels = {
                    "time": np.datetime64(cell["time"], "us"),
                    "lat": cell["lat"] / 10_000,
                    "lon": cell["lon"] / 10_000,
                }
                seen.add(tuple(labels.values()))
                row = ds.sel(labels, method="nearest")
                said += [
                    f"{variable} at {labels}: {cell[variable]!r} instead of {float(row[variable])!r}"
                    for variable in self.description.variables
                    if float(row[variable]) != cell[variable]
                ]
        if len(seen) != len(found["cells"]):
            said.append("rows are repeated")
        return said


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: statistics.median(run[name] for run in runs)
        for name in ("wall_s", "cpu_s", "peak_rss", "baseline_rss", "result_bytes", "import_s", "process_s")
    }
    found["wall_all"] = [round(run["wall_s"], 6) for run in runs]
    found["cpu_all"] = [round(run["cpu_s"], 6) for run in runs]
    for name in ("bytes_requested", "bytes_from_disk"):
        if all(name in run for run in runs):
            found[name] = statistics.median(run[name] for run in runs)
    if any("cold" in run for run in runs):
        found["cold"] = all(run.get("cold") for run in runs)
    return found


def _line(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    return "  ".join(
        _part(peer, outcome) for peer, outcome in outcomes.items() if outcome["status"] != "not applicable"
    )


def _part(peer: str, outcome: Mapping[str, Any]) -> str:
    if "wall_s" in outcome:
        return f"{peer} {outcome['wall_s'] * 1000:.1f} ms ({outcome['cpu_s'] * 1000:.0f} cpu)"
    return f"{peer} {outcome['status']}"


def failures(record: Mapping[str, Any]) -> Iterable[str]:
    """Peers that should have answered and did not, or not rightly: for checks."""
    for result in record["results"]:
        for peer, outcome in result["peers"].items():
            if outcome["status"] in ("wrong", "failed"):
                yield f"{result['dataset']} {result['query']} {peer}: {outcome['status']}: {outcome['message']}"
