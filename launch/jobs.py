"""The last job of a run, whoever runs it: Slurm, or a process of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launch.slurm_site import JobInfo, job_states
from training.rundir import RunDir, Snapshot


def last_job(files: Snapshot) -> JobInfo | None:
    """Return what is known of a run's last job.

    Returns:
        None where nobody can be asked: there is no job, or it is a process of another machine.

    Raises:
        SlurmSilent: Slurm does not answer.
    """
    return last_jobs([files]).get(files.run_id)


def last_jobs(runs: Iterable[Snapshot]) -> dict[str, JobInfo]:
    """Return what is known of the last jobs of several runs, by run id; one question to Slurm.

    Finished runs are not asked about.

    Raises:
        SlurmSilent: Slurm does not answer.
    """
    entries = {files.run_id: files.jobs[-1] for files in runs if files.jobs}
    found: dict[str, JobInfo] = {}
    slurm: dict[str, dict[str, Any]] = {}
    for run_id, entry in entries.items():
        if entry.get("executor") == "local":
            info = local_job(run_id, entry)
            if info is not None:
                found[run_id] = info
        else:
            slurm[run_id] = entry
    answers = job_states(
        [e["job_id"] for e in slurm.values()],
        {e["job_id"]: e["time"] for e in slurm.values() if e.get("time")},
    )
    return found | {run_id: answers[e["job_id"]] for run_id, e in slurm.items()}


def local_job(run_id: str, entry: dict[str, Any], proc: Path = Path("/proc")) -> JobInfo | None:
    """Return the state of a local job, or None if it runs on another machine."""
    job = str(entry["job_id"])
    if entry.get("host") not in (None, socket.gethostname()):
        return None
    gone = JobInfo(job, "gone", "GONE")
    try:
        command = (proc / job / "cmdline").read_bytes()
        # "pid (name) state …": a zombie is one that nobody has waited for yet.
        state = (proc / job / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return gone
    # The pid may be somebody else's by now, even another run's controller.
    ours = b"submitit.local._local" in command and f"/{run_id}/".encode() in command
    if state in ("Z", "X") or not ours:
        return gone
    return JobInfo(job, "running", "RUNNING", submitted=entry.get("time"))


def job_output(run: RunDir, files: Snapshot) -> Path | None:
    """Return the last job's own output: what came before, and beside, the ranks."""
    if not files.jobs:
        return None
    path = run.submitit / f"{files.jobs[-1]['job_id']}_0_log.out"
    return path if path.is_file() else None
