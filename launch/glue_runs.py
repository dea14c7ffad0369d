"""Which runs a submission is made of, what they predicted, and what the data at hand says of it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.config import RunConfig, TaskConfig, UsageError, load_config
from training.predictions import Predictions
from training.rundir import RunDir, file_sha256, read_json

from .glue_files import TASKS, GlueFile


@dataclass(frozen=True)
class Candidate:
    """A finished run of a GLUE task."""

    run: RunDir
    config: RunConfig
    task: str
    """One of `glue_files.TASKS`."""
    metric: str
    split: str
    score: float | None
    """Of that metric on that split, of the exported model."""


@dataclass(frozen=True)
class Rows:
    """What the data at hand says of one file's split."""

    where: str
    """For people."""
    task: TaskConfig
    """To read the texts with: the run's columns, where these rows have them."""
    count: int
    files: tuple[Path, ...]
    held: dict[str, int | str] | None
    """What the label column holds for each class name; None where nothing tells all of them."""
    seen: tuple[str, ...] = ()
    """Where that is so, class names that the split's rows hold: some, perhaps not all."""


def glue_task(task: TaskConfig) -> str | None:
    """Return which task of GLUE a run was trained on, None if none."""
    if task.hub is not None and task.hub.rsplit("/", 1)[-1] != "glue":
        return None  # super_glue has an rte too
    name = task.subset or task.name
    return name if name in TASKS else None


def find_candidates(runs: Path, names: Iterable[str]) -> tuple[list[Candidate], list[str]]:
    """Return the finished runs that names mean, and notes on what is left out.

    A sweep stands for its finished trials; a search for those that had all rows, once there are
    any.

    Raises:
        UsageError: there is no such run or sweep, a run that was named has not finished or is of
            no task of GLUE, or none is left.
    """
    from .named import need_named

    found: dict[Path, Candidate] = {}
    notes: list[str] = []
    for name in names:
        what = need_named(runs, name)
        if isinstance(what, RunDir):
            candidate = _read(what)
            if candidate is None:
                raise UsageError(
                    f"run {what.run_id} is of task {load_config(what.config).task.name}, GLUE's "
                    f"are {', '.join(TASKS)}"
                )
            found[what.path] = candidate
            continue
        trials = _finished_trials(what, notes)
        candidates = [c for run in trials if (c := _read(run)) is not None]
        if len(candidates) < len(trials):
            notes.append(f"sweep {what.name}: runs of tasks that are not GLUE's are left out")
        found |= {c.run.path: c for c in candidates}
    if not found:
        raise UsageError(f"no finished run of a GLUE task in {', '.join(names)}")
    return list(found.values()), notes


def _finished_trials(sweep: object, notes: list[str]) -> list[RunDir]:
    from training.sweepdir import SweepDir, read_trials

    assert isinstance(sweep, SweepDir)
    trials = read_trials(sweep)
    done = [t for t in trials if isinstance(read_json(sweep.run(t).results), dict)]
    if len(done) < len(trials):
        notes.append(
            f"sweep {sweep.name}: {len(trials) - len(done)} of {len(trials)} trials have not "
            "finished and are left out"
        )
    whole = [t for t in done if t.best_of is not None]
    return [sweep.run(trial) for trial in whole or done]


def _read(run: RunDir) -> Candidate | None:
    """Return a run as a candidate; None if it is of no task of GLUE."""
    config = load_config(run.config)
    results = read_json(run.results)
    if not isinstance(results, dict):
        raise UsageError(
            f"run {run.run_id} has not finished: it predicts the test split at its end"
        )
    task = glue_task(config.task)
    if task is None:
        return None
    value = results.get("primary_value")
    return Candidate(
        run,
        config,
        task,
        str(results.get("primary_metric")),
        str(results.get("primary_split")),
        float(value) if isinstance(value, (int, float)) else None,
    )


