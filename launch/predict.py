"""`glueline predict`: labels with probabilities from a finished run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import RunConfig, UsageError, load_config
from training.rundir import RunDir, read_json


def read_inputs(file: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the inputs of a file: a text a line, or the columns of a CSV, TSV, JSONL or parquet.

    In plain text the two texts of a pair are separated by a tab.

    Raises:
        UsageError: the file cannot be read, or lacks a column.
    """
    if not file.is_file():
        raise UsageError(f"no such file: {file}")
    if file.suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        from training.tables import read_columns

        table = read_columns(file, list(columns))
        texts = [table[name] for name in columns]
        return [tuple(str(t) for t in row) for row in zip(*texts, strict=True)]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text") from None
    return [tuple(line.split("\t")) for line in lines if line.strip()]


def read_task(task: str, data: str | None, split: str | None, run: RunDir) -> list[tuple[str, ...]]:
    """Return the inputs of a task's split, read as the task's columns say.

    Raises:
        UsageError: the task is unknown, its rows are not in `data`, or its labels are others than
            the run's.
    """
    from launch.resolve import load_task
    from training.sources import check_source, read_texts, resolve_data_dir

    other = load_task(task)
    if data is not None:
        other = replace(other, path=str(resolve_data_dir(other, Path(data))))
    elif not (other.path or other.files or other.generated):
        raise UsageError(f"task {task}: where are its rows? use --data DIR")
    names = set(check_source(other).label_names or ())
    known = set((read_json(run.model / "config.json") or {}).get("id2label", {}).values())
    # A split may lack some of the classes; one that the run does not know it cannot predict.
    if other.problem == "classification" and known and not names <= known:
        raise UsageError(
            f"task {task} has the labels {', '.join(sorted(names))}, run {run.run_id} predicts "
            f"{', '.join(sorted(known))}"
        )
    return read_texts(other, split or (other.test or other.validation_splits)[0])


@click.command("predict", cls=FlagCommand)
@click.argument("run_name", metavar="RUN")
@click.argument("texts", nargs=-1)
@click.option("--file", "file", metavar="FILE", help="Inputs: text, CSV, TSV, JSONL or parquet.")
@click.option("--task", metavar="NAME", help="Predict a task's split instead, such as ax.")
@click.option("--data", metavar="DIR", help="Where the task's data lies.")
@click.option("--split", metavar="NAME", help="Which split; default: the task's first test split.")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def predict(
    run_name: str,
    texts: tuple[str, ...],
    file: str | None,
    task: str | None,
    data: str | None,
    split: str | None,
    runs: str | None,
    as_json: bool,
) -> None:
    """Label texts with a finished run's model.

    RUN is an id or a path. TEXTS are the inputs; of a task with two texts, first and second.
    """
    from launch.existing import need_run
    from launch.resolve import known_runs

    run = need_run(known_runs(runs, run_name), run_name)
    if split and not task:
        raise UsageError(f"--split {split} needs --task NAME")
    if sum(map(bool, (texts, file, task))) != 1:
        raise UsageError("give texts, --file FILE or --task NAME: one of the three")
    config = load_config(run.config)
    width = len(config.task.text)
    if file:
        inputs = read_inputs(Path(file), config.task.text)
    elif task:
        inputs = read_task(task, data, split, run)
    else:
        if len(texts) % width:
            raise UsageError(
                f"task {config.task.name} needs {width} texts an input "
                f"({', '.join(config.task.text)}), {len(texts)} given"
            )
        inputs = [tuple(texts[i : i + width]) for i in range(0, len(texts), width)]
    if not inputs:
        raise UsageError("there is nothing to predict: the input is empty")
    _print(run, config, inputs, as_json)


def _print(run: RunDir, config: RunConfig, inputs: list[tuple[str, ...]], as_json: bool) -> None:
    from training.predict import Predictor

    for texts, found in zip(inputs, Predictor(run, config).predict(inputs), strict=True):
        if as_json:
            line = {"texts": list(texts), "label": found.label, "value": found.value}
            print(json.dumps({**line, "probabilities": found.probabilities}, ensure_ascii=False))
        else:
            shown = " | ".join(texts)
            label = f"{found.label}\t{found.value:.4f}" if found.label else f"{found.value:.4f}"
            print(f"{label}\t{shown}")


def main() -> None:
    """Run the command."""
    run_command(predict)


if __name__ == "__main__":
    main()
