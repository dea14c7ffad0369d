"""Where rows and models lie, and what rows hold: the checks of the login node.

Neither torch nor `datasets` is needed; pyarrow is imported when a file is opened. What is wrong
with the data is said here, before anything is submitted.
"""

from __future__ import annotations

import importlib.util
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import demo, tables
from .cleaning import clean_text
from .config import ModelConfig, TaskConfig, UsageError, nearest
from .hub_layout import describes, read_layout

if TYPE_CHECKING:
    import numpy as np

UNLABELLED = -1
"""The class of a row without a label, on the hub and here."""

BREAKS = re.compile(r"[\t\n\r]")
"""What a class's name must not hold: predictions are a table of tabs and lines, which other tools
read too."""

_SHOWN = 80
"""Characters of a label that an error shows."""

_MANY = 1000
"""More classes than this, and more than half as many as rows, is no column of classes."""

Role = Literal["train", "validation", "test"]
_Kind = Literal["int", "float", "text", "bool", "none"]


@dataclass(frozen=True)
class SourceInfo:
    """What a task's data holds, as far as the schema and the label column tell."""

    rows: dict[str, int]
    """Rows by split as a run sees them: a hold-out is taken off train and is `validation`."""
    label_names: tuple[str, ...]
    """Names of the classes in the order of their ids; empty in regression."""
    label_values: tuple[int | str, ...]
    """What the label column holds for each of them."""
    columns: tuple[str, ...]
    """Columns of the first split that is used."""
    labelled: tuple[str, ...]
    """Splits whose every row has a label: those that can be scored."""


@dataclass(frozen=True)
class _Labels:
    """The label column of one split."""

    kind: _Kind
    counts: dict[Any, int]
    """Rows by value, without those that have none."""
    missing: int


def resolve_data_dir(task: TaskConfig, data_dir: Path) -> Path:
    """Return the task's data set below `--data DIR`: DIR/FOLDER, or DIR if it is the data set.

    Raises:
        UsageError: neither is there; what is there is named.
    """
    if not data_dir.is_dir():
        raise UsageError(f"--data {data_dir}: there is no such folder")
    if task.folder and (data_dir / task.folder).is_dir():
        return data_dir / task.folder
    if describes(data_dir, task.subset):
        return data_dir
    below = sorted(p.name for p in data_dir.iterdir() if not p.name.startswith("."))
    held = f"it holds: {', '.join(below[:20])}" if below else "it is empty"
    if task.folder:
        wanted = f"no folder '{task.folder}'"
    else:
        wanted = f"no configuration '{task.subset}'" if task.subset else "no data files"
    raise UsageError(f"--data {data_dir}: {wanted} there for task {task.name} ({held})")


def model_folder(model: ModelConfig) -> Path | None:
    """Return the local folder of a model: its path, or `model/` in its Python package.

    None for a model made from sizes alone, and for one of the hub that was not fetched. The
    package is found without being imported.

    Raises:
        UsageError: the folder or the package is missing.
    """
    if model.path:
        folder = Path(model.path)
        if not folder.is_dir():
            raise UsageError(f"model {model.name}: {folder} is no folder")
        return folder
    if model.package:
        found = importlib.util.find_spec(model.package)
        places = list(found.submodule_search_locations or ()) if found else []
        for place in places:
            if (Path(place) / "model").is_dir():
                return Path(place) / "model"
        raise UsageError(
            f"model {model.name}: the Python package {model.package} is not installed: "
            "pip install 'glueline[offline]'"
        )
    return None


def used_splits(task: TaskConfig) -> dict[str, Role]:
    """Return the splits that are read from the data, each with what it is for."""
    splits: dict[str, Role] = {} if task.train is None else {task.train: "train"}
    for name in () if task.holdout > 0 else task.validation:
        splits.setdefault(name, "validation")
    for name in task.test:
        splits.setdefault(name, "test")
    return splits


def locate(task: TaskConfig) -> dict[str, list[Path]]:
    """Return the files of each split of a local source; none of a generated one.

    Raises:
        UsageError: a file, the folder or the configuration is missing, or nothing is local yet.
    """
    return _locate(task)[0]


