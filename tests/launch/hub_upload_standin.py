"""A stand-in for the hub on 127.0.0.1: the part of its HTTP interface that an upload uses.

Create, look, preupload, the LFS batch with its PUT, commit, tree; as huggingface_hub calls them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import yaml

from .http_standin import Asked, Reply, blob, error_reply, json_reply, serving

TOKEN = "hf_writestothestandin"


@dataclass
class Repo:
    """A repository of models."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    """Oldest first: id and files."""

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((c for c in self.commits if c[0] == revision), None)


class UploadHub:
    """Repositories by ORG/NAME; only TOKEN writes, and only into the organisation `org`."""

    def __init__(self) -> None:
        self.url = ""
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.large_suffixes: tuple[str, ...] = (".safetensors",)
        self.fails: dict[str, int] = {}
        """Statuses to answer with, by a part of the path."""
        self.loses: set[str] = set()
        """Files that a commit forgets."""
        self.spoils: set[str] = set()
        """Files that a commit changes."""

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """Make a repository as somebody left it."""
        repo = self.repos[name] = Repo(private)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n", **files})
        return repo

    def answer(self, method: str, path: str, token: str, body: bytes) -> Reply:
        """Return status, headers and body of a request."""
        for part, status in self.fails.items():
            if part in path:
                return error_reply("Fails", status, "it was told to fail")
        if path.startswith("/large/"):
            oid = path.rpartition("/")[2]
            if hashlib.sha256(body).hexdigest() != oid:
                return error_reply("Bad", 400, "other bytes")
            self.large[oid] = body
            return 200, {}, b""
        if token != TOKEN:
            return error_reply("Invalid", 401, "Invalid credentials in Authorization header")
        parts = [unquote(p) for p in path.strip("/").split("/")]
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return _validate(json.loads(body)["content"])
        if parts[0] == "api":
            name, rest = "/".join(parts[2:4]), parts[4:]
        else:
            name, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
        repo = self.repos.get(name)
        if repo is None:
            return error_reply("RepoNotFound", 404, "Repository not found")
        return self._of(repo, name, method, rest, body)

    def _create(self, asked: dict[str, Any]) -> Reply:
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.url}/{name}", "id": name}
        if asked["organization"] != "org":
            return error_reply("Forbidden", 403, "You don't have the rights to create a model")
        if name in self.repos:
            return json_reply(url, 409)
        # Releases of huggingface_hub differ in how they ask for it.
        hidden = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.add(name, {}, private=hidden)
        return json_reply(url)

    def _of(self, repo: Repo, name: str, method: str, rest: list[str], body: bytes) -> Reply:
        what = rest[0] if rest else "revision"
        if what == "info":  # NAME.git/info/lfs/objects/batch
            return self._batch(json.loads(body))
        if what.startswith("xet-"):
            return error_reply("NotFound", 404, "no xet here")
        found = repo.at(rest[1] if len(rest) > 1 else "main")
        if found is None:
            return error_reply("RevisionNotFound", 404, "Revision not found")
        oid, files = found
        if what == "preupload":
            return json_reply({"files": [self._mode(f, files) for f in json.loads(body)["files"]]})
        if what == "commit":
            return self._commit(repo, name, body)
        if what == "tree":
            return json_reply([self._entry(path, data) for path, data in files.items()])
        if what == "resolve":
            data = files.get("/".join(rest[2:]))
            if data is None:
                return error_reply("EntryNotFound", 404, "Entry not found")
            return 200, {"ETag": f'"{blob(data)}"', "X-Repo-Commit": oid}, data
        return json_reply({"id": name, "sha": oid, "private": repo.private, "siblings": []})

    def _mode(self, file: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        path = file["path"]
        mode = "lfs" if path.endswith(self.large_suffixes) else "regular"
        oid = None
        if path in files:
            data = files[path]
            oid = hashlib.sha256(data).hexdigest() if mode == "lfs" else blob(data)
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _batch(self, asked: dict[str, Any]) -> Reply:
        objects = []
        for wanted in asked["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.large:
                entry["actions"] = {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}
            objects.append(entry)
        return json_reply({"transfer": "basic", "objects": objects})

    def _commit(self, repo: Repo, name: str, body: bytes) -> Reply:
        lines = [json.loads(line) for line in body.decode().splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repo.commits[-1][0]:
            return error_reply("Conflict", 412, "A commit has happened since")
        files = dict(repo.commits[-1][1])
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            else:
                files[path] = self.large[value["oid"]]
            if path in self.spoils:
                files[path] = bytes(reversed(files[path]))
            if path in self.loses:
                del files[path]
        oid = repo.commit(files)
        url = f"{self.url}/{name}/commit/{oid}"
        return json_reply({"success": True, "commitOid": oid, "commitUrl": url})

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        if not path.endswith(self.large_suffixes):
            return {**entry, "oid": blob(data)}
        digest = hashlib.sha256(data).hexdigest()
        lfs = {"oid": digest, "size": len(data), "pointerSize": 130}
        return {**entry, "oid": blob(b"a pointer"), "lfs": lfs}


def _validate(card: str) -> Reply:
    parts = card.split("---\n", 2)
    try:
        found = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except yaml.YAMLError:
        found = None
    if found is None:
        return json_reply(
            {"warnings": [{"message": "empty or missing yaml metadata"}], "errors": []}
        )
    if not all(isinstance(found.get(key, ""), str) for key in ("license", "base_model")):
        return json_reply({"errors": [{"message": '"license" must be a string'}]}, 400)
    return json_reply({"warnings": [], "errors": []})


@contextmanager
def serve() -> Iterator[UploadHub]:
    """Run a stand-in in a thread; its address is `hub.url`."""
    hub = UploadHub()

    def answer(asked: Asked) -> Reply:
        hub.requests.append(f"{asked.method} {asked.path}")
        return hub.answer(asked.method, asked.path, asked.token, asked.body)

    with serving(answer) as hub.url:
        yield hub
