"""What a running job asks of Slurm, and asks again while the controller is away."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""How long one command may take."""
PATIENCE_SECONDS = 600.0
"""How long a controller that restarts, or moves to its backup, is waited for."""
PAUSE_SECONDS = 2.0

_REFUSAL = re.compile(
    r"presently disabled|denied|not permitted|invalid|already|is pending|no longer|only batch|"
    r"not available|not supported|unrecognized|unknown|not found",
    re.I,
)
"""Slurm's ways to say no. Anything else is a controller that is away, starting or overloaded: it
has too many words for that."""
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)")


class Refused(Exception):
    """Slurm answered no. The message is its own."""


class Silent(Exception):
    """The controller does not answer."""


def say(text: str) -> None:
    """Write a line to the job's own output."""
    print(f"glueline: {text}", file=sys.stderr, flush=True)


def ask(*command: str, seconds: float = ANSWER_SECONDS) -> str:
    """Run a command of Slurm and return what it prints.

    Raises:
        Refused: it ended with an error, or is not there.
        Silent: the controller does not answer.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            # A person's own format for times would not be understood.
            env=os.environ | {"SLURM_TIME_FORMAT": "standard"},
        )
    except subprocess.TimeoutExpired:
        raise Silent(f"{command[0]} took more than {seconds:.0f} s") from None
    except OSError as error:
        raise Refused(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise (Refused if _REFUSAL.search(said) else Silent)(said or f"{command[0]} failed")
    return done.stdout


def patiently(call: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Return what a question to Slurm returns, asked again while the controller is away.

    Raises:
        Refused: Slurm answered no.
        Silent: it did not answer for all of `seconds`.
    """
    deadline = time.monotonic() + seconds
    told = False
    while True:
        try:
            return call()
        except Silent as error:
            if time.monotonic() + PAUSE_SECONDS >= deadline:
                raise
            if not told:
                say(f"Slurm does not answer, asking again: {error}")
                told = True
            time.sleep(PAUSE_SECONDS)


def job_fields(text: str) -> dict[str, str]:
    """Return the fields of `scontrol show job -o`; what is not given is left out."""
    lines = text.splitlines()
    found = dict(_FIELD.findall(lines[0])) if lines else {}
    return {k: v for k, v in found.items() if v not in ("", "(null)", "None", "N/A", "Unknown")}


def show_job(job: str, seconds: float = ANSWER_SECONDS) -> dict[str, str]:
    """Return what Slurm knows of a job.

    Raises:
        Refused, Silent: as `ask`.
    """
    return job_fields(ask("scontrol", "show", "job", "-o", job, seconds=seconds))


def runs(fields: Mapping[str, str]) -> bool:
    """Return whether Slurm counts a job as running: nobody ended it, and no time limit did.

    While its nodes have not answered to a signal (that of a preemption, say) it is SIGNALING, which
    takes as long as the slowest of them.
    """
    return fields.get("JobState") in ("RUNNING", "SIGNALING")


def is_preempted(fields: Mapping[str, str]) -> bool:
    """Return whether Slurm is about to preempt a job that still runs (its grace time)."""
    return runs(fields) and "PreemptTime" in fields


def is_cancelled_by_preemption(fields: Mapping[str, str], restarts: int) -> bool:
    """Return whether Slurm ends a job to preempt it, and leaves it at that (PreemptMode=CANCEL).

    One that Slurm queues again has lost its PreemptTime by then, and counts one restart more.

    Args:
        fields: of the job, as `show_job`.
        restarts: of the job as its nodes know it.
    """
    return (
        fields.get("JobState") in ("COMPLETING", "PREEMPTED")
        and "PreemptTime" in fields
        and fields.get("Restarts", "0") == str(restarts)
    )


def requeue(job: str, patience: float = PATIENCE_SECONDS) -> None:
    """Put a job that runs or ends back into the queue; one that is there already is left alone.

    Args:
        job: as a person types it: `12_3` of an array element. Its plain number could be the
            whole array's.
        patience: seconds to wait for a controller that is away.

    Raises:
        Refused, Silent: as `patiently`.
    """
    try:
        patiently(lambda: ask("scontrol", "requeue", job), patience)
    except Refused as error:
        # An answer that was lost on its way may have been yes.
        if "pending" not in str(error).lower():
            raise


def exclude_hosts(job: str, hosts: list[str], already: str | None) -> None:
    """Keep a queued job away from hosts, besides those that it avoids already.

    Raises:
        Refused, Silent: as `patiently`.
    """
    names = ",".join([*([already] if already else []), *hosts])
    patiently(lambda: ask("scontrol", "update", f"JobId={job}", f"ExcNodeList={names}"), 60.0)


def usable_hosts(partition: str, like: Collection[str], features: bool = False) -> set[str]:
    """Return the hosts of a partition that a job could run on in the place of those it has.

    They are not down, drained or reserved, and have the cores, memory and GPUs of one of its own;
    a job that were told to avoid more would wait for ever.

    Args:
        partition: its name.
        like: the job's hosts.
        features: the job asks for features (`--constraint`): those must be equal too.

    Raises:
        Refused, Silent: as `ask`.
    """
    text = ask("sinfo", "-h", "-N", "-p", partition, "-o", "%N|%t|%c|%m|%G|%f")
    nodes: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in text.splitlines():
        name, state, *has = line.strip().split("|", 5)
        nodes[name] = state, tuple(has if features else has[:3])
    wanted = {nodes[name][1] for name in like if name in nodes}
    return {
        name for name, (state, has) in nodes.items() if has in wanted and not _UNUSABLE.match(state)
    }


_UNUSABLE = re.compile(r"(down|drain|drng|fail|unk|maint|pow|resv|inval)")


def end_of_job(job: str) -> float | None:
    """Return when a job's time limit ends it, in epoch seconds; None without a limit.

    Raises:
        Refused, Silent: as `ask`.
    """
    return parse_moment(ask("squeue", "-h", "-o", "%e", "-j", job, seconds=20.0))


def parse_moment(text: str) -> float | None:
    """Return one of Slurm's times in epoch seconds; None for N/A and the like."""
    try:
        return time.mktime(time.strptime(text.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None