def _locate(task: TaskConfig) -> tuple[dict[str, list[Path]], dict[str, tuple[str, ...]]]:
    if task.generated:
        return {}, {}
    if task.files:
        found = {split: [Path(f) for f in files] for split, files in task.files.items()}
        for split, paths in found.items():
            for path in paths:
                if not path.is_file():
                    raise UsageError(f"task {task.name}: {split} file {path} does not exist")
                tables.file_format(path)
        return found, {}
    if task.path:
        layout = read_layout(Path(task.path), task.subset)
        return layout.splits, layout.label_names
    raise UsageError(
        f"task {task.name}: its rows are not on this machine: use --data DIR, or fetch "
        f"{task.hub} from the hub with glueline prepare"
    )


def check_source(task: TaskConfig) -> SourceInfo:
    """Return what the data holds, after looking at every schema and label that a run will use.

    Raises:
        UsageError: one line that says what is wrong, where, and what to type instead.
    """
    if task.generated:
        return _check_demo(task)
    files, names_by_column = _locate(task)
    splits = used_splits(task)
    for split in splits:
        if not files.get(split):
            raise UsageError(_no_split(task, split, splits[split], files))
    columns = {split: _columns(task, split, files[split]) for split in splits}
    labels = {
        split: _read_labels(task, role, files[split], columns[split])
        for split, role in splits.items()
    }
    rows = {}
    for split in splits:
        column = labels[split]
        known = column is not None
        rows[split] = (
            sum(column.counts.values()) + column.missing
            if known
            else sum(tables.count_rows(path) for path in files[split])
        )
        if not rows[split]:
            raise UsageError(f"task {task.name}: split {split} has no rows ({files[split][0]})")
    declared = _declared(task, names_by_column, [files[split][0] for split in splits])
    return _conclude(task, splits, columns, labels, rows, declared)


def declared_names(task: TaskConfig, split: str) -> tuple[str, ...] | None:
    """Return the class names that the data of a split tells apart from its rows; None without.

    A README of the hub or the schema of a parquet file does; what rows happen to hold may lack a
    class.

    Raises:
        UsageError: the files are not there or cannot be read.
    """
    if task.generated:
        return demo.LABEL_NAMES
    files, names_by_column = _locate(task)
    return _declared(task, names_by_column, files.get(split, [])[:1])


def _declared(
    task: TaskConfig, names_by_column: Mapping[str, tuple[str, ...]], paths: list[Path]
) -> tuple[str, ...] | None:
    return names_by_column.get(task.label or "") or _stored_names(task, paths)


def _check_demo(task: TaskConfig) -> SourceInfo:
    data = demo.generate()
    splits = used_splits(task)
    for split, role in splits.items():
        if split not in data:
            raise UsageError(_no_split(task, split, role, data))
    own = (*demo.TEXT_COLUMNS, "label")
    for column in (*task.text, *([task.label] if task.label else [])):
        if column not in own:
            raise UsageError(
                f"task {task.name}: the generated rows have no column '{column}': "
                f"{nearest(column, own)}"
            )
    labels: dict[str, _Labels | None] = {
        split: _count([row["label"] for row in data[split]]) for split in splits
    }
    rows = {split: len(data[split]) for split in splits}
    columns = dict.fromkeys(splits, own)
    return _conclude(task, splits, columns, labels, rows, demo.LABEL_NAMES)


