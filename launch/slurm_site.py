"""What Slurm says: partitions and jobs. Parsers are pure; only `_ask` runs a command.

Text formats with chosen fields, not JSON: `squeue --json` changes between releases, and
`sinfo -o` has been the same for ten years.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from launch.limits import parse_limit
from launch.node_kinds import NodeKind, first_host, fitting
from training.config import UsageError

SECONDS = 10
"""How long a command of Slurm may take."""

JobState = Literal["queued", "running", "gone"]

QUEUED = frozenset(
    ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
)
RUNNING = frozenset(
    # A job that is queued again passes through COMPLETING: it is not gone.
    "CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT".split()
)

UNUSABLE = ("down", "drain", "drng", "drained", "draining", "fail", "failing", "unknown", "unk")


class SlurmSilent(UsageError):
    """The controller, or a command of Slurm, does not answer."""


class _Refused(Exception):
    """A command of Slurm ended with an error; the message is its own."""


@dataclass(frozen=True)
class Partition:
    """A partition, by what the smallest of its usable nodes has."""

    name: str
    default: bool
    up: bool
    time_limit_minutes: int | None
    """None: no limit."""
    kinds: tuple[NodeKind, ...]

    @property
    def nodes(self) -> int:
        """All nodes, whatever their state."""
        return sum(k.nodes for k in self.kinds)

    @property
    def usable(self) -> int:
        """Nodes that are not down or drained."""
        return sum(k.nodes for k in self.kinds if k.usable)

    @property
    def cpus_per_node(self) -> int:
        """CPUs of the smallest node."""
        return min((k.cpus for k in self._there), default=0)

    @property
    def memory_mb(self) -> int:
        """Memory of the smallest node."""
        return min((k.memory_mb for k in self._there), default=0)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of the node that has fewest."""
        return min((k.gpu_count for k in self._there), default=0)

    @property
    def gpu_types(self) -> tuple[str, ...]:
        """Names of the GPUs, where Slurm knows them."""
        return tuple(sorted({t for k in self._there for t in k.gpus if t}))

    @property
    def _there(self) -> list[NodeKind]:
        return fitting(self.kinds)


@dataclass(frozen=True)
class JobInfo:
    """What Slurm says of one job."""

    id: str
    state: JobState
    slurm: str
    """Slurm's word: PENDING, RUNNING, NODE_FAIL, …; UNKNOWN where it has forgotten the job."""
    reason: str = ""
    """Why it is queued, or why it ended; empty where Slurm gives none."""
    exit_code: str = ""
    """`status:signal` of a job that is gone, where known."""
    submitted: float | None = None
    """Epoch seconds of the (last) submission."""
    start: float | None = None
    """Epoch seconds of the start, or of the expected one."""
    name: str = ""
    nodes: tuple[str, ...] = field(default=())


def sbatch_available() -> bool:
    """Return whether jobs can be submitted from here: sbatch is there and Slurm answers."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        return False
    try:
        partitions()
    except UsageError:
        return False
    return True


@functools.cache
def partitions() -> tuple[Partition, ...]:
    """Return the partitions, asked once a process.

    Raises:
        SlurmSilent: Slurm does not answer.
    """
    form = "%P|%a|%l|%D|%c|%m|%t|%N|%f|%G"
    try:
        # With hidden ones: some sites have people name them all the same.
        return parse_sinfo(_ask("sinfo", "--noheader", "--all", "--exact", f"--format={form}"))
    except _Refused as error:
        raise SlurmSilent(f"Slurm does not answer: {error}") from None


def job_states(
    ids: Iterable[str], submitted: Mapping[str, float] | None = None
) -> dict[str, JobInfo]:
    """Return what Slurm says of each job: the queue first, then accounting, then the controller.

    A job that none of them knows is gone, with the state UNKNOWN.

    Args:
        ids: job ids, `12` or `12_3`.
        submitted: epoch seconds at which we submitted them. Ids start again after a reset of the
            cluster: a job that was submitted before ours is another one.

    Raises:
        SlurmSilent: the controller does not answer.
    """
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return {}
    found: dict[str, JobInfo] = {}

    def keep(infos: Iterable[JobInfo]) -> None:
        for info in infos:
            ours = (submitted or {}).get(info.id)
            if ours is not None and info.submitted is not None and info.submitted < ours - SKEW:
                continue
            if info.id in wanted and info.id not in found:
                found[info.id] = info

    for some in _chunks(wanted):
        try:
            form = "%i|%T|%V|%S|%j|%N|%r"
            named = ("-j", ",".join(some), f"--format={form}")
            keep(parse_squeue(_ask("squeue", "-h", "-r", "-t", "all", *named)))
        except _Refused as error:
            # With one id that it has forgotten, squeue fails; with several it leaves it out.
            if "Invalid job id" not in str(error):
                raise SlurmSilent(f"Slurm does not answer: {error}") from None
    for some in _chunks([i for i in wanted if i not in found]):
        form = "JobID,State,ExitCode,Submit,Start,JobName,NodeList,Reason"
        try:
            keep(parse_sacct(_ask("sacct", "-n", "-P", "-X", "-j", ",".join(some), "-o", form)))
        except (_Refused, SlurmSilent):
            break  # a cluster without accounting
    # It knows no more jobs than squeue, but what squeue -j hides where it fails: worth a few.
    for job in [i for i in wanted if i not in found][:ONE_BY_ONE]:
        try:
            keep(parse_scontrol(_ask("scontrol", "show", "job", "-o", job), job))
        except (_Refused, SlurmSilent):
            pass  # it has forgotten the job too
    return {i: found.get(i, JobInfo(i, "gone", "UNKNOWN")) for i in wanted}


IDS_A_QUESTION = 1000
"""Job ids of one command: a line of some 10 kB, where the system takes 128 kB."""
ONE_BY_ONE = 3
"""How many jobs that neither squeue nor sacct knows are asked for each by itself."""


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[i : i + IDS_A_QUESTION] for i in range(0, len(ids), IDS_A_QUESTION)]


SKEW = 120.0
"""Seconds that the clocks of the login node and the controller may differ."""


def job_state(slurm: str) -> JobState:
    """Return our word for one of Slurm's states."""
    if slurm in QUEUED:
        return "queued"
    return "running" if slurm in RUNNING else "gone"


