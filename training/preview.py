"""What a person sees of a task's data before training: rows with names, lengths as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .cleaning import clean_text
from .config import TaskConfig
from .data import encode_labels, load_raw
from .sources import check_source
from .tokens import length_histogram

_BAR = 40


@dataclass(frozen=True)
class PreviewRow:
    """One row as training will see it."""

    index: int
    """Its place in the split."""
    texts: tuple[str, ...]
    """After cleaning."""
    label: str | None
    """Name of the class, the number of a regression, or None."""


def preview_rows(
    task: TaskConfig, n: int, seed: int = 0, cache: Path | None = None
) -> list[PreviewRow]:
    """Return `n` random rows of the training split (else of the first test split), in order.

    Raises:
        UsageError: the data is wrong, as in `check_source`.
    """
    info = check_source(task)
    split = task.train or task.test[0]
    rows = load_raw(task, cache)[split]
    count = min(n, len(rows))
    ids = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    chosen = rows.select(ids)
    labels = None
    if task.label is not None and task.label in rows.column_names:
        labels = encode_labels(task, info, list(chosen[task.label][:]))
    columns = [chosen[column][:] for column in task.text]
    return [
        PreviewRow(
            int(index),
            tuple(clean_text(str(column[i]), task.clean) for column in columns),
            _label_name(labels, i, info.label_names),
        )
        for i, index in enumerate(ids)
    ]


def _label_name(labels: np.ndarray | None, i: int, names: tuple[str, ...]) -> str | None:
    if labels is None or labels[i] != labels[i]:
        return None
    if labels.dtype.kind == "f":
        return f"{labels[i]:.6g}"
    return names[labels[i]] if labels[i] >= 0 else None


def histogram_table(lengths: np.ndarray | Mapping[str, Any], width: int = 16) -> list[str]:
    """Return lines that show how long rows are: a line a bin with its bar, then a summary.

    Args:
        lengths: tokens of each row, or what `length_histogram` returned for them.
        width: tokens of one bin, where `lengths` are those of rows.
    """
    shown = lengths if isinstance(lengths, Mapping) else length_histogram(lengths, width)
    counts: Mapping[int, int] = shown["counts"]
    if not counts:
        return ["no rows"]
    most = max(counts.values())
    lines, low = [], 1
    for high, count in counts.items():
        bar = "█" * max(round(count / most * _BAR), 1 if count else 0)
        lines.append(f"{low:>5}-{high:<5} {count:>8}  {bar}".rstrip())
        low = int(high) + 1
    lines.append(
        f"tokens: shortest {shown['min']}, median {shown['median']:g}, mean {shown['mean']:.1f}, "
        f"95% up to {shown['p95']:g}, longest {shown['max']}"
    )
    return lines
