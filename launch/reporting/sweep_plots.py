"""The plots of a sweep. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from . import svg
from .axes import BATCH, axis_key, number_axis, searched_axes, shown
from .cells import Cell
from .charts import Axis, Bar, Curve, Point, Rule, line_chart, stacked_chart
from .parts import Part
from .scaling import PARTS, Series
from .stats import Interval
from .svg import Kind
from .tables import rate, score

MOST_LINES = 6
"""In one plot: more cannot be told apart without colour."""
MOST_PANELS = 8
REACH = 4
"""How far beyond the batches that were run a predicted one is still drawn, as a factor."""
Figure = tuple[str, str]
"""Caption and SVG."""


@dataclass(frozen=True)
class Across:
    """What plots of a sweep have on their x axis."""

    axis: str
    """The varied axis; empty where nothing was varied."""
    label: str
    kind: Kind

    def value(self, cell: Cell) -> float | None:
        """Return where a cell stands."""
        if axis_key(self.axis) == BATCH:
            return cell.batch
        found = cell.axes.get(self.axis)
        return float(found) if isinstance(found, (int, float)) else None


def across(part: Part) -> Across:
    """Return the x axis: the global batch where it varies, else the first axis of numbers."""
    for name in part.varied:
        if axis_key(name) == BATCH:
            return Across(name, "global batch (examples a step)", "log2")
    for name in part.varied:
        if number_axis(name, [c.axes for c in part.cells]) is not None:
            return _numbers(part, name)
    return Across("", "global batch (examples a step)", "log2")


def _numbers(part: Part, name: str) -> Across:
    values = [float(v) for c in part.cells if isinstance(v := c.axes.get(name), (int, float))]
    wide = min(values) > 0 and max(values) / min(values) >= 8
    return Across(name, name, "log10" if wide else "linear")


@dataclass(frozen=True)
class Panel:
    """Cells that one plot shows, by line."""

    name: str
    lines: dict[str, list[Cell]]
    joined: bool = True
    """Whether the cells of a line differ in what is across alone."""


def panels(part: Part, x: Across) -> list[Panel]:
    """Return the plots that the cells make: one, or one for each value of an axis."""
    loose = searched(part)
    rest = [a for a in part.varied if a != x.axis and a not in (*loose, *part.tied)]
    joined = all(a == x.axis for a in loose)
    if len(_lines(part.cells, rest)) <= MOST_LINES or not rest:
        return [Panel("", _lines(part.cells, rest), joined)]

    def fits(axis: str) -> tuple[bool, int]:
        inside = _lines(part.cells, [a for a in rest if a != axis])
        return len(inside) > MOST_LINES, len(_lines(part.cells, [axis]))

    by = min(rest, key=fits)
    inner = [a for a in rest if a != by]
    groups: dict[str, list[Cell]] = {}
    for cell in part.cells:
        groups.setdefault(shown(cell.axes.get(by)), []).append(cell)
    return [Panel(f"{by}={v}", _lines(cells, inner), joined) for v, cells in groups.items()]


def searched(part: Part) -> list[str]:
    """Return the axes, apart from the batch, that take many numbers."""
    return searched_axes(part.varied, [c.axes for c in part.cells])


def search_plots(part: Part) -> list[Figure]:
    """Return the score over every axis that was searched."""
    figures = []
    for name in searched(part):
        x = _numbers(part, name)
        if x.axis == across(part).axis:
            continue
        caption = f"{part.metric} against {name}"
        rest = [a for a in part.varied if a not in searched(part)]
        lines = _lines(part.cells, rest)
        panel = Panel("", lines if len(lines) <= MOST_LINES else {"": list(part.cells)}, False)
        figures.append((caption, _score_plot(part, caption, panel, x, rules=False)))
    return figures


def _lines(cells: Iterable[Cell], axes: Sequence[str]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.name(axes), []).append(cell)
    return found


def _curves(
    panel: Panel, x: Across, of: Callable[[Cell], Interval | None], show: Callable[..., str]
) -> list[Curve]:
    curves = []
    for style, (name, cells) in enumerate(panel.lines.items()):
        points = []
        for cell in cells:
            at, found = x.value(cell), of(cell)
            if at is None or found is None:
                continue
            tip = f"{name + ', ' if name else ''}{svg.number(at)}: {show(found)}"
            points.append(Point(at, found.value, found.low, found.high, tip=tip))
        if points:
            points.sort(key=lambda p: p.x)
            curves.append(Curve(name, tuple(points), style, joined=panel.joined))
    return curves


def _tell(found: Interval) -> str:
    return svg.number(found.value)


def score_plots(part: Part, panel: Panel, x: Across) -> list[Figure]:
    """Return the score, and where any run collapsed the rest of them closer and the rate."""
    name = _caption(f"{part.metric}, mean and 95% interval over seeds", panel)
    figures = [(name, _score_plot(part, name, panel, x))]
    cells = [c for cells in panel.lines.values() for c in cells]
    well = {id(c) for c in cells if c.collapsed < c.ended}
    if well and any(c.ended and id(c) not in well for c in cells):
        close = {n: [c for c in own if id(c) in well] for n, own in panel.lines.items()}
        name = _caption(f"{part.metric} where not all runs collapsed", panel)
        figures.append(
            (name, _score_plot(part, name, Panel(panel.name, close, panel.joined), x, False))
        )
    if any(c.collapsed for c in cells):
        curves = _curves(panel, x, lambda c: c.collapse, rate)
        name = _caption("Collapsed runs, 95% interval (Wilson)", panel)
        axis = Axis("share of runs", ends=(-0.03, 1.03))
        figures.append((name, line_chart(name, Axis(x.label, x.kind), axis, curves)))
    return figures


def _score_plot(part: Part, name: str, panel: Panel, x: Across, rules: bool = True) -> str:
    curves = _curves(panel, x, lambda c: c.score, score)
    values = [v for c in curves for p in c.points for v in (p.y, p.low, p.high) if v is not None]
    if not values:
        return ""
    room = max(0.02, max(values) - min(values))
    marks = {f"target {part.target}": part.target}
    if part.baseline is not None:
        marks[f"one constant answer {part.baseline:.3f}"] = part.baseline
    drawn = [
        Rule(at, label)
        for label, at in marks.items()
        if rules and at is not None and min(values) - room <= at <= max(values) + room
    ]
    limits = score_ends(part, [*values, *(r.at for r in drawn)])
    axis = Axis(f"{part.metric} ({part.split})", ends=limits)
    return line_chart(name, Axis(x.label, x.kind), axis, curves, drawn)


def score_ends(part: Part, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis of scores: the interval of few seeds leaves what can be."""
    low, high = svg.span(values, "linear")
    if part.metric == "mse":
        return max(0.0, low), high
    least = -1.0 if part.metric in ("matthews", "pearson", "spearman") else 0.0
    low, high = max(least, low), min(1.0, high)
    return low, high + (0.03 * (high - low) if high == 1.0 else 0.0)


