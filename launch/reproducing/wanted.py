"""What is to be reproduced, from what was typed: the set of numbers, tasks, seeds and margin."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from launch.flags import Request
from launch.presets import folder
from launch.reference_sets import ReferenceSet, all_sets, find_set, sets_of
from training.config import UsageError, nearest

SUITES = {"glue": ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")}
"""Tasks by the name of their benchmark."""
FEWEST = 3
"""Seeds below which there is no verdict: an interval of two runs says nothing."""
SMALLEST_MARGIN = 0.05
"""Points. Who types less has typed a fraction."""


@dataclass(frozen=True)
class Wanted:
    """What is to be reproduced, apart from how it is trained."""

    reference: ReferenceSet
    tasks: tuple[str, ...]
    seeds: int
    margin: float | None
    """As a fraction."""
    level: float
    early: bool
    """Whether tasks are decided before all seeds are run, where that is possible."""
    anew: bool = False
    """Whether runs that were trained before do not count: those of a replay."""


def choose_set(
    reference: str | None, request: Request, suite: str | None, tasks: str | None
) -> ReferenceSet:
    """Return the set of published numbers that is meant.

    Of several that a model's name means, it is the one with most of the tasks; the others are told.

    Raises:
        UsageError: there is none.
    """
    if reference is not None:
        return find_set(reference)
    if request.model is None:
        raise UsageError("what is to be reproduced? use --reference SET, or --model")
    fitting = ours = [s for s in sets_of(request.model) if judged(s)]
    wanted = asked_tasks(suite, tasks, request.task)
    known = {s.name: sum(t in judged(s) for t in wanted) or not wanted for s in fitting}
    # A stable sort: of those that know as many tasks, the first by name.
    fitting = sorted((s for s in fitting if known[s.name]), key=lambda s: -known[s.name])
    if fitting:
        if others := ", ".join(s.name for s in fitting[1:]):
            print(
                f"note: judged by {fitting[0].name}; there are also {others}: --reference",
                file=sys.stderr,
            )
        return fitting[0]
    if ours:
        named = suite or ", ".join(wanted)
        known_tasks = dict.fromkeys(task for s in ours for task in judged(s))
        raise UsageError(
            f"nothing is published here of model '{request.model}' on {named}, but on "
            f"{', '.join(known_tasks)}"
        )
    models = sorted({s.model for s in all_sets() if judged(s)})
    raise UsageError(
        f"nothing is published here of model '{request.model}': {nearest(request.model, models)}; "
        "to judge it against another model's numbers use --reference SET"
    )


def judged(found: ReferenceSet) -> dict[str, str]:
    """Return the tasks of a set that have a number to judge: what `--task` takes, by name."""
    return {r.short: r.task for r in found.references.values() if r.judged}


def asked_tasks(suite: str | None, tasks: str | None, task: str | None) -> list[str]:
    """Return the tasks that were named, in whatever way; none means all."""
    if suite is not None:
        return list(SUITES.get(suite, ()))
    return [t.strip() for t in (tasks or task or "").split(",") if t.strip()]


def choose_tasks(
    found: ReferenceSet, suite: str | None, tasks: str | None, task: str | None
) -> tuple[str, ...]:
    """Return the tasks to judge as `--task` takes them, in the set's order.

    Raises:
        UsageError: a task or suite is unknown, or the set has no number for it.
    """
    known = judged(found)
    if not known:
        raise UsageError(
            f"{found.name} is a recipe without a score to judge: glueline submit --reference "
            f"{typed_name(found)}"
        )
    if sum(given is not None for given in (suite, tasks, task)) > 1:
        raise UsageError("--suite, --tasks and --task say the same: leave all but one out")
    asked = asked_tasks(None, tasks, task)
    if suite is not None:
        if suite not in SUITES:
            raise UsageError(f"unknown suite '{suite}': {nearest(suite, SUITES)}")
        missing = [t for t in SUITES[suite] if t not in known]
        if len(missing) == len(SUITES[suite]):
            raise UsageError(
                f"{found.name} has no number for any task of {suite}: leave out --suite to judge "
                f"{', '.join(known)}"
            )
        if missing:
            print(
                f"note: {found.name} has no number for {', '.join(missing)}: judged are the other "
                f"{len(SUITES[suite]) - len(missing)}",
                file=sys.stderr,
            )
        asked = [t for t in SUITES[suite] if t in known]
    elif not asked and (tasks is not None or task is not None):
        flag = "--task" if tasks is None else "--tasks"
        raise UsageError(f"{flag} names no task: {found.name} has {', '.join(known)}")
    for name in asked:
        if name not in known:
            raise UsageError(f"{found.name} has no number for '{name}': {nearest(name, known)}")
    return tuple(task for name, task in known.items() if name in asked or not asked)


def typed_name(found: ReferenceSet) -> str:
    """Return what a set is typed as: its name, or the file of one's own that it was read from."""
    ours = found.path is None or found.path.parent == folder("references")
    return found.name if ours else str(found.path)


def check_seeds(seeds: int, name: str) -> int:
    """Return the number of seeds.

    Raises:
        UsageError: they are too few for a verdict.
    """
    if seeds < FEWEST:
        raise UsageError(
            f"--seeds {seeds}: a verdict needs {FEWEST} or more, for its interval comes from their "
            f"spread (one run alone: glueline submit --reference {name}/TASK)"
        )
    return seeds


def check_margin(points: float | None) -> float | None:
    """Return a margin that was typed in points, as a fraction.

    Raises:
        UsageError: it is too small to be meant in points, or no margin at all.
    """
    if points is None:
        return None
    if not SMALLEST_MARGIN <= points < 100:
        raise UsageError(f"--margin {points:g}: write points of 100, such as 1")
    return points / 100
