"""What `status` and `--wait` say of a run: one pure view of its files and its job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launch.jobs import job_output
from launch.slurm_site import JobInfo
from training.rundir import (
    RunDir,
    Snapshot,
    State,
    first_cause,
    last_attempt,
    read_json,
    run_state,
    snapshot,
)


@dataclass(frozen=True)
class View:
    """A run at one moment."""

    run_id: str
    path: str
    state: State
    job_id: str | None = None
    job: str | None = None
    """The scheduler's word: PENDING, RUNNING, NODE_FAIL, …"""
    reason: str = ""
    """Why it is queued, or why the scheduler ended it."""
    attempt: int | None = None
    phase: str | None = None
    """Of a running job: training, evaluating, …"""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    metric: str | None = None
    value: float | None = None
    """The primary metric, the best so far."""
    examples_per_second: float | None = None
    cause: str | None = None
    """First cause of a failure, in one line."""
    log: str | None = None
    """The log to read, an absolute path."""
    results: str | None = None
    model: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def view(run: RunDir, job: JobInfo | None, files: Snapshot | None = None) -> View:
    """Return what is known of a run.

    Args:
        run: the run.
        job: what the scheduler says of its last job; None where it was not asked.
        files: the run's files, if they were read already.
    """
    files = files or snapshot(run)
    state = run_state(files, job.state if job else None)
    progress = files.progress
    seen = View(
        run_id=run.run_id,
        path=str(run.path),
        state=state,
        job_id=str(files.jobs[-1]["job_id"]) if files.jobs else None,
        job=job.slurm if job else None,
        reason=job.reason if job else "",
        attempt=max(files.nodes, default=None),
        phase=progress.get("phase") if state == "running" else None,
        step=progress.get("step"),
        total_steps=progress.get("total_steps"),
        loss=progress.get("loss"),
        metric=progress.get("primary_metric"),
        value=progress.get("primary_value"),
        examples_per_second=progress.get("examples_per_second"),
    )
    if state == "finished":
        results = read_json(run.results) or {}
        return replace(
            seen,
            step=results.get("steps", seen.step),
            metric=results.get("primary_metric", seen.metric),
            value=results.get("primary_value", seen.value),
            results=str(run.results),
            model=str(run.model) if run.model.is_dir() else None,
        )
    if state == "failed":
        cause, log = explain(run, files, job)
        return replace(seen, cause=cause, log=str(log) if log else None)
    return seen


def explain(run: RunDir, files: Snapshot, job: JobInfo | None) -> tuple[str, Path | None]:
    """Return the first cause of a failure in one line, and the log to read."""
    says = f"Slurm says {job.slurm}" if job and job.slurm not in ("GONE", "UNKNOWN") else ""
    if says and job and job.reason and job.reason != job.slurm:
        says += f", {job.reason}"
    output = job_output(run, files)
    if not last_attempt(files):
        said = f" ({says})" if says else ""
        text = f"ended before the node agent wrote anything{said}"
        if output is None:
            text += f": can the nodes see {run.path.parent}?"
        return text, output
    cause = first_cause(files)
    if cause is None:
        return says or "the job was ended from outside: it left no cause", output
    message = " ".join(str(cause.get("message") or "").split())
    kind = cause.get("kind")
    rank = cause.get("rank")
    where = f"rank {rank} on {cause.get('host')}" if rank is not None else f"{cause.get('host')}"
    if kind in ("Exit", "SIGKILL") or str(kind).startswith("SIG"):
        text = f"{message} on {cause.get('host')}" if rank is not None else message
    else:
        text = f"{where}: {kind}: {message}"
    # Slurm knows what no process saw: a node that died, memory that ran out.
    if says and job and job.slurm in ("NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "BOOT_FAIL"):
        text += f" ({says})"
    log = cause.get("log")
    return text, (run.path / log if log else output)


def headline(seen: View) -> str:
    """Return a view in one line: state, progress, numbers."""
    parts = [seen.phase or seen.state]
    if seen.state == "queued" and seen.reason:
        parts[0] += f" ({seen.reason})"
    if seen.step is not None and seen.state != "queued":
        total = f"/{seen.total_steps}" if seen.total_steps else ""
        parts.append(f"step {seen.step}{total}")
    if seen.state == "running":
        if seen.loss is not None:
            parts.append(f"loss {seen.loss:.4f}")
        if seen.examples_per_second:
            parts.append(f"{seen.examples_per_second:.0f} examples/s")
    if seen.metric and seen.value is not None:
        parts.append(f"{seen.metric} {seen.value:.4f}")
    if seen.attempt:
        parts.append(f"attempt {seen.attempt}")
    return "  ".join(parts)
