"""The margin of a verdict where none is given. Pure."""

from __future__ import annotations

import math

from training.config import UsageError

POINT = 0.01
"""One point of a score that is a fraction."""
SHARES = frozenset({"accuracy", "macro_f1", "weighted_f1"})


def standard_error(metric: str, value: float, examples: int, positive: float = 0.5) -> float | None:
    """Return how far a score is from the one on all examples of the kind; None of other metrics.

    With n examples and the score as if it were the true one:

    - accuracy: √(p·(1 - p) / n), binomial. Macro and weighted F1, as means over the classes that
      are near the accuracy, likewise: an approximation.
    - F1 of the positive class, a share q of the rows, by the delta method. With U rows that are
      positive or predicted so, F = 2π / (1 + π), where π of them are true positives, and
      var π = π·(1 - π) / U. As many false positives as false negatives make U = q·n·(2 - F), so
      var F = F·(1 - F)·(2 - F) / (2·q·n).
    - Matthews' coefficient: √((1 - φ²) / n), the asymptotic error for two classes of equal size
      (Y. M. M. Bishop, S. E. Fienberg and P. W. Holland, Discrete Multivariate Analysis, 1975,
      section 11.3.4); at 70 % of one class it is within a tenth of that.
    - Pearson's correlation: (1 - r²) / √(n - 3), Fisher's z by the delta method, of normal
      variables; Spearman's: √1.06 times as much (E. C. Fieller, H. O. Hartley and E. S. Pearson,
      Biometrika 44 (1957) 470-481).

    Args:
        metric: the score's name.
        value: the score, a fraction.
        examples: of the split.
        positive: share of the rows in the positive class, for `f1`.

    Raises:
        ValueError: the score is out of its range, or there are fewer than 4 examples.
    """
    signed = metric in ("matthews", "pearson", "spearman")
    if metric not in SHARES and metric != "f1" and not signed:
        return None
    if not (-1 if signed else 0) <= value <= 1 or examples < 4 or not 0 < positive <= 1:
        raise ValueError(f"{metric} {value} of {examples} examples, {positive} positive")
    if metric in SHARES:
        return math.sqrt(value * (1 - value) / examples)
    if metric == "f1":
        return math.sqrt(value * (1 - value) * (2 - value) / (2 * positive * examples))
    if metric == "matthews":
        return math.sqrt((1 - value**2) / examples)
    more = 1.0 if metric == "pearson" else math.sqrt(1.06)
    return more * (1 - value**2) / math.sqrt(examples - 3)


def default_margin(
    metric: str, value: float, examples: int, positive: float = 0.5
) -> tuple[float, str]:
    """Return the margin where none is given, and where it comes from in words.

    One point, or one standard error of the score where that is more: two scores that are nearer
    than that could be one and the same on other examples. Rounded to a tenth of a point, so that
    the words say the margin that is used.

    Args:
        metric: the score's name.
        value: the published score, a fraction.
        examples: of the split that it is on.
        positive: share of the rows in the positive class, for `f1`.

    Raises:
        UsageError: the metric has no natural margin (`mse` is in units of the labels).
        ValueError: as `standard_error`.
    """
    error = standard_error(metric, value, examples, positive)
    if error is None:
        raise UsageError(f"{metric} has no margin of its own: give one, in units of the score")
    rounded = round(error, 3)
    if rounded <= POINT:
        return POINT, "1 point"
    return rounded, f"{100 * rounded:.1f} points, one standard error of {examples:,} examples"
