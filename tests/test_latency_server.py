"""The server that stands for a remote store in benchmarks: right bytes, late, and no faster than its link."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this tree")


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.latency_server import serve

    return serve


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


@pytest.mark.parametrize("link", [None, 50e6])
def test_answers_are_those_of_a_web_server(serve, tmp_path, link):
    data = bytes(range(256)) * 1000
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b c").write_bytes(data)
    (tmp_path / "secret").write_bytes(b"x")
    with serve(tmp_path / "a", 0.0, None, link) as url:
        at = f"{url}/b%20c"
        status, body, headers = get(at)
        assert (status, body, headers["Content-Length"]) == (200, data, str(len(data)))
        assert headers["ETag"]
        assert get(at, "HEAD")[1:] == (b"", headers)
        for asked, start, stop in (("5-9", 5, 10), ("250000-", 250_000, len(data)), ("-7", len(data) - 7, len(data))):
            status, body, headers = get(at, Range=f"bytes={asked}")
            assert (status, body) == (206, data[start:stop])
            assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(data)}"
        assert get(at, Range=f"bytes={len(data)}-")[0] == 416
        assert get(f"{url}/nothing")[0] == 404
        assert get(f"{url}/../secret")[0] == 404
        assert get(at, "POST")[0] == 405


def test_every_answer_waits_and_all_share_the_link(serve, tmp_path):
    (tmp_path / "a").write_bytes(bytes(200_000))
    with serve(tmp_path, 0.05, None, 2e6) as url, ThreadPoolExecutor(4) as pool:
        begin = time.perf_counter()
        assert get(f"{url}/nothing")[0] == 404
        assert time.perf_counter() - begin >= 0.05
        begin = time.perf_counter()
        answers = list(pool.map(lambda _: len(get(f"{url}/a")[1]), range(4)))
        assert answers == [200_000] * 4
        assert time.perf_counter() - begin >= 0.05 + 0.4
    with serve(tmp_path, 0.0, 1e6) as url:
        begin = time.perf_counter()
        get(f"{url}/a")
        assert time.perf_counter() - begin >= 0.2