def _conclude(
    task: TaskConfig,
    splits: Mapping[str, Role],
    columns: Mapping[str, Sequence[str]],
    labels: Mapping[str, _Labels | None],
    rows: dict[str, int],
    declared: tuple[str, ...] | None,
) -> SourceInfo:
    names: tuple[str, ...] = ()
    values: tuple[int | str, ...] = ()
    if task.problem == "regression":
        _check_numbers(task, splits, labels)
    elif task.label is not None:
        names, values = _name_classes(task, labels, declared)
        for name in names:
            given = name in task.labels
            _check_writable(task, name, "--labels" if given else "a name that the data declares")
        _check_classes(task, splits, labels, names, values)
        if task.train is not None:
            _check_metrics(task, names)
    labelled = [s for s, column in labels.items() if column is not None and not column.missing]
    counts: list[int] = []
    if task.train is not None:
        column = labels[task.train]
        counts = [rows[task.train]]
        if column is not None and task.problem == "classification":
            counts = list(column.counts.values())
    if task.train is not None and task.holdout > 0:
        by_class = holdout_counts(counts, task.holdout)
        held = sum(by_class)
        counts = [count - out for count, out in zip(counts, by_class, strict=True)]
        if not 0 < held < rows[task.train]:
            raise UsageError(
                f"task {task.name}: a hold-out of {task.holdout:g} leaves {held} of "
                f"{rows[task.train]} rows to validate on: use another --set task.holdout="
            )
        train = rows.pop(task.train)
        rows = {task.train: train - held, "validation": held, **rows}
        labelled.insert(1, "validation")
    if task.train is not None and task.train_fraction < 1:
        rows[task.train] -= sum(holdout_counts(counts, 1 - task.train_fraction))
    return SourceInfo(
        rows=rows,
        label_names=names,
        label_values=values,
        columns=tuple(columns[next(iter(splits))]) if splits else (),
        labelled=tuple(labelled),
    )


def holdout_counts(counts: Sequence[int], fraction: float) -> list[int]:
    """Return how many rows of each class are held out: the fraction of the whole, by largest rest.

    The sum is `fraction` of all rows, rounded, and at least one. A class keeps at least one row.
    """
    total = min(max(1, round(sum(counts) * fraction)), sum(max(0, c - 1) for c in counts))
    exact = [count * fraction for count in counts]
    held = [min(math.floor(e), max(0, c - 1)) for e, c in zip(exact, counts, strict=True)]
    while sum(held) != total:
        step = 1 if sum(held) < total else -1
        able = [
            i
            for i, count in enumerate(counts)
            if (held[i] < count - 1 if step > 0 else held[i] > 0)
        ]
        held[max(able, key=lambda i: (step * (exact[i] - held[i]), -i))] += step
    return held


def _no_split(task: TaskConfig, split: str, role: Role, files: Mapping[str, Any]) -> str:
    key = "validation" if role == "validation" else role
    hint = nearest(split, files)
    if role == "validation" and not files.keys() & {"validation", "valid", "dev"}:
        hint += "; --set task.holdout=0.05 takes rows of train instead"
    return (
        f"task {task.name}: the data has no split '{split}' (task.{key}; it has "
        f"{', '.join(files) or 'none'}): {hint}"
    )


def _columns(task: TaskConfig, split: str, paths: list[Path]) -> tuple[str, ...]:
    """Return a split's columns after a look at those that are needed, in every file."""
    for path in paths:
        types = tables.column_types(path)
        for column in task.text:
            if column not in types:
                raise UsageError(_no_column(task, "text", column, split, path, types))
            if types[column] == "binary" and tables.file_format(path) == "csv":
                raise UsageError(f"{path} cannot be read: column '{column}' is not UTF-8 text")
            # In CSV a text that looks like a number is read as text all the same.
            if tables.file_format(path) != "csv" and not _is_text(types[column]):
                raise UsageError(
                    f"task {task.name}: column '{column}' of split {split} holds "
                    f"{types[column]}, not text ({path}): choose another with --text-columns"
                )
            if empty := tables.null_count(path, column):
                raise UsageError(
                    f"task {task.name}: {empty} rows of split {split} have no text in column "
                    f"'{column}' ({path}): remove them or write an empty text"
                )
        if task.label and task.label not in types and split not in task.test:
            raise UsageError(_no_column(task, "label", task.label, split, path, types))
    return tuple(types)


def _no_column(
    task: TaskConfig, what: str, column: str, split: str, path: Path, types: Mapping[str, str]
) -> str:
    flag = "--text-columns" if what == "text" else "--label-column"
    shown = ", ".join(types)
    return (
        f"task {task.name}: split {split} has no {what} column '{column}' ({path}; it has "
        f"{shown}): {nearest(column, types)} ({flag})"
    )


def _is_text(arrow_type: str) -> bool:
    return bool(re.match(r"(dictionary<values=)?(large_)?string", arrow_type))


