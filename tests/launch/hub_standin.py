"""A stand-in for the hub on 127.0.0.1: the part of its HTTP interface that a download uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from .http_standin import Asked, Reply, blob, error_reply, json_reply, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by `models/ORG/NAME` or `datasets/ORG/NAME`, and a log of the requests."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.broken: set[str] = set()
        self.requests: list[str] = []
        self.url = ""

    def answer(self, path: str) -> Reply:
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
            return error_reply("RepoNotFound", 404)
        if repo in self.gated:
            return error_reply("GatedRepo", 403)
        if parts[0] != "api":
            return self._file(repo, files, "/".join(rest[2:]))
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return error_reply("RevisionNotFound", 404)
        if rest and rest[0] == "tree":
            return json_reply([_entry(name, data) for name, data in files.items()])
        siblings = [{"rfilename": name} for name in files]
        return json_reply({"id": repo.split("/", 1)[1], "sha": COMMIT, "siblings": siblings})

    def _file(self, repo: str, files: dict[str, bytes], name: str) -> Reply:
        if f"{repo}/{name}" in self.broken:
            return error_reply("EntryNotFound", 404)
        if name not in files:
            return error_reply("EntryNotFound", 404)
        data = files[name]
        headers = {"ETag": f'"{blob(data)}"', "X-Repo-Commit": COMMIT}
        return 200, headers, data


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": blob(data)}


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a stand-in in a thread; its address is `hub.url`."""
    hub = Hub()

    def answer(asked: Asked) -> Reply:
        hub.requests.append(f"{asked.method} {asked.path}")
        return hub.answer(asked.path)

    with serving(answer) as hub.url:
        yield hub
