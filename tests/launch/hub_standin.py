"""A stand-in for the hub on 127.0.0.1: the part of its HTTP interface that a download uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by `models/ORG/NAME` or `datasets/ORG/NAME`, and a log of the requests."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.broken: set[str] = set()
        self.requests: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a request."""
        parts = [unquote(p) for p in path.strip("/").split("/")]
        if parts[0] == "api":
            repo, rest = "/".join(parts[1:4]), parts[4:]
        elif parts[0] == "datasets":
            repo, rest = "/".join(parts[:3]), parts[3:]
        else:
            repo, rest = "models/" + "/".join(parts[:2]), parts[2:]
        files = self.repos.get(repo)
        if files is None:
            return _error("RepoNotFound", 404)
        if repo in self.gated:
            return _error("GatedRepo", 403)
        if parts[0] != "api":
            return self._file(repo, files, "/".join(rest[2:]))
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return _error("RevisionNotFound", 404)
        if rest and rest[0] == "tree":
            return _json([_entry(name, data) for name, data in files.items()])
        siblings = [{"rfilename": name} for name in files]
        return _json({"id": repo.split("/", 1)[1], "sha": COMMIT, "siblings": siblings})

    def _file(self, repo: str, files: dict[str, bytes], name: str) -> tuple[int, Any, bytes]:
        if f"{repo}/{name}" in self.broken:
            return _error("EntryNotFound", 404)
        if name not in files:
            return _error("EntryNotFound", 404)
        data = files[name]
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT}
        return 200, headers, data


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _error(code: str, status: int) -> tuple[int, dict[str, str], bytes]:
    headers = {"X-Error-Code": code, "Content-Type": "application/json"}
    return status, headers, json.dumps({"error": code}).encode()


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a stand-in in a thread; its address is `hub.url`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = hub.answer(path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