def cost_plots(part: Part, panel: Panel, x: Across) -> list[Figure]:
    """Return steps, examples, seconds and hours to the target; only of cells that all reach it.

    Where steps and examples bend is what the gradients' noise predicts: its mark is in both.
    """
    figures = []
    predicted = noise_marks(part, x)
    labels = {
        "steps": "optimizer steps",
        "examples": "training examples",
        "seconds": "seconds",
        "hours": part.unit,
    }
    for key, label in labels.items():

        def of(cell: Cell, key: str = key) -> Interval | None:
            return cell.cost.get(key) if cell.reached == cell.ended else None

        curves = _curves(panel, x, of, _tell)
        capital = label if label[:3] == "GPU" else label.capitalize()
        name = _caption(f"{capital} to {part.metric} {part.target:g}", panel)
        rules = predicted if key in ("steps", "examples") else []
        chart = line_chart(name, Axis(x.label, x.kind), Axis(label, "log10"), curves, rules)
        figures.append((name, chart))
    return figures


def noise_marks(part: Part, x: Across) -> list[Rule]:
    """Return a line at the critical batch that gradient noise predicts, if it is near the batches.

    One line for all: the noise is the task's and the model's, not the rule's.
    """
    batches = [c.batch for c in part.cells if c.batch]
    found = part.noise.scale if part.noise else None
    if axis_key(x.axis) != BATCH or found is None or not batches:
        return []
    if not min(batches) / REACH <= found.value <= max(batches) * REACH:
        return []
    return [Rule(found.value, f"noise scale {svg.number(found.value)}", vertical=True)]


def _caption(words: str, panel: Panel) -> str:
    return f"{words} — {panel.name}" if panel.name else words


