"""What is found of trials: collapses, costs to a target, the recommended batch."""

from pathlib import Path
from typing import Any

import pytest

from launch.reporting.baseline import constant_score
from launch.reporting.cells import (
    Trial,
    axes_of,
    axis_key,
    collapsed,
    front,
    make_cells,
    reach,
    recommend,
)
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
    assert axes_of(found) == ["global_batch"]
    cells = make_cells(found, 0.5, None)
    assert [(c.batch, len(c.trials), c.ended) for c in cells] == [(64, 2, 2), (128, 1, 1)]
    assert present(cells[0].score).value == pytest.approx(0.85)


def test_axes_are_known_by_any_spelling():
    assert axis_key("--global-batch") == axis_key("batch.global_batch") == "batch.global_batch"
    assert axis_key("seed") == "train.seed" and axis_key("task") == "task"


def test_the_largest_batch_within_the_margin_is_recommended():
    rows = [(32, "sqrt", s, 0.90 + 0.001 * s, 4.0) for s in range(3)]
    rows += [(64, "sqrt", s, 0.895 + 0.001 * s, 2.0) for s in range(3)]
    rows += [(128, "sqrt", s, 0.80 + 0.001 * s, 1.0) for s in range(3)]
    # A lucky single run, and a mean of scattered seeds, speak for nothing.
    rows += [(256, "sqrt", 0, 0.95, 0.5)]
    rows += [(512, "sqrt", s, 0.90 + 0.1 * s, 0.4) for s in (-1, 0, 1)]
    cells = make_cells(trials(*rows), 0.5, None)
    advice = present(recommend(cells, 0.01))
    assert (advice.cell.batch, advice.best.batch, advice.single) == (64, 32, False)
    assert present(recommend(cells, 0.0)).cell.batch == 32
    assert present(recommend(cells, 0.2)).cell.batch == 128


def test_single_runs_are_compared_by_their_scores():
    cells = make_cells(trials((32, "sqrt", 1, 0.90, 1), (64, "sqrt", 1, 0.895, 1)), 0.5, None)
    advice = present(recommend(cells, 0.01))
    assert advice.cell.batch == 64 and advice.single
    assert recommend([], 0.01) is None


def test_the_front_has_what_nothing_beats_in_both():
    rows = [(32, "a", 1, 0.90, 4.0), (64, "a", 1, 0.89, 2.0), (128, "a", 1, 0.85, 3.0)]
    cells = make_cells(trials(*rows, (256, "a", 1, 0.80, 1.0)), 0.5, None)
    assert [c.batch for c in front(cells)] == [256, 64, 32]


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
