"""`glueline cancel`: stop a queued or running run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from training.config import UsageError
from training.rundir import RunDir, snapshot, write_json


@click.command("cancel", cls=FlagCommand)
@click.argument("run_name", metavar="RUN")
@click.option("--runs", metavar="DIR", help="Runs folder.  [default: $GLUELINE_RUNS or runs]")
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel(run_name: str, runs: str | None, yes: bool) -> int:
    """Stop a queued or running run. It can be run again: submit --resume."""
    from launch.existing import confirmed, current_state, need_run
    from launch.jobs import open_jobs
    from launch.resolve import runs_folder

    run = need_run(runs_folder(runs), run_name)
    state = current_state(run)
    jobs = open_jobs(snapshot(run))
    # A run that nobody runs may still have jobs in the queue: those that were to follow.
    if state not in ("queued", "running") and not (jobs and jobs[-1]["executor"] == "slurm"):
        print(f"run {run.run_id} is not running: it is {state}")
        return 0
    if not yes and not confirmed(f"stop run {run.run_id} ({state})?"):
        return 0
    # Before the signal: whoever sees the job end must already see that it was asked to.
    write_json(run.request, {"stop": True})
    stop(run, jobs)
    names = ", ".join(str(job["job_id"]) for job in jobs)
    told = f"job {names} was" if len(jobs) == 1 else f"jobs {names} were"
    print(f"run {run.run_id}: {told} told to stop" if jobs else f"run {run.run_id} has ended")
    return 0


def stop(run: RunDir, jobs: list[dict[str, Any]]) -> None:
    """End jobs of a run, by Slurm or by signal.

    Raises:
        UsageError: Slurm refuses, or a process is another machine's or another person's.
    """
    # The last one first: those that wait for the end of another must not start by it.
    slurm = [str(job["job_id"]) for job in reversed(jobs) if job["executor"] == "slurm"]
    if slurm:
        import subprocess

        try:
            answer = subprocess.run(
                ["scancel", *slurm], capture_output=True, text=True, check=False
            )
        except OSError:
            raise UsageError("scancel is not on this machine") from None
        if answer.returncode:
            said = " ".join(answer.stderr.split())
            raise UsageError(f"Slurm refuses to cancel job {', '.join(slurm)}: {said}")
    for job in jobs:
        if job["executor"] != "slurm":
            _stop_local(run, job["job_id"], job.get("host"))


def _stop_local(run: RunDir, job: str, host: str | None) -> None:
    import os
    import signal
    import socket

    if host not in (None, socket.gethostname()):
        raise UsageError(f"run {run.run_id} runs on {host}: cancel it there")
    try:
        os.kill(int(job), signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise UsageError(f"run {run.run_id} belongs to somebody else") from None


def main() -> None:
    """Run the command."""
    run_command(cancel)


if __name__ == "__main__":
    main()
