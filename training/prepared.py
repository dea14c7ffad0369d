"""What was prepared on the login node: which files a job reads, and whether they are as written.

`<runs>/.cache/prepared/<name>.json` lists the tokens, the tokenizer and the model of one pair of
task and model, each file with size, time of change and SHA-256. The name holds a digest of all
that they follow from. A run's own `prepared.json` names the entry that it was submitted with, so
that rows which change later do not change what a queued job reads. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import UsageError
from .rundir import RunDir, file_problem, file_sha256, read_json

FORMAT = 1
"""Version of an entry; part of its name's digest."""

HASH_LIMIT = 1 << 30
"""Bytes: a job does not read larger files twice; their size and the manifest must do."""


@dataclass(frozen=True)
class Prepared:
    """One entry, as it was read."""

    cache: Path
    value: dict[str, Any]

    @property
    def tokens(self) -> Path:
        """Folder of the tokenised splits."""
        return located(self.cache, self.value["tokens"])

    @property
    def tokenizer(self) -> Path:
        """Folder that `AutoTokenizer.from_pretrained` loads."""
        return located(self.cache, self.value["tokenizer"])

    @property
    def files(self) -> list[dict[str, Any]]:
        """Every file that a job reads: path, role, bytes, mtime_ns, sha256."""
        return self.value["files"]


def folder(cache: Path) -> Path:
    """Return the folder of the entries."""
    return cache / "prepared"


def entry_path(cache: Path, name: str) -> Path:
    """Return the file of an entry."""
    return folder(cache) / f"{name}.json"


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def stored(cache: Path, path: Path) -> str:
    """Return a path as an entry keeps it: relative below the cache, which may be moved as one."""
    return str(path.relative_to(cache)) if path.is_relative_to(cache) else str(path)


def located(cache: Path, text: str) -> Path:
    """Return the path that an entry keeps as `text`."""
    return cache / text


def read_entry(cache: Path, name: str) -> Prepared | None:
    """Return an entry; None where there is none, or none that can be used."""
    value = read_json(entry_path(cache, name))
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    try:
        entry = Prepared(cache, value)
        _ = entry.tokens, entry.tokenizer
        complete = all({"path", "role", "bytes", "sha256"} <= f.keys() for f in entry.files)
    except (KeyError, TypeError, AttributeError):
        return None
    return entry if complete else None


def describe(cache: Path, path: Path, role: str) -> dict[str, Any]:
    """Return the line of an entry for a file.

    Args:
        cache: the cache of the runs folder.
        path: the file.
        role: `tokens`, `tokenizer` or `model`.
    """
    seen = path.stat()
    return {
        "path": stored(cache, path),
        "role": role,
        "bytes": seen.st_size,
        "mtime_ns": seen.st_mtime_ns,
        "sha256": file_sha256(path),
    }


def altered(
    entry: Prepared,
    roles: Iterable[str] = ("tokens", "tokenizer", "model"),
    full: bool = False,
    limit: int | None = None,
) -> str | None:
    """Return what is wrong with an entry's files in one line, None if they are as written.

    Sizes and times of change are compared; content only where the time differs (a copied cache),
    or everywhere if `full`.

    Args:
        entry: the entry.
        roles: which of its files are looked at.
        full: read every file.
        limit: bytes; the content of larger files is not read.
    """
    wanted = set(roles)
    for file in entry.files:
        if file["role"] not in wanted:
            continue
        path, read = located(entry.cache, file["path"]), True
        with contextlib.suppress(OSError):
            read = full or path.stat().st_mtime_ns != file.get("mtime_ns")
        if limit is not None and file["bytes"] > limit:
            read = False
        if problem := file_problem(path, file["bytes"], file["sha256"] if read else None):
            return f"{path} {problem}"
    return None


def open_prepared(run: RunDir) -> Prepared | None:
    """Return what a run was submitted with, looked at: its tokens are read once and compared.

    Returns:
        None for a run that was submitted without (`cluster.prepare=no`).

    Raises:
        UsageError: it is not there, or was altered; the message says what to type.
    """
    note = read_json(run.prepared)
    if not isinstance(note, dict):
        return None
    where = f"--runs {shlex.quote(str(run.path.parent))}"
    again = f"glueline submit --resume {run.run_id} {where} prepares it again"
    repair = f"make it anew with glueline prepare --run {run.run_id} {where}, then submit --resume"
    name = str(note.get("entry"))
    entry = read_entry(run.cache, name)
    if entry is None and note.get("job"):
        raise UsageError(
            f"the data was not prepared: job {note['job']} ended without it, its output is "
            f"{note.get('output')}: then {again}"
        )
    if entry is None:
        raise UsageError(
            f"the prepared data is gone ({entry_path(run.cache, name)} is missing on "
            f"{socket.gethostname()}): {again}"
        )
    problem = altered(entry, ("tokens", "tokenizer"), full=True, limit=HASH_LIMIT)
    if problem is None:
        problem = _resized(entry)
    if problem is not None:
        raise UsageError(f"the prepared data was altered: {problem}: {repair}")
    return entry


def _resized(entry: Prepared) -> str | None:
    """Return which file of the model has another size; its content the loader reads anyway."""
    for file in entry.files:
        path = located(entry.cache, file["path"])
        if problem := file_problem(path, file["bytes"]):
            return f"{path} {problem}"
    return None
