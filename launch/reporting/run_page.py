"""The page of one run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import page, svg
from .charts import Axis, Curve, Point, Rule, Span, line_chart, timeline
from .gather import RunReport
from .records import Record, mapping, number
from .scaling import PARTS, loss_shares
from .sweep_page import EFFICIENCY
from .sweep_plots import Figure
from .tables import Column, Table, efficiency_table, quantity, score, span, words

STEPS = Axis("optimizer step")
SHOWN = 1500
"""Points of a curve: more than a plot has pixels are left out, evenly."""


def run_page(report: RunReport, now: float | None = None) -> str:
    """Return the page of a run."""
    record = report.record
    body = [
        page.heading(f"Run {record.run_id}", 1),
        page.paragraph(f"{headline(record)}. {record.path}", "lead"),
        *(page.paragraph(f"Note: {note}.", "said") for note in report.notes),
        page.keys(summary(record)),
    ]
    if record.cause:
        body += [
            page.heading("First cause of failure"),
            page.code(record.cause),
            page.paragraph(f"Log: {record.log}") if record.log else "",
        ]
    figures = curves(report.lines, record)
    body.append(page.heading("Learning curves"))
    body.append(page.plots(figures) or page.paragraph("Nothing was logged."))
    body.append(page.table(split_table(record)))
    body += _attempts(record)
    body += _time(record)
    if report.efficiency:
        body += [
            page.heading("What was asked for and what was used"),
            page.paragraph(EFFICIENCY, "said"),
            page.table(efficiency_table([report.efficiency])),
        ]
    if report.command:
        body += [
            page.heading("Line to repeat it"),
            page.code(report.command),
            page.paragraph("Add --name NAME to run it again beside this one.", "said"),
        ]
    return page.page(f"Run {record.run_id}", body, now)


def headline(record: Record) -> str:
    """Return a run's state in a few words."""
    parts = [f"{record.state}"]
    if record.steps is not None:
        total = record.total_steps
        of = f" of {total}" if total and record.state != "finished" else ""
        parts.append(f"step {record.steps}{of}")
    if record.task:
        parts.append(f"{record.task} with {record.model}")
    if record.global_batch:
        parts.append(f"global batch {record.global_batch}")
    if record.seed is not None:
        parts.append(f"seed {record.seed}")
    if record.ranks:
        parts.append(f"{record.ranks} rank{'s' * (record.ranks > 1)}")
    return ", ".join(parts)


def summary(record: Record) -> list[tuple[str, str]]:
    """Return the few numbers that matter most."""
    found = []
    if record.score is not None:
        found.append((f"{record.score:.4f}", f"{record.metric} on {record.split}"))
    if record.seconds:
        count = len(record.attempts)
        tries = f" in {count} attempts" if count > 1 else ""
        found.append((span(record.seconds), f"time{tries}, without the queue"))
    if record.hours:
        found.append((quantity(record.hours), record.unit))
    if speed := number(record.throughput.get("examples_per_second")):
        found.append((svg.number(speed), "examples a second"))
    if (scale := number(record.noise.get("scale"))) and scale > 0:
        low, high = (number(record.noise.get(key)) for key in ("low", "high"))
        ends = f"{svg.number(low or 0.0)} to " + (svg.number(high) if high else "no bound")
        found.append((svg.number(scale), f"critical batch predicted by gradient noise ({ends})"))
    return found


def curves(lines: Sequence[Mapping[str, Any]], record: Record) -> list[Figure]:
    """Return loss, scores, learning rate, gradient norm and throughput over steps."""
    train = [line for line in lines if line.get("kind") == "train"]
    every = [line for line in lines if line.get("kind") == "eval"]
    figures = [_single("Training loss", "loss (mean a global batch)", train, "loss")]
    figures.append(_scores(every, record))
    figures += [
        _single("Learning rate", "learning rate", train, "lr"),
        _single("Gradient norm before clipping", "global norm", train, "grad_norm"),
        _single("Throughput", "examples/s", train, "examples_per_second", floor=True),
        _shares(train),
    ]
    return [f for f in figures if f[1]]


