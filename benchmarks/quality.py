"""Fine-tuning is real: dev scores of MiniLM on real rows against a plain loop and the majority.

    python -m benchmarks.quality --data DIR [--seeds 3] [--tasks rte,mrpc,cola] [--plain]

Each run is an ordinary `submit --executor local`; `--plain` also trains each with a plain loop of
random batches (`benchmarks/plain_loop.py`). What is there already is not repeated. Prints a
Markdown table.
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
EXTRA = {"sst2": ["--max-steps", "400"]}
"""SST-2 has 67,349 rows: 400 steps of 32 are 0.19 epochs, enough to see that it learns."""


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


def train_plain(run: Path) -> dict:
    """Train what a run was asked to train with a plain loop, or find it done."""
    out = run / "plain_loop.json"
    if not out.is_file():
        command = [sys.executable, "-m", "benchmarks.plain_loop", str(run), str(out)]
        subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    return json.loads(out.read_text())


def shown(scores: np.ndarray) -> str:
    """Return mean, standard deviation and the scores themselves."""
    spread = scores.std(ddof=1) if len(scores) > 1 else 0.0
    return f"{scores.mean():.3f} ± {spread:.3f} ({', '.join(f'{s:.3f}' for s in scores)})"


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
@click.option("--plain", is_flag=True, help="Train with a plain loop of random batches too.")
def main(data: str, seeds: int, tasks: str, runs: str, plain: bool) -> None:
    """Print the table."""
    folder = Path(runs).absolute()
    extra = ("| plain loop of random batches ", "|---") if plain else ("", "")
    print(f"| task | metric | majority | glueline, mean ± sd (seeds) {extra[0]}| steps | seconds |")
    print(f"|---|---|---|---{extra[1]}|---|---|", flush=True)
    for task in tasks.split(","):
        found = [train(task, seed, data, folder) for seed in range(1, seeds + 1)]
        cells = [task, found[0]["primary_metric"]]
        cells += [f"{majority(folder / found[0]['run_id'], found[0]['primary_metric']):.3f}"]
        cells += [shown(np.array([r["primary_value"] for r in found]))]
        if plain:
            others = [train_plain(folder / r["run_id"]) for r in found]
            cells += [shown(np.array([o["primary_value"] for o in others]))]
        cells += [str(found[0]["steps"]), f"{np.mean([r['wall_seconds'] for r in found]):.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
