"""What a model that always gives the same answer scores: the floor that a collapsed run is on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from training.config import UsageError
from training.predictions import read_predictions
from training.rundir import RunDir


def read_labels(run: RunDir, split: str) -> tuple[list[str], str | None]:
    """Return the labels of a split as its predictions hold them, and the positive class.

    No labels where the file is missing, damaged or without them; the positive class is the second
    of two.
    """
    try:
        found = read_predictions(run, split)
    except (FileNotFoundError, UsageError):
        return [], None
    return list(found.labels or ()), found.classes[1] if len(found.classes) == 2 else None


def constant_score(metric: str, labels: Iterable[str], positive: str | None = None) -> float | None:
    """Return the best score that one constant answer gets; None where it is not defined.

    With p the share of the most frequent of k classes: accuracy p; weighted F1 p·2p/(1 + p); macro
    F1 2p/(1 + p)/k; F1 of the positive class, of share q, 2q/(1 + q); Matthews' coefficient and
    the correlations 0; the squared error that of the mean, the labels' variance.

    Args:
        metric: the score's name.
        labels: of every example.
        positive: the class that F1 is of; the second of the task's two.
    """
    known = list(labels)
    if not known:
        return None
    if metric in ("pearson", "spearman", "matthews"):
        return 0.0
    if metric == "mse":
        return _variance(known)
    counts = Counter(known)
    share = max(counts.values()) / len(known)
    if metric == "accuracy":
        return share
    if metric == "weighted_f1":
        return share * 2 * share / (1 + share)
    if metric == "macro_f1":
        return 2 * share / (1 + share) / len(counts)
    if metric == "f1":
        q = counts[positive] / len(known) if positive is not None else None
        return 2 * q / (1 + q) if q is not None else None
    return None


def _variance(labels: list[str]) -> float | None:
    try:
        values = [float(v) for v in labels]
    except ValueError:
        return None
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)
