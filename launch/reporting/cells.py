"""Trials that differ in their seed alone make a cell: its mean, its collapses, its cost. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from launch.grid import short_names

from .records import Evaluation, Record, higher_is_better, number
from .stats import Interval, mean_interval, wilson

BATCH = "batch.global_batch"
SEED = "train.seed"
RANKS = ("cluster.nodes", "cluster.procs_per_node")
POINT = 0.01
"""One point of a score that is a fraction."""
COSTS = ("steps", "examples", "seconds", "hours")


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep with its run."""

    number: int
    axes: Mapping[str, Any]
    """By the names that were typed."""
    record: Record
    command: str = ""
    """The line that repeats it alone."""


@dataclass(frozen=True)
class Reached:
    """What a run had cost when its validation score met the target."""

    steps: float
    examples: float | None
    seconds: float | None
    hours: float | None
    bound: bool
    """The first evaluation met it already: it may have been less."""


@dataclass(frozen=True)
class Cell:
    """Trials that differ in nothing but their seed."""

    axes: Mapping[str, Any]
    """What was varied, without the seed, by the names that were typed."""
    batch: int | None
    ranks: int | None
    unit: str
    trials: tuple[Trial, ...]
    score: Interval | None
    """Of the finished runs."""
    collapse: Interval | None
    """Share of the runs that collapsed, of those that finished or diverged."""
    collapsed: int
    reached: int
    """Finished runs whose score met the target."""
    ended: int
    """Runs that finished or diverged."""
    cost: Mapping[str, Interval | None] = field(default_factory=dict)
    """Steps, examples, seconds and hours to the target, of the runs that met it."""
    bound: bool = False
    """Of one of them it is an upper bound."""
    hours: Interval | None = None
    """Of whole runs."""
    seconds: Interval | None = None
    noise: Interval | None = None
    """Critical batch as the gradients' noise predicts it."""

    def name(self, varied: Iterable[str]) -> str:
        """Return the values of these axes in words."""
        return ", ".join(f"{a}={shown(self.axes[a])}" for a in varied if a in self.axes)

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "axes": dict(self.axes),
            "global_batch": self.batch,
            "ranks": self.ranks,
            "run_ids": [t.record.run_id for t in self.trials],
            "score": _plain(self.score),
            "collapsed": self.collapsed,
            "ended": self.ended,
            "collapse_rate": _plain(self.collapse),
            "reached_target": self.reached,
            "to_target": {name: _plain(self.cost.get(name)) for name in COSTS},
            "to_target_is_bound": self.bound,
            "seconds": _plain(self.seconds),
            "hours": _plain(self.hours),
            "hours_unit": self.unit,
            "noise_scale": _plain(self.noise),
        }


def _plain(found: Interval | None) -> dict[str, Any] | None:
    return found.plain() if found else None


def shown(value: Any) -> str:
    """Return an axis value as a person types it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def axis_key(name: str) -> str:
    """Return the configuration's key that an axis sets, `task` and `model` as they are."""
    plain = name.strip().removeprefix("--").replace("-", "_")
    return short_names().get(plain, plain)


def axes_of(trials: Iterable[Trial]) -> list[str]:
    """Return the axes that take more than one value, in order; the seed is none of them."""
    values: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.axes.items():
            values.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    return [n for n, seen in values.items() if len(seen) > 1 and axis_key(n) != SEED]


def collapsed(record: Record, baseline: float | None) -> bool:
    """Return whether a run collapsed: it diverged, or scored no better than one constant answer.

    A score that is not defined (the correlation of a constant) counts as collapsed.
    """
    if record.diverged:
        return True
    if record.state != "finished":
        return False
    if record.score is None:
        return True
    if baseline is None:
        return False
    if higher_is_better(record.metric):
        return record.score <= baseline + 1e-9
    return record.score >= baseline - 1e-9


def reach(evaluations: Sequence[Evaluation], target: float, higher: bool = True) -> Reached | None:
    """Return what it had cost when the score first met the target; None if it never did.

    Between the last evaluation below the target and the first at or beyond it, all costs are
    taken to grow in proportion to the score.
    """
    before: Evaluation | None = None
    for now in evaluations:
        if now.value is None:
            continue
        if (now.value >= target) if higher else (now.value <= target):
            share = 1.0
            if before is not None and before.value is not None and now.value != before.value:
                share = (target - before.value) / (now.value - before.value)
            return Reached(
                steps=_between(before and before.step, now.step, share) or now.step,
                examples=_between(before and before.examples, now.examples, share),
                seconds=_between(before and before.seconds, now.seconds, share),
                hours=_between(before and before.hours, now.hours, share),
                bound=before is None,
            )
        before = now
    return None


def _between(low: float | None, high: float | None, share: float) -> float | None:
    if high is None:
        return None
    return high if low is None else low + share * (high - low)


def default_target(cells: Iterable[Cell], metric: str) -> float | None:
    """Return the target where none is asked for; None where no run finished.

    The best mean less one point; of an error, of which less is better, 5% above the best mean.
    """
    means = [c.score.value for c in cells if c.score]
    if not means:
        return None
    if higher_is_better(metric):
        return round(max(means) - POINT, 4)
    return float(f"{min(means) * 1.05:.4g}")


