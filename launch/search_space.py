"""The `search` of a sweep file, and its flags: what is tried, how it is drawn, where it ends. Pure.

search:
  trials: 40
  sampler: tpe               # or random, grid
  pruner: median             # or none, successive-halving
  fraction: 0.25             # of the training rows
  space:
    lr: {low: 1.0e-5, high: 1.0e-3, log: true}
    global_batch: [64, 128, 256]
  finish: 1                  # so many of the best are run on all rows
"""

from __future__ import annotations

import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slurm.search_file import FRACTION, Axis, Pruner, Sampler, Search
from training.config import RunConfig, UsageError, nearest
from training.config.schema import coerce, leaves

from .grid import key_of, seeds

KNOWN = "trials sampler pruner seed fraction space finish finish_seeds".split()
"""Keys of a search."""
SAMPLERS: tuple[Sampler, ...] = typing.get_args(Sampler)
PRUNERS: tuple[Pruner, ...] = typing.get_args(Pruner)
CORNERS = 256
"""Combinations of the ends of axes that are all tried on the login node; of more, one axis at a
time."""


def search_of(given: Any, where: str) -> Search:
    """Return what the `search` of a sweep file asks for.

    Raises:
        UsageError: a key or value is wrong; the place is named.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: expected keys and values, got {given!r}")
    for key in given:
        if key not in KNOWN:
            raise UsageError(f"{where}: unknown key '{key}': {nearest(str(key), KNOWN)}")
    space = given.get("space") or {}
    if not isinstance(space, Mapping):
        raise UsageError(f"{where}: space: expected axes, got {space!r}")
    if not space:
        raise UsageError(f"{where}: space: there is nothing to vary: name an axis, such as lr")
    if "trials" not in given:
        raise UsageError(f"{where}: the key 'trials' is missing: how many are to be tried?")
    axes = []
    for name, values in space.items():
        axis = axis_of(str(name), values, f"{where}: space")
        if same := next((a.name for a in axes if a.key == axis.key), None):
            raise UsageError(f"{where}: space: {same} and {name} are the same key, {axis.key}")
        axes.append(axis)
    last_seeds = given.get("finish_seeds")
    found = Search(
        trials=_whole(given["trials"], f"{where}: trials", 1),
        axes=tuple(axes),
        sampler=_one_of(given.get("sampler", "tpe"), SAMPLERS, f"{where}: sampler"),
        pruner=_one_of(given.get("pruner") or "none", PRUNERS, f"{where}: pruner"),
        seed=_whole(given.get("seed", 1), f"{where}: seed", 0),
        fraction=_number(given.get("fraction", 1.0), f"{where}: fraction"),
        finish=_whole(given.get("finish", 1), f"{where}: finish", 0),
        finish_seeds=()
        if last_seeds is None
        else tuple(seeds(last_seeds, f"{where}: finish_seeds")),
    )
    check(found, where)
    return found


def check(search: Search, where: str) -> None:
    """Raise `UsageError` where parts of a search contradict each other."""
    if not 0 < search.fraction <= 1:
        raise UsageError(
            f"{where}: fraction: expected more than 0 and at most 1, got {search.fraction:g}"
        )
    for axis in search.axes:
        if search.sampler == "grid" and not axis.choices:
            raise UsageError(
                f"{where}: the sampler grid needs a list of values for {axis.name}: write some, "
                "or use tpe or random"
            )
        if axis.key == "train.seed" and search.finish_seeds:
            raise UsageError(f"{where}: space and finish_seeds both set the seed")
    if search.finish_seeds and not search.finish:
        raise UsageError(f"{where}: finish_seeds: there is nothing to finish: use finish: 1")


def axis_of(name: str, given: Any, where: str) -> Axis:
    """Return one axis: a list of values, or `{low, high, log}`.

    Raises:
        UsageError: there is no such key, it cannot be searched, or its values are wrong.
    """
    key = key_of(name, where)
    where = f"{where}: {name}"
    section = key.split(".")[0]
    if key == "task":
        raise UsageError(f"{where}: scores of two tasks do not compare: make two searches")
    if key == FRACTION:
        raise UsageError(f"{where}: use the search's fraction")
    if section in ("cluster", "tracking") or key in ("engine.device", "task.path"):
        raise UsageError(f"{where}: all trials of a search run on the same nodes: use --grid")
    name = name.strip().removeprefix("--").replace("-", "_")
    if isinstance(given, Mapping):
        return _range(name, key, given, where)
    return _choices(name, key, given, where)


def _choices(name: str, key: str, given: Any, where: str) -> Axis:
    if not isinstance(given, list):
        raise UsageError(f"{where}: expected a list of values, or low and high, got {given!r}")
    if not given:
        raise UsageError(f"{where}: there are no values")
    for value in given:
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise UsageError(f"{where}: expected a number or a name, got {value!r}")
    values = given
    if key in leaves(RunConfig):
        # 1e-4 is text to YAML, and a number to its field.
        values = [coerce(value, leaves(RunConfig)[key][1], where) for value in given]
        if any(not isinstance(v, (bool, int, float, str, type(None))) for v in values):
            raise UsageError(f"{where}: {key} holds several values and cannot be searched")
    twice = [v for i, v in enumerate(values) if v in values[:i]]
    if twice:
        raise UsageError(f"{where}: {twice[0]} appears twice")
    if key == "batch.micro_tokens" and "auto" in values:
        # Decided on the login node, where trials of a search are not known yet.
        raise UsageError(f"{where}: auto is no value of its own: write those that are tried")
    return Axis(name, key, tuple(values))


def _range(name: str, key: str, given: Mapping[str, Any], where: str) -> Axis:
    known = ("low", "high", "log")
    for word in given:
        if word not in known:
            raise UsageError(f"{where}: unknown key '{word}': {nearest(str(word), known)}")
    for word in ("low", "high"):
        if word not in given:
            raise UsageError(f"{where}: the key '{word}' is missing")
    annotation = leaves(RunConfig)[key][1] if key in leaves(RunConfig) else None
    kinds = {*typing.get_args(annotation), annotation}
    whole = int in kinds and float not in kinds
    if not kinds & {int, float}:
        raise UsageError(f"{where}: {key} has no range: write a list of values")
    if Axis(name, key).planned:
        raise UsageError(
            f"{where}: the plan of a run follows from {key}, and all plans are made before "
            "submission: write a list of values"
        )
    low, high = _number(given["low"], f"{where}: low"), _number(given["high"], f"{where}: high")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"{where}: log: expected true or false, got {log!r}")
    if whole and (low != int(low) or high != int(high)):
        raise UsageError(f"{where}: {key} takes whole numbers, got {low:g} to {high:g}")
    if low >= high:
        raise UsageError(f"{where}: low must be below high, got {low:g} and {high:g}")
    if log and low <= 0:
        raise UsageError(f"{where}: log needs a low above 0, got {low:g}")
    return Axis(name, key, (), low, high, log, whole)


def typed_axis(text: str) -> tuple[str, Any]:
    """Return name and values of `lr=1e-5..1e-3:log` or `global_batch=64,128`, as a file has them.

    Raises:
        UsageError: it is neither.
    """
    from .grid import _scalar as scalar

    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UsageError(f"--search '{text}': write KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=V1,V2")
    ends, _, scale = values.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        return name, [scalar(v) for v in values.split(",") if v.strip()]
    if scale not in ("", "log"):
        raise UsageError(f"--search '{text}': unknown scale '{scale}': {nearest(scale, ['log'])}")
    return name, {"low": scalar(low), "high": scalar(high), "log": scale == "log"}


def with_flags(
    search: Search | None, axes: Sequence[str], typed: Mapping[str, Any]
) -> Search | None:
    """Return a search with what was typed, over the file's own.

    Args:
        search: the file's; None without one.
        axes: texts of `--search`.
        typed: by key of the file; None: not typed.

    Raises:
        UsageError: as `search_of`, or flags of a search are typed where there is none.
    """
    set_ = {key: value for key, value in typed.items() if value is not None}
    if search is None:
        if not axes:
            if set_:
                raise UsageError(f"--{next(iter(set_))} is of a search: name what, --search KEY=…")
            return None
        if "trials" not in set_:
            raise UsageError("--search needs --trials N: how many are to be tried?")
        space = dict(map(typed_axis, axes))
        return search_of({**set_, "space": space}, "--search")
    found = [axis_of(*typed_axis(text), "--search") for text in axes]
    keys = {axis.key for axis in found}
    base = search_of({**plain(search), **set_}, "the search")
    found = [*(axis for axis in base.axes if axis.key not in keys), *found]
    check(whole := replace(base, axes=tuple(found)), "the search")
    return whole


def plain(search: Search) -> dict[str, Any]:
    """Return a search as its file has it."""
    space: dict[str, Any] = {}
    for axis in search.axes:
        ends = {"low": axis.low, "high": axis.high, "log": axis.log}
        space[axis.name] = list(axis.choices) if axis.choices else ends
    found = {key: getattr(search, key) for key in KNOWN if key not in ("space", "finish_seeds")}
    if search.finish_seeds:
        found["finish_seeds"] = list(search.finish_seeds)
    return {**found, "space": space}


def corners(search: Search) -> list[dict[str, Any]]:
    """Return configurations at the ends of the space, every combination of what changes a plan.

    All combinations of all ends, where they are few; else all ends of one axis at a time.
    """
    planned = [axis for axis in search.axes if axis.planned]
    free = [axis for axis in search.axes if not axis.planned]
    first = {axis.name: axis.ends[0] for axis in free}
    if math.prod(len(axis.ends) for axis in free) <= CORNERS:
        ends = [
            dict(zip(first, values, strict=True))
            for values in itertools.product(*(axis.ends for axis in free))
        ]
    else:
        ends = [first, {axis.name: axis.ends[-1] for axis in free}]
        ends += [{**first, axis.name: end} for axis in free for end in axis.ends[1:]]
    names = [axis.name for axis in planned]
    return [
        {**dict(zip(names, values, strict=True)), **end}
        for values in itertools.product(*(axis.ends for axis in planned))
        for end in ends
    ]


def axis_words(axis: Axis) -> str:
    """Return what an axis holds, for people: `lr 1e-05 to 0.001 (log)`."""
    if axis.choices:
        return f"{axis.name} {', '.join(map(str, axis.choices))}"
    return f"{axis.name} {axis.low:g} to {axis.high:g}" + (" (log)" if axis.log else "")


def _number(value: Any, where: str) -> float:
    return coerce(value, float, where)


def _whole(value: Any, where: str, least: int) -> int:
    number = coerce(value, int, where)
    if number < least:
        raise UsageError(f"{where}: expected at least {least}, got {number}")
    return number


def _one_of(value: Any, choices: Sequence[Any], where: str) -> Any:
    if value not in choices:
        raise UsageError(f"{where}: unknown value '{value}': {nearest(str(value), choices)}")
    return value
