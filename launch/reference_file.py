"""A file of published numbers: one model, one source, several tasks. Read strictly.

    model: bert-base-cased            # as --model
    source: who says so, and where
    url: https://…
    checked: 2026-11-21               # when somebody compared it with the source; null: nobody did
    unit: percent                     # or fraction
    statistic: single run             # mean, median, best of several, not stated
    recipe: {global_batch: 32, lr: 2.0e-5, epochs: 3}
    assumed:                          # what the source does not say
      weight_decay: {value: 0.0, why: the script's default}
    tasks:
      cola: {scores: [{split: validation, metric: matthews, value: 56.53}]}
      mrpc: {recipe: {epochs: 5}, scores: […]}
      mine: {task: mine.yaml, scores: […]}     # a task file of one's own, beside this file

Keys of a recipe are the flags' names without dashes, or the configuration's (`optim.beta2`). What a
task says takes the place of what its set says. docs/references.md tells every key.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from training.config import RunConfig, TaskConfig, UsageError, nearest
from training.config.schema import coerce, leaves

from . import presets
from .grid import NAMED, key_of

UNITS = ("percent", "fraction")
BEST = "best of several"
STATISTICS = ("single run", "mean", "median", BEST, "not stated")
COLLAPSED = ("included", "excluded")
ABOUT = ("statistic", "runs", "seeds", "collapsed")
"""Facts about scores that a set or a task may tell."""
SET_KEYS = ("model", "source", "url", "checked", "unit", "tasks")
SET_KEYS += (*ABOUT, "recipe", "assumed", "notes", "extra")
TASK_KEYS = ("task", "scores", "unjudged", *ABOUT, "recipe", "assumed", "notes", "extra")
SCORE_KEYS = ("split", "metric", "value", "sd", "runs", "judged", "note")
SIGNED = ("matthews", "pearson", "spearman")
"""Metrics that go below 0."""
LARGEST_SPREAD = 0.25
"""A fraction: scores of one recipe are not scattered more widely, and a number of points is."""
SMALLEST_PERCENT = 0.02
"""Points of 100: seeds differ by more, and who writes less has written a fraction."""
UNBOUNDED = ("mse",)
"""Metrics that are no share of one: they are taken as they are written, whatever the unit."""
SECTIONS = ("task", "model", "batch", "optim", "train")
"""Sections of the configuration that a score follows from."""
NO_RECIPE = (
    "task.name task.description task.path task.files task.folder model.name model.path "
    "batch.micro_tokens batch.pad_multiple train.log_every train.save_every train.noise_every "
    "train.keep train.fault"
).split()
"""Keys of these that say where something lies or how it is computed, but not what is learned."""


@dataclass(frozen=True)
class Score:
    """One published number, a fraction whatever its file's unit."""

    split: str
    metric: str
    value: float
    sd: float | None = None
    """Standard deviation over runs, as published."""
    runs: int | None = None
    """How many runs it is of."""
    judged: bool = True
    """Whether a run of ours can be held against it."""
    note: str = ""
    """What is not certain about it."""


@dataclass(frozen=True)
class Assumption:
    """A value of a recipe that its source does not say."""

    value: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What one source says of one model on one task."""

    set: str
    """The set's name."""
    short: str
    """The task's name."""
    task: str
    """As for `--task`: a name in `configs/tasks/`, or the absolute path of a YAML file."""
    model: str
    """As for `--model`."""
    scores: tuple[Score, ...]
    recipe: Mapping[str, Any]
    """What the source says, by dotted key."""
    assumed: Mapping[str, Assumption]
    """What it does not say, by dotted key; none of the recipe's."""
    source: str
    url: str | None = None
    checked: str | None = None
    """The day when somebody compared it with the source, ISO 8601; None: nobody did."""
    statistic: str = "not stated"
    seeds: tuple[int, ...] = ()
    """Seeds that the source names."""
    collapsed: str | None = None
    """Whether runs that collapsed are `included` in the scores or `excluded`; None: not said."""
    unjudged: str = ""
    """Why none of its scores can be judged."""
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further published facts, which are shown and not judged."""

    @property
    def name(self) -> str:
        """What it is called: SET/TASK."""
        return f"{self.set}/{self.short}"

    @property
    def values(self) -> dict[str, Any]:
        """The recipe with what is assumed, by dotted key."""
        return {**{k: a.value for k, a in self.assumed.items()}, **self.recipe}

    @property
    def judged(self) -> tuple[Score, ...]:
        """The scores that a run of ours can be held against."""
        return tuple(s for s in self.scores if s.judged)


@dataclass(frozen=True, kw_only=True)
class ReferenceSet:
    """What one source says of one model."""

    name: str
    model: str
    references: Mapping[str, Reference]
    """By `Reference.task`, in the order of the file."""
    content: Mapping[str, Any]
    """The file's content, ready for JSON; `set_of` makes the same set of it anywhere."""
    source: str
    url: str | None = None
    checked: str | None = None
    path: Path | None = None
    """Its file; None: it was not read from one."""

    def of_task(self, text: str) -> Reference | None:
        """Return the reference of a task by its name or file; None if there is none."""
        found = self.references.get(text)
        return found or next((r for r in self.references.values() if r.short == text), None)


