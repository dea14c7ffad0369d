"""`glueline prepare`: look at a task's rows, fetch and tokenise them ahead of time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand, FlagOption, Request, request_options
from launch.main import run_command
from training.rundir import CACHE_FOLDER


@click.command("prepare", cls=FlagCommand)
@request_options(("task", "model"))
@click.option(
    "--preview",
    cls=FlagOption,
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Show N random training rows and the lengths in tokens.",
)
@click.option("--json", "as_json", cls=FlagOption, is_flag=True, help="Print one JSON object.")
def prepare(request: Request, preview: int, as_json: bool) -> int:
    """Look at a task's rows, tokenise them ahead of time.

    A run does the same at its start if this was not done; afterwards it starts without it.
    """
    # What was typed is judged before anything slow is imported.
    from launch.fetch import already_here, fetch_all
    from launch.resolve import compose, runs_folder

    config, _, profile = compose(request)
    config.task.check()
    config.model.check()
    cache = runs_folder(request.runs, profile) / CACHE_FOLDER
    config = already_here(config, cache)
    from launch.checks import look_at_inputs

    look_at_inputs(config)
    cache.mkdir(parents=True, exist_ok=True)
    config = fetch_all(config, cache)

    from training.data import ensure_tokens
    from training.tokens import open_tokens

    data = open_tokens(ensure_tokens(config, cache))
    from launch.capacity import count_anatomy, needs_counting

    if needs_counting(config.model):
        count_anatomy(config, cache)
    rows = []
    if preview:
        from training.preview import preview_rows

        rows = preview_rows(config.task, preview, cache=cache)
    if as_json:
        print(json.dumps(_as_json(data, rows), ensure_ascii=False))
    else:
        _show(config.task, data, rows)
    return 0


def _as_json(data: Any, rows: list[Any]) -> dict[str, Any]:
    keys = ("fingerprint", "task", "problem", "label_names", "max_length", "splits")
    return {
        "tokens": str(data.folder),
        **{key: data.manifest[key] for key in keys},
        "preview": [{"index": r.index, "texts": r.texts, "label": r.label} for r in rows],
    }


def _show(task: Any, data: Any, rows: list[Any]) -> None:
    from training.preview import histogram_table

    for row in rows:
        print(f"row {row.index}: {row.label if row.label is not None else '(no label)'}")
        for column, text in zip(task.text, row.texts, strict=True):
            print(f"  {column}: {text}")
    if rows:
        print()
        print("\n".join(histogram_table(data.splits[task.train or task.test[0]].lengths)))
        print()
    if data.label_names:
        print(f"labels: {', '.join(data.label_names)}")
    for name, about in data.manifest["splits"].items():
        cut = f", {about['truncated']} truncated" if about["truncated"] else ""
        print(f"{name}: {about['rows']} rows, {about['tokens']} tokens{cut}")
    print(f"tokenised data: {data.folder}")


def main() -> None:
    """Run the command."""
    run_command(prepare)


if __name__ == "__main__":
    main()
