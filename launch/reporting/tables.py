"""The tables of a report: the same rows for the page, for CSV and for the terminal. Pure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import svg
from .cells import COSTS, Cell
from .efficiency import GIB, Efficiency
from .gather import RunReport, SweepReport
from .parts import Part
from .records import Record
from .scaling import PARTS
from .stats import Interval


@dataclass(frozen=True)
class Column:
    """One column: its name in CSV, its heading, and how a value is shown."""

    key: str
    head: str
    show: Callable[[Any], str] = str
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of values by column; None is not known."""

    name: str
    """Of its CSV file."""
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]

    def csv(self) -> str:
        """Return it as CSV, intervals as three columns."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        wide = {c.key for c in self.columns if any(_split(r.get(c.key)) for r in self.rows)}
        head: list[str] = []
        for column in self.columns:
            more = [f"{column.key}_low", f"{column.key}_high"] if column.key in wide else []
            head += [column.key, *more]
        writer.writerow(head)
        for row in self.rows:
            cells: list[Any] = []
            for column in self.columns:
                value = row.get(column.key)
                if column.key in wide:
                    found = value if isinstance(value, Interval) else None
                    cells += list(found.plain().values())[:3] if found else [None] * 3
                else:
                    cells.append(_plain(value))
            writer.writerow(["" if c is None else c for c in cells])
        return out.getvalue()


def _split(value: Any) -> bool:
    return isinstance(value, Interval)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def quantity(value: Any) -> str:
    """Return a number or an interval in words: `0.861 ±0.006`."""
    if value is None:
        return "-"
    if isinstance(value, Interval):
        if value.low is None or value.high is None:
            return svg.number(value.value)
        high = "no bound" if math.isinf(value.high) else svg.number(value.high)
        return f"{svg.number(value.value)} ({svg.number(value.low)} to {high})"
    return svg.number(float(value))


def score(value: Any) -> str:
    """Return a score to four digits, with the half width of its interval."""
    if value is None:
        return "-"
    if isinstance(value, Interval):
        if value.low is None or value.high is None:
            return f"{value.value:.4f} (one run)"
        return f"{value.value:.4f} ±{(value.high - value.low) / 2:.4f}"
    return f"{value:.4f}"


def rate(value: Any) -> str:
    """Return a share as percent, with its interval."""
    if value is None:
        return "-"
    if isinstance(value, Interval):
        if value.low is None or value.high is None:
            return f"{value.value:.0%}"
        return f"{value.value:.0%} ({value.low:.0%} to {value.high:.0%})"
    return f"{value:.1%}"


def words(value: Any) -> str:
    """Return a text; a dash where nothing is known."""
    return "-" if value is None or value == "" else str(value)


def _yes(value: Any) -> str:
    return "yes" if value else ""


def gib(value: Any) -> str:
    """Return bytes in GiB."""
    return "-" if value is None else f"{value / GIB:.2f} GiB"


def span(value: Any) -> str:
    """Return seconds as a person says them."""
    from launch.duration import words as spoken

    if isinstance(value, Interval):
        value = value.value
    return "-" if value is None else spoken(value)


def _axes(names: Iterable[str], cell: Mapping[str, Any]) -> dict[str, Any]:
    return {f"axis.{name}": cell.get(name) for name in names}


def _axis_columns(names: Iterable[str]) -> list[Column]:
    return [Column(f"axis.{name}", name, _axis_value, number=False) for name in names]


def _axis_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else words(value)


def cell_table(part: Part) -> Table:
    """Return a row a combination: score, collapses, cost to the target and in all."""
    names = part.varied
    columns = [
        *_axis_columns(names),
        Column("seeds", "runs ended", words),
        Column("score", f"{part.metric}, mean ±95%", score),
        Column("collapse_rate", "collapsed", rate),
        Column("reached", "met target", words),
        Column("bound", "at most", _yes),
        Column("steps", "steps to target", quantity),
        Column("examples", "examples to target", quantity),
        Column("seconds", "seconds to target", quantity),
        Column("hours", f"{part.unit} to target", quantity),
        Column("run_hours", f"{part.unit} of a run", quantity),
    ]
    return Table("cells", tuple(columns), tuple(_cell_row(part, c) for c in part.cells))


def _cell_row(part: Part, cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task": part.task,
        **_axes(part.varied, cell.axes),
        "seeds": f"{cell.ended} of {len(cell.trials)}",
        "score": cell.score,
        "collapse_rate": cell.collapse,
        "reached": f"{cell.reached} of {cell.ended}" if cell.ended else None,
        "bound": cell.bound if cell.reached else None,
        "run_hours": cell.hours,
    }
    return row | {name: cell.cost.get(name) for name in COSTS}


def trial_table(part: Part, lines: bool = True) -> Table:
    """Return a row a trial, with its state and, with `lines`, what repeats it."""
    names = list(dict.fromkeys(n for t in part.trials for n in t.axes))
    columns = [
        Column("number", "trial", words),
        *_axis_columns(names),
        Column("state", "state", words, number=False),
        Column("score", part.metric or "score", score),
        Column("steps", "steps", words),
        Column("seconds", "time", span),
        Column("hours", part.unit, quantity),
        Column("cause", "first cause of failure", words, number=False),
        Column("run_id", "run", words, number=False),
        *([Column("command", "line to repeat it", words, number=False)] if lines else []),
    ]
    rows = []
    for trial in part.trials:
        r = trial.record
        rows.append(
            {
                "number": trial.number,
                **_axes(names, trial.axes),
                "state": r.state,
                "score": r.score if r.state == "finished" else None,
                "steps": _steps(r),
                "seconds": r.seconds,
                "hours": r.hours,
                "cause": r.cause,
                "run_id": r.run_id,
                "command": trial.command,
            }
        )
    return Table("trials", tuple(columns), tuple(rows))


def _steps(record: Record) -> Any:
    if record.state == "finished" or record.steps is None or not record.total_steps:
        return record.steps
    return f"{record.steps} of {record.total_steps}"


def scaling_table(part: Part) -> Table:
    """Return a row a number of ranks: speed, efficiency, and where the time went."""
    columns = [
        Column("kind", "scaling", words, number=False),
        Column("name", "runs", words, number=False),
        Column("ranks", "ranks", words),
        Column("batch", "global batch", words),
        Column("speed", "examples/s", quantity),
        Column("efficiency", "efficiency", rate),
        *(Column(p, p, rate) for p in PARTS),
        Column("arithmetic", "useful work a second and rank", rate),
    ]
    rows = [
        {
            "kind": s.kind,
            "name": s.name,
            "ranks": p.ranks,
            "batch": p.batch,
            "speed": p.speed,
            "efficiency": p.efficiency,
            "arithmetic": p.arithmetic,
            **p.shares,
        }
        for s in part.scaling
        for p in s.points
    ]
    return Table("scaling", tuple(columns), tuple(rows))


def critical_table(part: Part) -> Table:
    """Return a row a line of the plots: measured and predicted critical batch."""
    columns = [
        Column("name", "runs", words, number=False),
        Column("measured", "measured critical batch", quantity),
        Column("predicted", "predicted by gradient noise", quantity),
        Column("min_steps", "fewest steps", quantity),
        Column("min_examples", "fewest examples", quantity),
        Column("points", "runs fitted", words),
        Column("says", "note", words, number=False),
    ]
    rows = []
    for found in part.critical:
        m = found.measured
        measured = None if m.value is None else Interval(m.value, m.low, m.high, m.points)
        rows.append(
            {
                "name": found.name or "all",
                "measured": measured,
                "predicted": found.predicted,
                "min_steps": m.min_steps,
                "min_examples": m.min_examples,
                "points": m.points,
                "says": m.says,
            }
        )
    return Table("critical", tuple(columns), tuple(rows))


def efficiency_table(found: Sequence[Efficiency]) -> Table:
    """Return a row a finished run: what it asked for, what it used, what to ask for next time."""
    columns = (
        Column("run_id", "run", words, number=False),
        Column("cores", "cores", words),
        Column("core_share", "of core time used", rate),
        Column("cpu_seconds", "CPU time", span),
        Column("requested_bytes", "memory of a node, asked", gib),
        Column("peak_bytes", "used at most", gib),
        Column("gpus", "GPUs", words),
        Column("gpu_peak_bytes", "GPU memory used at most", gib),
        Column("mfu", "of the devices' peak", rate),
        Column("limit_seconds", "time limit", span),
        Column("seconds", "longest start", span),
        Column("source", "known from", words, number=False),
        Column("ask", "ask next time", words, number=False),
    )
    rows = tuple({**vars(e), "ask": " ".join(e.ask)} for e in found)
    return Table("efficiency", columns, rows)


def sweep_tables(report: SweepReport) -> list[Table]:
    """Return the tables of a sweep, each over all its tasks, for CSV."""
    found: list[Table] = []
    for make in (cell_table, trial_table, scaling_table, critical_table):
        tables = [(part, make(part)) for part in report.parts]
        columns = list(dict.fromkeys(c for _, t in tables for c in t.columns if c.key))
        unique = {c.key: c for c in reversed(columns)}
        order = [Column("task", "task", words, number=False)]
        order += [unique[k] for k in dict.fromkeys(c.key for c in columns)]
        rows = tuple({"task": part.task, **row} for part, t in tables for row in t.rows)
        found.append(Table(tables[0][1].name, tuple(order), rows))
    found.append(efficiency_table([e for part in report.parts for e in part.efficiency]))
    return found


def run_tables(report: RunReport) -> list[Table]:
    """Return the tables of a run for CSV: what was logged, evaluations, attempts, efficiency."""
    lines = [line for line in report.lines if line.get("kind") == "train"]
    attempts = tuple(
        {**vars(a), "hosts": " ".join(a.hosts), "seconds": a.seconds}
        for a in report.record.attempts
    )
    evaluations = [line for line in report.lines if line.get("kind") == "eval"]
    keys = ("number", "start", "end", "seconds", "how", "ranks", "cores", "hosts", "text")
    found = [
        _lines("training", lines),
        _lines("evaluations", evaluations),
        Table("attempts", tuple(Column(k, k, words) for k in keys), attempts),
    ]
    return [*found, efficiency_table([report.efficiency] if report.efficiency else [])]


def _lines(name: str, lines: Sequence[Mapping[str, Any]]) -> Table:
    keys = dict.fromkeys(k for line in lines for k in line if k != "kind")
    return Table(name, tuple(Column(k, k, words) for k in keys), tuple(lines))
