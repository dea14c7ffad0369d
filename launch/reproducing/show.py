"""A receipt on the disk and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import UsageError
from training.rundir import write_atomic, write_json

from .receipt_text import (
    COLUMNS,
    average_words,
    cost_words,
    error_words,
    html,
    markdown,
    rows,
    sentences,
    source_words,
    speed_rows,
    summary,
    title,
    warnings,
)

WIDTH = 130
"""Columns where the output is no terminal."""


def write(folder: Path, receipt: Mapping[str, Any]) -> Path:
    """Write receipt.json, receipt.md and receipt.html; return the path of the first.

    Raises:
        UsageError: the folder cannot be written.
    """
    path = folder / "receipt.json"
    try:
        write_json(path, dict(receipt), durable=False)
        write_atomic(folder / "receipt.md", markdown(receipt), durable=False)
        write_atomic(folder / "receipt.html", html(receipt), durable=False)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from None
    return path


def show(receipt: Mapping[str, Any], path: Path) -> None:
    """Print the verdicts."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(title(receipt))
    for line in warnings(receipt):
        console.print(line, markup=False, soft_wrap=True, style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, head in COLUMNS:
        left = key in ("task", "metric", "verdict")
        table.add_column(head, justify="left" if left else "right")
    for row in rows(receipt):
        table.add_row(*(str(row[key]) for key, _ in COLUMNS))
    console.print(table)
    if told := average_words(receipt):
        say(told)
    for line in sentences(receipt):
        say(f"  {line}")
    say(error_words(receipt))
    say(source_words(receipt))
    say(cost_words(receipt))
    for row in speed_rows(receipt):
        told = (f"{row[key]} {key}" for key in ("examples a second", "seconds a run"))
        say(f"  {row['task']}: {', '.join([row['cost'], *told])}")
    say(f"{summary(receipt)}")
    say(f"receipt  {path}")
