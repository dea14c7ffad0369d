"""Predictions of every example on the disk: plain text, or compressed where runs are many.

Standard library only: reports and comparisons read them on the login node.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TextIO

from .rundir import RunDir, write_atomic


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
