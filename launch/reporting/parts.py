"""What is found of the trials of one task. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from training.config import UsageError

from . import critical
from .cells import (
    BATCH,
    RANKS,
    Advice,
    Cell,
    Trial,
    axes_of,
    axis_key,
    default_target,
    front,
    make_cells,
    noise_mean,
    reach,
    recommend,
)
from .critical import CriticalBatch
from .efficiency import Efficiency, efficiencies
from .records import higher_is_better
from .sacct import Used
from .scaling import Series, make_series
from .stats import Interval


@dataclass(frozen=True)
class Critical:
    """Measured and predicted critical batch of one line of the plots."""

    name: str
    measured: CriticalBatch
    predicted: Interval | None


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


def make_part(
    task: str,
    trials: list[Trial],
    target: float | None,
    margin: float,
    used: Mapping[str, Used],
    baseline: Callable[[str, str], float | None],
) -> Part:
    """Return what is found of the trials of one task.

    Args:
        task: its name.
        trials: they.
        target: the score to reach; None: one that follows from the runs.
        margin: by how much a recommended batch may be worse than the best.
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
        chosen = default_target(make_cells(trials, floor, None), metric)
        said = (
            "the best mean less one point" if higher_is_better(metric) else "5% above the best mean"
        )
    elif metric:
        check_target(target, metric)
    cells = make_cells(trials, floor, chosen)
    varied = tuple(axes_of(trials))
    return Part(
        task=task,
        metric=metric,
        split=split,
        baseline=floor,
        target=chosen,
        target_from=said,
        varied=varied,
        trials=tuple(trials),
        cells=tuple(cells),
        scaling=tuple(make_series(trials)),
        critical=tuple(_critical(cells, varied, chosen, metric)),
        front=tuple(front(cells)),
        advice=recommend(cells, margin),
        efficiency=tuple(efficiencies(records, used)),
    )


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


def _critical(
    cells: Sequence[Cell], varied: Iterable[str], target: float | None, metric: str
) -> Iterable[Critical]:
    """Yield a fit for every combination of the axes beside the batch and the ranks."""
    if target is None or not any(axis_key(a) == BATCH for a in varied):
        return
    kept = [a for a in varied if axis_key(a) not in (BATCH, *RANKS)]
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.name(kept), []).append(cell)
    # A search has lines of one batch each: they say nothing one by one.
    long = {n: g for n, g in groups.items() if len({c.batch for c in g}) >= critical.FEWEST}
    for name, group in (long or {"": []}).items():
        fitted = critical.fit(pairs(group, target, metric))
        yield Critical(name, fitted, noise_mean(group or cells))


def pairs(cells: Iterable[Cell], target: float, metric: str) -> list[tuple[float, float]]:
    """Return (steps, examples) to the target of every batch and seed.

    Runs that differ in their ranks alone are the same experiment: they count once. Left out are
    cells where some run did not get there, for those that did would flatter the batch, and runs
    whose first evaluation met the target.
    """
    found: dict[tuple[Any, Any], list[tuple[float, float]]] = {}
    for cell in cells:
        if not cell.reached or cell.reached < cell.ended:
            continue
        for trial in cell.trials:
            record = trial.record
            met = reach(record.evaluations, target, higher_is_better(metric))
            if record.state == "finished" and met and met.examples and not met.bound:
                own = found.setdefault((cell.batch, record.seed), [])
                own.append((met.steps, met.examples))
    return [(fmean(s for s, _ in own), fmean(e for _, e in own)) for own in found.values()]
