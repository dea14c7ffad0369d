"""What measuring the gradient noise scale finds on real rows, and what it costs.

    python -m benchmarks.noise_scale --data DIR [--tasks mnli,sst2]

The first table has the gradient of every row by itself (MiniLM without dropout, fp32, projected to
2^18 numbers with random signs, which keeps products), at the pretrained weights and after some
steps. So the products of all pairs of rows are known, and what each way to estimate makes of the
same global batches can be compared with it: micro-batches taken for random samples, cut by length
as steps are cut or at random, and the pairs of micro-batches that measured steps have. Those cut
at random are drawn many times: mean and standard deviation. Padding is padded over real tokens.

The second table has the speed of runs on this machine with no step measured and with all, in
turns.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AutoTokenizer

from training.batching import Cut, cut_step, epoch_order, measure, micro_overhead, step_ids
from training.config import load_config
from training.data import ensure_tokenizer
from training.dealing import deal_step
from training.models import Labels, build_config, load_model
from training.noise import Estimate, estimate, rows_square
from training.optim import decay_groups
from training.tokens import TokenSplit, open_tokens

from .plain_loop import tensors
from .throughput import Bench, Cell, training_flags

WIDTH = 1 << 18
"""Numbers that a row's gradient is projected to."""
BUDGET = 1024
QUADRATIC = 1.0 / (6 * 384)
"""Of MiniLM, 384 wide."""

Gram = NDArray[np.float64]
Way = Callable[[int], tuple[Cut, Estimate]]


@dataclass(frozen=True)
class Batch:
    """A global batch: lengths of its rows, and the products of their gradients."""

    lengths: NDArray[np.int32]
    gram: Gram

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.lengths)

    def product(self, a: np.ndarray, b: np.ndarray) -> float:
        """Return S_a·S_b of two sets of rows."""
        return float(self.gram[np.ix_(a, b)].sum())

    def exact(self) -> Estimate:
        """Return what all pairs of rows say."""
        norm = float(np.sqrt(max(0.0, self.gram.sum()))) / self.rows
        return estimate(norm, float(np.trace(self.gram)) / self.rows**2, self.rows)

    def textbook(self, cut: Cut) -> Estimate:
        """Return what micro-batches say that are taken for random samples."""
        groups = [own for rank in cut.micro for own in rank if len(own)]
        squares = sum(self.product(own, own) for own in groups)
        sizes = sum(len(own) ** 2 for own in groups)
        square = (float(self.gram.sum()) - squares) / (self.rows**2 - sizes)
        return Estimate(square, (squares - sizes * square) / self.rows)

    def paired(self, cut: Cut) -> Estimate:
        """Return what a measured step finds, but for the error of its own projection."""
        each = 0.0
        for rank in cut.micro:
            for a, b in zip(rank[::2], rank[1::2], strict=True):
                if len(a):
                    aa, ab, bb = self.product(a, a), self.product(a, b), self.product(b, b)
                    each += rows_square(aa, ab, bb, len(a), len(b))
        norm = float(np.sqrt(max(0.0, self.gram.sum()))) / self.rows
        return estimate(norm, each / self.rows**2, self.rows)