def set_of(
    content: object,
    where: str,
    name: str,
    folder: Path | None = None,
    path: Path | None = None,
    copies: Path | None = None,
) -> ReferenceSet:
    """Return the set of references that a file's content says.

    Args:
        content: of the YAML file, or `ReferenceSet.content`.
        where: how errors name it.
        name: the set's.
        folder: where its own task files lie; None: they are named by absolute paths.
        path: the file.
        copies: where its own task files are read from, as NAME.yaml, if they are not where they
            were.

    Raises:
        UsageError: a key is unknown or missing, a value is of the wrong form, a score is not one
            that the task computes, or does not fit the unit.
    """
    content = _mapping(_plain(content), where)
    _known(content, SET_KEYS, where)
    for key in ("model", "source", "unit", "tasks"):
        if content.get(key) in (None, "", {}):
            hint = {"source": ": say who published the numbers, and where"}.get(key, "")
            raise UsageError(f"{where}: '{key}' is missing{hint}")
    unit = _one_of(content["unit"], UNITS, f"{where}: unit")
    tasks: dict[str, dict[str, Any]] = {}
    references: dict[str, Reference] = {}
    for short, part in _mapping(content["tasks"], f"{where}: tasks").items():
        place = f"{where}: {short}"
        said = dict(_mapping(part, place))
        _known(said, TASK_KEYS, place)
        file = None
        if "task" in said:
            if not isinstance(said["task"], str):
                raise UsageError(f"{place}: task: expected a YAML file, got {said['task']!r}")
            file = (folder or Path()).absolute() / Path(said["task"]).expanduser()
            said["task"] = str(file)
            if copies is not None and not file.exists():
                file = copies / f"{short}.yaml"
        reference = _reference(content, said, short, name, unit, place, file)
        if reference.task in references:
            raise UsageError(f"{place}: task {reference.task} stands there twice")
        references[reference.task] = reference
        tasks[short] = said
    return ReferenceSet(
        name=name,
        model=str(content["model"]),
        references=references,
        content={**content, "tasks": tasks},
        source=str(content["source"]),
        url=_optional_text(content.get("url")),
        checked=_day(content.get("checked"), where),
        path=path,
    )


def _reference(
    content: Mapping[str, Any],
    said: Mapping[str, Any],
    short: str,
    name: str,
    unit: str,
    where: str,
    file: Path | None,
) -> Reference:
    """Return the reference of one task; what it says takes the place of what the set says.

    Args:
        content: of the set.
        said: of the task.
        short: its name.
        name: the set's.
        unit: of the scores.
        where: how errors name it.
        file: what its own task file is read from; None for a task of `configs/tasks/`.
    """
    model, task = str(content["model"]), str(said.get("task", short))
    if "/" not in model:
        _named(model, where)
    recipe = _recipe(content.get("recipe"), f"{where}: recipe of the set")
    assumed = _assumed(content.get("assumed"), f"{where}: assumed of the set")
    _apart(recipe, assumed, where)
    own_recipe = _recipe(said.get("recipe"), f"{where}: recipe")
    own_assumed = _assumed(said.get("assumed"), f"{where}: assumed")
    _apart(own_recipe, own_assumed, where)
    recipe = {k: v for k, v in recipe.items() if k not in own_assumed} | own_recipe
    assumed = {k: v for k, v in assumed.items() if k not in own_recipe} | own_assumed
    about = {k: said.get(k, content.get(k)) for k in ABOUT}
    runs = _count(about["runs"], f"{where}: runs")
    values = {**{k: a.value for k, a in assumed.items()}, **recipe}
    known = _checked_task(str(file or task), values, where)
    scores = tuple(
        _score(entry, unit, runs, known, f"{where}: score {number}")
        for number, entry in enumerate(_list(said.get("scores"), f"{where}: scores"), 1)
    )
    _differ(scores, where)
    unjudged = _optional_text(said.get("unjudged")) or ""
    if not any(s.judged for s in scores) and not unjudged:
        raise UsageError(f"{where}: no score can be judged: say why with 'unjudged'")
    if any(s.judged for s in scores) and unjudged:
        raise UsageError(f"{where}: 'unjudged' and a score that is judged contradict each other")
    collapsed = about["collapsed"]
    if collapsed is not None:
        _one_of(collapsed, COLLAPSED, f"{where}: collapsed")
    return Reference(
        set=name,
        short=short,
        task=task,
        model=model,
        scores=scores,
        recipe=recipe,
        assumed=assumed,
        source=str(content["source"]),
        url=_optional_text(content.get("url")),
        checked=_day(content.get("checked"), where),
        statistic=_one_of(about["statistic"] or "not stated", STATISTICS, f"{where}: statistic"),
        seeds=_seeds(about["seeds"], f"{where}: seeds"),
        collapsed=collapsed,
        unjudged=unjudged,
        notes=tuple(
            " ".join(str(n).split()) for n in (content.get("notes"), said.get("notes")) if n
        ),
        extra={
            **_mapping(content.get("extra") or {}, f"{where}: extra of the set"),
            **_mapping(said.get("extra") or {}, f"{where}: extra"),
        },
    )