def choose(candidates: Sequence[Candidate], seed: int | None) -> dict[str, Candidate]:
    """Return the run that is taken for each task: the one with the best score on the dev set.

    Of equal scores the run named first. Pure.

    Args:
        candidates: finished runs of any tasks.
        seed: only runs with this seed.

    Raises:
        UsageError: a task has no run with the seed, or its runs' scores do not compare.
    """
    chosen = {}
    for task in TASKS:
        own = [c for c in candidates if c.task == task]
        if not own:
            continue
        kept = [c for c in own if seed is None or c.config.train.seed == seed]
        if not kept:
            seeds = sorted({c.config.train.seed for c in own})
            raise UsageError(
                f"no run of {task} has the seed {seed}: there are {', '.join(map(str, seeds))}"
            )
        first = kept[0]
        for other in kept[1:]:
            if _scored(other) != _scored(first):
                raise UsageError(
                    f"runs {first.run.run_id} and {other.run.run_id} of {task} were scored on "
                    "different rows or by different metrics, so there is no best one: name one run "
                    f"of {task}"
                )
        chosen[task] = max(kept, key=_goodness)
    return chosen


def _scored(candidate: Candidate) -> tuple[object, ...]:
    task = candidate.config.task
    held = (task.holdout, task.holdout_seed) if task.holdout > 0 else None
    return candidate.metric, candidate.split, held


def _goodness(candidate: Candidate) -> float:
    if candidate.score is None:
        return float("-inf")
    return -candidate.score if candidate.metric == "mse" else candidate.score


def predict(file: GlueFile, candidate: Candidate, rows: Rows) -> Predictions:
    """Return what a run's model predicts on a file's split, computed now. Imports torch.

    Raises:
        UsageError: the run kept no model, or the rows cannot be read or lack a column that the run
            reads.
    """
    from training.sources import read_texts

    run, columns = candidate.run, candidate.config.task.text
    if rows.task.text != columns:
        raise UsageError(
            f"{file.name}: run {run.run_id} reads the text columns {', '.join(columns)}, and "
            f"{rows.where} has {', '.join(_shared_columns(rows.files)) or 'none'}"
        )
    texts = read_texts(rows.task, file.split)
    print(
        f"predicting the {len(texts):,} rows of {file.source} {file.split} with run {run.run_id}",
        file=sys.stderr,
        flush=True,
    )
    from training.predict import Predictor

    predictor = Predictor(run, candidate.config)
    found = predictor.predict(texts)
    if predictor.regression:
        return Predictions(file.split, tuple(f"{p.value:.6g}" for p in found), None, ())
    answers = tuple(str(p.label) for p in found)
    return Predictions(file.split, answers, None, tuple(predictor.names))


def rows_below(file: GlueFile, data: Path, text: tuple[str, ...] = ()) -> Rows | None:
    """Return what `--data DIR` says of a file's split; None where it lacks the split.

    Args:
        file: of a submission.
        data: the folder.
        text: the text columns of the run that predicts; none: those of the task.

    Raises:
        UsageError: the folder holds no data, or its rows are not in the order of their numbers.
    """
    from training.hub_layout import describes
    from training.sources import resolve_data_dir

    from .resolve import load_task

    task = load_task(file.source)
    folder = resolve_data_dir(task, data)
    if not describes(folder, task.subset):
        return None
    return _rows(file, replace(task, path=str(folder)), str(data), text)


def own_rows(file: GlueFile, candidate: Candidate) -> Rows | None:
    """Return what the data that a run was trained on says of a file's split, if it is still there.

    Raises:
        UsageError: its rows are not in the order of their numbers.
    """
    from training.sources import locate

    from .resolve import load_task

    task = candidate.config.task
    if file.source != file.task:
        # A folder with all of GLUE has these rows too; one that was fetched for one task does not.
        task = replace(load_task(file.source), path=task.path)
    try:
        locate(task)
    except UsageError:
        return None
    return _rows(file, task, "the run's own data", candidate.config.task.text)


