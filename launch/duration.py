"""How long a run takes: from runs like it, else from a stated model of it. Pure.

A run is steps × step time + evaluations + start. Where the ledger has runs of the same model on
the same kind of device, their speed counts; else operations a token over a rate of the device.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

START_SECONDS = {"cpu": 25.0, "cuda": 45.0}
"""Imports, rendezvous, weights, the first two steps, export: where no run tells."""
GUESS = 1.0
"""Relative error of a guess: it could be off by 2×."""
LEAST = 0.05
"""No estimate is better than this."""
ALONE = 0.15
"""Relative error of an estimate from a single run."""
ELSEWHERE = 0.15
"""What another number of ranks adds to the error."""
FORWARD = 1.0 / 3.0
"""Share of a training step's operations that its forward pass is."""

GPU_RATES = {
    "h200": 200e12,
    "h100": 200e12,
    "gh200": 200e12,
    "a100": 90e12,
    "a30": 45e12,
    "a40": 40e12,
    "a6000": 40e12,
    "a10": 30e12,
    "l40s": 80e12,
    "l40": 45e12,
    "l4": 25e12,
    "v100": 25e12,
    "t4": 12e12,
    "mi250x": 60e12,
    "mi300x": 200e12,
    "rtx4090": 45e12,
    "rtx3090": 20e12,
    "p100": 5e12,
}
"""Operations a second that encoders reach in bf16 or fp16: about 0.25 of the vendor's figure for
dense products, since fine-tuning has short inputs. Conservative, and not measured here."""
UNKNOWN_GPU = 20e12
FP32_SHARE = 0.25
"""Of those rates in fp32."""
CPU_SHARE = 0.33
"""Share of a CPU's matrix product rate that an encoder's training step reaches."""
CPU_BF16 = 2.5
"""How much faster bf16 is on a CPU that has it."""


@dataclass(frozen=True)
class Work:
    """What a run computes."""

    task: str
    model: str
    device: str
    device_kind: str
    cores_per_rank: int | None
    world: int
    zero: int | None
    precision: str
    steps: int
    tokens_per_step: float
    """Padded tokens of a step, over all ranks."""
    imbalance: float
    """Slowest rank of a step over the mean."""
    evaluated: float
    """Tokens of all evaluations between steps."""
    scored: float
    """Tokens that are scored at the end, with what was exported."""
    flops_per_token: float | None
    """Operations of forward and backward; None where the model's sizes are not known."""


@dataclass(frozen=True)
class Duration:
    """How long a run takes, with its error."""

    seconds: float
    step_seconds: float
    evaluation_seconds: float
    start_seconds: float
    error: float
    """Relative."""
    runs: int
    """Runs that it is taken from; 0: a guess."""
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return it as `plan.json` holds it."""
        return asdict(self)


def duration(
    work: Work, ledger: Iterable[Mapping[str, Any]], cpu_rate: float | None = None
) -> Duration | None:
    """Return how long a run takes, None where nothing is known to tell it by.

    Args:
        work: what it computes.
        ledger: past runs, see `launch.ledger`.
        cpu_rate: operations a second of an fp32 matrix product on one core of the CPU it runs on,
            or of this machine's.
    """
    alike = like(work, ledger)
    if alike:
        rates = [float(line["tokens_per_second_rank"]) for line in alike]
        rate = statistics.median(rates)
        error = statistics.stdev(rates) / rate if len(rates) > 1 else ALONE
        if all(line.get("world_size") != work.world for line in alike):
            error += ELSEWHERE
        own = [line for line in alike if line.get("task") == work.task]
        starts = [float(s) for line in own or alike if (s := line.get("start_seconds"))]
        # What a run does after its last step counts as its start: the end of the same task.
        scored = 0.0 if own and starts else work.scored
        start = START_SECONDS[work.device]
        if starts:
            start = statistics.median(starts) if own else min(starts)
        runs = len(alike)
        source = f"from {runs} run{'s' * (runs > 1)} like it"
    else:
        guessed = _guessed_rate(work, cpu_rate)
        if guessed is None or work.flops_per_token is None:
            return None
        rate, source = guessed[0] / work.flops_per_token, f"a guess from {guessed[1]}"
        error, start, runs, scored = GUESS, START_SECONDS[work.device], 0, work.scored
    step = work.tokens_per_step / work.world * work.imbalance / rate
    evaluation = (work.evaluated + scored) / work.world * FORWARD / rate
    return Duration(
        seconds=work.steps * step + evaluation + start,
        step_seconds=step,
        evaluation_seconds=evaluation,
        start_seconds=start,
        error=max(error, LEAST),
        runs=runs,
        source=source,
    )


def like(work: Work, ledger: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the past runs that tell a run's speed; those of its own number of ranks, if any.

    The same model, kind of device, precision, engine and cores a rank.
    """
    own = (work.model, work.device_kind, work.precision, work.zero, work.cores_per_rank)
    names = ("model", "device_kind", "precision", "zero_stage", "cores_per_rank")
    found = [
        line
        for line in ledger
        if tuple(line.get(name) for name in names) == own and line.get("tokens_per_second_rank")
    ]
    same = [line for line in found if line.get("world_size") == work.world]
    return same or found


def _guessed_rate(work: Work, cpu_rate: float | None) -> tuple[float, str] | None:
    """Return operations a second of a rank, and what they are taken from."""
    if work.device == "cuda":
        found = gpu_of(work.device_kind, GPU_RATES)
        rate = GPU_RATES[found] if found else UNKNOWN_GPU
        name = found.upper() if found else "a slow GPU (its kind is not known)"
        return rate * (FP32_SHARE if work.precision == "fp32" else 1.0), f"what {name} reaches"
    if cpu_rate is None:
        return None
    rate = cpu_rate * CPU_SHARE * (work.cores_per_rank or 1)
    return rate * (CPU_BF16 if work.precision == "bf16" else 1.0), "CPUs like this machine's"


def gpu_of(kind: str, known: Iterable[str]) -> str | None:
    """Return the known GPU that a name of Slurm or of the driver means, the longest that is in it.

    `NVIDIA A100-SXM4-80GB`, `gpu:a100:4` and `a100_80g` are all an a100.
    """
    plain = "".join(c for c in kind.lower() if c.isalnum())
    return max((name for name in known if name in plain), key=len, default=None)


def words(seconds: float) -> str:
    """Return a span of time as a person says it."""
    if seconds < 180:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def in_words(found: Duration) -> str:
    """Return an estimate with its source and its error: `about 12 min (from 3 runs like it, ±8%)`.

    A guess, or what past runs differ in by more than their time, could be off by a factor.
    """
    error = (
        f"±{found.error:.0%}"
        if found.runs and found.error < 1
        else f"could be off by {1 + found.error:.0f}×"
    )
    return f"about {words(found.seconds)} ({found.source}, {error})"


def enough(found: Duration, limit_minutes: int, typed: str) -> str | None:
    """Return a note where the time limit may be too short, with what to type; None if it is not.

    It is no error: a run that meets its limit is queued again and goes on.
    """
    most, limit = found.seconds * (1 + found.error), 60 * limit_minutes
    if most <= limit:
        return None
    minutes = -(-round(most * 1.1) // 60)
    wanted = f"{minutes // 60:02d}:{minutes % 60:02d}:00"
    sure = "is" if found.seconds / (1 + found.error) > limit else "may be"
    return (
        f"--time {typed} {sure} too short for {in_words(found)}: the run stops to save and is "
        f"queued again, or use --time {wanted}"
    )
