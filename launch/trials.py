"""From what a sweep varies to its trials: each one resolved, checked and planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import RunConfig, UsageError
from training.config.schema import to_plain
from training.prepared import digest
from training.rundir import CACHE_FOLDER
from training.scaling import scaled_for
from training.sweepdir import Trial, words_of

from .flags import Override, Request
from .grid import NAMED, Spec, expand, key_of
from .packing import ALONE, Packing

if TYPE_CHECKING:
    from .plan import Plan
    from .planning import Seen
    from .resolve import Resolved

LIGHT = ("batch", "optim", "train")
"""Sections of which nothing else follows: trials that differ in them alone share a base. Any other
axis has all that is `auto` decided anew."""
PROCS, GPUS = "cluster.procs_per_node", "cluster.gpus_per_node"
LEFT_OPEN = "one a GPU"
"""Where a number of ranks came from that nobody said."""


@dataclass(frozen=True)
class Base:
    """What some trials have in common."""

    resolved: Resolved
    """As asked for, with the micro-batch budget that fits."""
    asked: RunConfig
    """As asked for: what run ids are taken from. What fits is better known once weights are here.
    """
    config: RunConfig
    """With the places of weights and rows, once they are here."""


@dataclass(frozen=True)
class Compiled:
    """A sweep, ready to submit."""

    bases: dict[str, Base]
    """By the digest of the configuration."""
    trials: list[Trial]
    plans: dict[str, Plan]
    """By digest."""
    runs: Path
    twins: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()
    """Values that make a run which other values, named behind them, make too."""

    def config(self, trial: Trial) -> RunConfig:
        """Return a trial's configuration."""
        return self.bases[trial.base].config.with_values(trial.values)


def compile_sweep(request: Request, spec: Spec, packing: Packing = ALONE) -> Compiled:
    """Return the trials of a sweep.

    Trials that would be the same run are one: the first.

    Args:
        request: what was typed: the same for all trials.
        spec: what varies. Typed flags win over its `set`.
        packing: how trials share the nodes.

    Raises:
        UsageError: the request is wrong, a flag and the sweep contradict each other, or a trial's
            configuration is wrong; the trial is named.
    """
    from .planning import plan_of

    _check_typed(request, spec)
    points = expand(spec)
    # With one trial's values a base is a whole configuration; each trial sets all of these itself.
    shared = set.intersection(*(set(point) for point in points))
    bases: dict[str, Base] = {}
    places: dict[tuple[Any, ...], tuple[str, Seen]] = {}
    plans: dict[str, Plan] = {}
    planned: dict[Any, str] = {}
    trials: dict[str, Trial] = {}
    twins: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    past: list[dict[str, Any]] | None = None
    for number, point in enumerate(points):
        values = {key_of(name, "--grid"): value for name, value in point.items()}
        # What `auto` means is decided with the rest of a base.
        heavy = {k: v for k, v in values.items() if k.split(".")[0] not in LIGHT or v == "auto"}
        light = {k: v for k, v in values.items() if k not in heavy}
        try:
            identity = tuple((k, str(v)) for k, v in heavy.items())
            if identity not in places:
                first = {key_of(n, "--grid"): point[n] for n in shared}
                base, seen = _base(request, spec.fixed, {**first, **heavy}, past, packing)
                past = seen.past
                name = digest(to_plain(base.config))[:16]
                places[identity] = name, seen
                bases[name] = base
            name, seen = places[identity]
            asked = bases[name].asked.with_values(light)
            asked.check()
            scaled_for(asked)
            run_id = asked.run_id(also=values)
            if run_id in trials:
                twins.append((point, trials[run_id].axes))
                continue
            key = (name, _plan_key(asked))
            if key not in planned:
                plan = plan_of(bases[name].config.with_values(light), seen)
                planned[key] = digest(plan.to_json())[:16]
                plans[planned[key]] = plan
        except UsageError as error:
            raise UsageError(f"trial {number} ({words_of(point)}): {error}") from None
        trials[run_id] = Trial(len(trials), run_id, point, light, name, planned[key])
    runs = next(iter(bases.values())).resolved.runs
    return Compiled(bases, list(trials.values()), plans, runs, tuple(twins))


