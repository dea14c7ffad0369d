"""What a sweep varies: a YAML file and flags, expanded to points. Pure.

    task: mnli                     # or a list: an axis like any other
    model: minilm
    set: {optim.lr: 1.0e-4}        # the same in all trials
    grid:                          # every combination
      global_batch: [32, 128, 512, 2048]
      lr_rule: [sqrt, linear]
    points:                        # values that go together, combined with the grid
      - {epochs: 3, warmup_ratio: 0.06}
      - {epochs: 6, warmup_ratio: 0.03}
    exclude:                       # what is left out
      - {global_batch: 2048, lr_rule: linear}
    seeds: 5                       # 1 to 5; or a list

Keys are the flags' names without dashes (`global_batch`), or the configuration's (`optim.beta2`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from training.config import RunConfig, UsageError, nearest
from training.config.schema import coerce, leaves

if TYPE_CHECKING:
    from slurm.search_file import Search

NAMED = ("task", "model")
"""Axes that are no key of the configuration: each value stands for a file of many."""
SEED = "seed"
KNOWN = ("task", "model", "set", "grid", "points", "exclude", "seeds", "name", "search")
"""Keys of a sweep file."""


@dataclass(frozen=True)
class Spec:
    """What a sweep was asked to be."""

    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values by axis: every combination is a point."""
    points: tuple[Mapping[str, Any], ...] = ()
    """Values that go together; each is combined with every combination of the axes."""
    exclude: tuple[Mapping[str, Any], ...] = ()
    """Points that agree with one of these are left out."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values that all trials have, by dotted key."""
    name: str | None = None
    search: Search | None = None
    """What is searched, instead of axes and points."""

    def plain(self) -> dict[str, Any]:
        """Return the sweep as its file holds it."""
        if self.search is not None:
            from .search_space import plain

            return {"set": dict(self.fixed), "search": plain(self.search)}
        return {
            "set": dict(self.fixed),
            "grid": {k: list(v) for k, v in self.axes.items()},
            "points": [dict(p) for p in self.points],
            "exclude": [dict(p) for p in self.exclude],
        }


@cache
def short_names() -> dict[str, str]:
    """Return the configuration's keys by the names of their flags: `global_batch`."""
    found = {}
    for key, (spec, _) in leaves(RunConfig).items():
        if flag := spec.metadata.get("flag"):
            found[flag.name[2:].replace("-", "_")] = key
    return found


def key_of(name: str, where: str, what: str = "axis") -> str:
    """Return the dotted key that an axis sets; `task` and `model` are their own.

    Raises:
        UsageError: there is none; the nearest name is told.
    """
    name = name.strip().removeprefix("--").replace("-", "_")
    known = leaves(RunConfig)
    if name in NAMED or name in known:
        return name
    if name in short_names():
        return short_names()[name]
    choices = [*NAMED, *short_names(), *known] if "." in name else [*NAMED, *short_names()]
    raise UsageError(f"{where}: unknown {what} '{name}': {nearest(name, choices)}")


def spec_of_file(values: Mapping[str, Any], where: str) -> Spec:
    """Return what a sweep file asks for.

    Args:
        values: its content.
        where: how errors name it.

    Raises:
        UsageError: a key is unknown, a value is of the wrong form, an axis is empty or appears
            twice.
    """
    for key in values:
        if key not in KNOWN:
            raise UsageError(f"{where}: unknown key '{key}': {nearest(str(key), KNOWN)}")
    fixed = {key_of(str(k), f"{where}: set"): v for k, v in _mapping(values, "set", where).items()}
    axes: dict[str, tuple[Any, ...]] = {}
    for name in NAMED:
        if name in values:
            given = values[name]
            if isinstance(given, list):
                axes[name] = _axis(given, f"{where}: {name}", name)
            else:
                fixed[name] = given
    for name, given in _mapping(values, "grid", where).items():
        _add(axes, str(name), given, f"{where}: grid")
    if "seeds" in values:
        _add(axes, SEED, seeds(values["seeds"], f"{where}: seeds"), where)
    points = tuple(_points(values, "points", where))
    exclude = tuple(_points(values, "exclude", where))
    search = None
    if "search" in values:
        from .search_space import search_of

        search = search_of(values["search"], f"{where}: search")
    name = values.get("name")
    if name is not None and not isinstance(name, str):
        # YAML reads 2024-05-01 as a date, and 010 as 8: what was written is lost.
        raise UsageError(f"{where}: name: expected text, got {name}: write it in quotes")
    spec = Spec(axes, points, exclude, fixed, name, search)
    check(spec, where)
    return spec


def with_flags(spec: Spec, grid: Sequence[str], count: int | None, where: str = "--grid") -> Spec:
    """Return a sweep with the axes of `--grid key=v1,v2` and `--seeds N`, over the file's own.

    Raises:
        UsageError: as `spec_of_file`.
    """
    axes = dict(spec.axes)
    typed: dict[str, tuple[Any, ...]] = {}
    for text in grid:
        name, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"--grid '{text}': write KEY=V1,V2, such as global_batch=32,128")
        _add(typed, name, [_scalar(v) for v in values.split(",") if v.strip()], where)
    if count is not None:
        _add(typed, SEED, seeds(count, "--seeds"), "--seeds")
    for name, values in typed.items():
        # The same axis by another spelling is the same axis.
        for other in [a for a in axes if key_of(a, where) == key_of(name, where)]:
            del axes[other]
        axes[name] = values
    found = Spec(axes, spec.points, spec.exclude, spec.fixed, spec.name, spec.search)
    check(found, where)
    return found


