"""Which batch to use: the Pareto front and the recommendation. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, stdev

from .cells import Cell
from .records import higher_is_better
from .stats import CONFIDENCE, t_quantile


def front(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells that no other beats in score and in hours both, the cheapest first.

    Where a run collapsed the mean is not one of runs alike: such cells are not chosen.
    """
    known = [c for c in cells if c.score and c.hours and not c.collapsed]
    found = []
    for cell in known:
        if not any(_beats(other, cell) for other in known):
            found.append(cell)
    return sorted(found, key=lambda c: c.hours.value if c.hours else 0.0)


def _higher(cell: Cell) -> bool:
    return higher_is_better(next((t.record.metric for t in cell.trials if t.record.metric), ""))


def _gain(cell: Cell) -> float:
    assert cell.score is not None
    return cell.score.value if _higher(cell) else -cell.score.value


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
    half: float
    """Half of the interval that the cell was judged by."""
    end: float
    """The worse end of the best cell's interval, as a score."""
    waiting: tuple[Cell, ...]
    """Of the two cells those of which some seeds have not ended."""


def recommend(cells: Iterable[Cell], margin: float | None = None) -> Advice | None:
    """Return the cell with the largest batch that is at most `margin` worse than the best.

    What is compared is the worse end of the mean's interval; the best is the cell where that end
    is best. Two seeds that agree by chance speak for nothing: an interval is at least as wide as
    the usual scatter over seeds makes it. Cells of one run have no interval and count only
    where no cell has one; cells where a run collapsed do not count.

    Args:
        cells: of one task.
        margin: in units of the score; None: see `default_margin`.

    Returns:
        None where no cell counts.
    """
    known = [c for c in cells if c.score and c.batch and not c.collapsed]
    several = [c for c in known if c.score and c.score.low is not None]
    chosen = several or known
    if not chosen:
        return None
    halves = dict(zip(map(id, chosen), _halves(chosen), strict=True))
    ends = {id(c): _gain(c) - halves[id(c)] for c in chosen}
    best = max(chosen, key=lambda c: ends[id(c)])
    if margin is None:
        margin = default_margin(best, abs(ends[id(best)]))
    near = [c for c in chosen if ends[id(c)] >= ends[id(best)] - margin - 1e-12]
    cheap = {id(c): -c.hours.value if c.hours else -math.inf for c in near}
    cell = max(near, key=lambda c: (c.batch or 0, ends[id(c)], cheap[id(c)]))
    return Advice(
        cell,
        best,
        margin,
        single=not several,
        half=halves[id(cell)],
        end=ends[id(best)] if _higher(best) else -ends[id(best)],
        waiting=tuple(c for c in {id(c): c for c in (cell, best)}.values() if _waits(c)),
    )


def default_margin(best: Cell, end: float) -> float:
    """Return how much worse a recommended batch may be: one point, of an error 5% of the best."""
    return 0.01 if _higher(best) else float(f"{0.05 * end:.3g}")


def _waits(cell: Cell) -> bool:
    going = ("running", "queued", "created", "missing", "interrupted")
    return any(t.record.state in going for t in cell.trials)


def _halves(cells: Sequence[Cell]) -> list[float]:
    """Return half an interval for each cell: its own, or that of the usual scatter if wider.

    The usual scatter is the median of the cells' standard deviations, those that are 0 apart.
    """
    own = [[t.record.score for t in c.trials if t.record.state == "finished"] for c in cells]
    scores = [[s for s in values if s is not None] for values in own]
    degrees = sum(len(values) - 1 for values in scores)
    scatter = [sd for v in scores if len(v) > 1 and (sd := stdev(v)) > 0]
    wide = 0.0
    if scatter:
        wide = t_quantile((1 + CONFIDENCE) / 2, degrees) * median(scatter)
    found = []
    for cell, values in zip(cells, scores, strict=True):
        low, high = (cell.score.low, cell.score.high) if cell.score else (None, None)
        half = (high - low) / 2 if low is not None and high is not None else 0.0
        found.append(max(half, wide / math.sqrt(len(values))))
    return found
