"""A web server on the loopback interface that misbehaves as it is told."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Served:
    """What the server has under one path."""

    content: bytes
    etag: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    length: int | None = None  # that it pretends to have
    announce: bool = True  # any length at all
    plan: list[Callable[[BaseHTTPRequestHandler, "Served"], None]] = field(default_factory=list)
    pace: float = 0.0  # seconds a 4 kB block


class LoopbackServer:
    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.close_connection = True
                outer.requests.append((self.path, self.headers["Range"], self.headers["If-Range"]))
                served = outer.files.get(self.path)
                if served is None:
                    self.send_error(404)
                elif served.plan:
                    served.plan.pop(0)(self, served)
                else:
                    answer(self, served)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def serve(self, path: str, content: bytes, **settings) -> str:
        self.files[path] = Served(content, **settings)
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted, _ in self.requests]

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def answer(handler, served: Served) -> None:
        answer(handler, served)

    # what can be planned for a request

    def break_off(self, after: int):
        return lambda handler, served: answer(handler, served, until=after)

    def stall(self, after: int):
        return lambda handler, served: answer(handler, served, until=after, then=self.released.wait)

    def status(self, code: int):
        return lambda handler, _: handler.send_error(code)

    def redirect(self, code: int, url: str):
        def reply(handler, _):
            handler.send_response(code)
            handler.send_header("Location", url)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return reply

    def replace(self, after: int, content: bytes, etag: str):
        def reply(handler, served):
            answer(handler, served, until=after)
            served.content, served.etag = content, etag

        return reply


def answer(handler, served: Served, until: int | None = None, then: Callable[[], object] = lambda: None) -> None:
    """Serve a file, from where the range asks for, but break off after the byte `until` of the whole."""
    start, body = 0, served.content
    wanted, condition = handler.headers["Range"], handler.headers["If-Range"]
    if wanted and served.ranges and condition in (None, served.etag, served.modified):
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            handler.send_error(416)
            return
    handler.send_response(206 if start else 200)
    total = len(body) if served.length is None else served.length
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
    for name, value in (("ETag", served.etag), ("Last-Modified", served.modified)):
        if value:
            handler.send_header(name, value)
    if served.announce:
        handler.send_header("Content-Length", str(total - start))
    handler.end_headers()
    try:
        for offset in range(start, len(body) if until is None else until, 4096):
            handler.wfile.write(body[offset : min(offset + 4096, until or len(body))])
            handler.wfile.flush()
            time.sleep(served.pace)
        then()
    except (BrokenPipeError, ConnectionResetError):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = LoopbackServer()
    yield running
    running.close()