def seeds(given: Any, where: str) -> list[int]:
    """Return the seeds that `5` (1 to 5) or a list of them mean.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return list(range(1, given + 1))
    if isinstance(given, list) and given and all(type(s) is int for s in given):
        return given
    raise UsageError(f"{where}: expected a number of seeds, or a list of seeds, got {given!r}")


def check(spec: Spec, where: str) -> None:
    """Raise `UsageError` if two parts of a sweep set the same key, or it varies nothing."""
    setters: dict[str, str] = {}
    for name in spec.axes:
        key = key_of(name, where)
        if key in setters:
            raise UsageError(f"{where}: {setters[key]} and {name} are the same key, {key}")
        setters[key] = f"the axis {name}"
    for point in spec.points:
        for name in point:
            if (key := key_of(name, where)) in setters:
                raise UsageError(f"{where}: points and {setters[key]} both set {name}")
    in_points = {key_of(name, where): f"points ({name})" for p in spec.points for name in p}
    for key in spec.fixed:
        if said := (setters | in_points).get(key):
            raise UsageError(f"{where}: set and {said} both set {key}")
    if spec.search is not None:
        _check_search(spec, where)
    elif not spec.axes and not spec.points:
        raise UsageError(
            f"{where}: there is nothing to vary: use --grid KEY=V1,V2, --seeds N, or a file "
            "with 'grid'"
        )


def _check_search(spec: Spec, where: str) -> None:
    assert spec.search is not None
    if spec.axes or spec.points:
        what = next(iter(spec.axes), "points")
        hint = ": use finish_seeds" if what == SEED else ""
        raise UsageError(f"{where}: search and {what} contradict each other: leave one out{hint}")
    for axis in spec.search.axes:
        if axis.key in spec.fixed:
            raise UsageError(f"{where}: set and the search's axis {axis.name} both set {axis.key}")


def expand(spec: Spec) -> list[dict[str, Any]]:
    """Return the points of a sweep: what varies, by the names that were typed.

    Raises:
        UsageError: all of them are excluded, or something excluded is none of them.
    """
    names = list(spec.axes)
    combined = [
        {**dict(zip(names, values, strict=True)), **point}
        for values in itertools.product(*spec.axes.values())
        for point in (spec.points or ({},))
    ]
    for wrong in spec.exclude:
        if not any(_agrees(point, wrong) for point in combined):
            raise UsageError(f"exclude {dict(wrong)!r}: no trial of the sweep is so")
    kept = [p for p in combined if not any(_agrees(p, wrong) for wrong in spec.exclude)]
    if not kept:
        raise UsageError("exclude leaves no trial")
    return kept


def _agrees(point: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    by_key = {key_of(name, "exclude"): value for name, value in point.items()}
    return all(
        (key := key_of(name, "exclude")) in by_key
        and str(_typed(key, by_key[key])) == str(_typed(key, value))
        for name, value in wanted.items()
    )


def _add(axes: dict[str, tuple[Any, ...]], name: str, given: Any, where: str) -> None:
    name = name.strip().removeprefix("--").replace("-", "_")
    key = key_of(name, where)
    for other in axes:
        if key_of(other, where) == key:
            raise UsageError(f"{where}: {other} and {name} are the same key, {key}")
    axes[name] = _axis(given, f"{where} {name}", key)


def _axis(given: Any, where: str, key: str) -> tuple[Any, ...]:
    written = given if isinstance(given, list) else [given]
    if not written:
        raise UsageError(f"{where}: there are no values")
    values: dict[str, Any] = {}
    for text in written:
        value = _typed(key, text)
        if str(value) in values:
            raise UsageError(f"{where}: {text} appears twice")
        values[str(value)] = value
    return tuple(values.values())


def _typed(key: str, value: Any) -> Any:
    """Return a value as its field has it: 1e-4 is text to YAML. One that is wrong is told later."""
    known = leaves(RunConfig)
    if key not in known:
        return value
    try:
        found = coerce(value, known[key][1], key)
    except UsageError:
        return value
    # Of lists and mappings the text as typed is easier to read.
    return found if isinstance(found, (bool, int, float, str)) else value


def _mapping(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    given = values.get(key) or {}
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: {key}: expected keys and values, got {given!r}")
    return given


def _points(values: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    given = values.get(key) or []
    if not isinstance(given, list) or not all(isinstance(p, Mapping) and p for p in given):
        raise UsageError(f"{where}: {key}: expected a list of mappings, got {given!r}")
    for point in given:
        for name in point:
            key_of(str(name), f"{where}: {key}")
    return [{n: _typed(key_of(str(n), where), v) for n, v in point.items()} for point in given]


def _scalar(text: str) -> Any:
    """Return a typed value as YAML would read it: the same trial from a file and from a flag."""
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
