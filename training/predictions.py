"""Predictions of every example on the disk: plain text, or compressed where runs are many.

A tab-separated table with a row an example: `index`, `label` where it is known, `prediction`, and
for classes a column `p(NAME)` each, in the order of their ids. Standard library only: reports and
comparisons read them on the login node.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .config import UsageError
from .rundir import RunDir, write_atomic

PROBABILITY = "p("
"""How the column of a class's probability begins."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts of a split, by row."""

    split: str
    answers: tuple[str, ...]
    """Names of classes; of a regression numbers, as they were written."""
    labels: tuple[str, ...] | None
    """The true ones; None where nothing says them."""
    classes: tuple[str, ...]
    """Their names in the order of their ids; none of a regression."""

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def right(self) -> int | None:
        """How many answers are right; None of a regression, or where nothing says so."""
        if self.labels is None or not self.classes:
            return None
        return sum(a == b for a, b in zip(self.labels, self.answers, strict=True))


def predictions_file(run: RunDir, split: str, compressed: bool = False) -> Path:
    """Return where the predictions of a split are written."""
    return run.predictions / f"{split}.tsv{'.gz' if compressed else ''}"


def save_predictions(run: RunDir, split: str, text: str, compressed: bool = False) -> None:
    """Write the predictions of a split, in the place of any that are there.

    Raises:
        OSError: the folder cannot be written.
    """
    run.predictions.mkdir(exist_ok=True)
    # Without a time in its header the same predictions are the same bytes.
    data = gzip.compress(text.encode(), mtime=0) if compressed else text
    write_atomic(predictions_file(run, split, compressed), data)
    predictions_file(run, split, not compressed).unlink(missing_ok=True)


def open_predictions(run: RunDir, split: str) -> TextIO:
    """Open the predictions of a split for reading.

    Raises:
        OSError: there are none.
    """
    packed = predictions_file(run, split, compressed=True)
    if packed.is_file():
        return gzip.open(packed, "rt", encoding="utf-8", newline="")
    return predictions_file(run, split).open(encoding="utf-8", newline="")


def predicted_splits(run: RunDir) -> list[str]:
    """Return the splits that a run has predictions of, by name."""
    try:
        files = sorted(p.name for p in run.predictions.iterdir())
    except OSError:
        return []
    return [name.split(".tsv")[0] for name in files if name.endswith((".tsv", ".tsv.gz"))]


def read_predictions(run: RunDir, split: str) -> Predictions:
    """Read what a run predicted of a split.

    Raises:
        FileNotFoundError: there are none.
        UsageError: they cannot be read or are damaged; the line is named.
    """
    where = f"the predictions of run {run.run_id} on {split}"
    try:
        with open_predictions(run, split) as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UsageError(f"{where} cannot be read: {said}") from None
    head = rows.pop(0) if rows else []
    if head[:1] != ["index"] or "prediction" not in head:
        raise UsageError(f"{where} are damaged in line 1")
    if not rows:
        raise UsageError(f"{where} are damaged: no row is left")
    classes = _classes(head)
    told = [head.index(name) for name in ("prediction", "label") if name in head]
    for number, row in enumerate(rows):
        whole = len(row) == len(head) and row[0] == str(number)
        if not whole or not all(_is_answer(row[place], classes) for place in told):
            raise UsageError(f"{where} are damaged in line {number + 2}")
    answers, *labels = ([row[place] for row in rows] for place in told)
    return Predictions(split, tuple(answers), tuple(labels[0]) if labels else None, classes)


def predicted_classes(run: RunDir) -> tuple[str, ...]:
    """Return a run's class names in the order of their ids; empty without predictions of any."""
    for split in predicted_splits(run):
        try:
            with open_predictions(run, split) as file:
                head = file.readline().rstrip("\n").split("\t")
        except (OSError, EOFError, ValueError, zlib.error):
            continue
        if classes := _classes(head):
            return classes
    return ()


def _classes(head: list[str]) -> tuple[str, ...]:
    return tuple(name[len(PROBABILITY) : -1] for name in head if name.startswith(PROBABILITY))


def _is_answer(text: str, classes: tuple[str, ...]) -> bool:
    if classes:
        return text in classes
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