def _read_labels(
    task: TaskConfig, role: Role, paths: list[Path], columns: Sequence[str]
) -> _Labels | None:
    """Return the label column of a split; None where it has none."""
    if task.label is None or task.label not in columns:
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = []
    for path in paths:
        values = tables.read_column(path, task.label)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        kind = _kind(values.type)
        if kind is None:
            raise UsageError(
                f"task {task.name}: label column '{task.label}' holds {values.type}, neither "
                f"names nor numbers ({path}): choose another with --label-column"
            )
        if kind == "float":
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)  # type: ignore[attr-defined]
        counted = pc.value_counts(values).to_pylist()  # type: ignore[attr-defined]
        counts = {c["values"]: c["counts"] for c in counted if c["values"] not in (None, "")}
        for value in counts if kind == "text" and task.problem == "classification" else ():
            _check_writable(task, value, f"column '{task.label}' of {path}")
        parts.append(
            _Labels(kind if counts else "none", counts, len(values) - sum(counts.values()))
        )
    whole = _merge(parts)
    # The hub's way to say that a test split's labels are secret.
    if role == "test" and set(whole.counts) == {UNLABELLED}:
        return _Labels("none", {}, whole.counts[UNLABELLED] + whole.missing)
    return whole


def _kind(arrow_type: Any) -> _Kind | None:
    import pyarrow as pa

    tests: dict[_Kind, Any] = {
        "int": pa.types.is_integer,
        "float": pa.types.is_floating,
        "bool": pa.types.is_boolean,
        "none": pa.types.is_null,
    }
    for kind, test in tests.items():
        if test(arrow_type):
            return kind
    return "text" if _is_text(str(arrow_type)) else None


def _count(values: list[Any]) -> _Labels:
    return _Labels("int", {v: values.count(v) for v in sorted(set(values))}, 0)


def _merge(parts: list[_Labels]) -> _Labels:
    """Join the label columns of a split's files: numbers and names together are names."""
    kinds: set[_Kind] = {part.kind for part in parts if part.kind != "none"}
    kind: _Kind = "text" if kinds else "none"
    if len(kinds) == 1:
        kind = next(iter(kinds))
    elif kinds == {"float", "int"}:
        kind = "float"
    counts: dict[Any, int] = {}
    for part in parts:
        for value, count in part.counts.items():
            counts[value] = counts.get(value, 0) + count
    return _Labels(kind, counts, sum(part.missing for part in parts))


def _stored_names(task: TaskConfig, paths: list[Path]) -> tuple[str, ...] | None:
    """Return the class names that `datasets` left in a parquet file."""
    for path in paths if task.label else ():
        feature = tables.hub_features(path).get(task.label or "")
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            return tuple(str(name) for name in feature.get("names") or ()) or None
    return None


def _check_numbers(
    task: TaskConfig, splits: Mapping[str, Role], labels: Mapping[str, _Labels | None]
) -> None:
    for split, column in labels.items():
        if column is None:
            continue
        where = f"task {task.name}: labels of split {split} (column '{task.label}')"
        if column.kind in ("text", "bool"):
            shown = next(iter(column.counts))
            raise UsageError(
                f"{where} are {column.kind} ('{shown}'), a regression needs numbers: use --set "
                "task.problem=classification"
            )
        if column.missing and splits[split] != "test":
            raise UsageError(f"{where} are missing in {column.missing} rows: remove those rows")
        if any(math.isinf(value) for value in column.counts):
            raise UsageError(f"{where} are infinite in some rows: remove those rows")


