"""What follows a failed attempt: start again here, queue again, or stop. Pure.

The rule in one sentence: what would fail again in the same way is not tried again, what may go
well on another try is, as long as the run gets further between two failures.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Action = Literal["restart", "requeue", "stop"]
"""restart: the next attempt in the same job, on the same node. requeue: the job goes back into the
queue, or the next one of a chain takes over."""

Kind = Literal["code", "memory", "killed", "transient", "hardware", "disk"]

LEAST_TOKENS = 16
"""Micro-batches are not made smaller than this: memory is not what is missing then."""

LOST = "AgentLost"
"""Kind of a cause that nobody wrote down: an agent ended without a word."""

ERRORS_OF_CODE = frozenset(("UsageError", "FloatingPointError"))
MEMORY_KINDS = frozenset(("OutOfMemory", "OutOfMemoryError", "MemoryError"))
SIGNALS = frozenset(("SIGKILL", "SIGBUS", "SIGSEGV", "SIGABRT", "SIGTERM", "SIGHUP", "SIGINT"))
TRANSIENT_KINDS = frozenset(
    "DistBackendError DistNetworkError DistStoreError ConnectionError ConnectionResetError "
    "ConnectionRefusedError ConnectionAbortedError BrokenPipeError TimeoutError PeerFailed".split()
)
HARDWARE_KINDS = frozenset(("SIGBUS", "Hang", "SickNode", LOST))
"""Where the host is under suspicion, whatever the message."""

TRANSIENT_ERRNOS = frozenset(
    (
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.ENETRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EPIPE, errno.ESHUTDOWN),
        *(errno.ENOTCONN, errno.ENOLCK, errno.EAGAIN, errno.EBUSY, errno.ENXIO, errno.ENODEV),
    )
)
HARDWARE_ERRNOS = frozenset((errno.EIO, errno.EREMOTEIO, errno.ENXIO, errno.ENODEV))
DISK_ERRNOS = frozenset((errno.ENOSPC, errno.EDQUOT))

_ERRNO = re.compile(r"\[Errno (\d+)\]")
_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|can't allocate memory|alloc_failed|bad_alloc", re.I
)
_CUDA = re.compile(r"cuda error|hip error|cuda driver error", re.I)
_CUDA_OF_CODE = re.compile(
    r"device-side assert|invalid device function|no kernel image|invalid argument|"
    r"invalid configuration|invalid device ordinal|invalid resource handle|not supported",
    re.I,
)
_HARDWARE = re.compile(
    r"uncorrectable|\becc error|unspecified launch failure|gpu is lost|fallen off the bus|"
    r"nvlink error|hardware stack error|input/output error",
    re.I,
)
_TRANSIENT = re.compile(
    r"\bnccl|\bgloo\b|connection (closed|reset|refused|timed out)|broken pipe|stale file handle|"
    r"socket timeout|timed out waiting|remote process exited|failed to recv|peer closed|"
    r"application timeout|network is (down|unreachable)|no route to host|address already in use|"
    r"transport endpoint|is taken|rendezvous.*(timeout|timed out|closed)|"
    r"temporary failure in name resolution|torchrun ended with signal",
    re.I,
)
_DISK = re.compile(r"no space left on device|disk quota exceeded", re.I)


@dataclass(frozen=True)
class Verdict:
    """What follows a failed attempt, as `attempts/<n>/verdict.json` holds it."""

    action: Action
    why: str
    """For a person, one line; where the run stops, with what to do."""
    exclude: tuple[str, ...] = ()
    """Hosts that the next start should avoid."""
    micro_tokens: int | None = None
    """A smaller budget of padded tokens for the next attempt's micro-batches; None: as it was."""
    checkpoint: int | None = None
    """Step of the newest complete checkpoint; None without one."""
    kind: str | None = None
    """Kind of the cause, see `slurm.failure.Cause`."""

    def plain(self, now: float) -> dict[str, Any]:
        """Return it ready for JSON. `now` is in epoch seconds."""
        return asdict(self) | {"exclude": list(self.exclude), "time": now}


@dataclass(frozen=True)
class Means:
    """What can be done in this place."""

    can_restart: bool = False
    """The job has one node: its agent can start the next attempt."""
    can_requeue: bool = True
    """The job can be queued again, or another one waits behind it."""
    can_exclude: bool = False
    """The job can be kept away from a host: there is more than one, and Slurm decides."""
    max_retries: int = 3
    micro_tokens: int | None = None
    """The budget that the run was configured with, in padded tokens."""
    resume: str = "glueline submit --resume RUN"
    """What a person types to go on."""


