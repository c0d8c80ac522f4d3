"""A local HTTP server of a folder that waits before every answer, as a remote store does. Knows byte ranges.

It is a process of its own with one event loop, descriptors and sizes kept: about 0.1 ms per request, so that up to some
thousands of requests per second it is the readers that are measured. ``python -m benchmarks.latency_server FOLDER``
serves until its input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote

__all__ = ["serve"]

REQUEST = re.compile(rb"(GET|HEAD) ([^ ?]*)\S* HTTP/1")
RANGE = re.compile(rb"\r\nrange: *bytes=(\d*)-(\d*) *\r\n", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close *\r\n", re.IGNORECASE)
PIECE = 64 << 10  # bodies take turns on a link of limited bandwidth
MOST_HEAD = 64 << 10


@contextmanager
def serve(
    folder: Path, seconds: float, bytes_per_second: float | None = None, link_bytes_per_second: float | None = None
) -> Iterator[str]:
    """Serve a folder while the context is open; gives the URL.

    Parameters
    ----------
    folder
        What is served; files must not change meanwhile.
    seconds
        Between a request and the first byte of its answer.
    bytes_per_second
        Of one answer; None: no limit.
    link_bytes_per_second
        Of all answers together; None: no limit.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(folder.resolve()), "--seconds", str(seconds)]
    if bytes_per_second is not None:
        command += ["--bandwidth", str(bytes_per_second)]
    if link_bytes_per_second is not None:
        command += ["--link", str(link_bytes_per_second)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the latency server did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            process.wait(10)


@dataclass(frozen=True)
class _File:
    descriptor: int
    size: int
    head: bytes  # headers that say which version of the file it is


class _Link:
    """When bytes may leave: the bandwidth of one answer, and of all of them."""

    def __init__(self, per_answer: float | None, together: float | None) -> None:
        self.per_answer, self.together = per_answer, together
        self.free = 0.0

    @property
    def is_limited(self) -> bool:
        return self.per_answer is not None or self.together is not None

    def when(self, now: float, began: float, done: int, nbytes: int) -> float:
        """Time at which a piece of ``nbytes`` of an answer has arrived of which ``done`` bytes were sent."""
        at = now
        if self.together is not None:
            self.free = max(self.free, now) + nbytes / self.together
            at = self.free
        if self.per_answer is not None:
            at = max(at, began + (done + nbytes) / self.per_answer)
        return at


class _Connection(asyncio.Protocol):
    def __init__(self, folder: Path, seconds: float, link: _Link, files: dict[bytes, _File]) -> None:
        self.folder, self.seconds, self.link, self.files = folder, seconds, link, files
        self.loop = asyncio.get_running_loop()
        self.received = b""
        self.tasks: set[asyncio.Task[None]] = set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            if len(self.received) > MOST_HEAD:
                self.transport.abort()
            return
        self.received = rest  # a client waits for its answer before it asks again
        self.loop.call_later(self.seconds, self.answer, head + b"\r\n")

    def answer(self, head: bytes) -> None:
        request = REQUEST.match(head)
        if request is None:
            self.send(b"405 Method Not Allowed\r\nContent-Length: 0")
            self.transport.close()
            return
        path = request.group(2)
        file = self.files.get(path) or self.open(path)
        if file is None:
            self.send(b"404 Not Found\r\nContent-Length: 0")
            return
        asked = RANGE.search(head)
        start, stop, status = 0, file.size, b"200 OK\r\n"
        if asked is not None:
            low, high = asked.groups()
            start = int(low) if low else max(0, file.size - int(high))
            stop = min(file.size, int(high) + 1) if low and high else file.size
            if start >= file.size:
                self.send(b"416 Range Not Satisfiable\r\nContent-Length: 0\r\nContent-Range: bytes */%d" % file.size)
                return
            status = b"206 Partial Content\r\nContent-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, file.size)
        self.send(status + file.head + b"Content-Length: %d" % (stop - start))
        closes = CLOSE.search(head) is not None
        if request.group(1) == b"GET" and self.link.is_limited:
            task = self.loop.create_task(self.paced(file, start, stop, closes=closes))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            return
        if request.group(1) == b"GET":
            self.transport.write(os.pread(file.descriptor, stop - start, start))
        if closes:
            self.transport.close()

    async def paced(self, file: _File, start: int, stop: int, *, closes: bool) -> None:
        """Send a body no faster than the link allows."""
        began = self.loop.time()
        for at in range(start, stop, PIECE):
            nbytes = min(PIECE, stop - at)
            when = self.link.when(self.loop.time(), began, at - start, nbytes)
            await asyncio.sleep(when - self.loop.time())
            if self.transport.is_closing():
                return
            self.transport.write(os.pread(file.descriptor, nbytes, at))
        if closes:
            self.transport.close()

    def send(self, head: bytes) -> None:
        self.transport.write(b"HTTP/1.1 " + head + b"\r\n\r\n")

    def open(self, path: bytes) -> _File | None:
        name = (self.folder / unquote(path.decode()).lstrip("/")).resolve()
        if not name.is_relative_to(self.folder) or not name.is_file():
            return None
        status = name.stat()
        head = f'Accept-Ranges: bytes\r\nETag: "{status.st_mtime_ns:x}-{status.st_size:x}"\r\n'
        head += f"Last-Modified: {formatdate(status.st_mtime, usegmt=True)}\r\n"
        found = self.files[path] = _File(os.open(name, os.O_RDONLY), status.st_size, head.encode())
        return found


async def _serve(folder: Path, seconds: float, link: _Link) -> None:
    files: dict[bytes, _File] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(folder, seconds, link, files), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)  # nothing is ever written: readable means closed
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency_server", description="A slow local HTTP server."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=0.02, help="before every answer (default: 0.02)")
    parser.add_argument("--bandwidth", type=float, metavar="BYTES/S", help="of one answer")
    parser.add_argument("--link", type=float, metavar="BYTES/S", help="of all answers together")
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a descriptor for every file that was asked for
    with contextlib.suppress(KeyboardInterrupt):
        link = _Link(arguments.bandwidth, arguments.link)
        asyncio.run(_serve(arguments.folder.resolve(), arguments.seconds, link))


if __name__ == "__main__":
    main()
