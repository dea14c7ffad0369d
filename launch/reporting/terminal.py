"""What `report` prints: the few rows that fit a terminal."""

from __future__ import annotations

from typing import Any

from .axes import shown
from .cells import Cell
from .gather import RunReport, SweepReport
from .page import listed
from .parts import Part
from .run_page import headline, summary
from .sweep_page import advice_words, doubt_words, predicted_words
from .tables import quantity

WIDTH = 120
"""Columns where the output is no terminal."""
ROWS = 24
"""Of one table; the page has all."""


def print_sweep(report: SweepReport) -> None:
    """Print a sweep in a few lines."""
    console = _console()
    total = sum(report.states.values())
    _say(console, f"sweep {report.name}: {total} trials, {listed(report.states)}")
    for note in report.notes:
        _say(console, f"note: {note}")
    for part in report.parts:
        if len(report.parts) > 1:
            _say(console, f"\ntask {part.task or '(not known)'}")
        _part(console, part)


def _part(console: Any, part: Part) -> None:
    if not any(c.ended for c in part.cells):
        _say(console, "no trial has finished yet")
        return
    _table(console, part)
    at = "none" if part.target is None else f"{part.target:g}"
    _say(console, f"target {part.metric} {at}: {part.target_from}")
    for found in part.critical:
        m, name = found.measured, f" ({found.name})" if found.name else ""
        if m.value is not None:
            more = f"; {m.says}" if m.says else ""
            between = f" ({quantity(m.low)} to {quantity(m.high)})"
            _say(console, f"critical batch{name}: {quantity(m.value)}{between}{more}")
        else:
            _say(console, f"critical batch{name}: {m.says}")
        if found.noise is not None:
            _say(console, f"predicted by gradient noise{name}: {predicted_words(found.noise)}")
    _say(console, advice_words(part))
    if part.advice and (doubts := doubt_words(part)):
        _say(console, doubts)


def _table(console: Any, part: Part) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = [*part.varied, part.metric, "±95%", "collapsed", "at target", "steps", part.unit]
    for place, head in enumerate(heads):
        right = place >= len(part.varied)
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for cell in part.cells[:ROWS]:
        table.add_row(*map(_text, _row(part, cell)))
    console.print(table)
    if len(part.cells) > ROWS:
        _say(console, f"… and {len(part.cells) - ROWS} more: see the page")


def _row(part: Part, cell: Cell) -> list[str]:
    found, steps = cell.score, cell.cost.get("steps")
    half = (found.high or 0) - (found.low or 0) if found and found.low is not None else None
    return [
        *(shown(cell.axes[a]) if a in cell.axes else "" for a in part.varied),
        f"{found.value:.4f}" if found else "-",
        f"{half / 2:.4f}" if half is not None else "-",
        f"{cell.collapsed} of {cell.ended}",
        f"{cell.reached} of {cell.ended}",
        f"{'≤' * cell.bound}{quantity(steps.value)}" if steps else "-",
        quantity(cell.hours.value if cell.hours else None),
    ]


def _text(words: str) -> Any:
    from rich.text import Text

    return Text(words)


def print_run(report: RunReport) -> None:
    """Print a run in a few lines."""
    console = _console()
    record = report.record
    _say(console, f"run {record.run_id}: {headline(record)}")
    for note in report.notes:
        _say(console, f"note: {note}")
    for value, what in summary(record):
        _say(console, f"{what}: {value}")
    if record.cause:
        _say(console, f"first cause: {record.cause}")
    if report.efficiency and report.efficiency.ask:
        _say(console, f"next time ask for: {' '.join(report.efficiency.ask)}")


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def _say(console: Any, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
