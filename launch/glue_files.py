"""The eleven files of a GLUE submission: their names, labels and rows, and whether they are right.

Pure. The form is that of the FAQ of gluebenchmark.com (question 1), which jiant's formatter writes
too: a line `index<TAB>prediction` for every row of the test split, in its order. Rows and class
names are those of the hub's data set nyu-mll/glue (its card: `num_examples` of the test splits,
`class_label` names in the order of their ids). The server takes names for the tasks whose original
files have names, and 0 and 1, the ids, for the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from training.config import UsageError, nearest

HEADER = "index\tprediction"
LOWEST, HIGHEST = 0.0, 5.0
"""Of a similarity of STS-B."""

_BITS = ("0", "1")
_TWO = ("entailment", "not_entailment")
_THREE = ("entailment", "neutral", "contradiction")
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class GlueFile:
    """One file of a submission."""

    name: str
    task: str
    """Configuration of nyu-mll/glue that the predicting run was trained on."""
    source: str
    """Configuration that holds the rows: another one only for AX."""
    split: str
    rows: int
    """Of the official test split."""
    classes: tuple[str, ...] = ()
    """The data's class names in the order of their ids; none for a regression."""
    labels: tuple[str, ...] = ()
    """What the server takes for each of them; none where it takes a number."""


FILES = (
    GlueFile("CoLA.tsv", "cola", "cola", "test", 1063, ("unacceptable", "acceptable"), _BITS),
    GlueFile("SST-2.tsv", "sst2", "sst2", "test", 1821, ("negative", "positive"), _BITS),
    GlueFile("MRPC.tsv", "mrpc", "mrpc", "test", 1725, ("not_equivalent", "equivalent"), _BITS),
    GlueFile("STS-B.tsv", "stsb", "stsb", "test", 1379),
    GlueFile("MNLI-m.tsv", "mnli", "mnli", "test_matched", 9796, _THREE, _THREE),
    GlueFile("MNLI-mm.tsv", "mnli", "mnli", "test_mismatched", 9847, _THREE, _THREE),
    GlueFile("QNLI.tsv", "qnli", "qnli", "test", 5463, _TWO, _TWO),
    GlueFile("QQP.tsv", "qqp", "qqp", "test", 390965, ("not_duplicate", "duplicate"), _BITS),
    GlueFile("RTE.tsv", "rte", "rte", "test", 3000, _TWO, _TWO),
    GlueFile("WNLI.tsv", "wnli", "wnli", "test", 146, ("not_entailment", "entailment"), _BITS),
    GlueFile("AX.tsv", "mnli", "ax", "test", 1104, _THREE, _THREE),
)
TASKS = tuple(dict.fromkeys(file.task for file in FILES))
BY_NAME = {file.name: file for file in FILES}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a submission, at one place."""

    file: str
    line: int | None
    """From 1, the header's; None: the file as a whole."""
    reason: str

    def __str__(self) -> str:
        place = f"{self.file} line {self.line}" if self.line is not None else self.file
        return f"{place}: {self.reason}"


def server_labels(
    file: GlueFile,
    predicted: Sequence[str],
    held: Mapping[str, int | str] | None,
    seen: Collection[str] = (),
) -> dict[str, str]:
    """Return what the server takes for each class of a run; empty for a regression.

    By name, so that the order in which a run numbers its classes does not matter. Where the names
    are not GLUE's, the ids of the data decide, and only for tasks whose server takes ids.

    Args:
        file: the file that is written.
        predicted: names of the run's classes, in any order.
        held: what the label column of the data holds for each class name; None: not known.
        seen: class names that the data holds, perhaps not all of them.

    Raises:
        UsageError: the run's classes are not the data's, or nothing says which is which.
    """
    if not file.labels:
        return {}
    own = ", ".join(predicted)
    if not set(seen) <= set(predicted) or (held is not None and set(held) != set(predicted)):
        raise UsageError(
            f"{file.name}: the run predicts {own or 'numbers'}, the labels of the data are "
            f"{', '.join(seen if held is None else held)}: it was trained on other labels"
        )
    ids = held if held is not None and set(held.values()) == {0, 1} else {}
    if set(predicted) == set(file.classes):
        found = dict(zip(file.classes, file.labels, strict=True))
        if file.labels == _BITS and any(found[k] != str(v) for k, v in ids.items()):
            numbered = ", ".join(f"{k} {v}" for k, v in ids.items())
            raise UsageError(
                f"{file.name}: the data numbers its labels otherwise than GLUE ({numbered})"
            )
        return found
    if set(predicted) == set(file.labels):
        return {label: label for label in file.labels}
    if file.labels == _BITS and ids:
        return {name: str(value) for name, value in ids.items()}
    raise UsageError(
        f"{file.name}: the run predicts {own or 'numbers'}, GLUE's labels are "
        f"{', '.join(file.classes)}: nothing says which is which"
    )


