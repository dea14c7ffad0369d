"""`glueline clean`: remove what no run needs any more."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError
from training.rundir import CACHE_FOLDER, RunDir, Snapshot, State, list_runs, run_state, snapshot
from training.sweepdir import SweepDir, list_sweeps

if TYPE_CHECKING:
    from launch.garbage import Asked, Item

DAY = 86400.0


@click.command("clean", cls=FlagCommand)
@click.argument("run_names", metavar="[RUN...]", nargs=-1)
@runs_option
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Only runs that nothing was written to for so long.",
)
@click.option("--failed", is_flag=True, help="Only runs that failed or were interrupted.")
@click.option(
    "--checkpoints",
    is_flag=True,
    help="Also the last checkpoints: runs that did not finish would begin anew.",
)
@click.option("--models", is_flag=True, help="Also the weights (model/) of finished runs.")
@click.option(
    "--cache", is_flag=True, help="Also prepared data, fetched files and code that no run names."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; needs --yes to act.")
def clean(
    run_names: tuple[str, ...],
    runs: str | None,
    older_than: float | None,
    failed: bool,
    checkpoints: bool,
    models: bool,
    cache: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove what no run needs: old checkpoints, what killed processes left. Asks first.

    Queued and running runs are not touched, and of a run that can be resumed its newest whole
    checkpoint stays.
    """
    from launch.existing import confirmed, need_run
    from launch.garbage import Asked
    from launch.resolve import known_runs
    from launch.space import size_text

    folder = known_runs(runs, *run_names)
    chosen = [need_run(folder, name) for name in run_names]
    seconds = None if older_than is None else older_than * DAY
    asked = Asked(checkpoints, models, cache, failed, seconds)
    items, left_alone = find(folder, chosen, asked, time.time())
    total = sum(item.bytes for item in items)
    act = bool(items) and not dry_run and (yes or not as_json)
    if not as_json:
        show(items, left_alone, folder)
        if act and not yes:
            act = confirmed(f"remove {len(items)} of them, {size_text(total)}?")
    freed, kept = remove(items) if act else (0, [])
    if as_json:
        value = {
            "items": [item.plain() for item in items],
            "bytes": total,
            "freed": freed,
            "left_alone": left_alone,
            "not_removed": kept,
        }
        print(json.dumps(value, ensure_ascii=False))
    elif act:
        print(f"freed {size_text(freed)}")
    for text in kept:
        print(f"error: {text}", file=sys.stderr)
    return int(bool(kept))


def find(
    folder: Path, chosen: list[RunDir], asked: Asked, now: float
) -> tuple[list[Item], list[str]]:
    """Return what can go, and a line for each run that is left alone though it was named.

    Args:
        folder: the runs folder.
        chosen: the runs that were named; none: all.
        asked: what a person wants to have removed.
        now: epoch seconds.
    """
    from launch.garbage import of_cache, of_folder, of_run

    every = {run.path: run for run in [*list_runs(folder), *chosen]}
    files = {run.path: snapshot(run) for run in every.values()}
    states = states_of(every, files)
    items: list[Item] = []
    left_alone = []
    for run in chosen or list(every.values()):
        state = states[run.path]
        items += of_run(run, state, asked, now)
        if chosen and state in ("queued", "running", "damaged", "created"):
            left_alone.append(f"run {run.run_id} is {state}: nothing of it is touched")
    if not chosen:
        items += of_folder(folder, now)
    if asked.cache:
        own = [run for run in every.values() if run.path.parent == folder]
        by_id = {run.run_id: files[run.path] for run in own}
        busy = any(
            states[run.path] in ("queued", "running") and not run.prepared.is_file() for run in own
        ) or any(map(_may_run, list_sweeps(folder)))
        items += of_cache(folder / CACHE_FOLDER, by_id, own, busy, now)
    return items, left_alone


def _may_run(sweep: SweepDir) -> bool:
    """Return whether a sweep's workers are queued or running, or may be."""
    from launch.jobs import elsewhere
    from launch.sweeping import alive_jobs, read_jobs

    jobs = read_jobs(sweep)
    try:
        return bool(jobs) and (bool(alive_jobs(jobs)) or elsewhere(jobs))
    except UsageError:
        return True


def states_of(runs: dict[Path, RunDir], files: dict[Path, Snapshot]) -> dict[Path, State]:
    """Return the states of runs; one that Slurm cannot be asked about counts as running."""
    from launch.jobs import last_jobs
    from launch.slurm_site import SlurmSilent

    try:
        jobs = last_jobs(files.values())
        silent = False
    except SlurmSilent as error:
        print(f"note: {error}; runs that did not finish are left alone", file=sys.stderr)
        jobs, silent = {}, True
    found: dict[Path, State] = {}
    for path, seen in files.items():
        job = jobs.get(seen.run_id)
        state = run_state(seen, job.state if job else None)
        if job is not None and job.state != "gone" and seen.readable:
            state = "running" if job.state == "running" else "queued"
        elif job is None and seen.jobs and not seen.finished and (silent or state == "queued"):
            state = "running"
        found[path] = state
    return found


def show(items: list[Item], left_alone: list[str], folder: Path) -> None:
    """Print what can go, a line each, and what is left alone."""
    from launch.space import size_text

    for line in left_alone:
        print(line)
    if not items:
        print(f"nothing to remove in {folder}")
        return
    rows = []
    for item in items:
        path = Path(item.path)
        shown = path.relative_to(folder) if path.is_relative_to(folder) else path
        rows.append((size_text(item.bytes), item.kind, str(shown), item.why))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for amount, kind, path, why in rows:
        print(f"{amount:>{widths[0]}}  {kind:<{widths[1]}}  {path:<{widths[2]}}  {why}")
    print(f"{size_text(sum(item.bytes for item in items))} in all")


def remove(items: list[Item]) -> tuple[int, list[str]]:
    """Remove what was found; return the bytes freed, and a line for what could not be removed.

    A folder is renamed first: what is left of one by a kill is a temporary, not half a model.
    """
    from training.checkpoints import remove as remove_checkpoints

    freed, kept = 0, []
    for item in items:
        path = Path(item.path)
        try:
            if item.kind in ("checkpoint", "best weights"):
                remove_checkpoints([path])
            elif path.is_dir() and not path.is_symlink():
                aside = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.discarded.tmp")
                path.rename(aside)
                shutil.rmtree(aside)
            else:
                path.unlink(missing_ok=True)
            if path.exists():
                raise OSError(None, "something of it is left")
        except OSError as error:
            kept.append(f"cannot remove {path}: {error.strerror or error}")
            continue
        freed += item.bytes
    for place in {Path(item.path).parent for item in items}:
        if place.name == "checkpoints":
            try:
                place.rmdir()
            except OSError:
                pass  # one is left in it
    return freed, kept


def main() -> None:
    """Run the command."""
    run_command(clean)


if __name__ == "__main__":
    main()
