"""What is found of trials: collapses, costs to a target, the recommended batch."""

from pathlib import Path
from typing import Any

import pytest

from launch.reporting.axes import varied_axes
from launch.reporting.baseline import constant_score
from launch.reporting.cells import Trial, collapsed, default_target, make_cells, reach
from launch.reporting.records import Evaluation, Record
from tests.present import present
from training.sweepdir import TrialState


def record(score, state: TrialState = "finished", metric="accuracy", hours=1.0, **more):
    values = {"metric": metric, "score": score, "hours": hours, "global_batch": 64, "seed": 1}
    return Record("r", Path("r"), state, **(values | more))


def trials(*rows):
    """Return trials of (batch, rule, seed, score, hours)."""
    return [
        Trial(
            n,
            {"global_batch": batch, "lr_rule": rule, "seed": seed},
            record(score, global_batch=batch, hours=hours, seed=seed),
        )
        for n, (batch, rule, seed, score, hours) in enumerate(rows)
    ]


def evaluations(*values):
    return [
        Evaluation(10 * (i + 1), 640.0 * (i + 1), i + 1.0, None, v) for i, v in enumerate(values)
    ]


LABELS = ["a"] * 6 + ["b"] * 4


@pytest.mark.parametrize("metric", ["accuracy", "f1", "macro_f1", "weighted_f1", "matthews"])
def test_the_floor_is_what_sklearn_gives_the_best_constant_answer(metric):
    from sklearn import metrics as sklearn_metrics

    metrics: Any = sklearn_metrics

    functions: dict[str, Any] = {
        "accuracy": metrics.accuracy_score,
        "f1": lambda y, p: metrics.f1_score(y, p, pos_label="b", zero_division=0),
        "macro_f1": lambda y, p: metrics.f1_score(y, p, average="macro", zero_division=0),
        "weighted_f1": lambda y, p: metrics.f1_score(y, p, average="weighted", zero_division=0),
        "matthews": metrics.matthews_corrcoef,
    }
    wanted = max(functions[metric](LABELS, [c] * 10) for c in "ab")
    assert constant_score(metric, LABELS, "b") == pytest.approx(wanted)


def test_the_floor_of_a_regression():
    assert constant_score("pearson", ["1", "2"]) == 0.0
    assert constant_score("mse", ["1", "3"]) == pytest.approx(1.0)
    assert constant_score("mse", ["x"]) is None and constant_score("accuracy", []) is None


def test_what_counts_as_collapsed():
    assert collapsed(record(0.4), 0.4) and collapsed(record(0.3), 0.4)
    assert not collapsed(record(0.41), 0.4)
    assert collapsed(record(None), 0.4), "a correlation of a constant is not defined"
    assert collapsed(record(None, "failed", diverged=True), 0.4)
    assert not collapsed(record(None, "failed"), 0.4), "out of memory is no collapse"
    assert not collapsed(record(0.3), None), "without labels nothing is known"
    assert collapsed(record(1.2, metric="mse"), 1.0)
    assert not collapsed(record(0.8, metric="mse"), 1.0)


def test_the_target_lies_between_two_evaluations():
    met = present(reach(evaluations(0.5, 0.7, 0.9), 0.8))
    assert (met.steps, met.examples, met.seconds) == pytest.approx((25.0, 1600.0, 2.5))
    assert met.hours is None and not met.bound


def test_the_first_evaluation_is_an_upper_bound_and_never_is_never():
    assert present(reach(evaluations(0.9, 0.95), 0.8)).bound
    assert reach(evaluations(0.5, None, 0.6), 0.8) is None
    assert present(reach(evaluations(3.0, 1.0), 2.0, higher=False)).steps == pytest.approx(15.0)


def test_seeds_make_a_cell_and_are_no_axis():
    found = trials((64, "sqrt", 1, 0.8, 1), (64, "sqrt", 2, 0.9, 1), (128, "sqrt", 1, 0.7, 1))
    assert varied_axes([t.axes for t in found]) == ["global_batch"]
    cells = make_cells(found, 0.5, None)
    assert [(c.batch, len(c.trials), c.ended) for c in cells] == [(64, 2, 2), (128, 1, 1)]
    assert present(cells[0].score).value == pytest.approx(0.85)


def test_the_target_is_better_than_one_constant_answer():
    def target(floor, *scores, metric="accuracy"):
        rows = [Trial(n, {"lr": n}, record(score, metric=metric)) for n, score in enumerate(scores)]
        return default_target(make_cells(rows, floor, None), metric, floor)

    assert target(0.5, 0.9, 0.8) == (0.89, "the best mean less one point")
    assert target(0.6838, 0.69, 0.6838)[0] == pytest.approx(0.6869)
    assert target(0.0, 0.0, 0.0) == (None, "no combination is better than one constant answer")
    assert target(0.5) == (None, "no run has a score")
    assert target(0.01, 0.002, 0.009, metric="mse") == (0.0021, "5% above the best mean")


def test_a_collapsed_run_reaches_nothing():
    rows = [
        Trial(n, {"lr": n}, record(score, evaluations=tuple(evaluations(0.2, score))))
        for n, score in enumerate((0.68, 0.70))
    ]
    fallen, well = make_cells(rows, 0.68, 0.68)
    assert (fallen.collapsed, fallen.reached) == (1, 0)
    assert (well.collapsed, well.reached) == (0, 1)


def test_the_best_trial_of_a_search_is_none_of_its_last_runs():
    """Its values were chosen for its score, and one of the seeds is its own."""
    own = [
        Trial(n, {"lr": lr}, record(score)) for n, (lr, score) in enumerate([(1, 0.9), (2, 0.7)])
    ]
    last = [
        Trial(2 + n, {"lr": 1, "seed": seed}, record(score, seed=seed))
        for n, (seed, score) in enumerate([(1, 0.9), (2, 0.8), (3, 0.82)])
    ]
    best, other = make_cells([*own, *last], 0.5, None)
    assert present(best.score).value == pytest.approx(0.84) and present(best.score).count == 3
    assert [t.number for t in best.trials] == [2, 3, 4] and best.ended == 3
    assert present(other.score).count == 1 and [t.number for t in other.trials] == [1]
    # Until one of them has ended there is no other score than the search's.
    waiting = [Trial(t.number, t.axes, record(None, "queued")) for t in last]
    best, _ = make_cells([*own, *waiting], 0.5, None)
    assert present(best.score).value == 0.9 and len(best.trials) == 4
