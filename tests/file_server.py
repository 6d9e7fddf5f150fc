"""A server of files on 127.0.0.1 that can be told to misbehave."""

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler", bytes, int], None]


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None
    sent: int = 0


@dataclass
class FileServer:
    """``script`` holds what to do with the next requests, one each; then files are sent as they should be."""

    files: dict[str, bytes]
    script: list[Answer] = field(default_factory=list)
    ranges: bool = True
    versions: bool = True
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> "FileServer":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("", (Handler,), {"files": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def sent(self) -> list[int]:
        """Bytes of content sent, by request."""
        return [request.sent for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    files: FileServer

    def do_GET(self) -> None:
        server = self.files
        self.request_log = Request(self.path, self.headers["Range"], self.headers["If-Range"])
        server.requests.append(self.request_log)
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = self.headers["If-Range"] in (None, etag)
        start = int(asked[1]) if asked and server.ranges and same else 0
        (server.script.pop(0) if server.script else whole)(self, content, start)

    def begin(self, content: bytes, start: int, **headers: str) -> None:
        """Status and headers for the content from byte ``start`` on."""
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.files.versions:
            self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
            self.send_header("Last-Modified", formatdate(0, usegmt=True))
        plain = {"Content-Length": str(len(content) - start), "Content-Type": "application/octet-stream"}
        for name, value in (plain | {key.replace("_", "-"): value for key, value in headers.items()}).items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def send(self, piece: bytes) -> None:
        self.wfile.write(piece)
        self.request_log.sent += len(piece)

    def log_message(self, *_: object) -> None:
        pass


def whole(handler: Handler, content: bytes, start: int) -> None:
    handler.begin(content, start)
    handler.send(content[start:])


def cut(after: int) -> Answer:
    """Close the connection behind ``after`` bytes."""

    def answer(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(content, start)
        handler.send(content[start : start + after])
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.close()

    return answer


def hold(after: int) -> Answer:
    """Send ``after`` bytes and then nothing, for as long as the other side waits."""

    def answer(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(content, start)
        handler.send(content[start : start + after])
        handler.wfile.flush()
        handler.rfile.read(1)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(code)
        for name, value in ({"Content_Length": "0"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def instead(body: bytes, **headers: str) -> Answer:
    """Send ``body`` in place of the file."""

    def answer(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(body, 0, **headers)
        handler.send(body)

    return answer
