"""Fine-tuning is real: dev scores of MiniLM on real rows against the majority class.

    python -m benchmarks.quality --data DIR [--seeds 3] [--tasks rte,mrpc,cola,sst2]

Each run is an ordinary `submit --executor local`; runs that are there already are not repeated.
Prints a Markdown table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EXTRA = {"sst2": ["--max-steps", "400"], "rte": ["--epochs", "6"]}
"""SST-2 has 67,349 rows: 400 steps of 32 are 0.19 epochs, enough to see that it learns. RTE is
small and slow to learn for a small encoder: six epochs."""


def train(task: str, seed: int, data: str, runs: Path) -> dict:
    """Train one seed of a task, or find it trained, and return its results."""
    name = f"quality-{task}-{seed}"
    results = runs / name / "results.json"
    if not results.is_file():
        command = [sys.executable, str(ROOT / "launch" / "submit.py"), "--executor", "local"]
        command += ["--task", task, "--model", "minilm", "--data", data, "--runs", str(runs)]
        command += ["--procs-per-node", "2", "--seed", str(seed), "--precision", "bf16"]
        command += ["--tracker", "none", "--name", name, "--wait", *EXTRA.get(task, [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(results.read_text())


def majority(run: Path, primary: str) -> float:
    """Return the score of always answering the commonest class of the validation rows."""
    if primary == "matthews":
        return 0.0
    file = next((run / "predictions").glob("validation*.tsv"))
    labels = [line.split("\t")[1] for line in file.read_text().splitlines()[1:]]
    return Counter(labels).most_common(1)[0][1] / len(labels)


@click.command()
@click.option("--data", required=True, help="Folder with glue/ in hub layout.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--tasks", default="cola,sst2,rte,mrpc", show_default=True)
@click.option("--runs", default="runs", show_default=True)
def main(data: str, seeds: int, tasks: str, runs: str) -> None:
    """Print the table."""
    folder = Path(runs).absolute()
    print("| task | metric | majority class | dev score, mean ± sd (seeds) | steps | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    for task in tasks.split(","):
        found = [train(task, seed, data, folder) for seed in range(1, seeds + 1)]
        scores = np.array([r["primary_value"] for r in found])
        seconds = np.mean([r["wall_seconds"] for r in found])
        metric = found[0]["primary_metric"]
        base = majority(folder / found[0]["run_id"], metric)
        spread = scores.std(ddof=1) if len(scores) > 1 else 0.0
        shown = ", ".join(f"{s:.3f}" for s in scores)
        print(
            f"| {task} | {metric} | {base:.3f} | {scores.mean():.3f} ± {spread:.3f} ({shown}) "
            f"| {found[0]['steps']} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