def _rows(file: GlueFile, task: TaskConfig, where: str, text: tuple[str, ...]) -> Rows | None:
    from training import tables
    from training.sources import check_source, locate

    paths = locate(task).get(file.split)
    if not paths:
        return None
    if text and set(text) <= set(_shared_columns(paths)):
        task = replace(task, text=text)
    held, seen = _classes(task, file.split)
    # The split by itself: what the others hold is no matter here.
    task = replace(_alone(task, file.split), label=None, labels=())
    info = check_source(task)
    if all("idx" in tables.column_types(path) for path in paths):
        numbers = itertools.chain.from_iterable(
            tables.read_column(path, "idx").to_pylist() for path in paths
        )
        for place, number in enumerate(numbers):
            if str(number) != str(place):
                raise UsageError(
                    f"{paths[0]}: row {place} has the number {number} (column idx): the server "
                    "counts rows in their own order"
                )
    where = f"{file.source} {file.split} in {where}"
    return Rows(where, task, info.rows[file.split], tuple(paths), held, seen)


def _shared_columns(paths: Sequence[Path]) -> list[str]:
    """Return the columns that all files have, in the order of the first."""
    from training import tables

    first, *others = (tables.column_types(path) for path in paths)
    return [name for name in first if all(name in types for types in others)]


def _alone(task: TaskConfig, split: str) -> TaskConfig:
    return replace(task, train=None, validation=(), test=(split,), holdout=0.0, train_fraction=1.0)


def _classes(task: TaskConfig, split: str) -> tuple[dict[str, int | str] | None, tuple[str, ...]]:
    """Return what the label column of a task holds for each class name, and names that were seen.

    The data's own names tell all classes, and so do its training rows. A test split by itself may
    hold one of them, or what stands there in the place of a secret.

    Raises:
        UsageError: its labels are none that the data names.
    """
    from training.sources import check_source, declared_names, locate

    if task.problem == "regression" or task.label is None:
        return None, ()
    alone = _alone(task, split)
    if declared_names(task, split):
        info = check_source(alone)
        return dict(zip(info.label_names, info.label_values, strict=True)), ()
    if task.train and locate(task).get(task.train):
        try:
            info = check_source(replace(alone, train=task.train))
        except UsageError:
            pass  # they may have been changed since, or hold another kind of labels
        else:
            return dict(zip(info.label_names, info.label_values, strict=True)), ()
    try:
        info = check_source(replace(alone, labels=()))
    except UsageError:
        return None, ()  # what stands there is no class
    # Numbers are no names: they say nothing of which class is which.
    return None, tuple(v for v in info.label_values if isinstance(v, str))


def other_version(candidate: Candidate, rows: Rows) -> str | None:
    """Return why a run's stored predictions are not of these rows; None if they are.

    By the fingerprints that the run's manifest holds of its data. Where it holds none of the run's
    task nothing is known, and None too.
    """
    run, task = candidate.run, candidate.config.task
    manifest = read_json(run.manifest)
    entries = (manifest.get("data") if isinstance(manifest, dict) else None) or []
    # A manifest may be one of several tasks' runs, and hold the rows of another.
    own = {str(Path(path)) for paths in task.files.values() for path in paths}
    known = [e for e in entries if str(e["path"]) in own or _of_task(Path(e["path"]), task)]
    if not known:
        return None
    digests = {entry.get("sha256") for entry in known}
    unread = {entry.get("bytes") for entry in known if not entry.get("sha256")}
    for path in rows.files:
        if path.stat().st_size in unread or file_sha256(path) in digests:
            continue
        return (
            f"run {run.run_id} predicted other rows than {path} holds: no file that it was "
            "submitted with has this content"
        )
    return None


def _of_task(path: Path, task: TaskConfig) -> bool:
    """Return whether a file lies in the folder that holds a task's rows."""
    if not task.path or not path.is_relative_to(task.path):
        return False
    folder = Path(task.path, task.subset or "")
    return not task.subset or not folder.is_dir() or path.is_relative_to(folder)