def _single(
    name: str, label: str, lines: Sequence[Mapping[str, Any]], key: str, floor: bool = False
) -> Figure:
    points = _points(lines, key)
    ends = None
    if floor and points:
        ends = (0.0, 1.08 * max(p.y for p in points) or 1.0)
    rules = _restarts(lines)
    curve = Curve("", points, 0, marked=len(points) < 12)
    return name, line_chart(name, STEPS, Axis(label, ends=ends), [curve] if points else [], rules)


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[Point, ...]:
    found = []
    for line in lines:
        step, value = number(line.get("step")), number(line.get(key))
        if step is not None and value is not None:
            found.append(Point(step, value))
    every = max(1, -(-len(found) // SHOWN))
    return tuple(found[::every])


def _restarts(lines: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """Return a line at the first step of every attempt but the first."""
    found, last = [], None
    for line in lines:
        attempt, step = line.get("attempt"), number(line.get("step"))
        if last is not None and attempt != last and step is not None:
            found.append(Rule(step, f"attempt {attempt}", vertical=True))
        last = attempt
    return found[:5]


def _scores(lines: Sequence[Mapping[str, Any]], record: Record) -> Figure:
    apart = ("kind", "attempt", "step", "epoch", "time", "split")
    names: dict[tuple[str, str], None] = {}
    for line in lines:
        for key, value in line.items():
            if key not in apart and number(value) is not None:
                names[(str(line.get("split")), key)] = None
    first = sorted(names, key=lambda n: n[1] != record.metric)
    several = len({split for split, _ in names}) > 1
    drawn = []
    for style, (split, key) in enumerate(first[:6]):
        chosen = [line for line in lines if str(line.get("split")) == split]
        points = _points(chosen, key)
        drawn.append(Curve(f"{key} ({split})" if several else key, points, style))
    name = "Scores" if several or not lines else f"Scores on {lines[0].get('split')}"
    return name, line_chart(name, STEPS, Axis("score"), drawn)


def _shares(lines: Sequence[Mapping[str, Any]]) -> Figure:
    name = "Where the time goes that is not useful work"
    drawn = []
    for style, part in enumerate(PARTS[1:]):
        points = []
        for line in lines:
            shares, step = loss_shares(line), number(line.get("step"))
            if shares and step is not None:
                points.append(Point(step, shares[part]))
        every = max(1, -(-len(points) // SHOWN))
        if points:
            drawn.append(Curve(part, tuple(points[::every]), style))
    return name, line_chart(name, STEPS, Axis("share of training time"), drawn)


def split_table(record: Record) -> Table:
    """Return the final scores, a row a split."""
    metrics = mapping(record.results.get("metrics"))
    scores = {s: m for s, m in metrics.items() if isinstance(m, dict)}
    names = list(dict.fromkeys(n for found in scores.values() for n in found))
    columns = [Column("split", "final scores of the exported model", words, number=False)]
    columns += [Column(n, n, lambda v: score(number(v))) for n in names]
    rows = tuple({"split": split, **found} for split, found in scores.items())
    return Table("scores", tuple(columns), rows)


def _attempts(record: Record) -> Iterable[str]:
    known = [a for a in record.attempts if a.end is not None]
    if not known:
        return
    begin = known[0].start
    spans = [
        Span(f"attempt {a.number}", a.start - begin, (a.end or a.start) - begin, a.how, a.text)
        for a in known
    ]
    yield page.heading("Attempts")
    yield page.plots([("Attempts on the clock; gaps are waiting", timeline("Attempts", spans))])
    columns = (
        Column("number", "attempt", words),
        Column("ranks", "ranks", words),
        Column("cores", "cores", words),
        Column("seconds", "time", span),
        Column("hosts", "hosts", words, number=False),
        Column("says", "how it ended", words, number=False),
    )
    rows = tuple(
        {**vars(a), "hosts": " ".join(a.hosts), "seconds": a.seconds, "says": a.text or a.how}
        for a in record.attempts
    )
    yield page.table(Table("attempts", columns, rows))


def _time(record: Record) -> Iterable[str]:
    shares = loss_shares(record.throughput)
    if not shares:
        return
    yield page.heading("What the training time went into")
    from .charts import Bar, stacked_chart

    label = f"{record.ranks} rank{'s' * ((record.ranks or 1) > 1)}"
    bar = Bar(label, tuple((part, shares[part]) for part in PARTS))
    name = "Training time of a mean rank"
    yield page.plots([(name, stacked_chart(name, "share of training time", [bar]))])
    apart = {
        "training": record.throughput.get("train_seconds"),
        "evaluation": record.throughput.get("evaluation_seconds"),
        "checkpoints": record.throughput.get("checkpoint_seconds"),
    }
    told = [f"{name} {span(v)}" for name, v in apart.items() if number(v)]
    if told:
        yield page.paragraph(
            f"In seconds of the clock: {', '.join(told)}; the rest of the time is starting, the "
            "first two steps, and scoring what was exported.",
            "said",
        )
