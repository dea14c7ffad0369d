"""`glueline replay`: train again what a receipt says, here, and compare."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand, FlagOption, Override, Request, request_options, trial_options
from launch.main import run_command
from launch.reproduce import nodes_option
from training.config import UsageError, nearest

if TYPE_CHECKING:
    from launch.reproducing.wanted import Wanted


@click.command("replay", cls=FlagCommand)
@click.argument("receipt", metavar="RECEIPT")
@request_options(("engine", "cluster", "tracking"))
@click.option("--data", cls=FlagOption, metavar="DIR", help="Folder that holds glue/, ag_news/, ….")
@click.option("--name", cls=FlagOption, metavar="NAME", help="Its name.  [default: replay-NAME]")
@trial_options("runs", packed=True)
@nodes_option
def replay(request: Request, receipt: str, data: str | None, **how: Any) -> int:
    """Train again what a receipt says, here, and compare.

    RECEIPT is a receipt.json, or the folder that holds it. Recipe, tasks, seeds and rules of the
    verdict are the receipt's; where it runs, and on how many ranks, is typed. All runs are trained
    anew, also where those of the receipt lie in the same folder; the same line again goes on.
    """
    from launch.reproducing.stored import read_receipt

    old = read_receipt(Path(receipt).expanduser())
    asked, wanted = repeat_of(old, receipt)
    request = replace(with_receipt(request, asked.overrides), data=data)
    how |= {"name": how["name"] or f"replay-{old['name']}", "no_wait": False, "as_json": False}
    return run_replay(request, wanted, old, how)


def repeat_of(old: dict[str, Any], where: str) -> tuple[Any, Wanted]:
    """Return what a receipt asked for, and that as a request.

    Raises:
        UsageError: the receipt is damaged.
    """
    from launch.reference_sets import set_of
    from launch.reproducing.asked import asked_of
    from launch.reproducing.wanted import Wanted

    asked = asked_of(with_task_files(old["asked"], Path(where).expanduser()), where)
    found = set_of(asked.reference, where, asked.set_name)
    for task in asked.tasks:
        if task not in found.references or not found.references[task].judged:
            known = [r.task for r in found.references.values() if r.judged]
            raise UsageError(
                f"{where}: its content was altered: '{task}' of asked.tasks has no number in its "
                f"reference: {nearest(task, known)}"
            )
    return asked, Wanted(
        reference=found,
        tasks=asked.tasks,
        seeds=asked.seeds,
        margin=asked.margin,
        # One plan in place of one that seeds were added to.
        level=asked.total_error,
        early=len(asked.looks) > 1,
        anew=True,
    )


def with_task_files(asked: dict[str, Any], receipt: Path) -> dict[str, Any]:
    """Return what a receipt asked for, with its own task files as they lie beside it.

    Args:
        asked: as the receipt has it.
        receipt: the receipt, or the folder that holds it.

    Raises:
        UsageError: a task file is neither where it was nor beside the receipt.
    """
    from launch.reporting.records import mapping
    from launch.reproducing.asked import own_tasks

    folder = own_tasks(receipt if receipt.is_dir() else receipt.parent)
    text = json.dumps(asked)
    for short, task in mapping(mapping(asked.get("reference")).get("tasks")).items():
        path = mapping(task).get("task")
        if path is None or Path(path).is_file():
            continue
        beside = (folder / f"{short}.yaml").absolute()
        if not beside.is_file():
            raise UsageError(f"{receipt}: task file {path} does not exist: put it at {beside}")
        text = text.replace(json.dumps(path), json.dumps(str(beside)))
    return json.loads(text)


def with_receipt(request: Request, overrides: tuple[tuple[str, str], ...]) -> Request:
    """Return a request with what was typed over the recipe then.

    Raises:
        UsageError: something typed now would change the recipe.
    """
    from launch.reference_file import NO_RECIPE, SECTIONS

    for typed in (*request.flags, *request.sets):
        if typed.key.split(".")[0] in SECTIONS and typed.key not in NO_RECIPE:
            raise UsageError(
                f"{typed.origin} {typed.key}: a replay is the receipt's recipe: to change it use "
                "glueline reproduce"
            )
    mine = {o.key for o in (*request.flags, *request.sets)}
    model = next((value for key, value in overrides if key == "model"), None)
    sets = tuple(
        Override(key, value, "the receipt")
        for key, value in overrides
        if key != "model" and key not in mine
    )
    return replace(request, model=model, sets=(*sets, *request.sets))


def run_replay(request: Request, wanted: Wanted, old: dict[str, Any], how: dict[str, Any]) -> int:
    """Train it and print what is the same; return the exit status of the reproduction.

    Raises:
        UsageError: as `reproduce`.
    """
    from launch.manifest import versions
    from launch.reproduce import train_and_judge
    from launch.reproducing.again import compared, other_recipes, other_versions
    from launch.reproducing.prepare import prepare
    from launch.reproducing.receipt import recipe_digest
    from launch.reproducing.stored import read_receipt

    made = prepare(request, wanted, how)
    found = made.found
    known = wanted.reference.references
    digests = {
        (known[str(t.axes["task"])].short, int(t.axes["seed"])): recipe_digest(found.config(t))
        for t in found.trials
    }
    if other := other_recipes(old, digests):
        task, seed = other[0]
        print(
            f"note: {len(other)} of {len(old['runs'])} runs would have another recipe than the "
            f"receipt's ({task}, seed {seed}): this glueline has other defaults or tasks",
            file=sys.stderr,
        )
    if changed := other_versions(old, versions()):
        print(f"note: other versions than the receipt's: {', '.join(changed)}", file=sys.stderr)
    status = train_and_judge(made, wanted, how)
    if status == 130:
        print("to compare it with the receipt: the same line again", file=sys.stderr)
    if how["dry_run"] or status == 130:
        return status
    for line in compared(old, read_receipt(made.place.path)):
        print(f"  {line}")
    return status


def main() -> None:
    """Run the command."""
    run_command(replay)


if __name__ == "__main__":
    main()