def plan_again(found: Compiled, name: str) -> None:
    """Plan the trials of a base anew, once its rows and weights are here.

    Plans keep the names that trials know them by.

    Raises:
        UsageError: rows or weights are wrong, or a trial does not fit in memory.
    """
    from .planning import look_around, plan_of

    seen = look_around(found.bases[name].config, found.runs)
    done: set[str] = set()
    for trial in found.trials:
        if trial.base == name and trial.plan not in done:
            done.add(trial.plan)
            try:
                found.plans[trial.plan] = plan_of(found.config(trial), seen)
            except UsageError as error:
                raise UsageError(f"trial {trial.number} ({trial.words}): {error}") from None


def _plan_key(config: RunConfig) -> Any:
    """Return what trials of one base with the same plan share: all but seed and optimizer."""
    return config.batch, replace(config.train, seed=0), config.optim.name


def _base(
    request: Request,
    fixed: Mapping[str, Any],
    axes: Mapping[str, Any],
    past: list[dict[str, Any]] | None,
    packing: Packing,
) -> tuple[Base, Seen]:
    """Resolve what trials have in common, with the axes of its first trial.

    Where the micro-batch budget was left open it is the highest that fits.
    """
    from .fetch import already_here
    from .planning import fitted, look_around, plan_of

    values = {**fixed, **axes}
    named = {k: str(values.pop(k)) for k in NAMED if k in values}
    typed = {k for k in NAMED if getattr(request, k)}
    request = replace(request, **{k: v for k, v in named.items() if k not in typed})
    if not any(o.key == "train.keep" for o in (*request.flags, *request.sets)):
        # A thousand models serve nobody, and fill the disk.
        values.setdefault("train.keep", "results")
    sets = tuple(Override(k, v, "the sweep") for k, v in values.items())
    resolved = _resolved(replace(request, sets=(*sets, *request.sets)), packing)
    config = already_here(resolved.config, resolved.runs / CACHE_FOLDER)
    seen = look_around(config, resolved.runs, past)
    asked = resolved.config
    resolved, config, _ = fitted(resolved, config, plan_of(config, seen))
    return Base(resolved, asked, config), seen


def _resolved(request: Request, packing: Packing) -> Resolved:
    """Resolve a request; of trials that share a node each has a rank for every GPU of its share.

    Unless somebody said how many ranks there are.
    """
    from .machine import local_gpus
    from .resolve import resolve

    resolved = resolve(request)
    cluster = resolved.config.cluster
    lanes, gpus = packing.lanes_of(resolved.config), cluster.gpus_per_node
    if lanes == 1 or not gpus:
        return resolved
    origin = packing.words(resolved.config)
    decided: dict[str, int] = {}
    if cluster.executor == "local" and not request.given(GPUS):
        # Nobody else hands them out.
        gpus = decided[GPUS] = max(gpus, local_gpus())
    if resolved.origins.get(PROCS) == LEFT_OPEN:
        # Both: GPUs that are left open would follow from the ranks.
        decided |= {GPUS: gpus, PROCS: gpus_of_lane(gpus, lanes)}
    if not decided:
        return resolved
    more = tuple(Override(k, v, origin) for k, v in decided.items())
    return resolve(replace(request, flags=(*request.flags, *more)))


def gpus_of_lane(gpus: int, lanes: int) -> int:
    """Return how many of a node's GPUs each of some lanes has at least; several may share one."""
    return max(1, gpus // lanes)


def _check_typed(request: Request, spec: Spec) -> None:
    """Raise `UsageError` where a flag sets what the sweep varies."""
    varied = {key_of(name, "--grid"): name for name in spec.axes}
    varied |= {key_of(name, "points"): name for point in spec.points for name in point}
    for override in (*request.flags, *request.sets):
        if override.key in varied:
            raise UsageError(
                f"{override.origin} sets {override.key}, which the sweep varies "
                f"({varied[override.key]}): leave one of them out"
            )
    for name in NAMED:
        if getattr(request, name) and name in varied:
            raise UsageError(f"--{name} is typed, and the sweep varies it: leave one of them out")
