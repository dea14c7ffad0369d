"""Trials that differ in their seed alone make a cell: its mean, its collapses, its cost. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .axes import BATCH, SEED, axis_key, shown
from .noise import Noise, pooled_noise
from .records import Evaluation, Record, higher_is_better
from .stats import Interval, mean_interval, wilson

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
    noise: Noise | None = None
    """Of the finished runs that did not collapse."""

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
            "noise_scale": self.noise.plain() if self.noise else None,
        }


def _plain(found: Interval | None) -> dict[str, Any] | None:
    return found.plain() if found else None


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


def default_target(
    cells: Iterable[Cell], metric: str, floor: float | None
) -> tuple[float | None, str]:
    """Return the target where none is asked for, and where it is from.

    The best mean less one point; of an error, of which less is better, 5% above the best mean.
    Where one constant answer would meet that, half of the way from its score to the best mean;
    None where no run is better, or none finished.
    """
    means = [c.score.value for c in cells if c.score]
    if not means:
        return None, "no run has a score"
    higher = higher_is_better(metric)
    best = max(means) if higher else min(means)
    found = round(best - POINT, 4) if higher else float(f"{best * 1.05:.4g}")
    if floor is None or (found > floor if higher else found < floor):
        return found, "the best mean less one point" if higher else "5% above the best mean"
    if best <= floor if higher else best >= floor:
        return None, "no combination is better than one constant answer"
    middle = float(f"{(best + floor) / 2:.4g}")
    return middle, "the middle between one constant answer and the best mean"


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
    met = [
        m
        for r in done
        if target is not None
        and not collapsed(r, baseline)
        and (m := reach(r.evaluations, target, higher))
    ]
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
        noise=noise_of(records, baseline),
    )


def noise_of(records: Iterable[Record], baseline: float | None) -> Noise | None:
    """Return the gradient noise of the finished runs, without those that collapsed."""
    return pooled_noise(
        [r for r in records if r.state == "finished" and not collapsed(r, baseline)]
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
