"""The critical batch as the gradients' noise predicts it, over several runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from training.noise import fieller

from .records import Record, number
from .stats import CONFIDENCE, Interval, t_quantile


@dataclass(frozen=True)
class Noise:
    """What runs measured of their gradients' noise."""

    runs: int
    scale: Interval | None
    """The noise scale, a batch size; its upper end is infinite where the gradient could be zero.
    None where the mean of |G|² is not above zero: the noise hides it."""

    def plain(self) -> dict[str, Any] | None:
        """Return the scale ready for JSON."""
        return self.scale.plain() if self.scale else None


def pooled_noise(records: Sequence[Record]) -> Noise | None:
    """Return the noise scale over runs; None where none measured it.

    As of the steps of one run (docs/noise-scale.md), mean tr Σ over mean |G|²: the mean of the
    runs' ratios would be biased, and runs whose mean |G|² fell below zero would drop out of it.
    The bounds are Fieller's over runs, those of its own steps where there is one run.
    """
    told = [
        (square, trace, r.noise)
        for r in records
        if (square := number(r.noise.get("gradient_square"))) is not None
        and (trace := number(r.noise.get("trace"))) is not None
    ]
    if not told:
        return None
    squares, traces = [s for s, _, _ in told], [t for _, t, _ in told]
    square, trace = fmean(squares), fmean(traces)
    if square <= 0 or trace <= 0:
        return Noise(len(told), None)
    if len(told) == 1:
        low, high = (number(told[0][2].get(key)) for key in ("low", "high"))
        if low is None:
            return Noise(1, Interval(trace / square, None, None, 1))
    else:
        low, high = bounds(traces, squares)
    ends = max(0.0, low or 0.0), math.inf if high is None else high
    return Noise(len(told), Interval(trace / square, *ends, len(told)))


def bounds(above: Sequence[float], below: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the bounds of mean(above) / mean(below), which are measured in pairs."""
    count = len(above)
    up, down = fmean(above), fmean(below)
    factor = t_quantile((1 + CONFIDENCE) / 2, count - 1) ** 2 / (count * (count - 1))
    upper = factor * math.fsum((a - up) ** 2 for a in above)
    lower = factor * math.fsum((b - down) ** 2 for b in below)
    both = factor * math.fsum((a - up) * (b - down) for a, b in zip(above, below, strict=True))
    return fieller(up, down, upper, lower, both)
