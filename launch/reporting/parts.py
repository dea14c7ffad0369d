"""What is found of the trials of one task. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from training.config import UsageError

from . import critical
from .advice import Advice, front, recommend
from .axes import BATCH, RANKS, axis_key, tied_axes, varied_axes
from .cells import Cell, Trial, default_target, make_cells, noise_of, reach
from .critical import CriticalBatch
from .efficiency import Efficiency, efficiencies
from .noise import Noise
from .records import higher_is_better
from .sacct import Used
from .scaling import Series, make_series
from .stats import Interval


@dataclass(frozen=True)
class Critical:
    """Measured and predicted critical batch of one line of the plots."""

    name: str
    runs: tuple[tuple[float, float], ...]
    """(steps, examples) to the target of those that were fitted."""
    measured: CriticalBatch
    noise: Noise | None

    @property
    def predicted(self) -> Interval | None:
        """The critical batch that gradient noise predicts, if it was measured and can be told."""
        return self.noise.scale if self.noise else None


@dataclass(frozen=True)
class Part:
    """The trials of one task: what can be compared."""

    task: str
    metric: str
    split: str
    baseline: float | None
    target: float | None
    target_from: str
    varied: tuple[str, ...]
    """Axes with several values, without the seed."""
    tied: tuple[str, ...]
    """Those of them that follow from the batch and the others."""
    noise: Noise | None
    """Of all runs: it is the task's and the model's, not the rule's."""
    trials: tuple[Trial, ...]
    cells: tuple[Cell, ...]
    scaling: tuple[Series, ...]
    critical: tuple[Critical, ...]
    front: tuple[Cell, ...]
    advice: Advice | None
    efficiency: tuple[Efficiency, ...]

    @property
    def higher(self) -> bool:
        """Whether more of the metric is better."""
        return higher_is_better(self.metric)

    @property
    def unit(self) -> str:
        """GPU-hours or core-hours."""
        return next((c.unit for c in self.cells if c.hours), "core-hours")

    @property
    def lines(self) -> tuple[str, ...]:
        """The varied axes that are not the batch."""
        return tuple(a for a in self.varied if axis_key(a) != BATCH)

    @property
    def fitted(self) -> tuple[str, ...]:
        """The axes whose every combination has a critical batch of its own."""
        return tuple(a for a in self.lines if a not in self.tied and axis_key(a) not in RANKS)


def make_part(
    task: str,
    trials: list[Trial],
    target: float | None,
    margin: float | None,
    used: Mapping[str, Used],
    baseline: Callable[[str, str], float | None],
) -> Part:
    """Return what is found of the trials of one task.

    Args:
        task: its name.
        trials: they.
        target: the score to reach; None: one that follows from the runs.
        margin: by how much a recommended batch may be worse than the best; None: see
            `advice.default_margin`.
        used: what accounting says, by job id.
        baseline: returns one constant answer's score, of a metric on a split.

    Raises:
        UsageError: the metric cannot have the target.
    """
    records = [t.record for t in trials]
    metric = next((r.metric for r in records if r.metric), "")
    split = next((r.split for r in records if r.split), "")
    floor = baseline(metric, split)
    chosen, said = target, "as asked"
    if target is None:
        chosen, said = default_target(make_cells(trials, floor, None), metric, floor)
    elif metric:
        check_target(target, metric)
        if floor is not None and (target <= floor if higher_is_better(metric) else target >= floor):
            said += f", which one constant answer meets ({floor:.4f})"
    cells = make_cells(trials, floor, chosen)
    axes = [t.axes for t in trials]
    varied = varied_axes(axes)
    tied = tied_axes(varied, axes)
    part = Part(
        task=task,
        metric=metric,
        split=split,
        baseline=floor,
        target=chosen,
        target_from=said,
        varied=tuple(varied),
        tied=tuple(tied),
        noise=noise_of((t.record for c in cells for t in c.trials), floor),
        trials=tuple(trials),
        cells=tuple(cells),
        scaling=tuple(make_series(trials, tied)),
        critical=(),
        front=tuple(front(cells)),
        advice=recommend(cells, margin),
        efficiency=tuple(efficiencies(records, used)),
    )
    return replace(part, critical=tuple(_critical(part)))


def check_target(target: float, metric: str) -> None:
    """Raise `UsageError` if a metric cannot have this value."""
    low, high = (-1.0, 1.0) if metric in ("matthews", "pearson", "spearman") else (0.0, 1.0)
    if metric == "mse":
        if target <= 0:
            raise UsageError(f"--target {target:g}: mse is above 0")
        return
    if not low <= target <= high:
        hint = f": did you mean {target / 100:g}?" if 1 < target <= 100 else ""
        raise UsageError(f"--target {target:g}: {metric} is between {low:g} and {high:g}{hint}")


def _critical(part: Part) -> Iterable[Critical]:
    """Yield a fit for every combination of the axes beside the batch and the ranks."""
    if part.target is None or not any(axis_key(a) == BATCH for a in part.varied):
        return
    groups: dict[str, list[Cell]] = {}
    for cell in part.cells:
        groups.setdefault(cell.name(part.fitted), []).append(cell)

    def sizes(group: Iterable[Cell]) -> int:
        return len({c.batch for c in group})

    # A search has lines of one batch each: they say nothing one by one.
    long = {n: g for n, g in groups.items() if sizes(g) >= critical.FEWEST}
    for name, group in (long or {"": max(groups.values(), key=sizes)}).items():
        runs = pairs(group, part.target, part.metric)
        fitted = critical.fit(runs)
        early = {c.batch for c in group if c.bound and c.reached == c.ended}
        if early:
            more = (
                f"left out: {len(early)} batch size{'s' * (len(early) > 1)} where the first "
                "evaluation met the target already (a smaller --eval-every tells more)"
            )
            fitted = replace(fitted, says="; ".join(filter(None, (fitted.says, more))))
        own = (t.record for c in group for t in c.trials)
        noise = noise_of(own, part.baseline) if long else part.noise
        yield Critical(name, tuple(runs), fitted, noise)


def pairs(cells: Iterable[Cell], target: float, metric: str) -> list[tuple[float, float]]:
    """Return (steps, examples) to the target of every batch and seed.

    Runs that differ in their ranks alone are the same experiment: they count once. Left out are
    cells where some run did not get there, for those that did would flatter the batch, and cells
    where the first evaluation of some run met the target, for the others would do the opposite.
    """
    found: dict[tuple[Any, Any], list[tuple[float, float]]] = {}
    for cell in cells:
        if not cell.reached or cell.reached < cell.ended or cell.bound:
            continue
        for trial in cell.trials:
            record = trial.record
            met = reach(record.evaluations, target, higher_is_better(metric))
            if record.state == "finished" and met and met.examples:
                own = found.setdefault((cell.batch, record.seed), [])
                own.append((met.steps, met.examples))
    return [(fmean(s for s, _ in own), fmean(e for _, e in own)) for own in found.values()]
