"""What trials of a sweep differ in. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.grid import short_names

BATCH = "batch.global_batch"
SEED = "train.seed"
RANKS = ("cluster.nodes", "cluster.procs_per_node")
SEARCHED = 8
"""An axis of more numbers than that was searched: it makes points, not lines."""
Axes = Mapping[str, Any]
"""Values of one trial by the names that were typed."""


def axis_key(name: str) -> str:
    """Return the configuration's key that an axis sets, `task` and `model` as they are."""
    plain = name.strip().removeprefix("--").replace("-", "_")
    return short_names().get(plain, plain)


def shown(value: Any) -> str:
    """Return an axis value as a person types it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def varied_axes(trials: Iterable[Axes]) -> list[str]:
    """Return the axes that trials differ in, in order; the seed is none of them.

    An axis that only some have (points of a sweep may have keys of their own) is one.
    """
    listed = list(trials)
    values: dict[str, set[str]] = {}
    for axes in listed:
        for name in axes:
            values.setdefault(name, set())
    for name, seen in values.items():
        seen |= {_text(axes, name) for axes in listed}
    return [n for n, seen in values.items() if len(seen) > 1 and axis_key(n) != SEED]


def _text(axes: Axes, name: str) -> str:
    return json.dumps(axes[name], sort_keys=True) if name in axes else ""


def number_axis(name: str, trials: Iterable[Axes]) -> list[float] | None:
    """Return the values of an axis that has a number in every trial, else None."""
    found = [axes.get(name) for axes in trials]
    plain = [v for v in found if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return [float(v) for v in plain] if len(plain) == len(found) else None


def searched_axes(varied: Iterable[str], trials: Sequence[Axes]) -> list[str]:
    """Return the axes, apart from the batch, that take many numbers."""
    return [
        name
        for name in varied
        if axis_key(name) != BATCH and len(set(number_axis(name, trials) or ())) > SEARCHED
    ]


def tied_axes(varied: Sequence[str], trials: Sequence[Axes]) -> list[str]:
    """Return the axes that follow from the batch and the others.

    Such are `eval_every`, `lr` or the nodes where a sweep lists them beside each batch: what is
    left tells every combination from the others without them, so they make no lines of their own.
    Numbers are taken for the followers first: of a rule and its learning rate the rate.
    """
    if not any(axis_key(name) == BATCH for name in varied) or searched_axes(varied, trials):
        return []
    count = len({_place(axes, varied) for axes in trials})
    rest = [n for n in varied if axis_key(n) != BATCH and all(n in axes for axes in trials)]
    plain = [name for name in rest if number_axis(name, trials) is not None]
    kept = list(varied)
    for name in [*reversed(plain), *(n for n in reversed(rest) if n not in plain)]:
        fewer = [n for n in kept if n != name]
        if len({_place(axes, fewer) for axes in trials}) == count:
            kept = fewer
    return [name for name in varied if name not in kept]


def _place(axes: Axes, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(_text(axes, name) for name in names)
