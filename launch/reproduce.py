"""`glueline reproduce`: train a published recipe on several seeds, and judge the published score.

It is a sweep over tasks and seeds whose plan of judgement is written down first. The same line
again goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand, FlagOption, Request, request_options, trial_options
from launch.main import run_command
from launch.reproducing.asked import HIGHEST
from training.config import UsageError
from training.rundir import write_atomic

if TYPE_CHECKING:
    from launch.reproducing.asked import Asked
    from launch.reproducing.collect import Reproduction
    from launch.reproducing.prepare import Prepared
    from launch.reproducing.wanted import Wanted
    from training.sweepdir import SweepDir

ENDINGS = (".yaml", ".yml")

nodes_option = click.option(
    "--all-nodes",
    cls=FlagOption,
    is_flag=True,
    help="No fewer nodes for tasks of small batches.",
)


@click.command("reproduce", cls=FlagCommand)
@request_options()
@click.option(
    "--reference",
    cls=FlagOption,
    metavar="SET[/TASK]|FILE",
    help="Published numbers: glueline references lists them.  [default: the one of --model]",
)
@click.option("--suite", cls=FlagOption, metavar="NAME", help="glue: its nine tasks.")
@click.option("--tasks", cls=FlagOption, metavar="A,B", help="Some tasks.  [default: all]")
@click.option(
    "--seeds", cls=FlagOption, type=int, default=5, show_default=True, metavar="N", help="A task."
)
@click.option(
    "--margin",
    cls=FlagOption,
    type=float,
    metavar="POINTS",
    help="Differences below it count as none.  [default: 1, or a standard error of the dev rows]",
)
@click.option(
    "--level",
    cls=FlagOption,
    type=click.FloatRange(0.001, HIGHEST),
    default=0.05,
    show_default=True,
    metavar="P",
    help="How often a verdict may be wrong.",
)
@click.option("--all-seeds", cls=FlagOption, is_flag=True, help="No verdict before the last seed.")
@click.option("--name", cls=FlagOption, metavar="NAME", help="Its name.  [default: the set's]")
@trial_options("runs", packed=True)
@nodes_option
@click.option(
    "--no-wait", cls=FlagOption, is_flag=True, help="Submit, and say which line collects later."
)
@click.option(
    "--collect", cls=FlagOption, metavar="NAME", help="Submit nothing: judge what is there."
)
@click.option("--json", "as_json", cls=FlagOption, is_flag=True, help="Print the receipt.")
def reproduce(
    request: Request,
    reference: str | None,
    suite: str | None,
    tasks: str | None,
    seeds: int,
    margin: float | None,
    level: float,
    all_seeds: bool,
    collect: str | None,
    **how: Any,
) -> int:
    """Train a published recipe on several seeds, and judge the published score.

    Each task ends with reproduced, not reproduced or undecided, with the interval that says so
    (docs/reproduction.md), and all of it with a receipt that `glueline replay` repeats.
    """
    from launch.reproducing.prepare import prepare
    from launch.reproducing.wanted import (
        Wanted,
        check_margin,
        check_seeds,
        choose_set,
        choose_tasks,
        typed_name,
    )

    if collect is not None:
        return collect_again(request.runs, collect, how["as_json"])
    if reference is not None and "/" in reference and not reference.endswith(ENDINGS):
        if any(given is not None for given in (suite, tasks, request.task)):
            raise UsageError(f"--reference {reference} names the task: leave out the others")
        reference, _, tasks = reference.rpartition("/")
    found = choose_set(reference, request, suite, tasks)
    wanted = Wanted(
        reference=found,
        tasks=choose_tasks(found, suite, tasks, request.task),
        seeds=check_seeds(seeds, typed_name(found)),
        margin=check_margin(margin),
        level=level,
        early=not (all_seeds or how["no_wait"]),
    )
    return train_and_judge(prepare(replace(request, task=None), wanted, how), wanted, how)


def train_and_judge(made: Prepared, wanted: Wanted, how: dict[str, Any]) -> int:
    """Submit what is missing, follow it, and write the receipt; return the exit status.

    Raises:
        UsageError: Slurm refuses it, or something cannot be fetched or written.
    """
    from launch.reproducing.prepare import recipe_notes
    from launch.sweep import submit_sweep

    place, asked = made.place, made.asked
    quiet = contextlib.redirect_stdout(sys.stderr) if how["as_json"] else contextlib.nullcontext()
    for line in (*recipe_notes(wanted, asked), *made.notes):
        print(f"note: {line}", file=sys.stderr)
    sweep = (made.request, made.spec, made.found, place, made.packing)
    sweep_how = {**how, "as_json": False}
    with quiet:
        if how["dry_run"]:
            return submit_sweep(*sweep, sweep_how)
        with written_down(place, wanted, asked):
            submit_sweep(*sweep, sweep_how)
        if how["no_wait"]:
            print(f"  collect {collect_line(place)}")
            return 0
        left = not follow_to_the_end(place, asked)
    if left:
        print(f"it goes on; to judge it: {collect_line(place)}", file=sys.stderr)
        return 130
    return finish(place, how["as_json"])


@contextlib.contextmanager
def written_down(place: SweepDir, wanted: Wanted, asked: Asked) -> Iterator[None]:
    """Write down what is to be judged before its runs are submitted.

    Where nothing is submitted after all, what was there before stays.

    Raises:
        UsageError: it cannot be written.
    """
    from launch.reproducing.asked import file_of, own_tasks, write_asked
    from launch.sweeping import read_jobs

    path = file_of(place)
    before = path.read_bytes() if path.exists() else None
    jobs = read_jobs(place)
    write_asked(place, asked)
    for reference in wanted.reference.references.values():
        if "/" in reference.task and Path(reference.task).is_file():
            own_tasks(place.path).mkdir(exist_ok=True)
            shutil.copyfile(reference.task, own_tasks(place.path) / f"{reference.short}.yaml")
    try:
        yield
    except BaseException:
        if read_jobs(place) != jobs:
            raise  # some of it runs: what it is judged by must stay
        if before is not None:
            write_atomic(path, before)
            raise
        shutil.rmtree(own_tasks(place.path), ignore_errors=True)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            place.path.rmdir()
        raise


def follow_to_the_end(place: SweepDir, asked: Asked) -> bool:
    """Follow a reproduction, deciding tasks at the planned looks; False if a person left."""
    from launch.reproducing.follow import follow

    return follow(place, asked, *deciding(place, asked))


def deciding(place: SweepDir, asked: Asked) -> tuple[Any, Any, Any]:
    """Return what judges a look, what notes that a task is decided, and what tells a person."""
    from launch.reproducing.asked import read_asked, write_asked
    from launch.reproducing.collect import judge_early

    def stop(task: str, count: int) -> None:
        write_asked(place, (read_asked(place) or asked).decided({task: count}))

    def say(text: str) -> None:
        print(text, flush=True)

    return (lambda task, count: judge_early(place, asked, task, count)), stop, say


def collect_line(place: SweepDir) -> str:
    """Return the line that judges what is there."""
    from launch.existing import command_line

    where = [] if place.runs == Path("runs").absolute() else ["--runs", str(place.runs)]
    return command_line("reproduce", "--collect", place.name, *where)


def collect_again(runs: str | None, name: str, as_json: bool) -> int:
    """Judge what is there of a reproduction.

    Raises:
        UsageError: there is none of that name.
    """
    from launch.named import need_named
    from launch.reproducing.asked import read_asked
    from launch.reproducing.follow import looks_taken, take_looks
    from launch.resolve import known_runs
    from launch.sweep_view import look_at_sweep
    from training.sweepdir import SweepDir

    place = need_named(known_runs(runs, name), name)
    asked = read_asked(place) if isinstance(place, SweepDir) else None
    if asked is None or not isinstance(place, SweepDir):
        raise UsageError(f"{name} is no reproduction: glueline report {name}")
    seen = look_at_sweep(place)
    if seen.silent:
        # A run that failed may be going on: no look is taken at what is not known.
        return finish(place, as_json)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        take_looks(place, asked, seen, looks_taken(asked), *deciding(place, asked))
    return finish(place, as_json)


def finish(place: SweepDir, as_json: bool) -> int:
    """Write the receipt and print it; return 0 if every run that counts has a score, else 1.

    Raises:
        UsageError: the sweep's files are damaged, or its folder cannot be written.
    """
    from launch.reproducing.asked import read_asked
    from launch.reproducing.collect import gather
    from launch.reproducing.receipt import make_receipt
    from launch.reproducing.show import show, write

    asked = read_asked(place)
    assert asked is not None
    found: Reproduction = gather(place, asked)
    receipt = make_receipt(found, time.time())
    path = write(place.path, receipt)
    if as_json:
        print(json.dumps(receipt, ensure_ascii=False))
    else:
        show(receipt, path)
    return 1 if any(judged.missing for judged in found.tasks) else 0


def main() -> None:
    """Run the command."""
    run_command(reproduce)


if __name__ == "__main__":
    main()
