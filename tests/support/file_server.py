"""A local HTTP server of files that can be slow, cut answers off, refuse ranges, redirect, or fail."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class FileServer:
    """What the server offers and how it behaves, and the requests that it has seen.

    Attributes:
        files: Content by name.
        ranges: False to answer every request with the whole file.
        tag: The ETag of all files; empty for none.
        cut_after: For each of the next answers, the bytes after which the connection is cut.
        failures: For each of the next requests, the status of an error.
        delay_s: Wait before each answer.
        requests: Method, name, and the range asked for, of each request.
        bodies: Bytes sent for each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    tag: str = '"1"'
    cut_after: list[int] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    delay_s: float = 0.0
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)
    url: str = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    state: FileServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        state, name = self.state, self.path.lstrip("/")
        asked = self.headers.get("Range", "")
        state.requests.append((self.command, name, asked))
        time.sleep(state.delay_s)
        if state.failures:
            self.send_error(state.failures.pop(0))
        elif name.startswith("moved/"):
            self.send_response(302)
            self.send_header("Location", f"{state.url}{name.removeprefix('moved/')}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif name not in state.files:
            self.send_error(404)
        else:
            self._send(state.files[name], asked, with_body=with_body)

    def _send(self, content: bytes, asked: str, *, with_body: bool) -> None:
        state = self.state
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
        if self.headers.get("If-Range", state.tag) != state.tag:
            start = 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if state.tag:
            self.send_header("ETag", state.tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body:
            body = content[start:]
            sent = body[: state.cut_after.pop(0)] if state.cut_after else body
            state.bodies.append(len(sent))
            self.wfile.write(sent)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Runs a server; `url` ends with a slash."""
    state = FileServer()
    handler = type("Handler", (_Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/"
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield state
        finally:
            running.shutdown()
            thread.join()
