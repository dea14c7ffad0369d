"""`glueline status`: how a run is doing, or all runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from training.config import UsageError
from training.rundir import RunDir, Snapshot, list_runs, snapshot

if TYPE_CHECKING:
    from launch.view import View


@click.command("status", cls=FlagCommand)
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--runs", metavar="DIR", help="Runs folder.  [default: $GLUELINE_RUNS or runs]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, or a list of them.")
@click.option("--watch", is_flag=True, help="Follow RUN to its end; Ctrl-C stops following only.")
def status(run_name: str | None, runs: str | None, as_json: bool, watch: bool) -> int:
    """Show how a run is doing: state, progress, the first cause of a failure, where results are.

    Without RUN: a table of all runs, newest first.
    """
    if watch and (run_name is None or as_json):
        raise UsageError(
            "--watch follows one run: name it" if run_name is None else "--watch prints no JSON"
        )
    from launch.existing import need_run
    from launch.resolve import runs_folder

    folder = runs_folder(runs)
    if run_name is not None:
        run = need_run(folder, run_name)
        if watch:
            return watch_run(run)
        (seen,) = look([run], history=True)
        print(json.dumps(seen.plain(), ensure_ascii=False) if as_json else describe(seen))
        return 0
    views = look(list_runs(folder))
    if as_json:
        print(json.dumps([v.plain() for v in views], ensure_ascii=False))
    elif views:
        show_table(views)
    else:
        print(f"no runs in {folder}")
    return 0


def watch_run(run: RunDir) -> int:
    """Follow a run to its end; of one that nobody runs, say how it is. Return the exit status."""
    from launch.follow import follow

    (seen,) = look([run], history=True)
    if seen.state in ("queued", "running"):
        return follow(run)
    print(describe(seen))
    return 0 if seen.state == "finished" else 1


def job_state(files: Snapshot) -> Literal["queued", "running", "gone"] | None:
    """Return what the scheduler says of a run's last job; None where it cannot be asked.

    Raises:
        SlurmSilent: Slurm does not answer: whether the job runs is not known.
    """
    from launch.jobs import last_job

    info = last_job(files)
    return info.state if info else None


def look(runs: list[RunDir], history: bool = False) -> list[View]:
    """Return how runs are, with their earlier attempts if `history` is wanted.

    Where Slurm does not answer, their files alone decide.
    """
    from launch.jobs import last_jobs
    from launch.slurm_site import SlurmSilent
    from launch.view import view

    files = {run.run_id: snapshot(run, brief=not history) for run in runs}
    open_runs = [f for f in files.values() if not f.finished]
    try:
        jobs = last_jobs(open_runs)
    except SlurmSilent as error:
        print(f"note: {error}; shown is what the files say", file=sys.stderr)
        jobs = {}
    return [view(run, jobs.get(run.run_id), files[run.run_id], history) for run in runs]


def describe(seen: View) -> str:
    """Return a run in a few lines."""
    from launch.existing import command_line, run_arguments
    from launch.view import headline

    rows = [("run", seen.run_id), ("state", headline(seen))]
    if seen.job_id:
        said = f" ({seen.job}{', ' + seen.reason if seen.reason else ''})" if seen.job else ""
        rows.append(("job", seen.job_id + said))
    rows.append(("folder", seen.path))
    rows += [("earlier", line) for line in seen.earlier]
    if seen.checkpoint is not None:
        rows.append(("saved", f"step {seen.checkpoint}"))
    rows += [("damaged", f"checkpoint {line}") for line in seen.damaged]
    if seen.lead_seconds is not None:
        rows.append(("limit", f"stops to save {seen.lead_seconds:.0f} s before the time limit"))
    for name in ("cause", "log", "results", "model", "planned"):
        if value := getattr(seen, name):
            rows.append((name, value))
    if seen.state in ("failed", "interrupted", "created"):
        _, *where = run_arguments(RunDir(seen.path))
        rows.append(("resume", command_line("submit", "--resume", seen.run_id, *where)))
    return "\n".join(f"{name:<8} {value}" for name, value in rows)


COLOURS = {"finished": "green", "failed": "red", "damaged": "red", "running": "cyan"}


def show_table(views: list[View]) -> None:
    """Print a table of runs, a line each. Our own: rich takes seconds for a thousand."""
    rows = [["run", "state", "job", "step", "metric", ""], *map(_row, views)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if not plain and row[1] in COLOURS:
            cells[1] = click.style(cells[1], fg=COLOURS[row[1]])
        lines.append("  ".join(cells).rstrip())
    print("\n".join(lines))


def _row(seen: View) -> list[str]:
    step = "" if seen.step is None else str(seen.step)
    if step and seen.total_steps and seen.state != "finished":
        step += f"/{seen.total_steps}"
    metric = f"{seen.metric} {seen.value:.4f}" if seen.value is not None else ""
    last = seen.cause or (seen.reason if seen.state == "queued" else "")
    return [seen.run_id, seen.state, seen.job_id or "", step, metric, last]


def main() -> None:
    """Run the command."""
    run_command(status)


if __name__ == "__main__":
    main()
