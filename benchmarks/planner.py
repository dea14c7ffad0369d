"""What the planner costs, and what it saves: padding, balance and its own time.

    python -m benchmarks.planner --data DIR [--tasks mnli,sst2,ag_news]

Prints two Markdown tables; the exit status is 1 if a bound is missed. Padding and balance are of
real training rows, 1,024 padded tokens a micro-batch; times are the fastest of five.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from training.batching import (
    Cut,
    cut_step,
    epoch_order,
    measure,
    micro_overhead,
    step_ids,
    steps_in_epoch,
)
from training.config.run import slug
from training.tokens import open_tokens

ROOT = Path(__file__).resolve().parents[1]
QUADRATIC = 1.0 / (6 * 384)
"""Of MiniLM, 384 wide."""
BUDGET = 1024
EFFICIENCY = {256: 0.85, 1024: 0.95}
IMBALANCE = {1024: 1.03}
STEPS = 40


@dataclass(frozen=True)
class Padding:
    """What the cuts of some steps come to."""

    micro_batches: float
    random_efficiency: float
    efficiency: float
    imbalance: float
    worst_imbalance: float


def lengths_of(task: str, data: Path, cache: Path) -> np.ndarray:
    """Return the tokens of every training row, as a run of the task would see them."""
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), "--task", task]
    command += ["--model", "minilm", "--data", str(data), "--runs", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip())
    folder = next((cache / ".cache" / "tokens").glob(f"{slug(task)}-*"))
    return np.asarray(open_tokens(folder).splits["train"].lengths)


def cut(ids: np.ndarray, lengths: np.ndarray, ranks: int) -> Cut:
    """Return a step's cut as a run of MiniLM on CPUs makes it."""
    overhead = micro_overhead("cpu")
    return cut_step(ids, lengths, ranks, BUDGET, quadratic=QUADRATIC, overhead=overhead)


def random_efficiency(lengths: np.ndarray, order: np.ndarray, size: int = 32) -> float:
    """Return real over padded tokens of random micro-batches of `size` rows."""
    whole = lengths[order[: len(order) // size * size]].reshape(-1, size).astype(np.int64)
    return float(whole.sum() / (whole.max(axis=1) * size).sum())


def padding(lengths: np.ndarray, global_batch: int, ranks: int) -> Padding:
    """Return padding and balance of the first steps of an epoch."""
    order = epoch_order(len(lengths), 0, 0)
    found, slots = [], []
    for step in range(min(STEPS, len(lengths) // global_batch)):
        ids = step_ids(order, step, global_batch)
        made = cut(ids, lengths, ranks)
        found.append(measure(made, lengths, QUADRATIC))
        slots.append(made.slots)
    return Padding(
        micro_batches=float(np.mean(slots)),
        random_efficiency=random_efficiency(lengths, order),
        efficiency=sum(f.real_tokens for f in found) / sum(f.padded_tokens for f in found),
        imbalance=sum(f.slowest for f in found) / sum(f.mean for f in found),
        worst_imbalance=max(f.slowest / f.mean for f in found),
    )


def fastest(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the seconds of the fastest call."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return float(best)


def speeds() -> list[tuple[str, float, float]]:
    """Return (what, seconds, bound) of planning lengths like MNLI's at scale."""
    rows = 400_000
    lengths = np.clip(np.random.default_rng(0).gamma(3, 13, rows), 4, 128).astype(np.int32)
    order = epoch_order(rows, 0, 0)

    def step(size: int, ranks: int) -> Callable[[], object]:
        return lambda: cut(order[:size], lengths, ranks)

    def epoch() -> None:
        again = epoch_order(rows, 0, 1)
        for place in range(steps_in_epoch(rows, 1024)):
            cut(step_ids(again, place, 1024), lengths, 4)

    return [
        ("a step of 1,024 over 4 ranks", fastest(step(1024, 4)), 0.001),
        ("a step of 65,536 over 1,024 ranks", fastest(step(65_536, 1024)), 0.030),
        ("an epoch of 400,000 in steps of 1,024 over 4 ranks", fastest(epoch, 3), 1.0),
    ]


@click.command()
@click.option("--data", type=Path, required=True, help="Folder with glue/ in hub layout.")
@click.option("--tasks", default="mnli,sst2,ag_news", show_default=True)
@click.option("--ranks", default=4, show_default=True)
def main(data: Path, tasks: str, ranks: int) -> None:
    """Print the tables."""
    missed = []
    print(f"| task ({ranks} ranks) | global batch | K | random 32s | padding | imbalance | worst |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for task in tasks.split(","):
            lengths = lengths_of(task, data.resolve(), Path(cache))
            for batch in EFFICIENCY:
                found = padding(lengths, batch, ranks)
                print(
                    f"| {task} | {batch:,} | {found.micro_batches:.1f} "
                    f"| {found.random_efficiency:.3f} | {found.efficiency:.3f} "
                    f"| {found.imbalance:.3f} | {found.worst_imbalance:.3f} |",
                    flush=True,
                )
                if found.efficiency < EFFICIENCY[batch]:
                    missed.append(f"padding of {task} at {batch}")
                if found.worst_imbalance > IMBALANCE.get(batch, np.inf):
                    missed.append(f"imbalance of {task} at {batch}")
    print("\n| planning | milliseconds | bound |\n|---|---|---|")
    for what, seconds, bound in speeds():
        print(f"| {what} | {seconds * 1e3:.2f} | {bound * 1e3:.0f} |")
        if seconds > bound:
            missed.append(what)
    if missed:
        sys.exit("missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