def translate(file: GlueFile, predictions: Iterable[str], labels: Mapping[str, str]) -> list[str]:
    """Return predictions as the server takes them.

    Args:
        file: the file that is written.
        predictions: class names, or numbers as text where the server takes numbers.
        labels: from `server_labels`.

    Raises:
        UsageError: a prediction is none of the classes, or no finite number; its row is told.
    """
    found = []
    for row, text in enumerate(predictions):
        try:
            found.append(labels[text] if file.labels else similarity(float(text)))
        except (KeyError, ValueError):
            what = f"none of {', '.join(labels)}" if file.labels else "not a finite number"
            place = f"{file.name}: the prediction of row {row}"
            raise UsageError(f"{place}, '{text}', is {what}") from None
    return found


def similarity(value: float) -> str:
    """Return a value of STS-B as the server takes it: within 0 and 5, with three decimals.

    Raises:
        ValueError: it is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(value)
    return f"{min(HIGHEST, max(LOWEST, value)) + 0.0:.3f}"


def tsv(predictions: Iterable[str]) -> str:
    """Return a file's text: the header, and a line a prediction, numbered from 0."""
    return "".join(f"{line}\n" for line in (HEADER, *_numbered(predictions)))


def _numbered(predictions: Iterable[str]) -> Iterator[str]:
    return (f"{index}\t{text}" for index, text in enumerate(predictions))


def find_problems(file: GlueFile, text: str, rows: Mapping[str, int]) -> Iterator[Problem]:
    """Yield what is wrong with a file's text; nothing if the server takes it.

    Of indices out of order only the first is told: all after it are wrong too.

    Args:
        file: which file it is to be.
        text: its content.
        rows: how many rows it must have, by the words for who says so.
    """
    if "\r" in text:
        yield Problem(file.name, 1, "lines end in CR LF: write LF alone")
        text = text.replace("\r\n", "\n")
    head, _, body = text.partition("\n")
    if head != HEADER:
        yield Problem(file.name, 1, f"the header is {head[:40]!r}, it must be {HEADER!r}")
    # Not splitlines: it cuts at characters that a label could not have, but a damaged file can.
    lines = body.removesuffix("\n").split("\n") if body else []
    ordered = True
    for index, line in enumerate(lines):
        place = index + 2
        cells = line.split("\t")
        if len(cells) != 2:
            yield Problem(file.name, place, f"{len(cells)} columns instead of two")
            continue
        if ordered and cells[0] != str(index):
            ordered = False
            yield Problem(file.name, place, f"index '{cells[0][:40]}' where {index} must be")
        reason = _wrong_label(file, cells[1])
        if reason:
            yield Problem(file.name, place, reason)
    for who, count in rows.items():
        if len(lines) != count:
            yield Problem(file.name, None, f"{len(lines)} rows, {who} has {count}")


def _wrong_label(file: GlueFile, text: str) -> str:
    """Return why the server does not take a label; empty if it does."""
    if file.labels:
        known = ", ".join(file.labels)
        return "" if text in file.labels else f"label '{text[:40]}' is none of {known}"
    if not _NUMBER.fullmatch(text):
        return f"'{text[:40]}' is no plain number"
    if not LOWEST <= float(text) <= HIGHEST:
        return f"{text[:40]} is not between {LOWEST:g} and {HIGHEST:g}"
    return ""


def name_problems(names: Sequence[str], partial: bool) -> Iterator[Problem]:
    """Yield what is wrong with the names in a submission.

    Args:
        names: of everything in it, folders too.
        partial: some of the eleven may be missing.
    """
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Problem(name, None, "is there twice")
        if name in BY_NAME:
            continue
        if "/" in name:
            yield Problem(name, None, "lies in a folder: the files must be at the top of the zip")
        else:
            yield Problem(name, None, f"is none of the eleven files: {nearest(name, BY_NAME)}")
    if not partial and (missing := absent(names)):
        yield Problem(", ".join(missing), None, "not there: the server wants all eleven files")


def absent(names: Collection[str]) -> list[str]:
    """Return which of the eleven files are not among these names."""
    return [file.name for file in FILES if file.name not in names]
