"""Scores of predictions on a whole split, by scikit-learn and scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import TaskConfig


def classify(logits: NDArray[Any]) -> NDArray[np.int64]:
    """Return the predicted class of each row of `logits`, shape [n, classes]."""
    return logits.argmax(axis=-1).astype(np.int64)


def compute_metrics(
    task: TaskConfig, outputs: NDArray[Any], labels: NDArray[Any]
) -> dict[str, float | None]:
    """Return the task's scores as fractions (not percent).

    Args:
        task: names the problem and the metrics.
        outputs: logits [n, classes] of a classification, values [n] or [n, 1] of a regression.
        labels: class numbers or values, shape [n].

    A correlation of a constant is undefined, and None: JSON has no NaN.

    Raises:
        ValueError: the shapes differ or there are no rows.
    """
    if len(outputs) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(outputs)} outputs for {len(labels)} labels")
    if task.problem == "regression":
        predicted: NDArray[Any] = outputs.reshape(len(labels)).astype(np.float64)
    else:
        predicted = classify(outputs)
    return {name: _score(name, predicted, labels) for name in task.metric_names}


def _score(name: str, predicted: NDArray[Any], labels: NDArray[Any]) -> float | None:
    # scikit-learn takes half a second to import, scipy.stats as long: only ranks that score pay.
    if name in ("pearson", "spearman"):
        from scipy import stats

        if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
            return None
        function = stats.pearsonr if name == "pearson" else stats.spearmanr
        return _finite(function(predicted, labels)[0])
    if name == "mse":
        return _finite(np.mean((predicted - labels) ** 2))
    from sklearn import metrics

    if name == "accuracy":
        return _finite(metrics.accuracy_score(labels, predicted))
    if name == "matthews":
        return _finite(metrics.matthews_corrcoef(labels, predicted))
    average = {"f1": "binary", "macro_f1": "macro", "weighted_f1": "weighted"}[name]
    return _finite(metrics.f1_score(labels, predicted, average=average, zero_division=0))  # pyright: ignore[reportArgumentType]


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


LOWER_IS_BETTER = frozenset({"mse"})


def better(name: str, value: float | None, best: float | None) -> bool:
    """Return whether `value` of metric `name` beats `best`; an undefined value never does."""
    if value is None:
        return False
    if best is None:
        return True
    return value < best if name in LOWER_IS_BETTER else value > best
