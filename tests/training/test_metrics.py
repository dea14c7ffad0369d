"""Scores equal scikit-learn's and scipy's, and undefined ones are None."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from training.config import TaskConfig
from training.metrics import better, compute_metrics


def task(**values):
    return TaskConfig(name="t", hub="x", text=("a",), label="y", **values)


def test_classification_scores():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 200)
    guessed = logits.argmax(1)
    found = compute_metrics(task(), logits, labels)
    assert found == {
        "accuracy": pytest.approx(metrics.accuracy_score(labels, guessed)),
        "macro_f1": pytest.approx(metrics.f1_score(labels, guessed, average="macro")),
        "weighted_f1": pytest.approx(metrics.f1_score(labels, guessed, average="weighted")),
    }


def test_binary_scores():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(100, 2)), rng.integers(0, 2, 100)
    found = compute_metrics(task(metrics=("accuracy", "f1", "matthews")), logits, labels)
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, logits.argmax(1)))
    assert found["matthews"] == pytest.approx(metrics.matthews_corrcoef(labels, logits.argmax(1)))


def test_regression_scores():
    rng = np.random.default_rng(2)
    values, labels = rng.normal(size=(60, 1)), rng.normal(size=60)
    found = compute_metrics(task(problem="regression"), values, labels)
    assert found["pearson"] == pytest.approx(stats.pearsonr(values[:, 0], labels)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(values[:, 0], labels)[0])


def test_a_constant_has_no_correlation():
    found = compute_metrics(task(problem="regression"), np.zeros((5, 1)), np.arange(5.0))
    assert found == {"pearson": None, "spearman": None}


def test_sizes_must_match():
    with pytest.raises(ValueError, match="3 outputs for 2 labels"):
        compute_metrics(task(), np.zeros((3, 2)), np.zeros(2, dtype=int))


def test_better():
    assert better("accuracy", 0.2, None)
    assert not better("accuracy", None, None)
    assert not better("accuracy", 0.2, 0.2)
    assert better("mse", 0.1, 0.2)
