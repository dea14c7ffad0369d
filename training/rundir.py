"""The run directory: paths, formats, and the state of a run as a pure function of its files.

The one module that knows what lies where below `runs/<run-id>/`. Standard library only. Every
file has one writer (see the table in `docs/run-directory.md`); JSON files are written to a
temporary name, flushed and renamed, so a reader never sees half a file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CACHE_FOLDER = ".cache"
"""Below the runs folder: fetched models and data, tokenised data. Shared by all runs."""

RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
"""A run id is one plain file name: no spaces, quotes, slashes or shell characters."""

FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Errors of a disk or quota that is full: there may be room again later."""

_NODE_FILE = re.compile(r"^node-.*\.json$")

PARTS = frozenset(
    "config.yaml plan.json manifest.json prepared.json submission.sh command.sh jobs.json "
    "request.json submitit progress.json metrics.jsonl checkpoints model predictions results.json "
    "attempts".split()
)
"""Names in a run's folder, any of which tells it from somebody's own folder."""
State = Literal["created", "queued", "running", "finished", "failed", "interrupted", "damaged"]


NOTICES = "notices"
"""In a run directory and in a sweep's folder, written by the job where `cluster.notify` is set: one
file for each thing that it told."""


class RunDir:
    """Paths of one run. Nothing is created by naming it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        """The run's id: the folder's name."""
        return self.path.name

    @property
    def cache(self) -> Path:
        """The cache that this run shares with its neighbours."""
        return self.path.parent / CACHE_FOLDER

    @property
    def config(self) -> Path:
        """Written by launch: the resolved configuration."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """Written by launch: the plan."""
        return self.path / "plan.json"

    @property
    def manifest(self) -> Path:
        """Written by launch: code, versions and data that the run was submitted with."""
        return self.path / "manifest.json"

    @property
    def prepared(self) -> Path:
        """Written by launch: which prepared inputs the run reads."""
        return self.path / "prepared.json"

    @property
    def submission(self) -> Path:
        """Written by launch: the batch script."""
        return self.path / "submission.sh"

    @property
    def command(self) -> Path:
        """Written by launch: the exact command of one node, to run by hand."""
        return self.path / "command.sh"

    @property
    def jobs(self) -> Path:
        """Written by launch: the jobs that were submitted for this run, oldest first."""
        return self.path / "jobs.json"

    @property
    def request(self) -> Path:
        """Written by launch: what a person asked of a running job."""
        return self.path / "request.json"

    @property
    def submitit(self) -> Path:
        """Written by submitit: its pickle, script and the batch job's own output."""
        return self.path / "submitit"

    @property
    def progress(self) -> Path:
        """Written by rank 0: where the run is."""
        return self.path / "progress.json"

    @property
    def metrics(self) -> Path:
        """Appended by rank 0: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Written by the ranks: one folder a checkpoint, complete or absent."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Written by rank 0: the model that transformers loads."""
        return self.path / "model"

    @property
    def predictions(self) -> Path:
        """Written by rank 0: predictions of every example, a file a split."""
        return self.path / "predictions"

    @property
    def results(self) -> Path:
        """Written by rank 0, last: present if and only if the run finished."""
        return self.path / "results.json"

    @property
    def attempts(self) -> Path:
        """One folder an attempt, numbered from 0."""
        return self.path / "attempts"

    def attempt(self, number: int) -> Path:
        """Folder of one attempt."""
        return self.attempts / str(number)

    def environment(self, attempt: int) -> Path:
        """Written by rank 0: hosts, devices and versions as seen in the job."""
        return self.attempt(attempt) / "environment.json"

    def node(self, attempt: int, node: int) -> Path:
        """Written by that node's agent: host, start, how it ended, first cause of failure."""
        return self.attempt(attempt) / f"node-{node}.json"

    def verdict(self, attempt: int) -> Path:
        """Written by who decides what follows a failed attempt: action, why, what to change."""
        return self.attempt(attempt) / "verdict.json"

    def fault(self, attempt: int) -> Path:
        """Written by the rank that rehearses the fault of `train.fault`, before it does."""
        return self.attempt(attempt) / "fault.json"

    def logs(self, attempt: int) -> Path:
        """Folder of an attempt's logs."""
        return self.attempt(attempt) / "logs"

    def rank_log(self, attempt: int, node: int, rank: int) -> Path:
        """Output of one rank. `rank` is the global one."""
        return self.logs(attempt) / f"{node}-{rank}.log"

    def rank_error(self, attempt: int, node: int, rank: int) -> Path:
        """Written by a rank that raises: time, kind, message, traceback."""
        return self.logs(attempt) / f"{node}-{rank}.error.json"

    def torchrun_log(self, attempt: int, node: int) -> Path:
        """Output of one node's torchrun."""
        return self.logs(attempt) / f"{node}-torchrun.log"

    def attempt_numbers(self) -> list[int]:
        """Return the numbers of the attempts that left a folder, in order."""
        try:
            return sorted(int(name) for name in os.listdir(self.attempts) if name.isdigit())  # noqa: PTH208
        except OSError:
            return []


