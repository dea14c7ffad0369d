"""`glueline references`: published numbers, with where they come from and how they were made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from training.config import UsageError

if TYPE_CHECKING:
    from launch.reference_sets import Reference, Score

WIDTH = 100
"""Of long texts."""


@click.command("references", cls=FlagCommand)
@click.argument("name", metavar="[SET[/TASK]]", required=False)
@click.option("--task", metavar="NAME", help="Of this task.")
@click.option("--model", metavar="NAME", help="Of this model: a preset, or a hub id.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def references(name: str | None, task: str | None, model: str | None, as_json: bool) -> int:
    """List published numbers; of one SET or SET/TASK, the whole recipe and its source.

    A SET is a name in configs/references/, or a YAML file of your own. `glueline submit
    --reference SET/TASK` trains its recipe.
    """
    from launch.reference_sets import all_sets, find_reference, find_set, sets_of

    chosen: list[Reference]
    if name is None:
        sets = sets_of(model, [task] if task else []) if model else all_sets()
        chosen = [r for s in sets for r in s.references.values() if task in (None, r.short)]
    elif name.endswith((".yaml", ".yml")) or "/" not in name:
        found = find_set(name)
        chosen = [find_reference(name, task)] if task else list(found.references.values())
    else:
        chosen = [find_reference(name)]
        if task not in (None, chosen[0].short):
            raise UsageError(f"{name} is of another task than --task {task}: leave out one of them")
    if as_json:
        print(json.dumps([plain(r) for r in chosen], ensure_ascii=False))
    elif not chosen:
        print("no such references")
    elif name is None:
        _print(table(chosen))
    else:
        _show(chosen, name)
    return 0


def plain(reference: Reference) -> dict[str, Any]:
    """Return a reference ready for JSON: scores are fractions, recipes by dotted key."""
    from dataclasses import asdict

    from launch.reference_sets import missing
    from training.config.schema import to_plain

    return {
        "name": reference.name,
        "set": reference.set,
        "task": reference.task,
        "model": reference.model,
        "scores": [asdict(score) for score in reference.scores],
        "unjudged": reference.unjudged,
        "recipe": to_plain(reference.recipe),
        "assumed": {k: to_plain(asdict(a)) for k, a in reference.assumed.items()},
        "missing": [to_plain(asdict(m)) for m in missing(reference)],
        "source": reference.source,
        "url": reference.url,
        "checked": reference.checked,
        "statistic": reference.statistic,
        "seeds": list(reference.seeds),
        "collapsed": reference.collapsed,
        "notes": list(reference.notes),
        "extra": dict(reference.extra),
    }


def table(chosen: Iterable[Reference]) -> list[list[str]]:
    """Return a row for every score, below a heading; for one without scores, why."""
    rows = [["reference", "model", "split", "metric", "score", "of", "source"]]
    for reference in chosen:
        about = [reference.name, reference.model]
        for score in reference.scores:
            told = f"{score.value:.4f}" + ("" if score.judged else " (not judged)")
            rows.append([*about, score.split, score.metric, told, of_runs(reference, score), ""])
            rows[-1][-1] = reference.source
        if not reference.scores:
            rows.append([*about, "", "", "not judged", "", reference.source])
    return rows


def of_runs(reference: Reference, score: Score) -> str:
    """Return what a score is of: `mean of 10, sd 0.0123`."""
    text = reference.statistic if reference.statistic != "not stated" else ""
    if score.runs is not None and score.runs > 1:
        text += (" of " if text else "") + f"{score.runs}"
    return text + (f", sd {score.sd:.4f}" if score.sd is not None else "")


def recipe_rows(chosen: Sequence[Reference]) -> list[list[str]]:
    """Return the recipes of a set's references: key, value, who says so, and of which tasks.

    A row that holds for all tasks names none.
    """
    from launch.reference_sets import missing

    said: dict[str, dict[tuple[str, str], list[str]]] = {}
    for reference in chosen:
        told: dict[str, tuple[Any, str]] = {k: (v, "source") for k, v in reference.recipe.items()}
        if reference.seeds:
            told["train.seed"] = (reference.seeds, "source")
        told |= {k: (a.value, f"assumed: {a.why}") for k, a in reference.assumed.items()}
        told |= {m.key: (m.value, f"missing: {m.origin} is taken") for m in missing(reference)}
        for key, (value, origin) in told.items():
            by_value = said.setdefault(key, {})
            by_value.setdefault((_shown(value), origin), []).append(reference.short)
    rows = []
    for key in _ordered(said):
        for (value, origin), tasks in said[key].items():
            named = "" if len(tasks) == len(chosen) else ", ".join(tasks)
            rows.append([key, value, origin, named])
    return rows


def _ordered(keys: Mapping[str, Any]) -> list[str]:
    """Return keys in the order of the configuration."""
    from training.config import RunConfig
    from training.config.schema import leaves

    return [key for key in leaves(RunConfig) if key in keys]


def _show(chosen: Sequence[Reference], typed: str) -> None:
    """Print references of one set: source, scores, recipe, and what else is published.

    Args:
        chosen: the references.
        typed: what named them.
    """
    import textwrap

    first = chosen[0]
    lines = [f"{first.set}: {first.model}", f"  source   {first.source}"]
    if first.url:
        lines.append(f"  url      {first.url}")
    lines.append(f"  checked  {first.checked or 'not re-checked'}")
    print("\n".join(lines))
    for note in dict.fromkeys(note for r in chosen for note in r.notes):
        own = [r.short for r in chosen if note in r.notes]
        head = "note" if len(own) == len(chosen) else f"note on {', '.join(own)}"
        print(textwrap.fill(f"{head}: {note}", WIDTH, break_long_words=False))
    print()
    _print([row[:1] + row[2:6] for row in table(chosen)])
    for reference in chosen:
        for score in reference.scores:
            if score.note:
                print(f"{reference.short} {score.metric}: {score.note}")
        if reference.unjudged:
            print(f"{reference.short}: not judged: {reference.unjudged}")
    heading = ["key", "value", "said by", "tasks"]
    rows = [heading, *recipe_rows(chosen)]
    print()
    _print(rows if any(row[3] for row in rows[1:]) else [row[:3] for row in rows])
    if facts := _facts(chosen):
        print()
        _print([["also published", "", ""], *facts])
    print(f"\ntrain it: {_line(chosen, typed)}")


def _facts(chosen: Sequence[Reference]) -> list[list[str]]:
    """Return (task, fact, value); a fact of all tasks names none."""
    rows: dict[tuple[str, str], list[str]] = {}
    for reference in chosen:
        for name, value in reference.extra.items():
            rows.setdefault((str(name), _shown(value)), []).append(reference.short)
    return [
        ["" if len(tasks) == len(chosen) else ", ".join(tasks), name, value]
        for (name, value), tasks in rows.items()
    ]


def _line(chosen: Sequence[Reference], typed: str) -> str:
    """Return the line that trains a recipe; a file of one's own goes by its path, as typed."""
    from launch.existing import command_line
    from launch.reference_sets import ENDINGS

    place = typed if typed.endswith(ENDINGS) or "/" not in typed else typed.rpartition("/")[0]
    task = chosen[0].short if len(chosen) == 1 else "TASK"
    return command_line("submit", "--reference", f"{place}/{task}", "--data", "DIR")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return "none" if value is None else str(value)


def _print(rows: list[list[str]]) -> None:
    from launch.status import print_rows

    print_rows(rows, 0)


def main() -> None:
    """Run the command."""
    run_command(references)


if __name__ == "__main__":
    main()
