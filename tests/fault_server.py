"""An HTTP server on loopback that serves objects from a dict and misbehaves as told."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

FAULTS = (
    "500", "502", "503", "504", "429", "408",  # statuses
    "reset",  # connection reset before a reply
    "reset_body",  # and in the middle of the body
    "closed",  # closed without a reply
    "garbage",  # no HTTP
    "short",  # fewer bytes than Content-Length announces
    "range_short_body",  # 206 whose body is shorter than its Content-Range
    "range_shifted",  # 206 with other bytes than asked for, and a Content-Range that says so
    "range_truncated",  # 206 of a part of what was asked for
    "range_unnamed",  # 206 without Content-Range
    "range_ignored",  # 200 with the whole object
    "slow_body",  # a body that drips for longer than the time limit
    "stall",  # no reply within the time limit
)  # fmt: skip
"""Faults a client can notice. Those named ``range_*`` fall back to ``503`` where no range was asked for."""

Plan = Callable[[str, str], str | None]


class FaultServer:
    """Serves ``objects`` at ``url``; ``plan(method, key)`` names the fault of a request, or None.

    Parameters
    ----------
    ranges
        Whether the server knows ranges at all.
    stall
        Seconds that ``stall`` and ``slow_body`` take.
    """

    def __init__(self, objects: dict[str, bytes], *, ranges: bool = True, stall: float = 1.0) -> None:
        self.objects = objects
        self.ranges = ranges
        self.stall = stall
        self.plan: Plan = lambda method, key: None
        self.etags: dict[str, str] = {}
        self.send_etag = True
        self.requests: list[tuple[str, str, str | None]] = []
        self.faults: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def note(self, method: str, key: str, byte_range: str | None) -> str | None:
        """Record a request and choose its fault."""
        with self.lock:
            self.requests.append((method, key, byte_range))
            fault = self.plan(method, key)
            if fault is not None and fault.startswith("range_") and byte_range is None:
                fault = "503"
            if fault is not None:
                self.faults[fault] += 1
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is expected here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server_owner: FaultServer

    def log_message(self, *args: Any) -> None:  # type: ignore[override]
        """Quiet."""

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, *, body: bool) -> None:
        owner = self.server_owner
        key = unquote(urlsplit(self.path).path).lstrip("/")
        asked = self.headers.get("Range") if body else None
        fault = owner.note(self.command, key, asked)
        if fault is not None and self._fail_early(fault):
            return
        data = owner.objects.get(key)
        if data is None:
            self._reply(404, b"no such object", body=body)
            return
        headers = {"Accept-Ranges": "bytes"} if owner.ranges else {}
        if owner.send_etag:
            headers["ETag"] = owner.etags.get(key, f'"{len(data)}"')
        span = _span(asked, len(data)) if asked and owner.ranges and fault != "range_ignored" else None
        if span is None:
            self._reply(200, data, headers, body=body, fault=fault)
            return
        start, stop = span
        if start >= stop:
            self._reply(416, b"", {"Content-Range": f"bytes */{len(data)}"}, body=body)
            return
        if fault == "range_shifted":
            start, stop = (start - 1, stop - 1) if start else (start + 1, stop)
        elif fault == "range_truncated":
            stop -= (stop - start + 1) // 2
        if fault != "range_unnamed":
            headers["Content-Range"] = f"bytes {start}-{max(start, stop) - (stop > start)}/{len(data)}"
        part = data[start:stop]
        self._reply(
            206, part[: len(part) // 2] if fault == "range_short_body" else part, headers, body=body, fault=fault
        )

    def _fail_early(self, fault: str) -> bool:
        if fault.isdigit():
            self._reply(int(fault), b"try again", {"Retry-After": "0"}, body=self.command != "HEAD")
            return True
        if fault == "stall":
            time.sleep(self.server_owner.stall)
            self.close_connection = True
            return True
        if fault in ("reset", "closed", "garbage"):
            if fault == "reset":
                self._reset_on_close()
            elif fault == "garbage":
                self.wfile.write(b"\x00\xffthis is no HTTP\r\n\r\n")
            self.close_connection = True
            return True
        return False

    def _reset_on_close(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _reply(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, *, body: bool, fault: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body:
            return
        if fault in ("short", "reset_body"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            if fault == "reset_body":
                self._reset_on_close()
            return
        if fault == "slow_body":
            pieces = 8
            for number in range(pieces):
                self.wfile.write(data[len(data) * number // pieces : len(data) * (number + 1) // pieces])
                self.wfile.flush()
                time.sleep(self.server_owner.stall / pieces)
            return
        self.wfile.write(data)


def _span(asked: str, size: int) -> tuple[int, int] | None:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size
