"""From a search to the file that its workers read: every plan made, every corner checked."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slurm.search_file import FRACTION, Option, Search, SearchFile
from training.config import UsageError
from training.config.schema import to_plain
from training.metrics import LOWER_IS_BETTER
from training.sweepdir import Trial, words_of

from .flags import Request
from .grid import Spec
from .packing import ALONE, Packing
from .search_space import corners
from .trials import Compiled, compile_sweep

if TYPE_CHECKING:
    from .plan import Plan

COMPARED = ("task", "model", "batch", "optim", "train", "engine")
"""Sections in which the trials of one search must agree, apart from what is searched."""


@dataclass(frozen=True)
class CompiledSearch:
    """A search, ready to submit."""

    file: SearchFile
    found: Compiled
    """Bases and plans; its trials stand for all that share a plan, and are not run."""

    def plans(self, whole: bool) -> list[Plan]:
        """Return the plans of trials on all rows, or on the search's fraction of them."""
        options = self.file.whole if whole else self.file.parts
        return [self.found.plans[option.plan] for option in options]


def compile_search(request: Request, spec: Spec, packing: Packing = ALONE) -> CompiledSearch:
    """Return a search with its plans.

    Args:
        request: what was typed.
        spec: with the search.
        packing: how trials share the nodes.

    Raises:
        UsageError: a configuration at a corner of the space is wrong (it is named), two values
            mean the same, the search has nothing to judge trials by, or Optuna is not installed.
    """
    search = spec.search
    assert search is not None
    if importlib.util.find_spec("optuna") is None:
        raise UsageError(
            "a search needs the package optuna, which is not installed: pip install optuna"
        )
    _check_fraction(request, spec)
    part = {FRACTION: search.fraction} if search.fraction < 1 else {}
    parts = _compile(request, spec, part, packing)
    # Of many trials scores are kept; of the best ones the weights too.
    keep = {"train.keep": "model"}
    whole = _compile(request, spec, keep, packing) if search.last_runs else parts
    options = {name: _options(search, part) for name, part in (("p", parts), ("w", whole))}
    used = {option.base for some in options.values() for option in some}
    bases = {name: base for c in (parts, whole) for name, base in c.bases.items() if name in used}
    plans = {name: p for c in (parts, whole) for name, p in c.plans.items()}
    config = next(iter(bases.values())).resolved.config
    if not config.task.validation_splits:
        raise UsageError(
            f"task {config.task.name} has no validation rows to judge trials by: "
            "use --set task.holdout=0.05"
        )
    if len({repr((base.config.cluster, base.config.engine.device)) for base in bases.values()}) > 1:
        raise UsageError("the trials of a search must run on the same nodes: use --grid")
    file = SearchFile(
        search=search,
        metric=config.task.primary_metric,
        maximize=config.task.primary_metric not in LOWER_IS_BETTER,
        parts=tuple(options["p"]),
        whole=tuple(options["w"]),
        bases={name: to_plain(base.asked) for name, base in bases.items()},
    )
    stand_ins = [
        Trial(-1, "", dict(option.when), {}, option.base, option.plan)
        for option in (*file.parts, *(file.whole if search.last_runs else ()))
    ]
    made = CompiledSearch(file, Compiled(bases, stand_ins, plans, parts.runs))
    if search.pruner != "none":
        _check_evaluations(made)
    return made


def _check_fraction(request: Request, spec: Spec) -> None:
    """Raise `UsageError` where the rows of a search are said in two places."""
    typed = (*request.flags, *request.sets)
    origin = next((o.origin for o in typed if o.key == FRACTION), None)
    if origin := origin or ("set" if FRACTION in spec.fixed else None):
        raise UsageError(f"{origin} and the search's fraction both set {FRACTION}: leave one out")


def _compile(request: Request, spec: Spec, more: Mapping[str, Any], packing: Packing) -> Compiled:
    assert spec.search is not None
    points = tuple(corners(spec.search))
    found = compile_sweep(request, Spec(points=points, fixed={**more, **spec.fixed}), packing)
    _check_twins(found)
    return found


def _check_twins(found: Compiled) -> None:
    """Raise `UsageError` where two values of an axis are the same: `auto`, and what it means.

    A search would count them as two, and look for ever for a trial that was not tried.
    """
    for one, other in found.twins:
        apart = [name for name in one if one[name] != other[name]]
        if apart:
            first, second = ({name: some[name] for name in apart} for some in (other, one))
            raise UsageError(
                f"the search's {words_of(first)} and {words_of(second)} are the same run here: "
                "leave one of them out"
            )


def _options(search: Search, found: Compiled) -> list[Option]:
    names = [axis.name for axis in search.axes if axis.planned]
    options: dict[str, Option] = {}
    for trial in found.trials:
        when = {name: trial.axes[name] for name in names}
        options.setdefault(repr(when), Option(when, trial.base, trial.plan))
    return list(options.values())


def _check_evaluations(made: CompiledSearch) -> None:
    """Raise `UsageError` where a pruner would have no score before a trial's end."""
    keys = {axis.name: axis.key for axis in made.file.search.axes if axis.light}
    for option in made.file.parts:
        values = {keys[name]: value for name, value in option.when.items() if name in keys}
        train = made.found.bases[option.base].resolved.config.with_values(values).train
        plan = made.found.plans[option.plan]
        every = plan.steps_per_epoch if train.eval_every == "epoch" else train.eval_every
        if plan.steps is None or every is None or every < plan.steps:
            continue
        which = f" with {words_of(option.when)}" if option.when else ""
        raise UsageError(
            f"pruner {made.file.search.pruner}: a trial{which} has {plan.steps} steps and no "
            f"evaluation before its end: use --eval-every {max(1, plan.steps // 4)}, more epochs, "
            "or pruner none"
        )


def difference(old: SearchFile, new: SearchFile) -> str | None:
    """Return in which way trials of two searches do not compare; None if they do.

    How many there are, and how they are drawn and pruned, may change.
    """
    for key in ("axes", "fraction"):
        if getattr(old.search, key) != getattr(new.search, key):
            return "another space" if key == "axes" else "another fraction of the rows"
    if (old.metric, old.maximize) != (new.metric, new.maximize):
        return "another metric"
    if _compared(old) != _compared(new):
        return "another configuration"
    return None


def _compared(file: SearchFile) -> list[tuple[Mapping[str, Any], Any]]:
    found = []
    for option in file.parts:
        sections = {key: _plain(file.bases[option.base][key]) for key in COMPARED}
        # Decided by what fits: no score follows from it.
        del sections["batch"]["micro_tokens"]
        found.append((option.when, sections))
    return found


def _plain(value: Any) -> Any:
    """Return it as JSON gives it back."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