def classify(cause: Mapping[str, Any]) -> Kind:
    """Return what kind of failure a cause is.

    Args:
        cause: kind, message and secondary, as in `node-<k>.json`.
    """
    kind, message = str(cause.get("kind") or ""), str(cause.get("message") or "")
    number = next((int(n) for n in _ERRNO.findall(message)), None)
    if kind in ERRORS_OF_CODE:
        return "code"
    if kind == "DiskFull" or number in DISK_ERRNOS or _DISK.search(message):
        return "disk"
    if kind in HARDWARE_KINDS:
        return "hardware"
    if kind in SIGNALS:
        return "killed"
    if kind in MEMORY_KINDS or _MEMORY.search(message):
        return "memory"
    if kind == "PeerFailed":
        # An agent that is gone without a word, or one that told its own, better cause.
        return "transient" if cause.get("secondary") else "hardware"
    if _CUDA.search(message):
        return "code" if _CUDA_OF_CODE.search(message) else "hardware"
    if _HARDWARE.search(message) or number in HARDWARE_ERRNOS:
        return "hardware"
    if kind in TRANSIENT_KINDS or number in TRANSIENT_ERRNOS or _TRANSIENT.search(message):
        return "transient"
    # What only follows from another rank's death, where nobody knows of that one.
    return "transient" if cause.get("secondary") else "code"


def failures_in_place(history: Sequence[Mapping[str, Any]], checkpoint: int | None) -> int:
    """Return how many of the last attempts failed without a newer checkpoint since.

    A `stop` ends the row: after it a person had the run go on.

    Args:
        history: earlier verdicts of the run, oldest first.
        checkpoint: step of the newest complete checkpoint now.
    """
    count = 0
    for verdict in reversed(history):
        if verdict.get("action") == "stop" or _older(verdict.get("checkpoint"), checkpoint):
            break
        count += 1
    return count


def budget_in_force(history: Sequence[Mapping[str, Any]], configured: int | None) -> int | None:
    """Return the smallest token budget of earlier verdicts and the configuration."""
    known = [int(v["micro_tokens"]) for v in history if v.get("micro_tokens")]
    return min([*known, *([configured] if configured else [])], default=None)


def decide(
    cause: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    means: Means,
    *,
    checkpoint: int | None = None,
    blamed: Sequence[str] = (),
) -> Verdict:
    """Return what follows a failed attempt.

    Args:
        cause: the first cause: kind, message, secondary.
        history: earlier verdicts of the run as their files hold them, oldest first.
        means: what can be done here.
        checkpoint: step of the newest complete checkpoint.
        blamed: hosts that are to blame if the hardware is.
    """
    name = str(cause.get("kind") or "Exception")
    message = " ".join(str(cause.get("message") or "").split())
    what = message if name in SIGNALS or name in ("PeerFailed", LOST) else f"{name}: {message}"
    what = (what or name)[:300]
    found = classify(cause)

    def stop(why: str) -> Verdict:
        return Verdict("stop", why, checkpoint=checkpoint, kind=name)

    if found == "code":
        return stop(f"{what}: it would fail again; once mended, {means.resume}")
    if found == "disk":
        return stop(
            f"{what}: free space in the runs folder (old runs, their checkpoints, .cache), "
            f"then {means.resume}"
        )
    count = failures_in_place(history, checkpoint)
    if count >= means.max_retries:
        place = "before the first checkpoint" if checkpoint is None else f"after step {checkpoint}"
        times = "once" if count == 0 else f"{count + 1} times at the same place"
        return stop(f"failed {times} ({place}), now by {what}; to try again, {means.resume}")
    tokens = None
    budget = budget_in_force(history, means.micro_tokens)
    # Killed by nobody knows whom, again and again: the kernel, because memory ran out.
    again = name == "SIGKILL" and count > 0 and history[-1].get("kind") == "SIGKILL"
    if found == "memory" or again:
        if budget is not None and budget // 2 >= LEAST_TOKENS:
            tokens = budget // 2
        elif found == "memory":
            return stop(
                f"{what}: memory runs out even with small micro-batches; on more or larger "
                f"nodes, or with --zero, {means.resume}"
            )
    hosts = tuple(blamed) if found == "hardware" and means.can_exclude else ()
    if means.can_restart and not (hosts and means.can_requeue):
        action: Action = "restart"
    elif means.can_requeue:
        action = "requeue"
    else:
        return stop(f"{what}: the job cannot be queued again here; to go on, {means.resume}")
    parts = [f"{what}: retry {count + 1} of {means.max_retries}"]
    parts += [f"with micro-batches of {tokens} tokens"] if tokens else []
    parts += [f"without {', '.join(hosts)}"] if hosts and action == "requeue" else []
    return Verdict(action, ", ".join(parts), hosts, tokens, checkpoint, name)


def blamed_hosts(
    cause: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], procs: int
) -> list[str]:
    """Return the hosts that are to blame for a cause if the hardware is.

    Args:
        cause: the first cause, with `host`, and `blame` or `rank` where they say more.
        nodes: `node-<k>.json` of the attempt.
        procs: ranks of a node.
    """
    hosts = {n["node"]: str(n["host"]) for n in nodes if "node" in n and n.get("host")}
    if cause.get("kind") == "Hang":
        # Whoever reports a hang waits for another rank; nobody is blamed if all wait.
        rank = cause.get("rank")
        host = hosts.get(rank // procs) if isinstance(rank, int) else None
        return [host] if host else []
    blame = cause.get("blame")
    if isinstance(blame, str):
        return [blame]
    if cause.get("kind") == LOST:
        return [str(n["host"]) for n in nodes if not n.get("end") and n.get("host")]
    return [str(cause["host"])] if cause.get("host") else []


def _older(then: Any, now: int | None) -> bool:
    if now is None:
        return False
    return then is None or int(then) < now
