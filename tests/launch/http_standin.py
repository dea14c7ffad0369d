"""A server on 127.0.0.1 that answers as it is told, and the hub's form of answers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    """Without its query."""
    token: str
    body: bytes


def blob(data: bytes) -> str:
    """Return git's digest."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def json_reply(value: Any, status: int = 200) -> Reply:
    """Return an answer in JSON."""
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def error_reply(code: str, status: int, message: str | None = None) -> Reply:
    """Return a refusal as the hub words it."""
    headers = {"X-Error-Code": code, **({"X-Error-Message": message} if message else {})}
    status, more, body = json_reply({"error": message or code}, status)
    return status, headers | more, body


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[str]:
    """Run a server in a thread; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size) if size else b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            asked = Asked(self.command, urlsplit(self.path).path, token, body)
            status, headers, content = answer(asked)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def _chunks(self) -> bytes:
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
