"""A reproduction before it is submitted: its sweep, where it runs, and what it is judged by."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launch.flags import Request
from launch.grid import Spec
from launch.packing import Packing
from launch.recipe_rules import BATCH, typed_values
from launch.reference_file import BEST, UNBOUNDED
from launch.reference_sets import Reference, missing, same_model
from launch.resolve import compose, resolve, runs_folder
from launch.sweep import folder_of
from launch.trials import LEFT_OPEN, PROCS, Compiled, compile_sweep
from training.config import UsageError, slug
from training.prepared import digest
from training.sweepdir import SweepDir, Trial, sweeps_folder

from .asked import Asked, check_same, continued, plan_looks, read_asked
from .collect import decided_tasks
from .official import unlike_published
from .placement import Size, fewer_nodes, node_notes, pack_notes, packed
from .receipt_text import change
from .recipe import changes, make_spec, overrides
from .wanted import Wanted

NODES = "cluster.nodes"


@dataclass(frozen=True)
class Prepared:
    """A reproduction, ready to submit."""

    request: Request
    """What was typed, but for what the sweep varies."""
    spec: Spec
    found: Compiled
    place: SweepDir
    asked: Asked
    packing: Packing
    """How its runs share nodes."""
    notes: tuple[str, ...]
    """What a person should know of where it runs and of its rows."""


def prepare(request: Request, wanted: Wanted, how: dict[str, Any]) -> Prepared:
    """Return the sweep's spec, its trials, its folder, and what is to be judged.

    Raises:
        UsageError: the request is wrong, or another reproduction has that name.
    """
    check_rows_and_margins(request, wanted)
    typed = overrides(request)
    if request.model is not None and not same_model(request.model, wanted.reference.model):
        typed.insert(0, ("model", str(request.model)))
    name = how["name"] or own_name(wanted.reference.name, typed)
    there = there_already(request, wanted, name)
    if there is not None and there.anew != wanted.anew:
        what = "a replay" if there.anew else "no replay"
        raise UsageError(f"reproduction {name} is {what}: give this one another --name")
    tasks = tuple(dict.fromkeys([*(there.tasks if there else ()), *wanted.tasks]))
    references = [wanted.reference.references[task] for task in tasks]
    seeds = list(range(1, wanted.seeds + 1))
    try:
        sizes = sizes_on_nodes(request, references, how["all_nodes"])
        nodes = fewer_nodes(sizes)
        lanes = packed(sizes) if how["pack"] is None else {}
        packing = Packing(
            how["pack"] or 1,
            how["max_parallel"],
            workers=how["workers"],
            of_task={sizes[task].name: count for task, count in lanes.items()},
        )
        if nodes:
            request = without(request, NODES)
        spec = make_spec(references, request, seeds, there.stopped if there else {}, name, nodes)
        found = compile_sweep(request, spec, packing)
    except UsageError as error:
        hint = " (--tasks A,B judges some of the tasks)" if len(tasks) > 1 else ""
        raise UsageError(f"{error}{hint}") from None
    if wanted.anew:
        found = trained_anew(found, name)
    place = folder_of(found, name)
    trials = {str(t.axes["task"]): t for t in reversed(found.trials)}
    changed = {
        r.task: [
            c.plain()
            for c in changes(r, found.config(t), request, found.bases[t.base].resolved.origins)
        ]
        for r in references
        if (t := trials.get(r.task)) is not None
    }
    asked = Asked(
        reference=wanted.reference.content,
        set_name=wanted.reference.name,
        tasks=tasks,
        seeds=wanted.seeds,
        margin=wanted.margin,
        level=wanted.level,
        looks=plan_looks(wanted.seeds, wanted.early),
        changed={task: listed for task, listed in changed.items() if listed},
        overrides=tuple(typed),
        anew=wanted.anew,
        line=tuple(sys.argv[1:]),
    )
    told = [
        *node_notes(sizes),
        *pack_notes(sizes, lanes),
        *row_notes(found, references, trials),
    ]
    asked = continued(there, asked) if there else asked
    return Prepared(request, spec, found, place, asked, packing, tuple(told))


def trained_anew(found: Compiled, name: str) -> Compiled:
    """Return a sweep whose trials have runs of their own, whatever was trained before.

    A run's id follows from its configuration, so those of a replay would be the runs that it
    repeats, where these lie in the same folder. A digest of its name is put behind: the same replay
    again goes on with its runs, and one of another `--name` trains once more.
    """
    mark = digest(name)[:6]
    return replace(found, trials=[replace(t, run_id=f"{t.run_id}-{mark}") for t in found.trials])


def sizes_on_nodes(
    request: Request, references: Sequence[Reference], all_nodes: bool
) -> dict[str, Size]:
    """Return what the tasks ask of the nodes that were typed, by task.

    Args:
        request: what was typed.
        references: one a task.
        all_nodes: whether no task is to have fewer nodes.
    """

    def of(reference: Reference) -> Request:
        return replace(request, task=reference.task, model=request.model or reference.model)

    resolved = resolve(of(references[0]))
    config, cluster = resolved.config, resolved.config.cluster
    gpus = config.engine.device == "cuda" and cluster.executor != "local"
    typed = BATCH in typed_values(request)
    found = {}
    for reference in references:
        batch = None if typed else reference.values.get(BATCH)
        own, _, _ = compose(of(reference))
        found[reference.task] = Size(
            own.task.name,
            batch or own.batch.global_batch,
            cluster.nodes,
            cluster.procs_per_node or 1,
            fewest=cluster.nodes if all_nodes else cluster.min_nodes or 1,
            shared=gpus and resolved.origins.get(PROCS) == LEFT_OPEN,
        )
    return found


def without(request: Request, key: str) -> Request:
    """Return a request without what was typed of a key."""
    flags, sets = (tuple(o for o in part if o.key != key) for part in (request.flags, request.sets))
    return replace(request, flags=flags, sets=sets)


def row_notes(
    found: Compiled, references: Sequence[Reference], trials: Mapping[str, Trial]
) -> list[str]:
    """Return which rows are not those of the published numbers, as far as they are here.

    Args:
        found: the sweep.
        references: of its tasks.
        trials: one of each task.
    """
    told = []
    for reference in references:
        trial = trials.get(reference.task)
        rows = found.plans[trial.plan].rows if trial else None
        if trial and rows:
            splits = [score.split for score in reference.judged]
            lines = unlike_published(found.config(trial).task, rows, splits, done=False)
            told += [f"{reference.short}: {line}" for line in lines]
    return told


def check_rows_and_margins(request: Request, wanted: Wanted) -> None:
    """Raise `UsageError` for other rows than the published ones, or a margin that must be typed."""
    if request.files:
        raise UsageError(
            "--train-file and the like: what was published is of its task's own rows: train on "
            "others with glueline submit --reference"
        )
    for task in wanted.tasks:
        for score in wanted.reference.references[task].judged:
            if score.metric in UNBOUNDED and wanted.margin is None:
                raise UsageError(
                    f"{score.metric} of {wanted.reference.references[task].short} has no margin of "
                    f"its own: type --margin, here in units of {score.metric}"
                )


def there_already(request: Request, wanted: Wanted, name: str) -> Asked | None:
    """Return the reproduction of that name, its decided tasks stopped; None if there is none.

    Raises:
        UsageError: it is one of other numbers, or its files are damaged.
    """
    one = wanted.reference.references[wanted.tasks[0]]
    model = request.model or wanted.reference.model
    _, _, profile = compose(replace(request, task=one.task, model=model))
    place = SweepDir(sweeps_folder(runs_folder(request.runs, profile)) / name)
    there = read_asked(place)
    if there is None:
        return None
    check_same(there, wanted.reference.content, wanted.margin)
    # Tasks that are decided stay as they are: only open ones may be looked at again.
    return there.decided(decided_tasks(place, there)) if wanted.seeds > there.seeds else there


def own_name(reference: str, typed: Sequence[tuple[str, str]]) -> str:
    """Return the name of a reproduction: another recipe is another one."""
    stem = f"reproduce-{slug(reference)}"
    return f"{stem}-{digest([list(pair) for pair in typed])[:6]}" if typed else stem


def recipe_notes(wanted: Wanted, asked: Asked) -> list[str]:
    """Return what a person should know before it begins: changes and assumptions."""
    found = []
    by_change: dict[str, list[str]] = {}
    for task, listed in asked.changed.items():
        for entry in listed:
            by_change.setdefault(change(entry), []).append(task)
    for text, tasks in by_change.items():
        whom = "" if len(tasks) == len(asked.tasks) else f" ({', '.join(tasks)})"
        found.append(f"not the published recipe, and so the verdict is about: {text}{whom}")
    best = [t for t in asked.tasks if wanted.reference.references[t].statistic == BEST]
    if best:
        found.append(
            f"published is the best of several runs, ours is their mean ({', '.join(best)}): not "
            "reproduced is to be expected of the very same recipe"
        )
    fallen = [t for t in asked.tasks if wanted.reference.references[t].collapsed == "included"]
    if fallen:
        found.append(
            f"collapsed runs are in the published mean, and so in ours ({', '.join(fallen)})"
        )
    unsaid = dict.fromkeys(
        f"{entry.key} {entry.value}"
        for task in asked.tasks
        for entry in missing(wanted.reference.references[task])
        if entry.key != "train.seed"
    )
    if unsaid:
        found.append(f"the reference does not say, and a run takes: {', '.join(unsaid)}")
    return found
