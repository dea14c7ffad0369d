"""`glueline cancel`: stop a queued or running run."""

from __future__ import annotations

import sys
from pathlib import Path

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
    from launch.existing import current_state, need_run
    from launch.resolve import runs_folder

    run = need_run(runs_folder(runs), run_name)
    state = current_state(run)
    if state not in ("queued", "running"):
        print(f"run {run.run_id} is not running: it is {state}")
        return 0
    if not yes and not click.confirm(f"stop run {run.run_id} ({state})?", err=True):
        return 0
    job = snapshot(run).jobs[-1]
    # Before the signal: whoever sees the job end must already see that it was asked to.
    write_json(run.request, {"stop": True})
    stop(run, job["job_id"], job["executor"], job.get("host"))
    print(f"run {run.run_id}: job {job['job_id']} was told to stop")
    return 0


def stop(run: RunDir, job: str, executor: str, host: str | None) -> None:
    """End a job of a run, by Slurm or by signal.

    Raises:
        UsageError: Slurm refuses, or the process is another machine's.
    """
    if executor == "slurm":
        import subprocess

        try:
            answer = subprocess.run(["scancel", job], capture_output=True, text=True, check=False)
        except OSError:
            raise UsageError("scancel is not on this machine") from None
        if answer.returncode:
            raise UsageError(f"Slurm refuses to cancel job {job}: {answer.stderr.strip()}")
        return
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