class Signs:
    """Projects gradients of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        size = sum(p.numel() for p in self._parameters)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(0, 2, (-(-size // WIDTH), WIDTH), generator=generator)
        self._signs = drawn.mul_(2).sub_(1).to(torch.int8)

    def __call__(self) -> torch.Tensor:
        """Return the projection of the gradients there are now, and clear them."""
        padded = torch.zeros(self._signs.numel())
        place = 0
        for parameter in self._parameters:
            if parameter.grad is not None:
                padded[place : place + parameter.numel()] = parameter.grad.view(-1)
                parameter.grad = None
            place += parameter.numel()
        return (padded.view_as(self._signs) * self._signs).sum(dim=0)


def gradients(model: torch.nn.Module, split: TokenSplit, ids: np.ndarray, signs: Signs) -> Batch:
    """Return a global batch, a row at a time."""
    found = torch.empty(len(ids), WIDTH)
    for place, row in enumerate(ids):
        inputs = tensors(split, np.array([row]))
        answers = inputs.pop("labels")
        functional.cross_entropy(model(**inputs).logits, answers).backward()
        found[place] = signs()
    gram = (found @ found.T).double().numpy()
    return Batch(split.lengths[ids].astype(np.int32), gram)


def warm_up(model: torch.nn.Module, split: TokenSplit, steps: int, batch: int = 32) -> None:
    """Train a model for some steps of random batches."""
    optimizer = torch.optim.AdamW(decay_groups(model, 0.01), lr=5e-5)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        inputs = tensors(split, rng.choice(len(split), batch, replace=False))
        answers = inputs.pop("labels")
        functional.cross_entropy(model(**inputs).logits, answers).backward()
        optimizer.step()
        optimizer.zero_grad()


def random_cut(batch: Batch, like: Cut, ranks: int, draw: int) -> Cut:
    """Return as many micro-batches as a cut has, of random rows."""
    order = np.random.default_rng([7, draw]).permutation(batch.rows)
    parts = np.array_split(order, ranks * like.slots)
    micro = [tuple(parts[rank * like.slots : (rank + 1) * like.slots]) for rank in range(ranks)]
    return Cut(tuple(micro), batch.rows)


def ways(batch: Batch, ranks: int) -> dict[str, Way]:
    """Return the ways to estimate, by name; each takes the number of a draw."""
    ids, overhead = np.arange(batch.rows), micro_overhead("cpu")
    ordinary = cut_step(ids, batch.lengths, ranks, BUDGET, quadratic=QUADRATIC, overhead=overhead)

    def dealt(draw: int) -> Cut:
        return deal_step(
            ids,
            batch.lengths,
            ranks,
            BUDGET,
            quadratic=QUADRATIC,
            overhead=overhead,
            seed=0,
            step=draw,
        )

    def at_random(draw: int) -> tuple[Cut, Estimate]:
        cut = random_cut(batch, ordinary, ranks, draw)
        return cut, batch.textbook(cut)

    def in_pairs(draw: int) -> tuple[Cut, Estimate]:
        cut = dealt(draw)
        return cut, batch.paired(cut)

    return {
        "all pairs of rows (the truth)": lambda _: (ordinary, batch.exact()),
        "sorted micro-batches, textbook": lambda _: (ordinary, batch.textbook(ordinary)),
        "random micro-batches, textbook": at_random,
        "dealt pairs (a measured step)": in_pairs,
    }


def row_of(batches: list[Batch], name: str, ranks: int, draws: int) -> str:
    """Return a line of the first table: means over batches, and deviations over draws."""
    squares, traces, padded, real = [], [], 0, 0
    for batch in batches:
        way = ways(batch, ranks)[name]
        found = [way(draw) for draw in range(draws)]
        squares.append([e.square for _, e in found])
        traces.append([e.trace for _, e in found])
        cost = measure(found[0][0], batch.lengths)
        padded, real = padded + cost.padded_tokens, real + cost.real_tokens
    square, trace = np.mean(squares, axis=0), np.mean(traces, axis=0)
    padding = "" if "truth" in name else f"{padded / real:.2f}"
    return (
        f"{name} | {square.mean():.4g} ± {square.std():.2g} | {trace.mean():.4g} ± "
        f"{trace.std():.2g} | {trace.mean() / square.mean():,.0f} | {padding} |"
    )


def compare(cell: Cell, cache: Path, warm: int, size: int, count: int, ranks: int) -> None:
    """Print the first table's lines of a task."""
    config = load_config(cell.config)
    data = open_tokens(cell.tokens)
    assert config.task.train is not None
    split = data.splits[config.task.train]
    tokenizer = AutoTokenizer.from_pretrained(ensure_tokenizer(config, cache))
    longest = max(int(s.lengths.max()) for s in data.splits.values())
    labels = Labels(tuple(data.label_names), False)
    hf_config = build_config(config.model, config.task, labels, tokenizer, longest)
    model = load_model(config.model, hf_config, config.train.seed).train()
    signs, order = Signs(model), epoch_order(len(split), 0, 0)
    for steps in (0, warm):
        warm_up(model, split, steps)
        batches = [
            gradients(model, split, step_ids(order, place, size), signs) for place in range(count)
        ]
        for name in ways(batches[0], ranks):
            print(f"| {cell.name} | {steps} | " + row_of(batches, name, ranks, 200), flush=True)


def speed(bench: Bench, cell: Cell) -> str:
    """Return a line of the second table."""
    plain, measured = [], []
    for _ in range(bench.rounds):
        for every, found in ((0, plain), (1, measured)):
            flags = (*cell.flags, "--set", f"train.noise_every={every}")
            again = Cell(cell.name, flags, cell.config, cell.tokens, cell.rows)
            found.append(bench.glueline(again)["throughput"]["examples_per_second"])
    ratios = [m / p for m, p in zip(measured, plain, strict=True)]
    middle = statistics.median(plain), statistics.median(measured)
    return (
        f"| {cell.name} | {middle[0]:.1f} | {middle[1]:.1f} "
        f"| {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) |"
    )


@click.command()
@click.option("--data", type=Path, required=True, help="Folder with glue/ in hub layout.")
@click.option("--tasks", default="mnli,sst2", show_default=True)
@click.option("--model", default="minilm", show_default=True)
@click.option("--global-batch", default=256, show_default=True)
@click.option("--batches", default=2, show_default=True, help="Global batches a line.")
@click.option("--warm", default=150, show_default=True, help="Steps before the second point.")
@click.option("--ranks", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Of the second table.")
@click.option("--steps", default=8, show_default=True, help="Of a timed run.")
def main(
    data: Path,
    tasks: str,
    model: str,
    global_batch: int,
    batches: int,
    warm: int,
    ranks: int,
    rounds: int,
    steps: int,
) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(data.resolve(), model, "bf16", ranks, rounds, Path(scratch))
        still = ("--set", "model.dropout=0")
        cells = [
            bench.prepare(task, (*training_flags(task, global_batch, steps, 0), *still))
            for task in tasks.split(",")
        ]
        if batches:
            print("| task | after steps | estimated by | G² | tr Σ | noise scale | padding |")
            print("|---|---|---|---|---|---|---|")
        for cell in cells if batches else ():
            compare(cell, bench.runs / ".cache", warm, global_batch, batches, ranks)
        if rounds:
            print(
                "\n| task | no step measured, ex/s | every step, ex/s | ratio |\n|---|---|---|---|"
            )
        for task in tasks.split(",") if rounds else ():
            flags = tuple(training_flags(task, global_batch, steps, 0))
            print(speed(bench, bench.prepare(task, flags)), flush=True)


if __name__ == "__main__":
    main()