def _recipe(given: object, where: str) -> dict[str, Any]:
    """Return a recipe by dotted key, every value of its key's type."""
    found: dict[str, Any] = {}
    for name, value in _mapping(given or {}, where).items():
        key = _key(name, where)
        if key in found:
            raise UsageError(f"{where}: {name} stands there twice, by two of its names")
        found[key] = coerce(value, leaves(RunConfig)[key][1], f"{where}: {name}")
    return found


def _assumed(given: object, where: str) -> dict[str, Assumption]:
    """Return what is assumed by dotted key."""
    found: dict[str, Assumption] = {}
    for name, value in _mapping(given or {}, where).items():
        place = f"{where}: {name}"
        entry = _mapping(value, f"{place} needs {{value: …, why: …}}")
        _known(entry, ("value", "why"), place)
        if "value" not in entry or not entry.get("why"):
            raise UsageError(f"{place}: write {{value: …, why: …}}: a guess has its reason")
        (key, of_type), *_ = _recipe({name: entry["value"]}, where).items()
        if key in found:
            raise UsageError(f"{where}: {name} stands there twice, by two of its names")
        found[key] = Assumption(of_type, " ".join(str(entry["why"]).split()))
    return found


def _key(name: str, where: str) -> str:
    key = key_of(name, where, "key")
    if key == "train.seed":
        raise UsageError(f"{where}: {name}: write the source's seeds as 'seeds: [42]'")
    if key in NAMED or key in NO_RECIPE:
        raise UsageError(f"{where}: {name} is no part of a recipe: leave it out")
    if key.split(".")[0] not in SECTIONS and key != "engine.precision":
        raise UsageError(f"{where}: {name} is no part of a recipe: leave it out")
    return key


def _apart(recipe: Mapping[str, Any], assumed: Mapping[str, Any], where: str) -> None:
    if both := sorted(recipe.keys() & assumed.keys()):
        raise UsageError(f"{where}: {both[0]} is in the recipe and assumed: one of them is wrong")


def _checked_task(task: str, values: Mapping[str, Any], where: str) -> TaskConfig:
    """Return the task as the recipe has it, once all of the recipe is in range."""
    try:
        config = RunConfig(task=_task(task)).with_values(values)
        for section in (config.task, config.batch, config.optim, config.train):
            section.check()
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return config.task


def _task(text: str) -> TaskConfig:
    from .resolve import load_task

    return _shipped_task(text) if "/" not in text else load_task(text)


@cache
def _shipped_task(name: str) -> TaskConfig:
    from .resolve import load_task

    return load_task(name)


def _named(model: str, where: str) -> None:
    try:
        presets.model_preset(model)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _score(given: object, unit: str, runs: int | None, task: TaskConfig, where: str) -> Score:
    entry = _mapping(given, where)
    _known(entry, SCORE_KEYS, where)
    for key in ("split", "metric", "value"):
        if entry.get(key) is None:
            raise UsageError(f"{where}: '{key}' is missing")
    split, metric = str(entry["split"]), str(entry["metric"])
    splits = (*task.validation_splits, *task.test)
    if split not in splits:
        raise UsageError(
            f"{where}: task {task.name} has no split '{split}': {nearest(split, splits)}"
        )
    if metric not in task.metric_names:
        hint = nearest(metric, task.metric_names)
        raise UsageError(f"{where}: task {task.name} does not compute '{metric}': {hint}")
    runs = _count(entry.get("runs", runs), f"{where}: runs")
    sd = entry.get("sd")
    if sd is not None:
        sd = as_fraction(sd, unit, metric, f"{where}: sd", spread=True)
        if runs is None or runs < 2:
            raise UsageError(f"{where}: sd is of several runs: say how many with 'runs'")
    judged = coerce(entry.get("judged", True), bool, f"{where}: judged")
    note = _optional_text(entry.get("note")) or ""
    if not judged and not note:
        raise UsageError(f"{where}: 'judged: false' needs a 'note' that says why")
    if judged and task.hub == "nyu-mll/glue" and split in task.test:
        raise UsageError(
            f"{where}: the labels of {task.name}'s {split} are hidden: write 'judged: false'"
        )
    value = as_fraction(entry["value"], unit, metric, f"{where}: value")
    return Score(split, metric, value, sd, runs, judged, note)