def _name_classes(
    task: TaskConfig, labels: Mapping[str, _Labels | None], declared: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int | str, ...]]:
    """Return the names of the classes, and what the label column holds for each."""
    known = [c for c in labels.values() if c is not None and c.counts]
    source = labels.get(task.train or "") or (known[0] if known else None)
    if source is None and not (declared or task.labels):
        return (), ()
    if source is not None and source.kind == "float":
        value = next(iter(source.counts))
        raise UsageError(
            f"task {task.name}: labels in column '{task.label}' are numbers with a point "
            f"({value:g}), a class needs a name or a whole number: use --set "
            "task.problem=regression"
        )
    if declared:
        if not task.labels:
            return declared, tuple(range(len(declared)))
        _check_given(task, declared)
        return task.labels, tuple(declared.index(name) for name in task.labels)
    if source is None or not source.counts:
        return task.labels, tuple(range(len(task.labels)))
    if source.kind == "text":
        found = sorted(str(value) for value in source.counts)
        if len(found) > _MANY and 2 * len(found) > sum(source.counts.values()):
            raise UsageError(
                f"task {task.name}: column '{task.label}' has {len(found)} different values, "
                "that is no column of classes: choose another with --label-column"
            )
        if task.labels:
            _check_given(task, found)
        names = task.labels or tuple(found)
        return names, names
    values = sorted(int(v) for v in source.counts if v != UNLABELLED or str(v) in task.labels)
    if source.kind == "bool":
        values = [0, 1]
        found = ["false", "true"]
    else:
        # 0, 2 are three classes of which one was not seen; 1, 2 are two.
        if values and values[0] == 0 and values[-1] < 2 * len(values):
            values = list(range(values[-1] + 1))
        found = [str(value) for value in values]
    if not task.labels:
        return tuple(found), tuple(values)
    if set(found) <= set(task.labels) and all(re.fullmatch(r"-?\d+", n) for n in task.labels):
        return task.labels, tuple(int(name) for name in task.labels)
    if set(found) == set(task.labels):
        return task.labels, tuple(found.index(name) for name in task.labels)
    if values and values[0] >= 0 and values[-1] < len(task.labels):
        return task.labels, tuple(range(len(task.labels)))
    if len(values) == len(task.labels):
        return task.labels, tuple(values)
    raise UsageError(
        f"task {task.name}: --labels names {len(task.labels)} classes, column '{task.label}' has "
        f"{len(found)}: {', '.join(found[:20])}"
    )


def _check_writable(task: TaskConfig, name: str, where: str) -> None:
    """Raise `UsageError` if a class's name would break the lines of a table of predictions."""
    if BREAKS.search(name):
        raise UsageError(
            f"task {task.name}: label {_cut(repr(name))} ({where}) has a tab or a line break in "
            "it, which no table of predictions can hold: give the class another name"
        )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _check_metrics(task: TaskConfig, names: Sequence[str]) -> None:
    """Raise `UsageError` for a metric that is not defined for so many classes."""
    if "f1" in task.metric_names and len(names) > 2:
        others = dict.fromkeys("macro_f1" if m == "f1" else m for m in task.metric_names)
        primary = " --set task.primary=macro_f1" if task.primary == "f1" else ""
        raise UsageError(
            f"task {task.name}: the metric f1 is of two classes, the data has {len(names)} "
            f"({_cut(', '.join(names))}): use macro_f1 or weighted_f1, such as "
            f"--set task.metrics={','.join(others)}{primary}"
        )


def _check_given(task: TaskConfig, found: Sequence[str]) -> None:
    """Raise `UsageError` unless `--labels` are exactly the names that the data has."""
    for name in found:
        if name not in task.labels:
            raise UsageError(
                f"task {task.name}: --labels {','.join(task.labels)} lacks the data's label "
                f"'{name}': use --labels {','.join(found[:20])}"
            )
    for name in task.labels:
        if name not in found:
            raise UsageError(
                f"task {task.name}: --labels has '{name}', which the data does not: "
                f"{nearest(name, found)}"
            )


def _check_classes(
    task: TaskConfig,
    splits: Mapping[str, Role],
    labels: Mapping[str, _Labels | None],
    names: tuple[str, ...],
    values: tuple[int | str, ...],
) -> None:
    trained: set[int] | None = None
    for split, column in labels.items():
        if column is None:
            continue
        where = f"task {task.name}: split {split}, label column '{task.label}'"
        seen = set()
        missing = column.missing
        for value, count in column.counts.items():
            index = class_index(value, names, values)
            if index is not None:
                seen.add(index)
            elif value == UNLABELLED:
                missing += count
            elif trained is not None and splits[split] == "validation":
                raise UsageError(f"{where}: label '{value}' is in no training row")
            else:
                shown = ", ".join(names[:20])
                raise UsageError(f"{where}: label '{value}' is none of {len(names)}: {shown}")
        if missing and splits[split] != "test":
            hint = "remove those rows"
            if UNLABELLED in column.counts:
                hint += ", or name -1 in --labels if it is a class"
            raise UsageError(f"{where}: {missing} rows have no label: {hint}")
        if splits[split] == "train":
            trained = seen
            if len(names) < 2:
                raise UsageError(f"{where}: all rows have the label '{''.join(names)}'")
        elif trained is not None and splits[split] == "validation" and seen - trained:
            name = names[min(seen - trained)]
            raise UsageError(f"{where}: label '{name}' is in no training row")


