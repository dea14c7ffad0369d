"""From the files of a run to what follows its last attempt: the policy's way in and out."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm.policy import LOST, Means, Verdict, blamed_hosts, decide
from training.checkpoints import last_step
from training.config import RunConfig
from training.rundir import RunDir, earliest_cause, node_records, read_json, write_json

REQUEUE = "GLUELINE_REQUEUE"
"""Variable of the batch script: yes or no, what launch made of `cluster.requeue=auto`."""


def may_requeue(config: RunConfig, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a job may be put back into the queue, or has others that wait behind it."""
    return (environ.get(REQUEUE) or config.cluster.requeue) != "no"


def asked_to_end(run: RunDir) -> bool:
    """Return whether a person asked for the end of the run."""
    request = read_json(run.request)
    return isinstance(request, dict) and bool(
        request.get("stop") or request.get("requeue") is False
    )


def base_attempt(run: RunDir, job_id: str, first_attempt: int) -> int:
    """Return the number of a job's first attempt: after all that earlier jobs of the run made.

    Args:
        run: the run.
        job_id: the job, as the agents write it.
        first_attempt: the number that the job was submitted with.
    """
    others = [n for n in run.attempt_numbers() if _made_by_another(run, n, job_id)]
    return max([first_attempt, *(n + 1 for n in others)])


def attempt_number(run: RunDir, job_id: str, first_attempt: int, restarts: int) -> int:
    """Return the number of the attempt that a job starts now.

    Args:
        run: the run.
        job_id: the job, as the agents write it.
        first_attempt: the number that the job was submitted with.
        restarts: how often the job was queued again.
    """
    base = base_attempt(run, job_id, first_attempt)
    here = sum(
        (read_json(run.verdict(n)) or {}).get("action") == "restart"
        for n in run.attempt_numbers()
        if n >= base
    )
    return base + restarts + here


def refused_to_go_on(run: RunDir, job_id: str, first_attempt: int) -> str | None:
    """Return why a job of a chain must not start: the one before it failed for good."""
    base = base_attempt(run, job_id, first_attempt)
    if base == first_attempt:
        return None
    verdict = read_json(run.verdict(base - 1)) or {}
    return str(verdict.get("why")) if verdict.get("action") == "stop" else None


def resume_line(run: RunDir) -> str:
    """Return what a person types to have a run go on."""
    words = ["glueline", "submit", "--resume", run.run_id, "--runs", str(run.path.parent)]
    return shlex.join(words)


def means_of(run: RunDir, config: RunConfig, **can: bool) -> Means:
    """Return what the policy must know of a run; `can` are the switches of `Means`."""
    tokens = config.batch.micro_tokens
    return Means(
        max_retries=config.cluster.max_retries,
        micro_tokens=tokens if isinstance(tokens, int) else None,
        resume=resume_line(run),
        **can,
    )


def cause_of(
    attempt: int, nodes: Sequence[Mapping[str, Any]], hosts: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the first cause of an attempt's failure; that of an agent's silence where none told.

    Args:
        attempt: its number.
        nodes: its `node-<k>.json`.
        hosts: all hosts of the job, in the order of their numbers.
    """
    cause = earliest_cause(nodes, attempt)
    if cause is not None and not cause.get("secondary"):
        return cause
    told = {n.get("node"): n for n in nodes}
    names = {k: str(n.get("host")) for k, n in told.items()} | dict(enumerate(hosts))
    silent = [names[k] for k in sorted(names, key=str) if not told.get(k, {}).get("end")]
    if not silent and cause is None:  # told to stop, and then gone
        silent = [str(n.get("host")) for n in nodes if not n.get("ended")]
    if not silent:
        return cause or {"kind": LOST, "message": "nobody said why", "blame": None}
    message = f"the agent on {', '.join(silent)} ended without a word"
    return {"kind": LOST, "message": message, "secondary": False, "hosts": silent}


def judge(
    run: RunDir,
    attempt: int,
    nodes: Sequence[Mapping[str, Any]],
    means: Means,
    *,
    procs: int,
    hosts: Sequence[str] = (),
    needed: int = 1,
    usable: set[str] | None = None,
) -> Verdict:
    """Return what follows a failed attempt, from the files of the run.

    Args:
        run: the run.
        attempt: number of the attempt.
        nodes: its `node-<k>.json`.
        means: what can be done here.
        procs: ranks of a node.
        hosts: all hosts of the job, in the order of their numbers.
        needed: nodes that the job needs at least.
        usable: hosts that the job could run on, where known: none is excluded if the rest
            would be too few.
    """
    cause = cause_of(attempt, nodes, hosts)
    blamed = cause.get("hosts") or blamed_hosts(cause, nodes, procs)
    if usable is not None and len(usable - set(blamed)) < needed:
        means = replace(means, can_exclude=False)
    numbers = [n for n in run.attempt_numbers() if n < attempt]
    history = [v for n in numbers if isinstance(v := read_json(run.verdict(n)), dict)]
    return decide(cause, history, means, checkpoint=last_step(run), blamed=blamed)


def write_verdict(run: RunDir, attempt: int, verdict: Verdict) -> Path:
    """Write what follows an attempt and return the file.

    Raises:
        OSError: it cannot be written.
    """
    path = run.verdict(attempt)
    write_json(path, verdict.plain(time.time()))
    return path


def _made_by_another(run: RunDir, attempt: int, job_id: str) -> bool:
    return any(n.get("job_id") not in (None, job_id) for n in node_records(run, attempt))
