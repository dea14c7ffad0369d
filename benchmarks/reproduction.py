"""Does a verdict tell a sound recipe from a broken one? `reproduce` against the Trainer's scores.

    python -m benchmarks.reproduction --data DIR [--tasks rte,mrpc,cola,stsb] [--seeds 5] [-- FLAGS]

The reference is `configs/references/trainer-minilm.yaml`: scores that the Hugging Face Trainer made
of the same recipe on other seeds (`benchmarks/trainer_references.py`). It is judged four times by
the ordinary command: with the recipe as it is, with thirty times its learning rate, without its
warm-up, and on training rows of which a tenth have the label of another row. FLAGS go to
`glueline reproduce` (`--executor local`, `--partition`, …). What is there already is not repeated.
Prints a Markdown table.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
RECIPES: dict[str, list[str]] = {
    "as published": [],
    "learning rate × 30": ["--lr", "3e-3"],
    "no warm-up": ["--warmup-ratio", "0"],
    "a tenth of the labels shuffled": [],
}
SHUFFLED = "a tenth of the labels shuffled"
SHARE = 0.1
SEED = 7


def shuffled_labels(labels: list[Any], share: float, seed: int) -> list[Any]:
    """Return labels of which a share, drawn at random, are dealt anew among themselves."""
    draw = random.Random(seed)
    places = draw.sample(range(len(labels)), round(share * len(labels)))
    dealt = [labels[p] for p in places]
    draw.shuffle(dealt)
    found = list(labels)
    for place, label in zip(places, dealt, strict=True):
        found[place] = label
    return found


def broken_rows(data: Path, tasks: list[str], folder: Path) -> tuple[Path, dict[str, float]]:
    """Return a folder in hub layout like `data`, with shuffled labels in the training rows.

    It is named by the rows that it is made of, and has further tasks added to it: another `--data`
    is not taken for it, and a task's rows are the same with whatever other tasks.

    Args:
        data: the folder that holds `glue`.
        tasks: whose rows are shuffled.
        folder: below which it is made.

    Returns:
        The folder, and by task the share of training rows that have another label now: less than
        were dealt anew, for many are dealt their own.
    """
    name = hashlib.sha256(json.dumps([str(data), SHARE, SEED]).encode()).hexdigest()[:8]
    out = folder / f"shuffled-{name}"
    (out / "glue").mkdir(parents=True, exist_ok=True)
    for file in (data / "glue").iterdir():
        if file.is_file():
            shutil.copy(file, out / "glue")
    for task in tasks:
        break_task(data, out, task)
    return out, {task: changed_share(data, out, task) for task in tasks}


def break_task(data: Path, out: Path, task: str) -> None:
    """Write a task's rows with shuffled labels, if they are not there as they are in `data` now."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = training_files(data, task)
    place = out / "glue" / task
    if place.is_dir() and _counts(out, task) == _counts(data, task):
        return
    temporary = place.with_name(f"{task}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(data / "glue" / task, temporary)
    for file in files:
        table = pq.read_table(file)
        labels = shuffled_labels(table["label"].to_pylist(), SHARE, SEED)
        field = table.schema.field("label")
        column = table.schema.get_field_index("label")
        made = table.set_column(column, field, pa.array(labels, type=field.type))
        pq.write_table(made, temporary / file.name)
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)


def _counts(data: Path, task: str) -> list[tuple[str, int]]:
    import pyarrow.parquet as pq

    return [(f.name, pq.ParquetFile(f).metadata.num_rows) for f in training_files(data, task)]


def training_files(data: Path, task: str) -> list[Path]:
    """Return the files of a task's training rows.

    Raises:
        click.ClickException: there are none.
    """
    found = sorted((data / "glue" / task).glob("train-*.parquet"))
    if not found:
        raise click.ClickException(f"{data / 'glue' / task} has no train-*.parquet: see --data")
    return found


def changed_share(before: Path, after: Path, task: str) -> float:
    """Return the share of a task's training rows whose label is another one."""
    import pyarrow.parquet as pq

    changed = count = 0
    for one, two in zip(training_files(before, task), training_files(after, task), strict=True):
        old, new = (pq.read_table(f, columns=["label"])["label"].to_pylist() for f in (one, two))
        changed += sum(a != b for a, b in zip(old, new, strict=True))
        count += len(old)
    return changed / count


def judge(name: str, flags: list[str], data: Path, runs: Path, how: list[str]) -> dict[str, Any]:
    """Return the receipt of one recipe."""
    command = [sys.executable, str(ROOT / "launch" / "reproduce.py"), "--json", "--yes"]
    command += ["--reference", "trainer-minilm", "--data", str(data), "--runs", str(runs)]
    command += ["--name", name, "--tracker", "none", "--precision", "bf16", *flags, *how]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


@click.command()
@click.option("--data", required=True, help="Folder with glue/ in hub layout.")
@click.option("--tasks", default="rte,mrpc,cola,stsb", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--runs", default="runs/reproduction", show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(RECIPES)), help="Some recipes.")
@click.argument("flags", nargs=-1)
def main(
    data: str, tasks: str, seeds: int, runs: str, only: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    """Print the table."""
    folder = Path(runs).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    how = ["--tasks", tasks, "--seeds", str(seeds), *flags]
    print("| recipe | task | metric | Trainer | ours (seeds) | difference | margin | verdict |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    changed: dict[str, float] = {}
    for place, (words, more) in enumerate(RECIPES.items()):
        if only and words not in only:
            continue
        rows = Path(data).absolute()
        if words == SHUFFLED:
            rows, changed = broken_rows(rows, tasks.split(","), folder)
        receipt = judge(f"recipe-{place}", more, rows, folder, how)
        for verdict in receipt["verdicts"]:
            for score in verdict["scores"]:
                print(f"| {words} | {verdict['task']} | {row(verdict, score)} |", flush=True)
    if changed:
        told = ", ".join(f"{task} {share:.1%}" for task, share in changed.items())
        print(f"\nTraining rows whose label is another one after the shuffle: {told}.")


def row(verdict: dict[str, Any], score: dict[str, Any]) -> str:
    """Return the cells of one score."""
    ours, theirs, gap = score["ours"], score["published"], score["difference"]

    def points(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{100 * value:{sign}.2f}"

    collapsed = f", {len(verdict['collapsed'])} collapsed" if verdict["collapsed"] else ""
    interval = f" ({points(gap['low'], '+')} to {points(gap['high'], '+')})" if gap else ""
    difference = f"{points(gap['value'], '+')}{interval}" if gap else "-"
    return " | ".join(
        [
            score["metric"],
            f"{points(theirs['value'])} ± {points(theirs['sd'])}",
            f"{points(ours['mean'])} ± {points(ours['sd'])} ({ours['count']}{collapsed})",
            difference,
            f"±{points(score['margin'])}",
            verdict["outcome"]
            if len(verdict["scores"]) == 1
            else f"{score['outcome']} (task: {verdict['outcome']})",
        ]
    )


if __name__ == "__main__":
    main()
