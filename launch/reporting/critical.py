"""The critical batch size, fitted to steps and examples to a target. Pure.

McCandlish et al. (arXiv:1812.06162, eq. 2.11): the optimizer steps S and the examples E that
reach a target trade off as

    (S / Smin - 1) · (E / Emin - 1) = 1,    Bcrit = Emin / Smin

With E = S·B that is S = Smin + Emin / B: a straight line in 1/B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .stats import CONFIDENCE, t_quantile

ROUNDS = 50
"""Of reweighting."""
FEWEST = 3
"""Batch sizes: two always lie on a line."""
FAR = 100.0
"""A fit that many times outside of the batches says on which side it is, and no number; nor does
one that is uncertain by such a factor."""


@dataclass(frozen=True)
class CriticalBatch:
    """A fit, or why there is none."""

    points: int
    """Runs that it is taken from."""
    batches: tuple[float, ...]
    """Their batch sizes, examples a step."""
    value: float | None = None
    """Bcrit, examples."""
    low: float | None = None
    high: float | None = None
    min_steps: float | None = None
    min_examples: float | None = None
    scatter: float | None = None
    """Relative standard deviation of the steps around the fit."""
    says: str = ""
    """What to know of it, in words; why there is no value."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {**asdict(self), "batches": list(self.batches)}

    def steps(self, batch: float) -> float | None:
        """Return the fitted steps to the target at a batch size."""
        if self.min_steps is None or self.min_examples is None:
            return None
        return self.min_steps + self.min_examples / batch


def fit(pairs: Sequence[tuple[float, float]], confidence: float = CONFIDENCE) -> CriticalBatch:
    """Fit the trade-off to runs that reached the target.

    Least squares of relative errors: S = Smin + Emin / B with weights 1 / Ŝ², where Ŝ is the fit
    of the round before. The interval is Student's t on ln Bcrit, by the delta method.

    Args:
        pairs: (steps, examples) of each run; its batch is their ratio.
        confidence: of the interval.
    """
    data = [(s, e / s) for s, e in pairs if s > 0 and e > 0]
    batches = tuple(sorted({round(b, 6) for _, b in data}))
    nothing = CriticalBatch(len(data), batches)
    # The tail of an epoch makes a batch look a little smaller than it is.
    distinct = _apart(batches)
    if distinct < FEWEST:
        return _said(
            nothing,
            f"at {distinct} batch size{'s' * (distinct != 1)} all runs are known to have reached "
            f"the target: a fit needs {FEWEST}",
        )
    weights = [1.0 / s**2 for s, _ in data]
    smin, emin, inverse = _line(data, weights)
    for _ in range(ROUNDS):
        smin, emin, inverse = _line(data, weights)
        if smin <= 0 or emin <= 0:
            break
        new = [1.0 / (smin + emin / b) ** 2 for _, b in data]
        if all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(new, weights, strict=True)):
            break
        weights = new
    if emin <= 0 or emin / max(smin, 1e-300) < batches[0] / FAR:
        return _said(
            nothing,
            f"more examples a step saved no steps: the critical batch is below {batches[0]:.0f}",
        )
    if smin <= 0 or emin / smin > batches[-1] * FAR:
        return _said(
            nothing,
            "steps fell as fast as the batch grew, or faster: the critical batch is above "
            f"{batches[-1]:.0f}",
        )
    return _with_interval(nothing, data, weights, smin, emin, inverse, confidence)


def _apart(batches: Sequence[float]) -> int:
    """Return how many of the sorted sizes differ by more than a twentieth from the one before."""
    return sum(1 for i, b in enumerate(batches) if i == 0 or b > 1.05 * batches[i - 1])


def _said(fitted: CriticalBatch, words: str) -> CriticalBatch:
    return CriticalBatch(fitted.points, fitted.batches, says=words)


def _line(
    data: Sequence[tuple[float, float]], weights: Sequence[float]
) -> tuple[float, float, tuple[float, float, float]]:
    """Return Smin, Emin and the inverse of the normal matrix (ss, se, ee)."""
    w = sum(weights)
    x = sum(k / b for k, (_, b) in zip(weights, data, strict=True))
    xx = sum(k / b**2 for k, (_, b) in zip(weights, data, strict=True))
    y = sum(k * s for k, (s, _) in zip(weights, data, strict=True))
    xy = sum(k * s / b for k, (s, b) in zip(weights, data, strict=True))
    det = w * xx - x * x
    smin, emin = (xx * y - x * xy) / det, (w * xy - x * y) / det
    return smin, emin, (xx / det, -x / det, w / det)


def _with_interval(
    nothing: CriticalBatch,
    data: Sequence[tuple[float, float]],
    weights: Sequence[float],
    smin: float,
    emin: float,
    inverse: tuple[float, float, float],
    confidence: float,
) -> CriticalBatch:
    value, batches = emin / smin, nothing.batches
    degrees = len(data) - 2
    residual = sum(k * (s - smin - emin / b) ** 2 for k, (s, b) in zip(weights, data, strict=True))
    scatter = math.sqrt(residual / degrees)
    ss, se, ee = inverse
    variance = scatter**2 * (ee / emin**2 + ss / smin**2 - 2 * se / (emin * smin))
    factor = math.exp(
        min(50.0, t_quantile((1 + confidence) / 2, degrees) * math.sqrt(max(0.0, variance)))
    )
    if factor > FAR:
        return _said(
            nothing,
            f"the runs scatter too much to tell: around {value:.0f}, uncertain by more than a "
            f"factor of {FAR:.0f}",
        )
    says = ""
    if not batches[0] <= value <= batches[-1]:
        says = (
            f"outside of the batches that reached the target ({batches[0]:.0f} to "
            f"{batches[-1]:.0f}): an extrapolation"
        )
    return CriticalBatch(
        nothing.points,
        batches,
        value=value,
        low=value / factor,
        high=value * factor,
        min_steps=smin,
        min_examples=emin,
        scatter=scatter,
        says=says,
    )