def write_atomic(path: Path, text: str | bytes, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, also after a crash.

    Without `durable` a crash of the whole machine may lose the content; a killed process cannot.
    Waiting for a busy disk can take seconds.

    Raises:
        OSError: the folder is missing, not writable or full; the old file stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_problem(path: Path, size: int, sha256: str | None = None) -> str | None:
    """Return what is wrong with a file, as words that go on after its name; None if nothing is.

    Args:
        path: the file.
        size: bytes that were written.
        sha256: of the content that was written; None: the content is not read.
    """
    try:
        seen = path.stat().st_size
        if seen != size:
            return f"has {seen} bytes, not {size}"
        if sha256 is not None and file_sha256(path) != sha256:
            return "holds other bytes than were written"
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def sync_path(path: Path) -> None:
    """Flush a file or a folder to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write a JSON file atomically, see `write_atomic`. NaN is refused: it is not JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text, durable)


def read_json(path: Path) -> Any | None:
    """Return a JSON file's value, or None where it is absent or not (yet) readable."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (a thousand runs are read at once)
            return json.loads(file.read())
    except (OSError, ValueError):
        return None


def find_run(runs: Path, name: str) -> RunDir | None:
    """Return the run that `name` means: an id below `runs`, or a path to its folder."""
    candidates = [runs / name] if RUN_ID.match(name) else []
    candidates.append(Path(name).expanduser())
    for candidate in candidates:
        # Not Path.is_file: of a folder that is somebody's own it raises.
        names = (candidate / "config.yaml", candidate / "jobs.json")
        if any(os.path.isfile(name) for name in names):  # noqa: PTH113
            return RunDir(candidate)
    return None


def _foreign(folder: str) -> bool:
    """Return whether a folder holds something, and nothing of a run."""
    if os.path.isfile(f"{folder}/config.yaml"):  # noqa: PTH113 (a thousand runs are read at once)
        return False
    names = set(os.listdir(folder))  # noqa: PTH208
    return bool(names) and not names & PARTS


def list_runs(runs: Path) -> list[RunDir]:
    """Return the runs below a folder, newest first; without those that we may not read.

    A folder that holds other things than a run's is somebody's own; an empty one is a run that
    lost its files.
    """
    if not runs.is_dir():
        return []
    found = []
    with os.scandir(runs) as entries:
        for entry in entries:
            try:
                if entry.name.startswith(".") or not entry.is_dir():
                    continue
                if os.access(entry.path, os.R_OK | os.X_OK) and not _foreign(entry.path):
                    found.append((entry.stat().st_mtime, entry.path))
            except OSError:
                continue  # it went while we looked
    return [RunDir(path) for _, path in sorted(found, reverse=True)]


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line in a single write, so that lines of a killed writer stay whole.

    Raises:
        OSError: it cannot be written; nothing of it is there then.
    """
    data = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, data) < len(data):
            # A disk that is nearly full takes a part: half a line would spoil the next one too.
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` that count, in order of step.

    After a hard kill a step can stand there twice: of the lines with the same kind, step and
    split, those of the highest attempt count. Steps that an earlier attempt reached and a later
    one did not repeat yet count until it does. A last line cut off by a crash is left out.
    """
    kept: dict[tuple[str, int, str], dict[str, Any]] = {}
    events: list[dict[str, Any]] = []
    for line in json_lines(path):
        if line.get("kind") == "event":
            events.append(line)
            continue
        key = (line.get("kind", ""), line.get("step", 0), line.get("split", ""))
        if key not in kept or line.get("attempt", 0) >= kept[key].get("attempt", 0):
            kept[key] = line
    order = {"train": 0, "eval": 1, "event": 2}
    return sorted(
        [*kept.values(), *events],
        key=lambda e: (e.get("step", 0), order.get(str(e.get("kind")), 3)),
    )


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, as `parse_lines`; none where it cannot be read."""
    with contextlib.suppress(OSError):
        yield from parse_lines(path.read_text(encoding="utf-8"))


def parse_lines(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a text, one a line; what a crash cut off is left out."""
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


@dataclass(frozen=True)
class Snapshot:
    """What the files of a run say, read once."""

    run_id: str
    jobs: list[dict[str, Any]]
    progress: dict[str, Any]
    nodes: dict[int, list[dict[str, Any]]]
    """`node-<k>.json` of every attempt."""
    finished: bool
    readable: bool
    """The configuration is there; of a run that is not finished, to its end, and the list of its
    jobs is one, if there is any."""
    stopped: bool = False
    """A person asked for the end."""


def submissions(jobs: Path) -> list[dict[str, Any]]:
    """Return the jobs that a `jobs.json` lists, of a run or a sweep, oldest first."""
    return _submissions(_mapping(jobs).get("jobs"))


def _submissions(listed: Any) -> list[dict[str, Any]]:
    return [e for e in listed or () if isinstance(e, dict) and "job_id" in e]


def node_records(run: RunDir, attempt: int) -> list[dict[str, Any]]:
    """Return `node-<k>.json` of an attempt, in the order of k."""
    folder = run.attempt(attempt)
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (a thousand runs are read at once)
    except OSError:
        return []
    found = [read_json(folder / name) for name in names if _NODE_FILE.match(name)]
    return sorted((v for v in found if isinstance(v, dict)), key=lambda v: v.get("node", 0))


def snapshot(run: RunDir, brief: bool = False) -> Snapshot:
    """Read the files that a run's state follows from.

    A file that is missing or not what it should be counts as absent.

    Args:
        run: the run.
        brief: of a finished run, the nodes' files are counted and not read.
    """
    finished = isinstance(read_json(run.results), dict)
    read = not (brief and finished)
    nodes = {n: node_records(run, n) if read else [] for n in run.attempt_numbers()}
    listed = _mapping(run.jobs).get("jobs")
    return Snapshot(
        run_id=run.run_id,
        jobs=_submissions(listed),
        progress=_mapping(run.progress),
        nodes=nodes,
        finished=finished,
        readable=os.path.isfile(run.config)  # noqa: PTH113 (see find_run)
        and (finished or (_whole(run.config) and (listed is not None or not run.jobs.exists()))),
        stopped=bool(_mapping(run.request).get("stop")),
    )


def _whole(path: Path) -> bool:
    """Return whether a configuration is there to its end, by its last byte."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (a thousand runs are read at once)
            file.seek(-1, os.SEEK_END)
            return file.read() in (b"\n", b"}")
    except OSError:
        return False


def _mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def last_attempt(files: Snapshot) -> list[dict[str, Any]]:
    """Return the `node-<k>.json` of the last job's last attempt; empty before it wrote any.

    What an earlier job left says nothing about a resumed run.
    """
    first = files.jobs[-1].get("first_attempt", 0) if files.jobs else 0
    number = max(files.nodes, default=-1)
    return files.nodes[number] if number >= first else []


def run_state(files: Snapshot, job: Literal["queued", "running", "gone"] | None) -> State:
    """Return the state of a run from its files and what the scheduler says of its last job.

    `job` is None where the scheduler was not, or could not be, asked: then the files decide.
    """
    if not files.readable:
        return "damaged"
    if files.finished:
        return "finished"
    if job in ("queued", "running"):
        return job
    if not files.jobs:
        return "created"
    last = last_attempt(files)
    ends = [node.get("end") for node in last]
    if any(end == "failed" for end in ends):
        return "failed"
    if any(end == "interrupted" for end in ends):
        return "interrupted"
    if job is None and last and all(end is None for end in ends):
        return "running"
    if job is None and not last:
        return "queued"
    if files.stopped and not last:
        return "interrupted"  # before it began
    return "failed"


def first_cause(files: Snapshot) -> dict[str, Any] | None:
    """Return the first cause of failure of the last attempt, see `earliest_cause`."""
    return earliest_cause(last_attempt(files), max(files.nodes, default=0))


def earliest_cause(nodes: Iterable[Mapping[str, Any]], attempt: int) -> dict[str, Any] | None:
    """Return the first cause of failure of an attempt: host, rank, kind, message, log.

    The earliest wins; what only follows from a peer's death (a connection closed by it) counts
    only where nothing else is known.

    Args:
        nodes: its `node-<k>.json`.
        attempt: its number.
    """
    causes = [
        {**cause, "host": node.get("host"), "attempt": node.get("attempt", attempt)}
        for node in nodes
        if (cause := node.get("cause"))
    ]
    if not causes:
        return None
    return min(causes, key=lambda c: (bool(c.get("secondary")), c.get("time") or time.time()))
