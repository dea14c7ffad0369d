"""Means, proportions and their confidence intervals. Pure, standard library only.

scipy has all of it and takes seconds to import on a login node; the tests compare with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95
"""Of every interval of a report."""


@dataclass(frozen=True)
class Interval:
    """A number with what it could also be."""

    value: float
    low: float | None
    """None where there is no interval: of a single measurement."""
    high: float | None
    count: int
    """Measurements that it is taken from."""

    def plain(self) -> dict[str, float | int | None]:
        """Return it ready for JSON."""
        high = None if self.high is not None and math.isinf(self.high) else self.high
        return {"value": self.value, "low": self.low, "high": high, "count": self.count}


def beta_inc(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    By its continued fraction (DLMF 8.17.22), which converges fast below the mean; above it, by
    the symmetry I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_inc(b, a, 1.0 - x)
    front = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
        - math.log(a)
    )
    return front / _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d₁/(1 + d₂/(1 + …)) of DLMF 8.17.22, by Lentz's method."""
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for n in range(1, 1000):
        m = n // 2
        if n % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / ((1.0 + term * d) or tiny)
        c = (1.0 + term / c) or tiny
        value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def t_cdf(t: float, df: float) -> float:
    """Return the probability that Student's t with `df` degrees of freedom is at most `t`."""
    if t * t < df:  # near the middle the tail would lose its digits
        inner = 0.5 * beta_inc(0.5, df / 2.0, t * t / (df + t * t))
        return 0.5 + math.copysign(inner, t)
    tail = 0.5 * beta_inc(df / 2.0, 0.5, df / (df + t * t))
    return 1.0 - tail if t > 0 else tail


def t_quantile(p: float, df: float) -> float:
    """Return the value that Student's t stays below with probability `p`.

    Raises:
        ValueError: `p` is not between 0 and 1, or `df` is not above 0.
    """
    if not 0.0 < p < 1.0 or df <= 0:
        raise ValueError(f"t_quantile({p}, {df})")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, 2.0 * high
    for _ in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2.0


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Return the mean with Student's t interval; None of nothing, no interval of one value.

    x̄ ± t_{(1+c)/2, n-1} · s / √n
    """
    if not values:
        return None
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, None, None, 1)
    half = (
        t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    )
    return Interval(mean, mean - half, mean + half, len(values))


def mean_ratio(
    above: Sequence[float], below: Sequence[float], confidence: float = CONFIDENCE
) -> Interval:
    """Return the ratio of the means of two samples of positive numbers.

    The interval is Welch's on the logarithm, by the delta method: the variances of both means
    count, relative to the means. None where a sample has a single value.
    """
    parts = []
    for values in (above, below):
        if len(values) > 1:
            parts.append((stdev(values) / fmean(values)) ** 2 / len(values))
    value, count = fmean(above) / fmean(below), min(len(above), len(below))
    if len(parts) < 2:
        return Interval(value, None, None, count)
    total = sum(parts)
    if total == 0:
        return Interval(value, value, value, count)
    weights = zip(parts, (len(above) - 1, len(below) - 1), strict=True)
    degrees = total**2 / sum(part**2 / df for part, df in weights)
    factor = math.exp(t_quantile((1 + confidence) / 2, degrees) * math.sqrt(total))
    return Interval(value, value / factor, value * factor, count)


def wilson(successes: int, count: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Return a proportion with Wilson's score interval, which holds at 0 and at 1 too.

    E. B. Wilson, JASA 22 (1927) 209-212. None of nothing.
    """
    if count == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At 0 and 1 the ends are exact; rounding must not leave them.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Interval(share, low, high, count)
