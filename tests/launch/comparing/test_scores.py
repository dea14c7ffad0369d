"""Stored predictions: what is read, what can be paired, and what comes of it."""

from __future__ import annotations

import pytest

from launch.comparing.scores import pair, unlike_rows
from training.predictions import Predictions


def predicted(answers: str, labels: str, names: str = "ny") -> Predictions:
    return Predictions("validation", tuple(answers), tuple(labels), tuple(names))


def test_only_the_same_rows_are_paired():
    a = predicted("nyn", "nyy")
    assert unlike_rows(a, predicted("yyy", "nyy")) is None
    assert unlike_rows(a, predicted("yy", "ny")) == "A has 3 rows, B 2"
    assert "the label of row 2 is y in A and n in B" in str(unlike_rows(a, predicted("nnn", "nyn")))
    assert unlike_rows(a, predicted("nnn", "")) == "B has no labels"
    assert "other classes" in str(unlike_rows(a, predicted("nnn", "nyy", "nyx")))
    turned = predicted("nyn", "nyy", "yn")
    assert unlike_rows(a, turned, "accuracy") is None
    assert unlike_rows(a, turned, "f1") == "f1 is of class y in A and of n in B"


def test_pairs():
    labels = "ny" * 50
    right, worse = predicted(labels, labels), predicted("n" * 40 + labels[40:], labels)
    found, value = pair(right, worse, "accuracy")
    assert value == pytest.approx(-0.2)
    assert (found.rows, found.only_a, found.only_b) == (100, 20, 0)
    assert found.low is not None and found.high is not None and found.p_value is not None
    assert found.low < -0.2 < found.high < 0 and found.p_value < 1e-4
    # The order of the classes is each run's own.
    _, turned = pair(right, predicted("n" * 40 + labels[40:], labels, "yn"), "macro_f1")
    assert turned == pytest.approx(pair(right, worse, "macro_f1")[1])
    same, none = pair(right, right, "matthews")
    assert none == 0.0 and (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)


def test_a_regression_has_an_interval_and_no_test():
    labels = tuple(str(v / 10) for v in range(50))
    noisy = tuple(str(v / 10 + (1.0 if v % 3 else -1.0)) for v in range(50))
    exact = Predictions("validation", labels, labels, ())
    found, value = pair(exact, Predictions("validation", noisy, labels, ()), "mse")
    assert value == pytest.approx(1.0) and found.p_value is None
    assert found.low == pytest.approx(1.0)
