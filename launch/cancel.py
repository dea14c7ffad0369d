"""`glueline cancel`: stop a queued or running run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError
from training.rundir import RunDir, snapshot, write_json

if TYPE_CHECKING:
    from training.sweepdir import SweepDir


@click.command("cancel", cls=FlagCommand)
@click.argument("name", metavar="NAME")
@runs_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel(name: str, runs: str | None, yes: bool) -> int:
    """Stop a queued or running run, or a sweep with all its trials.

    A run goes on with submit --resume, a sweep with its own line typed again.
    """
    from launch.named import need_named
    from launch.resolve import known_runs

    found = need_named(known_runs(runs, name), name)
    return cancel_run(found, yes) if isinstance(found, RunDir) else cancel_sweep(found, yes)


def cancel_run(run: RunDir, yes: bool) -> int:
    """Stop a run; a trial of a sweep alone, and its worker goes on with the others."""
    from launch.existing import confirmed, current_state
    from launch.jobs import open_jobs

    state = current_state(run)
    jobs = open_jobs(snapshot(run))
    # A run that nobody runs may still have jobs in the queue: those that were to follow.
    if state not in ("queued", "running") and not (jobs and jobs[-1]["executor"] == "slurm"):
        print(f"run {run.run_id} is not running: it is {state}")
        return 0
    if not yes and not confirmed(f"stop run {run.run_id} ({state})?"):
        return 0
    # Before the signal: whoever sees the job end must already see that it was asked to.
    _ask_to_end(run.request)
    if jobs and (sweep := jobs[-1].get("sweep")):
        print(
            f"run {run.run_id} stops at its next step; job {jobs[-1]['job_id']} goes on with "
            f"other trials of sweep {sweep}"
        )
        return 0
    stop(run.run_id, jobs)
    names = ", ".join(str(job["job_id"]) for job in jobs)
    told = f"job {names} was" if len(jobs) == 1 else f"jobs {names} were"
    print(f"run {run.run_id}: {told} told to stop" if jobs else f"run {run.run_id} has ended")
    return 0


def _ask_to_end(request: Path) -> bool:
    """Write down that a person wants the end; where that cannot be written, say so and go on.

    A full quota is no reason not to stop what fills it.
    """
    try:
        write_json(request, {"stop": True})
    except OSError as error:
        print(f"note: cannot write {request}: {error.strerror}; the job is ended all the same")
        return False
    return True


def cancel_sweep(sweep: SweepDir, yes: bool) -> int:
    """Stop a sweep: its workers take no more trials, its jobs end."""
    from launch.existing import confirmed
    from launch.sweeping import alive_jobs, ask_to_stop, count_text, read_jobs, states
    from training.sweepdir import read_trials

    trials = read_trials(sweep)
    found = states(sweep, trials)
    told = f"{len(trials)} trials: {count_text(found)}"
    submitted = read_jobs(sweep)
    arrays = {job.partition("_")[0] for job in alive_jobs(submitted)} if submitted else set()
    jobs = [entry for entry in submitted if str(entry["job_id"]) in arrays]
    if not jobs:
        print(f"sweep {sweep.name} is not running: {told}")
        return 0
    if not yes and not confirmed(f"stop sweep {sweep.name} ({told})?"):
        return 0
    if _ask_to_end(sweep.request):
        ask_to_stop(sweep, (t for t in trials if found[t.number] == "running"))
    stop(sweep.name, jobs)
    names = ", ".join(str(job["job_id"]) for job in jobs)
    print(f"sweep {sweep.name}: job {names} was told to stop; its line typed again goes on")
    return 0


def stop(name: str, jobs: list[dict[str, Any]]) -> None:
    """End jobs of a run or a sweep, by Slurm or by signal.

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
            _stop_local(name, job["job_id"], job.get("host"))


def _stop_local(name: str, job: str, host: str | None) -> None:
    import os
    import signal
    import socket

    if host not in (None, socket.gethostname()):
        raise UsageError(f"{name} runs on {host}: cancel it there")
    try:
        os.kill(int(job), signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise UsageError(f"{name} belongs to somebody else") from None


def main() -> None:
    """Run the command."""
    run_command(cancel)


if __name__ == "__main__":
    main()
