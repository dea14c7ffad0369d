"""What the run costs: speed, padding, imbalance, shares of time, model flops utilisation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from .batching import Cut, measure


class Meters:
    """Counts of the training loop since the end of its second step.

    The first steps pay for compilation, allocation and page faults, so they do not count.
    Evaluation and saving are timed apart and are no part of the training time.
    """

    def __init__(self, quadratic: float, skip: int = 2) -> None:
        self._quadratic = quadratic
        self._skip = skip
        self._steps = 0
        self._total = {"examples": 0, "real": 0, "padded": 0, "slowest": 0.0, "mean": 0.0}
        self._square = 0.0
        self._seconds = 0.0
        self._since = time.perf_counter()
        self._apart = {"data": 0.0, "evaluation": 0.0, "checkpoint": 0.0}
        self._window = (0, 0, 0.0)

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Time something that is not training."""
        start = time.perf_counter()
        self._seconds += start - self._since if self._counting else 0.0
        yield
        self._since = time.perf_counter()
        self._apart[name] += self._since - start

    def waited(self, seconds: float) -> None:
        """Add time that a step waited for its data."""
        if self._counting:
            self._apart["data"] += seconds

    @property
    def _counting(self) -> bool:
        return self._steps >= self._skip

    def step(self, cut: Cut, lengths: NDArray[np.int32]) -> None:
        """Count one finished step."""
        now = time.perf_counter()
        if self._counting:
            self._seconds += now - self._since
            found = measure(cut, lengths, self._quadratic)
            self._total["examples"] += cut.examples
            self._total["real"] += int(found["real_tokens"])
            self._total["padded"] += int(found["padded_tokens"])
            self._total["slowest"] += found["slowest_cost"]
            self._total["mean"] += found["mean_cost"]
            self._square += float(
                sum((lengths[i].astype(np.float64) ** 2).sum() for r in cut.micro for i in r)
            )
        self._since = now
        self._steps += 1

    def window(self) -> dict[str, float]:
        """Return the speeds since the last call, for a line of metrics.jsonl."""
        examples, real, seconds = self._window
        self._window = (self._total["examples"], self._total["real"], self._seconds)
        passed = self._seconds - seconds
        if passed <= 0:
            return {}
        return {
            "examples_per_second": (self._total["examples"] - examples) / passed,
            "real_tokens_per_second": (self._total["real"] - real) / passed,
        }

    def summary(
        self, flops_per_token: float, attention_per_length: float, peak: float | None
    ) -> dict[str, float | None]:
        """Return the run's throughput.

        MFU is the model's own floating point operations on real tokens (forward and backward,
        padding and recomputation not counted) over the seconds and the peak of all ranks, as in
        PaLM (Chowdhery et al. 2204.02311, appendix B); the peak is measured by `probe_peak`.

        Args:
            flops_per_token: operations a token apart from attention products.
            attention_per_length: operations of the attention products a token and unit of length.
            peak: operations a second that all ranks together reach on matrix products.
        """
        total, seconds = self._total, self._seconds
        if seconds <= 0 or total["padded"] == 0:
            return dict.fromkeys(
                (
                    "examples_per_second",
                    "real_tokens_per_second",
                    "padding_efficiency",
                    "rank_imbalance",
                    "mfu",
                    "data_wait_share",
                    "train_seconds",
                    "evaluation_seconds",
                    "checkpoint_seconds",
                ),
                None,
            )
        flops = flops_per_token * total["real"] + attention_per_length * self._square
        return {
            "examples_per_second": total["examples"] / seconds,
            "real_tokens_per_second": total["real"] / seconds,
            "padding_efficiency": total["real"] / total["padded"],
            "rank_imbalance": total["slowest"] / total["mean"],
            "mfu": flops / seconds / peak if peak else None,
            "data_wait_share": self._apart["data"] / seconds,
            "train_seconds": seconds,
            "evaluation_seconds": self._apart["evaluation"],
            "checkpoint_seconds": self._apart["checkpoint"],
        }


def probe_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Return the floating point operations a second of a square matrix product here.

    All ranks run it at the same time, as they will train, so cores that are shared count once.
    """
    size = 4096 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(2):
        torch.mm(a, b)
    _wait(device)
    start, runs = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(4):
            torch.mm(a, b)
        _wait(device)
        runs += 4
    return 2.0 * size**3 * runs / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
