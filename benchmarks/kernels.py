"""What the compute options are worth: torch's own operations, ours, torch.compile, few shapes.

    python -m benchmarks.kernels [--rounds 5] [--threads 1]

One process trains a randomly drawn MiniLM-sized BERT (6 layers, 384 wide) in bf16 on steps of 256
examples with lengths like MNLI's. The variants take turns in every round; the table has medians of
seconds a step and their ratio to torch's own operations. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import Literal

import click
import numpy as np
import torch

from training.batching import cut_step, micro_overhead, round_up
from training.config import EngineConfig, RunConfig
from training.engine import prepare_compute
from training.kernels import DeferredEmbedding
from training.loop import seed_micro_batch, summed_loss
from training.tokens import TokenSplit, collate

BATCH, BUDGET = 256, 1024
WIDTH = 384


def rows(count: int = 4096) -> TokenSplit:
    """Return random rows with lengths like MNLI's (mean 39, up to 128)."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(3, 13, count), 4, 128).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(1000, 30000, offsets[-1]).astype(np.int32)
    return TokenSplit("train", ids, offsets, labels=rng.integers(0, 3, count))


def model() -> torch.nn.Module:
    """Return a BERT of MiniLM's size with random weights."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "bert",
        num_hidden_layers=6,
        hidden_size=WIDTH,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=3,
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).train()


class Variant:
    """One way to compute a step."""

    def __init__(
        self, prepare: Literal["none", "layers"] | None, cast_once: bool, multiple: int = 1
    ) -> None:
        self.cast_once, self.multiple = cast_once, multiple
        self.model = model()
        self.embeddings: list[DeferredEmbedding] = []
        if prepare is not None:
            engine = EngineConfig(device="cpu", compile=prepare)
            self.embeddings = prepare_compute(RunConfig(engine=engine), self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step(self, data: TokenSplit, number: int) -> None:
        """Make one optimizer step."""
        lengths = round_up(data.lengths, self.multiple)
        ids = np.arange(number * BATCH, (number + 1) * BATCH) % len(data)
        quadratic, overhead = 1 / (6 * WIDTH), micro_overhead("cpu")
        cut = cut_step(ids, lengths, 2, BUDGET, quadratic=quadratic, overhead=overhead)
        once = torch.autocast("cpu", dtype=torch.bfloat16)
        with once if self.cast_once else contextlib.nullcontext():
            for slot, own in enumerate(cut.micro[0]):
                seed_micro_batch(0, number, 0, slot)
                for embedding in self.embeddings:
                    embedding.last = slot == cut.slots - 1
                batch = collate(data, own, int(lengths[own].max()))
                labels = torch.from_numpy(batch.pop("labels"))
                inputs = {k: torch.from_numpy(v) for k, v in batch.items()}
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = self.model(**inputs).logits.float()
                (summed_loss(logits, labels, False) / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


BASE = "torch's operations"
VARIANTS: dict[str, tuple[Literal["none", "layers"] | None, bool, int]] = {
    BASE: (None, False, 1),
    "ours (the default)": ("none", True, 1),
    "ours, lengths in 16s": ("none", True, 16),
    "--compile layers": ("layers", True, 1),
}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(rounds: int, threads: int) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    data = rows()
    variants, first = {}, {}
    for name, options in VARIANTS.items():
        start = time.perf_counter()
        variants[name] = Variant(*options)
        variants[name].step(data, 0)
        first[name] = time.perf_counter() - start
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(1, rounds + 1):
        for name in list(VARIANTS)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            variants[name].step(data, number)
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times[BASE])
    print("| compute | first step, s | seconds a step | speed against torch's |\n|---|---|---|---|")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {first[name]:.1f} | {middle:.2f} | {base / middle:.2f} × |")


if __name__ == "__main__":
    main()
