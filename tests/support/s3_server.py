"""A real S3 server on this machine (moto), behind a proxy that fails as servers and networks do."""

import http.client
import http.server
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class S3Server:
    """How the proxy behaves, and the requests that it has seen.

    Attributes:
        url: Address of the proxy.
        fail: From method and path of a request to the status of an error; 0 for none, -1 for an answer that is cut off.
        requests: Method and path of each request.
    """

    url: str = ""
    fail: Callable[[str, str], int] = lambda method, path: 0
    requests: list[tuple[str, str]] = field(default_factory=list)

    def reset(self) -> None:
        """Fail no more, and forget the requests."""
        self.fail = lambda method, path: 0
        self.requests.clear()


class _Proxy(http.server.BaseHTTPRequestHandler):
    state: S3Server
    upstream: tuple[str, int]
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        self.state.requests.append((self.command, path))
        failure = self.state.fail(self.command, path)
        if failure > 0:
            self.send_response(failure)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(*self.upstream)
        kept = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        connection.request(self.command, self.path, body, kept | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if failure < 0 else content)
        self.close_connection = failure < 0
        connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Runs both servers."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    state = S3Server()
    handler = type("Proxy", (_Proxy,), {"state": state, "upstream": store.get_host_and_port()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield state
        finally:
            running.shutdown()
            thread.join()
            store.stop()