def parse_sinfo(text: str) -> tuple[Partition, ...]:
    """Return the partitions in `%P|%a|%l|%D|%c|%m|%t|%N|%f|%G` lines.

    There is one a kind of node and state.
    """
    rows: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        parts = line.split("|", 9)
        if len(parts) == 10:
            rows.setdefault(parts[0].rstrip("*"), []).append(parts)
    found = []
    for name, lines in rows.items():
        # An empty partition has one line with 0 nodes.
        kinds = tuple(_kind(parts) for parts in lines if _number(parts[3]))
        found.append(
            Partition(
                name=name,
                default=any(k[0].endswith("*") for k in lines),
                up=any(k[1] == "up" for k in lines),
                time_limit_minutes=parse_limit(lines[0][2]),
                kinds=kinds,
            )
        )
    return tuple(found)


def _kind(parts: list[str]) -> NodeKind:
    """Return the nodes of one line of sinfo."""
    return NodeKind(
        nodes=_number(parts[3]),
        cpus=_number(parts[4]),
        memory_mb=_number(parts[5]),
        gpus=parse_gpus(parts[9]),
        features=frozenset(f for f in parts[8].split(",") if f and f != "(null)"),
        usable=parts[6].rstrip("*~#!%$@^-+") not in UNUSABLE,
        first=first_host(parts[7]),
    )


def parse_gpus(gres: str) -> dict[str, int]:
    """Return GPUs by type ("" where none is named) of `gpu:a100:4(S:0-1),gpu:2,mps:100`."""
    found: dict[str, int] = {}
    # What stands in brackets are sockets or indices, with commas of their own.
    for part in re.sub(r"\([^()]*\)", "", gres).split(","):
        words = part.strip().split(":")
        if words[0] != "gpu":
            continue
        count = _number(words[-1]) if len(words) > 1 and words[-1][:1].isdigit() else 1
        kind = ":".join(words[1:-1] if words[-1][:1].isdigit() else words[1:])
        found[kind] = found.get(kind, 0) + count
    return found


def parse_squeue(text: str) -> list[JobInfo]:
    """Return the jobs in `%i|%T|%V|%S|%j|%N|%r` lines."""
    found = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) < 7:
            continue
        job, state, submitted, start, name, nodes, reason = (*parts[:6], "|".join(parts[6:]))
        found.append(
            JobInfo(
                id=job,
                state=job_state(state),
                slurm=state,
                reason=_given(reason),
                submitted=_moment(submitted),
                start=_moment(start),
                name=name,
                nodes=(nodes,) if nodes else (),
            )
        )
    return found


def parse_sacct(text: str) -> list[JobInfo]:
    """Return the jobs in `JobID|State|ExitCode|Submit|Start|JobName|NodeList|Reason` lines.

    An id that was used twice has a line each; the last one comes first here.
    """
    found = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) < 8 or "." in parts[0]:
            continue
        state = (parts[1].split() or ["UNKNOWN"])[0].rstrip("+")  # CANCELLED by 1000
        found.append(
            JobInfo(
                id=parts[0],
                state=job_state(state),
                slurm=state,
                reason=_given(parts[7]),
                exit_code=parts[2],
                submitted=_moment(parts[3]),
                start=_moment(parts[4]),
                name=parts[5],
                nodes=(parts[6],) if _given(parts[6]) else (),
            )
        )
    return sorted(found, key=lambda i: i.submitted or 0.0, reverse=True)


def parse_scontrol(text: str, job: str) -> list[JobInfo]:
    """Return the job in the one-line form of `scontrol show job`."""
    values = dict(
        re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)", text.splitlines()[0] if text else "")
    )
    if "JobState" not in values:
        return []
    nodes = _given(values.get("NodeList", ""))
    return [
        JobInfo(
            id=job,
            state=job_state(values["JobState"]),
            slurm=values["JobState"],
            reason=_given(values.get("Reason", "")),
            exit_code=values.get("ExitCode", ""),
            submitted=_moment(values.get("SubmitTime", "")),
            start=_moment(values.get("StartTime", "")),
            name=values.get("JobName", ""),
            nodes=(nodes,) if nodes else (),
        )
    ]


def _number(text: str) -> int:
    match = re.match(r"\d+", text.strip())
    return int(match[0]) if match else 0


def _given(text: str) -> str:
    text = text.strip()
    return "" if text in ("None", "(null)", "N/A", "Unknown", "None assigned") else text


def _moment(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def _ask(*command: str) -> str:
    """Run a command of Slurm and return what it prints.

    Raises:
        SlurmSilent: it is not there, or does not answer in time.
        _Refused: it ended with an error.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise SlurmSilent(f"{command[0]} is not on this machine") from None
    except OSError as error:
        raise SlurmSilent(f"{command[0]} does not run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SlurmSilent(
            f"Slurm does not answer: {command[0]} took more than {SECONDS} s"
        ) from None
    if done.returncode:
        raise _Refused(" ".join((done.stderr or done.stdout).split()))
    return done.stdout