def class_index(value: Any, names: Sequence[str], values: Sequence[int | str]) -> int | None:
    """Return the class of a value of the label column, by value or by name; None if it has none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps arrives as floats
    if value in values:
        return values.index(value)
    if isinstance(value, str) and value in names:
        return names.index(value)
    return None


def read_texts(task: TaskConfig, split: str) -> list[tuple[str, ...]]:
    """Return all rows' texts of a split, uncleaned, in order. A missing text is an empty one.

    Raises:
        UsageError: the split or a text column is missing, or a file cannot be read.
    """
    if task.generated:
        data = demo.generate()
        if split not in data:
            raise UsageError(_no_split(task, split, "test", data))
        return [tuple(str(row[c]) for c in task.text) for row in data[split]]
    files = locate(task)
    if not files.get(split):
        raise UsageError(_no_split(task, split, "test", files))
    found: list[tuple[str, ...]] = []
    for path in files[split]:
        columns = tables.read_columns(path, list(task.text))
        rows = zip(*(columns[c] for c in task.text), strict=True)
        found += [tuple("" if t is None else str(t) for t in row) for row in rows]
    return found


def sample_texts(task: TaskConfig, split: str, n: int, seed: int) -> list[tuple[str, ...]]:
    """Return up to `n` rows' texts of a split, uncleaned, the same for the same seed.

    A bounded part of each file is read: of parquet random row groups, of JSONL lines at random
    places, of CSV and JSON arrays the head alone, since a place in the middle of a CSV file
    cannot be told to lie inside or outside quotes.

    Raises:
        UsageError: the split or a text column is missing, or a file cannot be read.
    """
    rng = random.Random(seed)
    if task.generated:
        rows = [tuple(str(row[c]) for c in task.text) for row in demo.generate()[split]]
        return rng.sample(rows, n) if len(rows) > n else rows
    files = locate(task)
    if not files.get(split):
        raise UsageError(_no_split(task, split, "train", files))
    paths = list(files[split])
    rng.shuffle(paths)
    found: list[tuple[str, ...]] = []
    # A few files stand for many: eight row groups or heads say enough about lengths.
    paths = paths[:8]
    for left, path in zip(range(len(paths), 0, -1), paths, strict=True):
        types = tables.column_types(path)
        for column in task.text:
            if column not in types:
                raise UsageError(_no_column(task, "text", column, split, path, types))
        wanted = -(-(n - len(found)) // left)
        if wanted > 0:
            rows = tables.sample_rows(path, task.text, wanted, rng)
            found += [tuple("" if t is None else str(t) for t in row) for row in rows]
    return found


def sample_lengths(
    task: TaskConfig, tokenizer_json: Path | None, n: int = 2000, seed: int = 0
) -> np.ndarray:
    """Return the lengths of up to `n` training rows in tokens, int32: cleaned, truncated, pairs
    as pairs, special tokens included.

    Without a tokenizer (a vocabulary yet to be trained) words and signs are counted instead. A
    task that is only predicted is measured on its first test split.
    """
    import numpy as np

    split = task.train or task.test[0]
    texts = [
        tuple(clean_text(text, task.clean) for text in row)
        for row in sample_texts(task, split, n, seed)
    ]
    if tokenizer_json is None:
        special = len(task.text) + 1
        counts = [sum(len(re.findall(r"\w+|[^\w\s]", text)) for text in row) for row in texts]
        return np.minimum(np.array(counts, dtype=np.int32) + special, task.max_length)
    from tokenizers import Tokenizer

    with tables.readable(tokenizer_json):
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # tokenizers raises bare Exception
            raise UsageError(f"{tokenizer_json} is no tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(task.max_length, strategy="longest_first")
    batch: list[Any] = [row[0] if len(row) == 1 else row for row in texts]
    encoded = tokenizer.encode_batch_fast(batch)
    return np.array([len(e.ids) for e in encoded], dtype=np.int32)
