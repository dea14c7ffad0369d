"""The page of a sweep. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from . import page, svg
from .axes import shown
from .cells import Cell, Trial
from .gather import SweepReport
from .noise import Noise
from .parts import Part
from .stats import Interval
from .sweep_plots import (
    MOST_LINES,
    MOST_PANELS,
    Panel,
    across,
    cost_plots,
    front_plot,
    panels,
    scaling_plots,
    score_plots,
    search_plots,
    trade_plot,
)
from .tables import (
    cell_table,
    critical_table,
    efficiency_table,
    quantity,
    scaling_table,
    score,
    trial_table,
)


def sweep_page(report: SweepReport, now: float | None = None) -> str:
    """Return the page of a sweep."""
    total = sum(report.states.values())
    body = [
        page.heading(f"Sweep {report.name}", 1),
        page.paragraph(
            f"{total} trial{'s' * (total != 1)}: {page.listed(report.states)}. {report.path}",
            "lead",
        ),
        *(page.paragraph(f"Note: {note}.", "said") for note in report.notes),
    ]
    for part in report.parts:
        if len(report.parts) > 1:
            body.append(page.heading(f"Task {part.task or '(not known)'}"))
        body += _part(part)
    return page.page(f"Sweep {report.name}", body, now)


def _part(part: Part) -> Iterable[str]:
    yield page.keys(summary(part))
    if not any(c.ended for c in part.cells):
        yield page.paragraph("No trial has finished yet: there is nothing to plot.")
    else:
        yield from _scores(part)
        yield from _costs(part)
        yield from _critical(part)
        yield from _front(part)
        yield from _scaling(part)
    yield from _trials(part)
    yield from efficiency_section(part)


def _trials(part: Part) -> Iterable[str]:
    yield page.heading("Trials")
    yield page.paragraph(
        "A trial without a run directory is missing, or queued where jobs of the sweep wait.",
        "said",
    )
    count = len(part.trials)
    inside = page.table(trial_table(part, lines=False))
    yield inside if count <= FEW else page.details(f"{count} trials", inside)
    lines = [_line(t) for t in part.trials if t.command]
    if lines:
        said = "Add --name NAME to run again what is there already."
        inside = page.paragraph(said, "said") + page.code("\n".join(lines))
        yield page.details("Lines that repeat one trial alone", inside, opened=count <= 12)


FEW = 60
"""Trials that are shown without unfolding them."""


def _line(trial: Trial) -> str:
    axes = ", ".join(f"{n}={shown(v)}" for n, v in trial.axes.items())
    return f"# trial {trial.number}: {axes} ({trial.record.state})\n{trial.command}"


def efficiency_section(part: Part) -> Iterable[str]:
    """Yield what finished jobs asked for and used."""
    if not part.efficiency:
        return
    yield page.heading("What was asked for and what was used")
    yield page.paragraph(EFFICIENCY, "said")
    yield page.details(
        f"{len(part.efficiency)} finished run{'s' * (len(part.efficiency) != 1)}",
        page.table(efficiency_table(part.efficiency)),
        opened=len(part.efficiency) <= 12,
    )


EFFICIENCY = (
    "From Slurm's accounting where there is one; else from the run directory, which knows memory "
    "of the ranks (times the ranks of a node, and 1 GiB beside them) and no CPU time. What to ask "
    "for is what was used and a quarter more."
)


def summary(part: Part) -> list[tuple[str, str]]:
    """Return the few numbers that matter most."""
    found = []
    if (advice := part.advice) is not None:
        where = advice.cell.name(part.lines)
        found.append((f"batch {advice.cell.batch}", f"recommended{', ' + where if where else ''}"))
    scored = [c for c in part.cells if c.score]
    if scored:
        pick = max if part.higher else min
        best = pick(scored, key=lambda c: c.score.value if c.score else 0.0)
        name = best.name(part.varied) or f"batch {best.batch}"
        found.append((score(best.score), f"best mean {part.metric}: {name}"))
    for one in part.critical[:2]:
        where = f", {one.name}" if one.name else ""
        told = predicted_words(one.noise) if one.predicted else ""
        if one.measured.value is not None:
            m = one.measured
            also = f"; predicted by gradient noise {told}" if told else ""
            value = quantity(Interval(one.measured.value, m.low, m.high, m.points))
            found.append((value, f"critical batch, measured{where}{also}"))
        elif told:
            found.append((told, f"critical batch, predicted by gradient noise{where}"))
    ended = sum(c.ended for c in part.cells)
    if ended:
        fallen = sum(c.collapsed for c in part.cells)
        found.append((f"{fallen} of {ended}", "runs collapsed"))
    return found


def collapse_rule(part: Part) -> str:
    """Return in words what counts as collapsed."""
    floor = (
        f"or its score is not better than {part.baseline:.4f}, the score of always giving the same "
        f"answer on {part.split or 'this split'}"
        if part.baseline is not None
        else "; what always giving the same answer would get is not known here (no predictions)"
    )
    return (
        f"A run counts as collapsed if its loss became infinite or undefined {floor}. The rate is "
        "over runs that finished or diverged; runs that failed for another reason say nothing."
    )


def _scores(part: Part) -> Iterable[str]:
    x = across(part)
    shown_panels = panels(part, x)
    yield page.heading(f"{part.metric} on {part.split}")
    yield page.paragraph(
        "Means of finished runs; intervals are Student's t over seeds, 95%. A single run has no "
        f"interval. {collapse_rule(part)}",
        "said",
    )
    if len(shown_panels) > MOST_PANELS or any(len(p.lines) > MOST_LINES for p in shown_panels):
        yield page.paragraph(
            f"There are more combinations than plots can tell apart: {MOST_PANELS} plots of "
            f"{MOST_LINES} lines are drawn, the table has all.",
            "said",
        )
    figures = []
    for panel in cut(shown_panels):
        figures += score_plots(part, panel, x)
    figures += search_plots(part)
    yield page.plots(figures)
    if part.tied:
        names = " and ".join(part.tied)
        verb = "follow" if len(part.tied) > 1 else "follows"
        said = f"{names} {verb} from the batch and the line: plots do not tell values apart."
        yield page.paragraph(said, "said")
    best = [i for i, c in enumerate(part.cells) if part.advice and c is part.advice.cell]
    yield page.table(cell_table(part), best)


def cut(found: Sequence[Panel]) -> list[Panel]:
    """Return what is drawn of many panels."""
    some = found[:MOST_PANELS]
    return [replace(p, lines=dict(list(p.lines.items())[:MOST_LINES])) for p in some]


def _costs(part: Part) -> Iterable[str]:
    if part.target is None:
        if any(c.ended for c in part.cells):
            yield page.paragraph(f"No cost to reach a target is told: {part.target_from}.")
        return
    x = across(part)
    yield page.heading(f"Cost to reach {part.metric} {part.target:g}")
    yield page.paragraph(
        f"The target is {part.target_from}. A run reaches it between the last evaluation short of "
        "it and the first that meets it, in proportion to the score; seconds and "
        f"{part.unit} are those of all attempts, work lost to a failure included, waiting in the "
        "queue not. Plotted are combinations where every run that ended reached the target.",
        "said",
    )
    figures = []
    for panel in cut(panels(part, x)):
        figures += cost_plots(part, panel, x)
    yield page.plots(figures)
    ended = [c for c in part.cells if c.ended]
    if never := [c for c in ended if not c.reached]:
        yield page.paragraph(f"Never reached by any run of: {_names(part, never)}.")
    if some := [c for c in ended if 0 < c.reached < c.ended]:
        yield page.paragraph(f"Reached by some runs only, and not plotted: {_names(part, some)}.")
    if any(c.bound for c in part.cells):
        names = _names(part, [c for c in part.cells if c.bound])
        yield page.paragraph(
            f"Reached by the first evaluation already, so the cost is at most this: {names}. A "
            "smaller --eval-every tells more.",
            "said",
        )


def _names(part: Part, cells: Sequence[Cell]) -> str:
    if len(cells) > NAMED:
        return f"{len(cells)} of {len(part.cells)} combinations, see the table"
    return "; ".join(c.name(part.varied) or "all" for c in cells)


NAMED = 8
"""Combinations that a sentence names."""


def _critical(part: Part) -> Iterable[str]:
    if not part.critical:
        return
    yield page.heading("Critical batch")
    yield page.paragraph(
        "Measured: runs that reached the target are fitted by "
        "(S/Smin - 1)(E/Emin - 1) = 1 with S steps and E examples (McCandlish et al., "
        "arXiv:1812.06162); Emin/Smin is the critical batch, where a run takes twice the fewest "
        "steps and twice the fewest examples. The interval is Student's t on its logarithm. "
        "Predicted: trace of the gradient's covariance over its squared length, as the runs "
        "measured it (noise in results.json).",
        "said",
    )
    if part.noise is None:
        yield page.paragraph("No run measured its gradient noise: nothing is predicted.")
    elif part.noise.scale is None:
        yield page.paragraph(f"Predicted by gradient noise: {predicted_words(part.noise)}.")
    yield page.plots(trade_plot(part))
    yield page.table(critical_table(part))


def _front(part: Part) -> Iterable[str]:
    advice = part.advice
    if advice is None:
        return
    yield page.heading("Which batch to use")
    yield page.paragraph(f"{advice_words(part)} {rule_words(part)} {doubt_words(part)}".strip())
    yield page.plots(front_plot(part))
    names = "; ".join(
        f"{c.name(part.varied) or 'all'} ({score(c.score)}, {quantity(c.hours)} {part.unit})"
        for c in part.front
    )
    if names:
        yield page.paragraph(f"Pareto front of score and {part.unit}, cheapest first: {names}.")


def advice_words(part: Part) -> str:
    """Return the recommendation in one sentence."""
    advice = part.advice
    if advice is None:
        if any(c.collapsed for c in part.cells) and not any(
            c.score and not c.collapsed for c in part.cells
        ):
            return "No batch can be recommended: every combination that ended has collapsed runs."
        return "No batch can be recommended yet."
    name = advice.cell.name(part.lines)
    return (
        f"Recommended: global batch {shown(advice.cell.batch)}"
        f"{f' with {name}' if name else ''}: {part.metric} {score(advice.cell.score)}."
    )


def rule_words(part: Part) -> str:
    """Return the rule of the recommendation."""
    advice = part.advice
    assert advice is not None
    end = "lower" if part.higher else "upper"
    if advice.single:
        return (
            f"The rule: the largest batch whose score is at most {advice.margin:g} worse than the "
            "best. No combination has several finished seeds, so chance may have decided."
        )
    return (
        f"The rule: the largest batch whose interval's {end} end is at most {advice.margin:g} "
        f"worse than the best {end} end "
        f"({advice.best.name(part.varied) or 'all'}: {svg.number(advice.end)}). An interval is "
        "taken to be at least as wide as the median scatter over seeds makes it. "
        "Combinations of one run, and those where a run collapsed, do not count."
    )


def doubt_words(part: Part) -> str:
    """Return what speaks for waiting or for more seeds before a recommendation is followed."""
    advice = part.advice
    if advice is None:
        return ""
    found = []
    if advice.half > WIDE * (advice.margin or 0.01):
        found.append(f"Its interval, ±{advice.half:.2g}, is wide: run more seeds.")
    for cell in advice.waiting:
        where = cell.name(part.varied) or "all"
        found.append(f"Of {where} {cell.ended} of {len(cell.trials)} seeds have ended.")
    return " ".join(found)


WIDE = 5.0
"""Margins that half an interval may have before more seeds are asked for."""


def predicted_words(noise: Noise | None) -> str:
    """Return the critical batch that gradient noise predicts."""
    if noise is None:
        return "not measured"
    if noise.scale is None:
        return "measured, and hidden by the noise: measure more steps (train.noise_every)"
    return quantity(noise.scale)


def _scaling(part: Part) -> Iterable[str]:
    if not part.scaling:
        return
    yield page.heading("Scaling over ranks")
    yield page.paragraph(
        "Efficiency is examples a second and rank over those of the smallest number of ranks. The "
        "time of a mean rank is split into useful work, padding tokens, waiting for the slowest "
        "rank (by the planner's cost model), the rest of communication, and waiting for data. "
        "Useful work a second and rank tells what is left: cores or memory that ranks share.",
        "said",
    )
    yield page.plots(scaling_plots(part))
    yield page.table(scaling_table(part))