def make_cells(trials: Sequence[Trial], baseline: float | None, target: float | None) -> list[Cell]:
    """Return the cells of trials of one task, in the order of batch and axes.

    Where a search's best values were run again with seeds of their own, these runs alone make the
    mean: the search's trial was chosen for its score, and one of the seeds may be its own.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        rest = {n: v for n, v in trial.axes.items() if axis_key(n) != SEED}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(trial)
    cells = [_cell(_last_runs(group), baseline, target) for group in groups.values()]
    return sorted(cells, key=lambda c: (c.batch is None, c.batch or 0))


def _last_runs(trials: list[Trial]) -> list[Trial]:
    """Return a search's runs with seeds of their own, once one has ended; else all trials.

    A grid has a seed in all of its trials, or in none.
    """
    seeded = [t for t in trials if any(axis_key(name) == SEED for name in t.axes)]
    return seeded if any(_ended(t.record) for t in seeded) else trials


def _ended(record: Record) -> bool:
    return record.state == "finished" or record.diverged


def _cell(trials: list[Trial], baseline: float | None, target: float | None) -> Cell:
    records = [t.record for t in trials]
    done = [r for r in records if r.state == "finished"]
    ended = [r for r in records if _ended(r)]
    higher = higher_is_better(next((r.metric for r in done), ""))
    fallen = sum(collapsed(r, baseline) for r in ended)
    met = [m for r in done if target is not None and (m := reach(r.evaluations, target, higher))]
    first = records[0]
    return Cell(
        axes={n: v for n, v in trials[0].axes.items() if axis_key(n) != SEED},
        batch=_same(records, "global_batch") or _axis_batch(trials[0]),
        ranks=_same(records, "ranks"),
        unit=next((r.unit for r in done), first.unit),
        trials=tuple(trials),
        score=mean_interval([r.score for r in done if r.score is not None]),
        collapse=wilson(fallen, len(ended)),
        collapsed=fallen,
        reached=len(met),
        ended=len(ended),
        cost={name: _mean([getattr(m, name) for m in met]) for name in COSTS},
        bound=any(m.bound for m in met),
        hours=_mean([r.hours for r in done]),
        seconds=_mean([r.seconds for r in done]),
        noise=mean_interval([s for r in done if (s := number(r.noise.get("scale"))) is not None]),
    )


def _mean(values: Iterable[float | None]) -> Interval | None:
    """Return the mean with its interval, None where a value is not known; no cost is below 0."""
    listed = list(values)
    known = [v for v in listed if v is not None]
    if len(known) != len(listed):
        return None
    found = mean_interval(known)
    if found is None or found.low is None:
        return found
    return Interval(found.value, max(0.0, found.low), found.high, found.count)


def _same(records: Iterable[Record], name: str) -> Any:
    values = {getattr(r, name) for r in records} - {None}
    return values.pop() if len(values) == 1 else None


def _axis_batch(trial: Trial) -> int | None:
    for name, value in trial.axes.items():
        if axis_key(name) == BATCH:
            try:
                return int(value)
            except (TypeError, ValueError):
                return None
    return None


def front(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells that no other beats in score and in hours both, the cheapest first."""
    known = [c for c in cells if c.score and c.hours]
    found = []
    for cell in known:
        if not any(_beats(other, cell) for other in known):
            found.append(cell)
    return sorted(found, key=lambda c: c.hours.value if c.hours else 0.0)


def _gain(cell: Cell) -> float:
    assert cell.score is not None
    metric = next((t.record.metric for t in cell.trials if t.record.metric), "")
    return cell.score.value if higher_is_better(metric) else -cell.score.value


def _beats(one: Cell, other: Cell) -> bool:
    assert one.hours and other.hours
    gain, cost = _gain(one) - _gain(other), other.hours.value - one.hours.value
    return gain >= 0 and cost >= 0 and (gain > 0 or cost > 0)


@dataclass(frozen=True)
class Advice:
    """The batch to use, by a rule that the report states."""

    cell: Cell
    best: Cell
    margin: float
    single: bool
    """No combination has several seeds: means were compared."""


def recommend(cells: Iterable[Cell], margin: float) -> Advice | None:
    """Return the cell with the largest batch that is at most `margin` worse than the best.

    What is compared is the worse end of the mean's interval, so that few or scattered seeds never
    speak for a batch; the best is the cell where that end is best. Cells of one run have no
    interval and count only where no cell has one.
    """
    known = [c for c in cells if c.score and c.batch]
    several = [c for c in known if c.score and c.score.low is not None]
    chosen = several or known
    if not chosen:
        return None
    ends = {id(c): _worse_end(c) for c in chosen}
    best = max(chosen, key=lambda c: ends[id(c)])
    near = [c for c in chosen if ends[id(c)] >= ends[id(best)] - margin - 1e-12]
    cheap = {id(c): -c.hours.value if c.hours else -float("inf") for c in near}
    cell = max(near, key=lambda c: (c.batch or 0, ends[id(c)], cheap[id(c)]))
    return Advice(cell, best, margin, not several)


def _worse_end(cell: Cell) -> float:
    """Return the worse end of a cell's interval, as a gain."""
    assert cell.score is not None
    metric = next((t.record.metric for t in cell.trials if t.record.metric), "")
    end = cell.score.low if higher_is_better(metric) else cell.score.high
    value = cell.score.value if end is None else end
    return value if higher_is_better(metric) else -value


def noise_mean(cells: Iterable[Cell]) -> Interval | None:
    """Return the predicted critical batch over all runs that measured it."""
    values = [
        s
        for c in cells
        for t in c.trials
        if t.record.state == "finished" and (s := number(t.record.noise.get("scale"))) is not None
    ]
    return mean_interval(values)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known."""
    known = [v for v in values if v is not None]
    return fmean(known) if known else None
