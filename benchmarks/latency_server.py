"""A local HTTP server of a folder that waits before every answer, as a remote store does. Knows byte ranges."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["serve"]

RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@contextmanager
def serve(folder: Path, seconds: float, bytes_per_second: float | None = None) -> Iterator[str]:
    """Serve a folder while the context is open; gives the URL. The bandwidth is that of one request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            time.sleep(seconds)
            path = (folder / self.path.split("?")[0].lstrip("/")).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            start, stop = 0, size
            asked = RANGE.match(self.headers.get("Range", ""))
            if asked is not None:
                low, high = asked.groups()
                start = int(low) if low else max(0, size - int(high))
                stop = min(size, int(high) + 1) if low and high else size
            self.send_response(200 if asked is None else 206)
            if asked is not None:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if body and bytes_per_second is not None:
                time.sleep((stop - start) / bytes_per_second)
            if body:
                with path.open("rb") as opened:
                    opened.seek(start)
                    self.wfile.write(opened.read(stop - start))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
