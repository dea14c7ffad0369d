"""`glueline reproduce`: train a published recipe on several seeds, and judge the published score.

It is a sweep over tasks and seeds whose plan of judgement is written down first. The same line
again goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand, FlagOption, Request, request_options, trial_options
from launch.main import run_command
from launch.reproducing.asked import HIGHEST
from training.config import UsageError, nearest
from training.rundir import write_atomic

if TYPE_CHECKING:
    from launch.grid import Spec
    from launch.packing import Packing
    from launch.reference_sets import Reference, ReferenceSet
    from launch.reproducing.asked import Asked
    from launch.reproducing.collect import Reproduction
    from launch.reproducing.placement import Size
    from launch.trials import Compiled
    from training.sweepdir import SweepDir, Trial

SUITES = {"glue": ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")}
"""Tasks by the name of their benchmark."""
FEWEST = 3
"""Seeds below which there is no verdict: an interval of two runs says nothing."""
ENDINGS = (".yaml", ".yml")
NODES = "cluster.nodes"
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


nodes_option = click.option(
    "--all-nodes",
    cls=FlagOption,
    is_flag=True,
    help="No fewer nodes for tasks of small batches.",
)


@click.command("reproduce", cls=FlagCommand)
@request_options()
@click.option(
    "--reference",
    cls=FlagOption,
    metavar="SET[/TASK]|FILE",
    help="Published numbers: glueline references lists them.  [default: the one of --model]",
)
@click.option("--suite", cls=FlagOption, metavar="NAME", help="glue: its nine tasks.")
@click.option("--tasks", cls=FlagOption, metavar="A,B", help="Some tasks.  [default: all]")
@click.option(
    "--seeds", cls=FlagOption, type=int, default=5, show_default=True, metavar="N", help="A task."
)
@click.option(
    "--margin",
    cls=FlagOption,
    type=float,
    metavar="POINTS",
    help="Differences below it count as none.  [default: 1, or a standard error of the dev rows]",
)
@click.option(
    "--level",
    cls=FlagOption,
    type=click.FloatRange(0.001, HIGHEST),
    default=0.05,
    show_default=True,
    metavar="P",
    help="How often a verdict may be wrong.",
)
@click.option("--all-seeds", cls=FlagOption, is_flag=True, help="No verdict before the last seed.")
@click.option("--name", cls=FlagOption, metavar="NAME", help="Its name.  [default: the set's]")
@trial_options("runs", packed=True)
@nodes_option
@click.option(
    "--no-wait", cls=FlagOption, is_flag=True, help="Submit, and say which line collects later."
)
@click.option(
    "--collect", cls=FlagOption, metavar="NAME", help="Submit nothing: judge what is there."
)
@click.option("--json", "as_json", cls=FlagOption, is_flag=True, help="Print the receipt.")
def reproduce(
    request: Request,
    reference: str | None,
    suite: str | None,
    tasks: str | None,
    seeds: int,
    margin: float | None,
    level: float,
    all_seeds: bool,
    collect: str | None,
    **how: Any,
) -> int:
    """Train a published recipe on several seeds, and judge the published score.

    Each task ends with reproduced, not reproduced or undecided, with the interval that says so
    (docs/reproduction.md), and all of it with a receipt that `glueline replay` repeats.
    """
    if collect is not None:
        return collect_again(request.runs, collect, how["as_json"])
    if reference is not None and "/" in reference and not reference.endswith(ENDINGS):
        if any(given is not None for given in (suite, tasks, request.task)):
            raise UsageError(f"--reference {reference} names the task: leave out the others")
        reference, _, tasks = reference.rpartition("/")
    found = choose_set(reference, request, suite, tasks)
    wanted = Wanted(
        reference=found,
        tasks=choose_tasks(found, suite, tasks, request.task),
        seeds=check_seeds(seeds, typed_name(found)),
        margin=check_margin(margin),
        level=level,
        early=not (all_seeds or how["no_wait"]),
    )
    return run_reproduction(replace(request, task=None), wanted, how)


def choose_set(
    reference: str | None, request: Request, suite: str | None, tasks: str | None
) -> ReferenceSet:
    """Return the set of published numbers that is meant.

    Of several that a model's name means, it is the one with most of the tasks; the others are told.

    Raises:
        UsageError: there is none.
    """
    from launch.reference_sets import all_sets, find_set, sets_of

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
    from launch.presets import folder

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


def run_reproduction(request: Request, wanted: Wanted, how: dict[str, Any]) -> int:
    """Submit what is missing, follow it, and write the receipt; return the exit status.

    Raises:
        UsageError: the request is wrong, or Slurm refuses it.
    """
    return train_and_judge(prepare(request, wanted, how), wanted, how)


def train_and_judge(made: Prepared, wanted: Wanted, how: dict[str, Any]) -> int:
    """Submit what is missing, follow it, and write the receipt; return the exit status.

    Raises:
        UsageError: Slurm refuses it, or something cannot be fetched or written.
    """
    from launch.sweep import submit_sweep

    place, asked = made.place, made.asked
    quiet = contextlib.redirect_stdout(sys.stderr) if how["as_json"] else contextlib.nullcontext()
    for line in (*notes(wanted, asked), *made.notes):
        print(f"note: {line}", file=sys.stderr)
    sweep = (made.request, made.spec, made.found, place, made.packing)
    sweep_how = {**how, "as_json": False}
    with quiet:
        if how["dry_run"]:
            return submit_sweep(*sweep, sweep_how)
        with written_down(place, wanted, asked):
            submit_sweep(*sweep, sweep_how)
        if how["no_wait"]:
            print(f"  collect {collect_line(place)}")
            return 0
        left = not follow_to_the_end(place, asked)
    if left:
        print(f"it goes on; to judge it: {collect_line(place)}", file=sys.stderr)
        return 130
    return finish(place, how["as_json"])


@contextlib.contextmanager
def written_down(place: SweepDir, wanted: Wanted, asked: Asked) -> Iterator[None]:
    """Write down what is to be judged before its runs are submitted.

    Where nothing is submitted after all, what was there before stays.

    Raises:
        UsageError: it cannot be written.
    """
    from launch.reproducing.asked import file_of, own_tasks, write_asked
    from launch.sweeping import read_jobs

    path = file_of(place)
    before = path.read_bytes() if path.exists() else None
    jobs = read_jobs(place)
    write_asked(place, asked)
    for reference in wanted.reference.references.values():
        if "/" in reference.task and Path(reference.task).is_file():
            own_tasks(place.path).mkdir(exist_ok=True)
            shutil.copyfile(reference.task, own_tasks(place.path) / f"{reference.short}.yaml")
    try:
        yield
    except BaseException:
        if read_jobs(place) != jobs:
            raise  # some of it runs: what it is judged by must stay
        if before is not None:
            write_atomic(path, before)
            raise
        shutil.rmtree(own_tasks(place.path), ignore_errors=True)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            place.path.rmdir()
        raise


def prepare(request: Request, wanted: Wanted, how: dict[str, Any]) -> Prepared:
    """Return the sweep's spec, its trials, its folder, and what is to be judged.

    Raises:
        UsageError: the request is wrong, or another reproduction has that name.
    """
    from launch.packing import Packing
    from launch.reference_sets import same_model
    from launch.reproducing.asked import Asked, continued, plan_looks
    from launch.reproducing.placement import fewer_nodes, node_notes, pack_notes, packed
    from launch.reproducing.recipe import changes, make_spec, overrides
    from launch.sweep import folder_of
    from launch.trials import compile_sweep

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
    from training.prepared import digest

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
    from launch.recipe_rules import BATCH, typed_values
    from launch.reproducing.placement import Size
    from launch.resolve import compose, resolve
    from launch.trials import LEFT_OPEN, PROCS

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
    from launch.reproducing.official import unlike_published

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
    from launch.reference_file import UNBOUNDED

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
    from launch.reproducing.asked import check_same, read_asked
    from launch.reproducing.collect import decided_tasks
    from launch.resolve import compose, runs_folder
    from training.sweepdir import SweepDir, sweeps_folder

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
    from training.config import slug
    from training.prepared import digest

    stem = f"reproduce-{slug(reference)}"
    return f"{stem}-{digest([list(pair) for pair in typed])[:6]}" if typed else stem


def notes(wanted: Wanted, asked: Asked) -> list[str]:
    """Return what a person should know before it begins: changes and assumptions."""
    from launch.reference_file import BEST
    from launch.reference_sets import missing
    from launch.reproducing.receipt_text import change

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


def follow_to_the_end(place: SweepDir, asked: Asked) -> bool:
    """Follow a reproduction, deciding tasks at the planned looks; False if a person left."""
    from launch.reproducing.follow import follow

    return follow(place, asked, *deciding(place, asked))


def deciding(place: SweepDir, asked: Asked) -> tuple[Any, Any, Any]:
    """Return what judges a look, what notes that a task is decided, and what tells a person."""
    from launch.reproducing.asked import read_asked, write_asked
    from launch.reproducing.collect import judge_early

    def stop(task: str, count: int) -> None:
        write_asked(place, (read_asked(place) or asked).decided({task: count}))

    def say(text: str) -> None:
        print(text, flush=True)

    return (lambda task, count: judge_early(place, asked, task, count)), stop, say


def collect_line(place: SweepDir) -> str:
    """Return the line that judges what is there."""
    from launch.existing import command_line

    where = [] if place.runs == Path("runs").absolute() else ["--runs", str(place.runs)]
    return command_line("reproduce", "--collect", place.name, *where)


def collect_again(runs: str | None, name: str, as_json: bool) -> int:
    """Judge what is there of a reproduction.

    Raises:
        UsageError: there is none of that name.
    """
    from launch.named import need_named
    from launch.reproducing.asked import read_asked
    from launch.reproducing.follow import looks_taken, take_looks
    from launch.resolve import known_runs
    from launch.sweep_view import look_at_sweep
    from training.sweepdir import SweepDir

    place = need_named(known_runs(runs, name), name)
    asked = read_asked(place) if isinstance(place, SweepDir) else None
    if asked is None or not isinstance(place, SweepDir):
        raise UsageError(f"{name} is no reproduction: glueline report {name}")
    seen = look_at_sweep(place)
    if seen.silent:
        # A run that failed may be going on: no look is taken at what is not known.
        return finish(place, as_json)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        take_looks(place, asked, seen, looks_taken(asked), *deciding(place, asked))
    return finish(place, as_json)


def finish(place: SweepDir, as_json: bool) -> int:
    """Write the receipt and print it; return 0 if every run that counts has a score, else 1.

    Raises:
        UsageError: the sweep's files are damaged, or its folder cannot be written.
    """
    from launch.reproducing.asked import read_asked
    from launch.reproducing.collect import gather
    from launch.reproducing.receipt import make_receipt
    from launch.reproducing.show import show, write

    asked = read_asked(place)
    assert asked is not None
    found: Reproduction = gather(place, asked)
    receipt = make_receipt(found, time.time())
    path = write(place.path, receipt)
    if as_json:
        print(json.dumps(receipt, ensure_ascii=False))
    else:
        show(receipt, path)
    return 1 if any(judged.missing for judged in found.tasks) else 0


def main() -> None:
    """Run the command."""
    run_command(reproduce)


if __name__ == "__main__":
    main()
