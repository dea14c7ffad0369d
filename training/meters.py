"""What the run costs: speed, padding, imbalance, shares of time, model flops utilisation."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from .feed import StepPlan
from .stopwatch import Stopwatch


@dataclass(frozen=True)
class Costs:
    """What a model costs to compute, and how fast this run's devices are."""

    quadratic: float
    """Weight of the quadratic part of a micro-batch's cost, see `batching.micro_batch_cost`."""
    overhead: float
    """Of a micro-batch, see `batching.micro_overhead`."""
    flops_per_token: float
    """Operations of forward and backward a token, apart from attention products."""
    attention_flops: float
    """Operations of the attention products a token and unit of length."""
    peak: float | None = None
    """Operations a second that all ranks together reach on matrix products, see `probe_peak`."""


@dataclass
class _Total:
    """Sums over steps."""

    examples: float = 0.0
    real: float = 0.0
    padded: float = 0.0
    square: float = 0.0
    slowest: float = 0.0
    mean: float = 0.0
    seconds: float = 0.0
    data: float = 0.0
    communication: float = 0.0

    def minus(self, other: _Total) -> _Total:
        return _Total(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass
class _Apart:
    """Seconds that are no training."""

    evaluation: float = 0.0
    checkpoint: float = 0.0
    first_steps: float = 0.0


class Meters:
    """Counts of the training loop since the end of its second step.

    The first steps pay for compilation, allocation and page faults, so they do not count.
    Evaluation and saving are timed apart and are no part of the training time.
    """

    def __init__(self, costs: Costs, communication: Stopwatch, skip: int = 2) -> None:
        self._costs, self._communication = costs, communication
        self._skip = skip
        self._steps = 0
        self._total, self._before = _Total(), _Total()
        self._apart = _Apart()
        self._since = time.perf_counter()

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Time something that is not training: `evaluation` or `checkpoint`."""
        self.finish()
        yield
        _wait()
        now = time.perf_counter()
        self._communication.take()  # collectives of evaluating and saving
        setattr(self._apart, name, getattr(self._apart, name) + now - self._since)
        self._since = now

    def state(self) -> dict[str, dict[str, float]]:
        """Return the counts for a checkpoint."""
        return {"total": asdict(self._total), "apart": asdict(self._apart)}

    def restore(self, state: dict[str, dict[str, float]]) -> None:
        """Go on counting from a checkpoint's counts."""
        self._total, self._apart = _Total(**state["total"]), _Apart(**state["apart"])
        self._before = _Total(**state["total"])

    def waited(self, seconds: float) -> None:
        """Add time that a step waited for its data."""
        if self._counting:
            self._total.data += seconds

    @property
    def _counting(self) -> bool:
        return self._steps >= self._skip

    def _tick(self, wait: bool = False) -> None:
        """Add the time since the last tick to the training time."""
        if wait:
            _wait()
        now = time.perf_counter()
        if self._counting:
            self._total.seconds += now - self._since
        else:
            self._apart.first_steps += now - self._since
        self._since = now

    def step(self, plan: StepPlan) -> None:
        """Count one step, which a GPU may still be computing."""
        if self._counting:
            total, cost = self._total, plan.cost
            total.examples += plan.cut.examples
            total.real += cost.real_tokens
            total.padded += cost.padded_tokens
            total.square += cost.square
            total.slowest += cost.slowest
            total.mean += cost.mean
        first = self._steps + 1 == self._skip
        self._tick(wait=first)
        self._steps += 1
        if first:
            self._communication.take()

    def finish(self) -> None:
        """End the training time."""
        self._tick(wait=True)
        self._total.communication += self._communication.take() if self._counting else 0.0

    def window(self) -> dict[str, float]:
        """Return speeds and shares since the last call, for a line of metrics.jsonl.

        On a GPU this waits for the device.
        """
        self.finish()
        found = self._speeds(self._total.minus(self._before))
        self._before = _Total(**vars(self._total))
        return {name: value for name, value in found.items() if value is not None}

    def _speeds(self, total: _Total) -> dict[str, float | None]:
        if total.seconds <= 0 or total.padded == 0:
            return dict.fromkeys(_SPEEDS)
        costs = self._costs
        flops = costs.flops_per_token * total.real + costs.attention_flops * total.square
        return {
            "examples_per_second": total.examples / total.seconds,
            "real_tokens_per_second": total.real / total.seconds,
            "padding_efficiency": total.real / total.padded,
            "rank_imbalance": total.slowest / total.mean,
            "mfu": flops / total.seconds / costs.peak if costs.peak else None,
            "data_wait_share": total.data / total.seconds,
            "communication_share": total.communication / total.seconds,
        }

    def summary(self) -> dict[str, float | None]:
        """Return the run's throughput; every speed is None before the third step.

        `mfu` is the model's own floating point operations on real tokens (forward and backward;
        padding and recomputation do not count) over the seconds and the peak of all ranks:

            mfu = (c · Σ Lᵢ + a · Σ Lᵢ²) / (seconds · peak)

        with the sums over examples, c and a the operations a token, as in PaLM (Chowdhery et al.
        2204.02311, appendix B). The shares of waiting for data and of communication are of the
        training time; those of evaluation and checkpoints are of the whole loop's time.
        """
        apart, speeds = self._apart, self._speeds(self._total)
        whole = self._total.seconds + apart.evaluation + apart.checkpoint + apart.first_steps
        return {
            **speeds,
            "peak_flops": self._costs.peak,
            "evaluation_share": apart.evaluation / whole if whole else None,
            "checkpoint_share": apart.checkpoint / whole if whole else None,
            "train_seconds": self._total.seconds,
            "evaluation_seconds": apart.evaluation,
            "checkpoint_seconds": apart.checkpoint,
        }


_SPEEDS = (
    "examples_per_second",
    "real_tokens_per_second",
    "padding_efficiency",
    "rank_imbalance",
    "mfu",
    "data_wait_share",
    "communication_share",
)


def memory_bytes(device: torch.device) -> int:
    """Return the memory that this rank holds now: reserved on a GPU, resident in a process."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this rank ever held: of a GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def probe_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Return the floating point operations a second of a square matrix product here.

    All ranks run it at the same time, as they will train, so cores that are shared count once.
    """
    size = 4096 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(2):
        torch.mm(a, b)
    _wait()
    start, runs = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(4):
            torch.mm(a, b)
        _wait()
        runs += 4
    return 2.0 * size**3 * runs / (time.perf_counter() - start)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
