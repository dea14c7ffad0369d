"""What a micro-batch costs beside its tokens, on a CPU: the planner's overhead.

    python -m benchmarks.micro_batches [--threads 1] [--rounds 8]

One process makes forward and backward passes of randomly drawn encoders over 512 tokens, in rows of
16, cut into 1, 2, 4 and 8 micro-batches, as a run computes them. The cost of one micro-batch more,
in tokens, and for comparison what `training.batching.micro_overhead` says. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import time

import click
import numpy as np
import torch

from training.batching import micro_overhead
from training.config import EngineConfig, RunConfig
from training.engine import prepare_compute
from training.models import matrix_parameters

ROWS, LENGTH = 32, 16
CUTS = (1, 2, 4, 8)
SIZES = {"BERT-tiny": (2, 128), "MiniLM": (6, 384), "BERT-base": (12, 768)}
"""Layers and width."""


class Pass:
    """Forward and backward passes of an encoder, gradients added up."""

    def __init__(self, layers: int, width: int, precision: str) -> None:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        config = AutoConfig.for_model(
            "bert",
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=width // 32,
            intermediate_size=4 * width,
        )
        torch.manual_seed(0)
        self.model = AutoModelForSequenceClassification.from_config(config).train()
        self.embeddings = prepare_compute(RunConfig(engine=EngineConfig(device="cpu")), self.model)
        self.low = precision == "bf16"
        trained = sum(p.numel() for p in self.model.parameters())
        self.ratio = trained / matrix_parameters(config)

    def seconds(self, count: int) -> float:
        """Return how long the rows take in so many micro-batches."""
        ids = torch.randint(1000, 30000, (ROWS, LENGTH))
        start = time.perf_counter()
        with self._cast():
            for slot, rows in enumerate(ids.chunk(count)):
                for embedding in self.embeddings:
                    embedding.last = slot == count - 1
                with self._cast():
                    logits = self.model(rows, torch.ones_like(rows)).logits.float()
                logits.logsumexp(-1).sum().backward()
        self.model.zero_grad(set_to_none=False)
        return time.perf_counter() - start

    def _cast(self) -> contextlib.AbstractContextManager[object]:
        if self.low:
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=8, show_default=True)
def main(threads: int, rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    print("| encoder | precision | " + " | ".join(f"{n}, ms" for n in CUTS), end=" ")
    print("| one more, tokens | the planner's, tokens |\n" + "|---" * (len(CUTS) + 4) + "|")
    for name, (layers, width) in SIZES.items():
        for precision in ("fp32", "bf16"):
            one = Pass(layers, width, precision)
            one.seconds(max(CUTS))
            # The least: whatever else a machine does can only add to it.
            found = [min(one.seconds(count) for _ in range(rounds)) for count in CUTS]
            more, base = np.polyfit(CUTS, found, 1)
            tokens = more / base * ROWS * LENGTH
            planned = micro_overhead("cpu", precision, one.ratio)
            cells = " | ".join(f"{1000 * s:.0f}" for s in found)
            print(f"| {name} | {precision} | {cells} | {tokens:.0f} | {planned:.0f} |", flush=True)


if __name__ == "__main__":
    main()
