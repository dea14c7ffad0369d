"""The gradient noise scale from what a step has anyway: the pure part. docs/noise-scale.md.

With gᵢ the gradient of row i, G its mean and Σ its covariance over rows, the noise scale is
tr Σ / |G|² (McCandlish et al. 2018, arXiv:1812.06162, section 2.2).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """Unbiased estimates from one step; either may be negative by chance."""

    square: float
    """|G|²: squared norm of the gradient without noise."""
    trace: float
    """tr Σ: variance of one row's gradient, summed over its elements."""


def rows_square(aa: Any, ab: Any, bb: Any, rows_a: int, rows_b: int) -> Any:
    """Return an unbiased estimate of Σ|gᵢ|² over rows that were dealt at random to two groups.

    With S_a and S_b the sums of the gradients of n_a and n_b rows, n = n_a + n_b, every pair of
    different rows is in different groups equally often, so S_a·S_b stands for all pairs:

        Σ|gᵢ|² = n_a·n_b·|S_a/n_a - S_b/n_b|² + n/(n_a·n_b)·S_a·S_b   in expectation.

    Nothing is asked of the rows but the random deal: they need not be alike those of other pairs
    of groups. A group alone (of at most one row) is |S_a|² itself.

    Args:
        aa: S_a·S_a, a number or a scalar tensor; `ab` and `bb` alike.
        ab: see `aa`.
        bb: see `aa`.
        rows_a: n_a; at least `rows_b`.
        rows_b: n_b.

    Raises:
        ValueError: one group has several rows and the other has none.
    """
    if rows_b == 0:
        if rows_a > 1:
            raise ValueError(f"{rows_a} rows in one group and none in the other say nothing")
        return aa
    apart = aa * rows_b / rows_a - 2 * ab + bb * rows_a / rows_b
    return apart + ab * (rows_a + rows_b) / (rows_a * rows_b)


def estimate(norm: float, rows_square: float, rows: int) -> Estimate:
    """Return |G|² and tr Σ of a step.

    Of S = Σgᵢ, |S|² = Σ|gᵢ|² + Σ_{i≠j} gᵢ·gⱼ, and each of the n·(n - 1) products has the
    expectation |G|²; one row alone has E|gᵢ|² = |G|² + tr Σ (McCandlish et al., appendix A.1,
    where the two batch sizes are 1 and n).

    Args:
        norm: |S| / n, the norm of the step's mean gradient before clipping.
        rows_square: Σ|gᵢ|² / n², see `rows_square`.
        rows: n, at least 2.
    """
    square = (norm * norm - rows_square) * rows / (rows - 1)
    return Estimate(square, rows * rows_square - square)


@dataclass
class NoiseTotals:
    """Sums of the estimates of a run's measured steps: all that its average and error need."""

    steps: int = 0
    square: float = 0.0
    trace: float = 0.0
    square_square: float = 0.0
    trace_trace: float = 0.0
    square_trace: float = 0.0

    def add(self, found: Estimate) -> None:
        """Count a step."""
        self.steps += 1
        self.square += found.square
        self.trace += found.trace
        self.square_square += found.square**2
        self.trace_trace += found.trace**2
        self.square_trace += found.square * found.trace

    def summary(self) -> dict[str, Any] | None:
        """Return the run's noise scale for results.json; None where no step was measured.

        `scale` is mean tr Σ over mean |G|²: the mean of the steps' ratios would be biased, since
        |G|² may be near zero. None where mean |G|² is not above zero: then noise hides it. `low`
        and `high` bound 95 % (Fieller 1954, J. R. Stat. Soc. B 16:175: the bounds of a ratio whose
        denominator is uncertain too); None where there is no such bound. Steps are taken to be
        independent, so what changes in the course of training widens the bounds.
        """
        if not self.steps:
            return None
        square, trace = self.square / self.steps, self.trace / self.steps
        low, high = self._bounds(square, trace)
        return {
            "steps": self.steps,
            "gradient_square": square,
            "trace": trace,
            "scale": trace / square if square > 0 else None,
            "low": low,
            "high": high,
        }

    def _bounds(self, square: float, trace: float) -> tuple[float | None, float | None]:
        n = self.steps
        if n < 2:
            return None, None
        from scipy.special import stdtrit

        factor = float(stdtrit(n - 1, 0.975)) ** 2 / (n * (n - 1))
        vss = factor * max(0.0, self.square_square - n * square * square)
        vtt = factor * max(0.0, self.trace_trace - n * trace * trace)
        vst = factor * (self.square_trace - n * square * trace)
        return fieller(trace, square, vtt, vss, vst)


def fieller(
    above: float, below: float, above_variance: float, below_variance: float, covariance: float
) -> tuple[float | None, float | None]:
    """Return the bounds of above / below; None where there is no such bound, or it is below 0.

    E. C. Fieller, J. R. Stat. Soc. B 16 (1954) 175-185.

    Args:
        above: a mean.
        below: a mean that is measured with it.
        above_variance: of the mean, times the square of Student's t; the others alike.
        below_variance: see there.
        covariance: see there.
    """
    # (above - x·below)² ≤ t²·var(above - x·below): a·x² - 2·b·x + c ≤ 0.
    a, b = below * below - below_variance, below * above - covariance
    root = b * b - a * (above * above - above_variance)
    if root < 0 or below <= 0 or a == 0:
        return None, None
    first, second = sorted(((b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a))
    if a > 0:
        return max(0.0, first), second
    # What is below could be zero: every ratio from the larger root on is possible.
    return (second if second > 0 else None), None


class NoiseMeter:
    """The estimates of a run, and those since the last line of its log."""

    def __init__(self) -> None:
        self._run, self._recent = NoiseTotals(), NoiseTotals()

    def add(self, found: Estimate | None) -> None:
        """Count a measured step; None is one whose gradient was not finite."""
        if found is not None:
            self._run.add(found)
            self._recent.add(found)

    def window(self) -> dict[str, float]:
        """Return the mean estimates since the last call, for a train line; empty without any."""
        recent, self._recent = self._recent, NoiseTotals()
        if not recent.steps:
            return {}
        return {
            "noise_gradient_square": recent.square / recent.steps,
            "noise_trace": recent.trace / recent.steps,
        }

    def state(self) -> list[dict[str, float]]:
        """Return what a checkpoint keeps."""
        return [asdict(self._run), asdict(self._recent)]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on from what `state` returned."""
        self._run, self._recent = (NoiseTotals(**sums) for sums in state)

    def summary(self) -> dict[str, Any] | None:
        """Return the run's noise scale, see `NoiseTotals.summary`."""
        return self._run.summary()