def as_fraction(value: object, unit: str, metric: str, where: str, spread: bool = False) -> float:
    """Return a published number as a fraction.

    Args:
        value: as written.
        unit: `percent` or `fraction`.
        metric: whose number it is; those of `UNBOUNDED` have no unit.
        where: how errors name it.
        spread: it is a standard deviation: never below 0, nor as large or as small as one that
            was written in the other unit.

    Raises:
        UsageError: it is no number, or not one of this unit; what was probably meant is told. A
            percentage between 0 and 1 is taken for a fraction that lost its way.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UsageError(f"{where}: expected a number, got {value!r}")
    number = coerce(value, float, where)
    low = -1.0 if metric in SIGNED and not spread else 0.0
    if metric in UNBOUNDED:
        if number < 0:
            raise UsageError(f"{where}: {number:g} is below 0, and {metric} never is")
        return number
    if unit == "percent":
        if 0 < abs(number) <= 1 and not spread:
            meant = f"write {number * 100:g}, or 'unit: fraction'"
            raise UsageError(f"{where}: {number:g} with 'unit: percent': {meant}")
        # 56.53 / 100 is 0.5653 to the last digit that anybody published.
        number, scale = round(number / 100, 12), 100.0
    else:
        if 1 < abs(number) <= 100:
            meant = f"write {number / 100:g}, or 'unit: percent'"
            raise UsageError(f"{where}: {number:g} with 'unit: fraction': {meant}")
        scale = 1.0
    if not low <= number <= 1.0:
        limits = f"{low * scale:g} and {scale:g}"
        raise UsageError(f"{where}: {number * scale:g} is not between {limits}")
    if spread:
        _plausible_spread(number, unit, where)
    return number


def _plausible_spread(number: float, unit: str, where: str) -> None:
    """Raise `UsageError` for a standard deviation, a fraction, that was written in another unit."""
    points = round(100 * number, 9)
    if number > LARGEST_SPREAD:
        written, meant = (points, points / 100) if unit == "percent" else (number, number / 100)
        raise UsageError(
            f"{where}: {written:g} with 'unit: {unit}' is a spread of {points:g} points: write "
            f"{meant:g} if that is what is meant"
        )
    if unit == "percent" and 0 < points < SMALLEST_PERCENT:
        raise UsageError(
            f"{where}: {points:g} with 'unit: percent' is {points:g} points of 100: write "
            f"{100 * points:g}, or 'unit: fraction' where it is so small"
        )


def _differ(scores: Iterable[Score], where: str) -> None:
    seen: set[tuple[str, str]] = set()
    for score in scores:
        if (score.split, score.metric) in seen:
            raise UsageError(f"{where}: {score.metric} of {score.split} stands there twice")
        seen.add((score.split, score.metric))


def _seeds(given: object, where: str) -> tuple[int, ...]:
    found = [given] if isinstance(given, int) else given or []
    if not isinstance(found, list) or not all(type(s) is int and s >= 0 for s in found):
        raise UsageError(f"{where}: expected a list of seeds, got {given!r}")
    return tuple(found)


def _count(given: object, where: str) -> int | None:
    if given is None:
        return None
    if type(given) is not int or given < 1:
        raise UsageError(f"{where}: expected a number of runs, got {given!r}")
    return given


def _day(given: object, where: str) -> str | None:
    if given is None:
        return None
    try:
        return datetime.date.fromisoformat(str(given)).isoformat()
    except ValueError:
        raise UsageError(
            f"{where}: checked: write a day, 2026-11-21, or null: got {given!r}"
        ) from None


def _one_of(given: object, choices: tuple[str, ...], where: str) -> str:
    if given not in choices:
        raise UsageError(f"{where}: unknown value '{given}': {nearest(str(given), choices)}")
    return str(given)


def _optional_text(given: object) -> str | None:
    return None if given is None else " ".join(str(given).split())


def _mapping(given: object, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: expected keys and values, got {given!r}")
    return given


def _list(given: object, where: str) -> list[Any]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise UsageError(f"{where}: expected a list, got {given!r}")
    return given


def _known(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: unknown key '{key}': {nearest(str(key), known)}")


def _plain(value: Any) -> Any:
    """Return what YAML made ready for JSON: days as text, keys as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value
