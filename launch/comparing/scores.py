"""The scores of two runs side by side, and how sure their difference is on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.reporting.records import mapping, number
from launch.reporting.stats import CONFIDENCE
from training.config import UsageError
from training.predictions import Predictions, predicted_splits, read_predictions
from training.rundir import RunDir

from .facts import Facts

TOLERANCE = 1e-4
"""By how much a difference of stored predictions may be off: regressions are kept to six digits."""


@dataclass(frozen=True)
class Score:
    """One metric of one split, as both runs' results.json hold it."""

    split: str
    metric: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """B less A."""
        return self.b - self.a


@dataclass(frozen=True)
class Paired:
    """How sure the difference of a metric is, from the predictions of the same rows."""

    split: str
    metric: str
    rows: int
    low: float | None
    """Of B less A; None where the metric is not defined on resampled rows."""
    high: float | None
    confidence: float
    only_a: int
    """Rows that A alone has right; 0 in a regression."""
    only_b: int
    p_value: float | None
    """McNemar's; None in a regression."""


@dataclass(frozen=True)
class Scores:
    """The scores of two runs."""

    rows: tuple[Score, ...] = ()
    paired: tuple[Paired, ...] = ()
    metric: str = ""
    """The primary one, where both runs have the same."""
    split: str = ""
    """The one that selects the model."""
    collapsed: tuple[str | None, str | None] = (None, None)
    """The one class that a run answers to every row of that split; None where it answers more."""
    notes: tuple[str, ...] = ()

    @property
    def primary(self) -> Score | None:
        """The primary metric of the split that selects; None where a run has none."""
        return next(
            (s for s in self.rows if (s.split, s.metric) == (self.split, self.metric)), None
        )

    @property
    def primary_paired(self) -> Paired | None:
        """How sure its difference is; None where that is not known."""
        return next(
            (p for p in self.paired if (p.split, p.metric) == (self.split, self.metric)), None
        )

    def plain(self) -> dict[str, Any]:
        """Return them ready for JSON."""
        return {
            "scores": [{**vars(s), "difference": s.difference} for s in self.rows],
            "paired": [{**vars(p)} for p in self.paired],
            "primary_metric": self.metric or None,
            "primary_split": self.split or None,
            "collapsed": list(self.collapsed),
        }


def compare_scores(run_a: RunDir, run_b: RunDir, a: Facts, b: Facts) -> Scores:
    """Return the scores of two runs; of a run that is not finished there are none."""
    open_ = [f.run_id for f in (a, b) if not f.finished]
    if open_:
        return Scores(notes=tuple(f"{name} is not finished: no scores yet" for name in open_))
    metric, split = _same(a, b, "primary_metric"), _same(a, b, "primary_split")
    notes: list[str] = []
    if not metric or not split:
        notes.append("the runs have different primary metrics or splits")
    rows = tuple(_rows(a.results, b.results))
    paired: list[Paired] = []
    collapsed: tuple[str | None, str | None] = (None, None)
    for name in dict.fromkeys([split, *(s.split for s in rows)]):
        if not name or name not in {*predicted_splits(run_a), *predicted_splits(run_b)}:
            if name:
                notes.append(f"{name}: no stored predictions, so no paired comparison")
            continue
        left, right = (_read(run, name, notes) for run in (run_a, run_b))
        if left is None or right is None:
            continue
        if name == split:
            collapsed = _only_answer(left), _only_answer(right)
        problem = unlike_rows(left, right, metric)
        if problem is not None:
            notes.append(f"{name}: not paired: {problem}")
        elif metric and left.labels:
            found, value = pair(left, right, metric)
            paired.append(found)
            score = next((s for s in rows if (s.split, s.metric) == (name, metric)), None)
            if score and value is not None and abs(value - score.difference) > TOLERANCE:
                notes.append(
                    f"{name}: the stored predictions differ by {value:+.4f} in {metric}, "
                    f"results.json by {score.difference:+.4f}: one of the files was altered"
                )
    return Scores(rows, tuple(paired), metric, split, collapsed, tuple(notes))


def _read(run: RunDir, split: str, notes: list[str]) -> Predictions | None:
    """Return stored predictions; where there are none to use, None, and a note says why."""
    try:
        return read_predictions(run, split)
    except FileNotFoundError:
        notes.append(f"{split}: not paired: {run.run_id} has no predictions of it")
    except UsageError as error:
        notes.append(f"{split}: not paired: {error}")
    return None


def _same(a: Facts, b: Facts, key: str) -> str:
    left, right = str(a.results.get(key) or ""), str(b.results.get(key) or "")
    return left if left == right else ""


def _rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Score]:
    found = []
    ours, theirs = mapping(a.get("metrics")), mapping(b.get("metrics"))
    for split, scores in ours.items():
        for metric, value in mapping(scores).items():
            left, right = number(value), number(mapping(theirs.get(split)).get(metric))
            if left is not None and right is not None:
                found.append(Score(str(split), str(metric), left, right))
    return found


def _only_answer(predicted: Predictions) -> str | None:
    """Return the one class that all rows were given; None for more, or where there is one row."""
    if len(predicted.classes) < 2 or len(predicted) < 2:
        return None
    first = predicted.answers[0]
    return first if all(answer == first for answer in predicted.answers) else None


def unlike_rows(a: Predictions, b: Predictions, metric: str = "") -> str | None:
    """Return why predictions cannot be paired by row; None where they can.

    Rows are told by their true labels, in order: other rows with the very same labels would pass,
    so what is known of the prepared rows stands among the differences.

    Args:
        a: one run's predictions of a split.
        b: the other one's.
        metric: that is to be compared; `f1` is of one class.
    """
    if len(a) != len(b):
        return f"A has {len(a):,} rows, B {len(b):,}"
    if bool(a.labels) != bool(b.labels):
        return f"{'B' if a.labels else 'A'} has no labels"
    if sorted(a.classes) != sorted(b.classes):
        return "the runs tell other classes apart"
    if metric == "f1" and a.classes != b.classes:
        return f"f1 is of class {a.classes[1]} in A and of {b.classes[1]} in B"
    for row, (left, right) in enumerate(zip(a.labels or (), b.labels or (), strict=True)):
        if left != right:
            return f"other rows: the label of row {row} is {left} in A and {right} in B"
    return None


def pair(a: Predictions, b: Predictions, metric: str) -> tuple[Paired, float | None]:
    """Return how sure the difference of a metric is, and the difference itself: B less A.

    The interval is the percentile one of the paired bootstrap, the test McNemar's of the answers;
    see `launch.judging` for both.

    Args:
        a: predictions of labelled rows.
        b: those of the same rows, see `unlike_rows`.
        metric: as in `training.metrics`; `f1` is of the second class.
    """
    from launch.judging.bootstrap import bootstrap
    from launch.judging.paired import mcnemar

    labels = a.labels or ()
    if not a.classes:
        columns = [[float(v) for v in c] for c in (labels, b.answers, a.answers)]
        drawn, test = bootstrap(metric, *columns), None
    else:
        number_of = {name: i for i, name in enumerate(a.classes)}
        columns = [[number_of[v] for v in c] for c in (labels, b.answers, a.answers)]
        drawn, test = bootstrap(metric, *columns), mcnemar(columns[0], columns[2], columns[1])
    ends = drawn.percentile
    found = Paired(
        split=a.split,
        metric=metric,
        rows=len(a),
        low=ends.low if ends else None,
        high=ends.high if ends else None,
        confidence=CONFIDENCE,
        only_a=test.only_a if test else 0,
        only_b=test.only_b if test else 0,
        p_value=test.p if test else None,
    )
    return found, drawn.value
