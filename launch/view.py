"""What `status` and `--wait` say of a run: one pure view of its files and its job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launch.jobs import job_output
from launch.slurm_site import JobInfo
from training.checkpoints import newest_sound
from training.rundir import (
    RunDir,
    Snapshot,
    State,
    earliest_cause,
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
    checkpoint: int | None = None
    """Step of the last complete checkpoint: what a crash now would go back to."""
    damaged: tuple[str, ...] = ()
    """What is wrong with newer checkpoints, by the sizes of their files, a line each."""
    lead_seconds: float | None = None
    """Of a running job: how long before its time limit it stops to save."""
    left_seconds: float | None = None
    """Of a running job: until its time limit; only where it was asked for."""
    place: int | None = None
    """Of a queued job: its place in the partition's queue, 1 is next; only where it was asked."""
    expected_start: float | None = None
    """Of a queued job: epoch seconds, where Slurm has a plan for it."""
    queue: str | None = None
    """Both in words."""
    planned: str | None = None
    """Of a finished run: memory and time as seen, against its plan."""
    earlier: tuple[str, ...] = ()
    """How the earlier attempts ended, a line each; only where it was asked for."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def view(
    run: RunDir, job: JobInfo | None, files: Snapshot | None = None, history: bool = False
) -> View:
    """Return what is known of a run.

    Args:
        run: the run.
        job: what the scheduler says of its last job; None where it was not asked.
        files: the run's files, if they were read already.
        history: tell of the earlier attempts too.
    """
    files = files or snapshot(run)
    state = run_state(files, job.state if job else None)
    progress = files.progress
    # What was just written stands in progress.json; asking it every second costs a busy disk.
    saved, damaged = progress.get("checkpoint"), []
    newest = max(files.nodes, default=None)
    late = progress.get("attempt", newest) != newest
    if state not in ("running", "finished") or late:
        saved, damaged = newest_sound(run)
    seen = View(
        run_id=run.run_id,
        path=str(run.path),
        state=state,
        job_id=job.id if job else str(files.jobs[-1]["job_id"]) if files.jobs else None,
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
        checkpoint=saved,
        damaged=tuple(damaged),
        lead_seconds=_lead(progress) if state == "running" else None,
        earlier=tuple(earlier_attempts(run, files)) if history else (),
    )
    if state == "running" and progress.get("attempt", seen.attempt) != seen.attempt:
        # What an earlier attempt wrote last is not what this one does: it begins where it saved.
        seen = replace(seen, phase="starting", step=saved, loss=None, examples_per_second=None)
    if state == "finished":
        results = read_json(run.results) or {}
        return replace(
            seen,
            step=results.get("steps", seen.step),
            metric=results.get("primary_metric", seen.metric),
            value=results.get("primary_value", seen.value),
            checkpoint=None,
            results=str(run.results),
            planned=_against_plan(run) if history else None,
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
    output = job_output(run, files, job)
    if not last_attempt(files):
        said = f" ({says})" if says else ""
        text = f"ended before the node agent wrote anything{said}"
        if output is None:
            text += f": can the nodes see {run.path.parent}?"
        return text, output
    cause = first_cause(files)
    if cause is None:
        return says or "the job was ended from outside: it left no cause", output
    text = cause_text(cause)
    # Slurm knows what no process saw: a node that died, memory that ran out.
    if says and job and job.slurm in ("NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "BOOT_FAIL"):
        text += f" ({says})"
    log = cause.get("log")
    return text, (run.path / log if log else output)


def cause_text(cause: dict[str, Any]) -> str:
    """Return a cause of `node-<k>.json`, with its host, in one line."""
    message = " ".join(str(cause.get("message") or "").split())
    kind, rank, host = str(cause.get("kind")), cause.get("rank"), cause.get("host")
    if kind in ("Exit", "SIGKILL") or kind.startswith("SIG"):
        return f"{message} on {host}" if rank is not None else message
    return f"{f'rank {rank} on ' if rank is not None else ''}{host}: {kind}: {message}"


def earlier_attempts(run: RunDir, files: Snapshot) -> list[str]:
    """Return how each attempt before the last one ended, a line each, oldest first."""
    numbers = sorted(files.nodes)[:-1]
    return [f"attempt {n} {attempt_end(run, files, n)}" for n in numbers]


def attempt_end(run: RunDir, files: Snapshot, number: int) -> str:
    """Return how an attempt ended and what followed from it, in one line."""
    nodes = files.nodes.get(number, [])
    ends = {str(node.get("end")) for node in nodes}
    verdict = read_json(run.verdict(number))
    if not nodes:
        text = "ended before the node agent wrote anything"
    elif "failed" in ends:
        cause = earliest_cause(nodes, number)
        text = f"failed: {cause_text(cause)}" if cause else "failed: it left no cause"
    elif "interrupted" in ends:
        signals = sorted({str(node["signal"]) for node in nodes if node.get("signal")})
        text = "was interrupted" + (f" ({', '.join(signals)})" if signals else "")
    elif "finished" in ends:
        text = "finished"
    else:
        hosts = ", ".join(sorted({str(node.get("host")) for node in nodes}))
        text = f"ended without a word on {hosts}"
    if isinstance(verdict, dict):
        text += f"; {verdict_text(verdict, said=text)}"
    return text


def verdict_text(verdict: dict[str, Any], said: str = "") -> str:
    """Return a `verdict.json` in words; what was `said` already is not said again."""
    words = {"restart": "started again", "requeue": "queued again", "stop": "not tried again"}
    text = words.get(str(verdict.get("action")), str(verdict.get("action")))
    why = " ".join(str(verdict.get("why") or "").split())
    cause, _, rest = why.rpartition(": ")
    if cause and cause in said:
        why = rest
    if why:
        text += f": {why}"
    if (step := verdict.get("checkpoint")) is not None:
        text += f", last checkpoint at step {step}"
    if tokens := verdict.get("micro_tokens"):
        text += f", micro-batches of {tokens} tokens"
    if hosts := verdict.get("exclude"):
        text += f", without {', '.join(map(str, hosts))}"
    return text


def _against_plan(run: RunDir) -> str | None:
    """Return in words what a finished run took against its plan; None if that said nothing."""
    from launch.duration import words
    from launch.ledger import entry, seen_against_planned
    from launch.memory import gib

    line = entry(run)
    if line is None:
        return None
    off, said = seen_against_planned(line), []
    if "memory" in off:
        said.append(
            f"memory {gib(line['peak_memory_bytes'])} a rank, planned "
            f"{gib(line['planned_memory_bytes'])} ({off['memory']:+.0%})"
        )
    if "time" in off:
        said.append(
            f"time {words(line['wall_seconds'])}, planned {words(line['planned_seconds'])} "
            f"({off['time']:+.0%})"
        )
    return "; ".join(said) or None


def _lead(progress: dict[str, Any]) -> float | None:
    if progress.get("step_seconds") is None and progress.get("save_seconds") is None:
        return None
    from slurm.lead import lead_seconds

    return lead_seconds(progress.get("step_seconds"), progress.get("save_seconds"))


def step_text(seen: View) -> str:
    """Return the step for a table: `30`, of a run that has not finished `12/30`."""
    if seen.step is None:
        return ""
    going = seen.total_steps and seen.state != "finished"
    return f"{seen.step}/{seen.total_steps}" if going else str(seen.step)


def metric_text(seen: View) -> str:
    """Return the primary metric for a table, empty where there is none."""
    return f"{seen.metric} {seen.value:.4f}" if seen.value is not None else ""


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