def trade_plot(part: Part) -> list[Figure]:
    """Return examples against steps to the target, with the fitted hyperbolas."""
    curves: list[Curve] = []
    for style, found in enumerate(part.critical[:MOST_LINES]):
        fit = found.measured
        points = [
            Point(s, e, tip=f"batch {e / s:.0f}: {s:.0f} steps, {e:.0f} examples")
            for s, e in found.runs
        ]
        if points:
            curves.append(Curve(found.name or "runs", tuple(points), style, joined=False))
        if fit.value is not None and fit.min_steps and fit.min_examples:
            low, high = fit.batches[0] / 2, fit.batches[-1] * 2
            sizes = [low * (high / low) ** (i / 40) for i in range(41)]
            line = tuple(
                Point(fit.min_steps + fit.min_examples / b, fit.min_examples + fit.min_steps * b)
                for b in sizes
            )
            name = f"fit{', ' + found.name if found.name else ''}: {svg.number(fit.value)}"
            curves.append(Curve(name, line, style, marked=False))
    if not curves:
        return []
    name = "Examples against steps to the target; the fit gives the critical batch"
    x, y = Axis("optimizer steps", "log10"), Axis("training examples", "log10")
    return [(name, line_chart(name, x, y, curves))]


def front_plot(part: Part) -> list[Figure]:
    """Return score against hours of a run, with the Pareto front; not where all runs collapsed."""
    best = part.advice.cell if part.advice else None
    on_front = {id(c) for c in part.front}

    def point(cell: Cell) -> Point:
        assert cell.score and cell.hours
        name = cell.name(part.varied)
        return Point(
            cell.hours.value,
            cell.score.value,
            cell.score.low,
            cell.score.high,
            cell.hours.low if cell.hours.low and cell.hours.low > 0 else None,
            cell.hours.high,
            tip=f"{name}: {score(cell.score)}, {svg.number(cell.hours.value)} {part.unit}",
            label=str(cell.batch or "") if id(cell) in on_front or cell is best else "",
        )

    known = [c for c in part.cells if c.score and c.hours and c.collapsed < c.ended]
    if len(known) < 2:
        return []
    curves = [
        Curve("Pareto front", tuple(point(c) for c in known if id(c) in on_front), 0),
        Curve("other combinations", _points(known, on_front, best, point), 3, joined=False),
    ]
    if best in known:
        curves.append(Curve("recommended", (point(best),), 1, joined=False))
    curves[0] = Curve("Pareto front", tuple(sorted(curves[0].points, key=lambda p: p.x)), 0)
    name = f"{part.metric} against {part.unit} of a run; numbers are global batches"
    told = [v for c in known if c.score for v in (c.score.value, c.score.low, c.score.high)]
    ends = score_ends(part, [v for v in told if v is not None])
    x, y = Axis(f"{part.unit} of a run", "log10"), Axis(part.metric, ends=ends)
    shown_curves = [c for c in curves if c.points]
    return [(name, line_chart(name, x, y, shown_curves, aside=False))]


def _points(
    known: Iterable[Cell], front: set[int], best: Cell | None, point: Callable[[Cell], Point]
) -> tuple[Point, ...]:
    return tuple(point(c) for c in known if id(c) not in front and c is not best)


def scaling_plots(part: Part) -> list[Figure]:
    """Return efficiency against ranks, and what the ranks' time went into."""
    figures = []
    for kind in ("strong", "weak"):
        series = [s for s in part.scaling if s.kind == kind]
        if not series:
            continue
        held = "one global batch" if kind == "strong" else "one batch a rank"
        name = f"{kind.capitalize()} scaling efficiency ({held})"
        curves = [_scaling_curve(s, i) for i, s in enumerate(series[:MOST_LINES])]
        most = max(p.efficiency.value for s in series for p in s.points)
        axis = Axis("efficiency", ends=(0.0, 1.15 * max(1.0, most)))
        x = Axis("ranks", "log2")
        figures.append((name, line_chart(name, x, axis, curves, [Rule(1.0, "ideal")])))
    bars = _bars([s for s in part.scaling if s.kind == "strong"] or list(part.scaling))
    name = "What the ranks' training time went into"
    figures.append((name, stacked_chart(name, "share of training time", bars)))
    return figures


def _scaling_curve(series: Series, style: int) -> Curve:
    points = tuple(
        Point(p.ranks, p.efficiency.value, p.efficiency.low, p.efficiency.high)
        for p in series.points
    )
    return Curve(series.name, points, style)


def _bars(series: Sequence[Series]) -> list[Bar]:
    bars = []
    for one in series[:3]:
        for p in one.points:
            if p.shares:
                plural = "s" if p.ranks > 1 else ""
                label = f"{p.ranks} rank{plural}, batch {p.batch}"
                bars.append(Bar(label, tuple((name, p.shares[name]) for name in PARTS)))
    return bars
