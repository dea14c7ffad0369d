"""`glueline status`: how a run is doing, or all runs."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError
from training.rundir import RunDir, Snapshot, list_runs, snapshot

if TYPE_CHECKING:
    from launch.sweep_view import SweepView
    from launch.view import View
    from training.sweepdir import SweepDir


@click.command("status", cls=FlagCommand)
@click.argument("name", metavar="[NAME]", required=False)
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, or a list of them.")
@click.option("--watch", is_flag=True, help="Follow NAME to its end; Ctrl-C stops following only.")
@click.option("--trials", is_flag=True, help="In the table of all, the runs of sweeps too.")
def status(name: str | None, runs: str | None, as_json: bool, watch: bool, trials: bool) -> int:
    """Show how a run or a sweep is doing: state, progress, the cause of a failure, its results.

    NAME is a run's id or a sweep's name. Without it: a table of all sweeps and runs, newest first.
    """
    if watch and (name is None or as_json):
        raise UsageError(
            "--watch follows one run or sweep: name it"
            if name is None
            else "--watch prints no JSON"
        )
    from launch.named import need_named
    from launch.resolve import known_runs
    from training.sweepdir import SweepDir

    folder = known_runs(runs, *([name] if name else []))
    if name is not None:
        run = need_named(folder, name)
        if isinstance(run, SweepDir):
            return show_sweep(run, as_json, watch)
        if watch:
            return watch_run(run)
        (seen,) = look([run], history=True)
        seen = with_place(run, seen)
        print(json.dumps(seen.plain(), ensure_ascii=False) if as_json else describe(seen))
        return 0
    views = look(list_runs(folder))
    if as_json:
        print(json.dumps([v.plain() for v in views], ensure_ascii=False))
        return 0
    sweeps = look_at_sweeps(folder, views)
    if views or sweeps:
        hidden = set() if trials else {t.run_id for s in sweeps for t in s.trials}
        show_table(sweeps, [v for v in views if v.run_id not in hidden])
    else:
        print(f"no runs in {folder}")
    return 0


def show_sweep(sweep: SweepDir, as_json: bool, watch: bool) -> int:
    """Show how a sweep is, or follow it; return the exit status."""
    from launch.sweep_view import describe_sweep, look_at_sweep, table_of, watch_sweep

    if watch:
        return watch_sweep(sweep)
    seen = look_at_sweep(sweep)
    if as_json:
        print(json.dumps(seen.plain(), ensure_ascii=False))
        return 0
    print(describe_sweep(seen))
    rows, left_out = table_of(seen)
    if rows:
        print()
        print_rows([["trial", "what varies", "state", "job", "step", "metric", ""], *rows], 2)
    if left_out:
        print(f"and {left_out} more: --json")
    return 0


def look_at_sweeps(runs: Path, views: list[View]) -> list[SweepView]:
    """Return how the sweeps of a runs folder are, whose runs were looked at already."""
    from training.sweepdir import list_sweeps

    found = list_sweeps(runs)
    if not found:
        return []
    from launch.sweep_view import view_sweeps

    return view_sweeps(found, {v.run_id: v for v in views})


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


def with_place(run: RunDir, seen: View) -> View:
    """Return a view with its job's place in the queue or its time left, as Slurm says it now."""
    if seen.state not in ("queued", "running") or not seen.job_id:
        return seen
    if any(entry.get("executor") == "local" for entry in snapshot(run).jobs[-1:]):
        return seen
    from launch.place import place_of, queue_words

    found = place_of(seen.job_id)
    if found is None:
        return seen
    return replace(
        seen,
        left_seconds=found.left_seconds,
        place=found.place,
        expected_start=found.expected_start,
        queue=queue_words(found, time.time()),
    )


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
    if seen.state == "damaged":
        told = "config.yaml or jobs.json is missing or cut off: put it back, or remove the folder"
        rows.append(("damaged", told))
    if seen.queue:
        rows.append(("queue", seen.queue))
    if limit := _limit_words(seen):
        rows.append(("limit", limit))
    for name in ("cause", "log", "results", "model", "planned"):
        if value := getattr(seen, name):
            rows.append((name, value))
    if seen.state in ("failed", "interrupted", "created"):
        _, *where = run_arguments(RunDir(seen.path))
        rows.append(("resume", command_line("submit", "--resume", seen.run_id, *where)))
    return "\n".join(f"{name:<8} {value}" for name, value in rows)


def _limit_words(seen: View) -> str:
    """Return what is to be said of the time limit, empty where nothing is known."""
    from launch.duration import words

    said = []
    if seen.left_seconds is not None:
        said.append(f"{words(seen.left_seconds)} left")
    if seen.lead_seconds is not None:
        said.append(f"stops to save {seen.lead_seconds:.0f} s before the time limit")
    return ", ".join(said)


COLOURS = {"finished": "green", "failed": "red", "damaged": "red", "running": "cyan"}


def show_table(sweeps: list[SweepView], views: list[View]) -> None:
    """Print a table of sweeps and runs, a line each."""
    head = ["run", "state", "job", "step", "metric", ""]
    print_rows([head, *map(_sweep_row, sweeps), *map(_row, views)], 1)


def print_rows(rows: list[list[str]], state: int) -> None:
    """Print aligned rows; the column `state` is coloured. Our own: rich takes seconds for 1,000."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if not plain and row[state] in COLOURS:
            cells[state] = click.style(cells[state], fg=COLOURS[row[state]])
        lines.append("  ".join(cells).rstrip())
    print("\n".join(lines))


def _sweep_row(seen: SweepView) -> list[str]:
    from launch.sweeping import count_text

    best = seen.best()
    metric = f"best {best[1].metric} {best[1].value:.4f}" if best else ""
    done = f"{seen.finished}/{len(seen.trials)} trials"
    return [seen.name, seen.state, ", ".join(seen.jobs), done, metric, count_text(seen.states)]


def _row(seen: View) -> list[str]:
    from launch.view import metric_text, step_text

    last = seen.cause or (seen.reason if seen.state == "queued" else "")
    cells = (step_text(seen), metric_text(seen), last)
    return [seen.run_id, seen.state, seen.job_id or "", *cells]


def main() -> None:
    """Run the command."""
    run_command(status)


if __name__ == "__main__":
    main()
