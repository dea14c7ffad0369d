"""`glueline sweep`: many runs that differ in a few values, as one Slurm array.

Typing the same line again submits what is missing, and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand, FlagOption, Request, request_options, trial_options
from launch.main import run_command
from training.config import RunConfig, UsageError

if TYPE_CHECKING:
    from launch.grid import Spec
    from launch.packing import Packing
    from launch.trials import Compiled
    from training.sweepdir import SweepDir, Trial

SEARCH_FLAGS = ("trials", "sampler", "pruner", "fraction", "finish")
SHOWN = 12
"""Trials that a dry run lists."""
NOTES = 5
"""Notes that are shown: some differ in a number from trial to trial."""


@click.command("sweep", cls=FlagCommand)
@click.argument("file", metavar="[FILE]", required=False)
@request_options()
@click.option(
    "--grid",
    cls=FlagOption,
    metavar="KEY=V1,V2",
    multiple=True,
    help="Vary a flag (global_batch=32,128) or any key (optim.beta2=0.98,0.999). Repeatable.",
)
@click.option("--seeds", cls=FlagOption, type=int, metavar="N", help="Each with seeds 1 to N.")
@click.option(
    "--search",
    cls=FlagOption,
    metavar="KEY=LOW..HIGH[:log]",
    multiple=True,
    help="Search a range, or some values (KEY=V1,V2), instead of a grid. Repeatable.",
)
@click.option("--trials", cls=FlagOption, type=int, metavar="N", help="Trials of a search.")
@click.option(
    "--sampler", cls=FlagOption, metavar="NAME", help="tpe, random or grid.  [default: tpe]"
)
@click.option(
    "--pruner",
    cls=FlagOption,
    metavar="NAME",
    help="none, median or successive-halving.  [default: none]",
)
@click.option(
    "--fraction", cls=FlagOption, type=float, metavar="F", help="Search on F of the training rows."
)
@click.option(
    "--finish", cls=FlagOption, type=int, metavar="N", help="Best N on all rows.  [default: 1]"
)
@click.option("--name", cls=FlagOption, metavar="NAME", help="The sweep's name.  [default: FILE's]")
@trial_options()
@click.option("--hold", cls=FlagOption, is_flag=True, help="Submit held: scontrol release starts.")
@click.option("--json", "as_json", cls=FlagOption, is_flag=True, help="Print one JSON object.")
def sweep(request: Request, file: str | None, **how: Any) -> int:
    """Submit many runs that differ in batch, learning rate, seed, …, as one Slurm array.

    FILE is a YAML file with `grid`, `seeds`, … (docs/sweeps.md), or `search` (docs/search.md). The
    same line again submits what is missing: finished trials are not run again.
    """
    from launch.grid import Spec, spec_of_file, with_flags
    from launch.packing import Packing
    from launch.presets import read_yaml
    from launch.search_space import with_flags as search_flags
    from launch.trials import compile_sweep

    spec = Spec()
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no sweep file {file}")
        spec = spec_of_file(read_yaml(path), file)
    search = search_flags(spec.search, how["search"], {k: how[k] for k in SEARCH_FLAGS})
    spec = with_flags(replace(spec, search=search), how["grid"], how["seeds"])
    packing = Packing(how["pack"], how["max_parallel"], how["hold"], how["workers"])
    if spec.search is not None:
        from launch.searching import run_search

        return run_search(request, spec, file, packing, how)
    found = compile_sweep(request, spec, packing)
    tell_notes(found)
    name = how["name"] or spec.name or (Path(file).stem if file else _own_name(found, spec))
    return submit_sweep(request, spec, found, folder_of(found, name), packing, how)


def tell_notes(found: Compiled) -> None:
    """Print what a person should know of the plans, each note once."""
    notes = list(dict.fromkeys(note for plan in found.plans.values() for note in plan.notes))
    for note in notes[:NOTES]:
        print(f"note: {note}", file=sys.stderr)
    if notes[NOTES:]:
        print(f"note: … and {len(notes) - NOTES} more like these", file=sys.stderr)


def folder_of(found: Compiled, name: str) -> SweepDir:
    """Return the folder that a sweep of this name has.

    Raises:
        UsageError: the name is none.
    """
    from launch.checks import check_run_name
    from training.sweepdir import SweepDir, sweeps_folder

    check_run_name(name)
    return SweepDir(sweeps_folder(found.runs) / name)


def _own_name(found: Compiled, spec: Spec) -> str:
    """Return a name that stays the same when values are added to an axis."""
    from launch.grid import key_of
    from training.config import place_keys, slug
    from training.config.schema import get_dotted, leaves, to_plain
    from training.prepared import digest

    base = next(iter(found.bases.values())).asked
    varied = {key_of(name, "") for name in (*spec.axes, *(n for p in spec.points for n in p))}
    counted = [k for k in leaves(RunConfig) if k not in varied and k not in place_keys()]
    same = [to_plain(get_dotted(base, key)) for key in counted]
    what = [same, sorted(spec.axes), [sorted(p) for p in spec.points]]
    return f"{slug(base.task.name)}-{slug(base.model.name)}-{digest(what)[:6]}"


def submit_sweep(
    request: Request,
    spec: Spec,
    found: Compiled,
    place: SweepDir,
    packing: Packing,
    how: Mapping[str, Any],
) -> int:
    """Submit the trials of a sweep that are missing, and say so.

    Args:
        request: what was typed.
        spec: what varies.
        found: the trials.
        place: the sweep's folder.
        packing: how trials share the nodes.
        how: `retry_failed`, `dry_run`, `as_json` and `yes`.

    Returns:
        The exit status.

    Raises:
        UsageError: Slurm refuses, something cannot be fetched or written.
        click.Abort: trials would leave the sweep, and a person says no.
    """
    from launch import sweeping
    from launch.sweep_cost import cost_of
    from training.sweepdir import read_trials

    if place.search.exists():
        raise UsageError(f"sweep {place.name} is a search: give the grid another --name")
    check_packing(found, packing)
    trials, removed = sweeping.merged(place, found)
    states = sweeping.states(place, trials)
    check_rows(place, found, trials, states)
    wanted = [t for t in trials if states[t.number] in sweeping.OPEN]
    failed = [t for t in trials if states[t.number] == "failed"]
    if how["retry_failed"]:
        wanted = sorted([*wanted, *failed], key=lambda t: t.number)
    cost = cost_of([(found.config(t), found.plans[t.plan].time) for t in wanted], packing)
    if how["dry_run"]:
        _report(how, place, trials, states, [], cost)
        if not how["as_json"]:
            _show(trials, found, removed, cost)
        return 0
    gone = sweeping.states(place, removed) if removed else {}
    running = [t for t in removed if gone[t.number] == "running" and sweeping.runs_here(place, t)]
    known = {t.run_id for t in read_trials(place)}
    if known and (removed or len(known) < len(trials)):
        _agree(place, spec, found, trials, removed, len(running), how["yes"])
    sweeping.ask_to_stop(place, running)
    if not wanted:
        if known != {t.run_id for t in trials}:
            # All of them were run, or are, for another sweep or by themselves: it has them too.
            sweeping.write_sweep(place, spec, found, trials, _asked())
        _report(how, place, trials, states, [], cost)
        return 0
    inputs = _provide(request, found, wanted)
    # Before workers that are there see new trials: none of their claims is taken for an old one.
    sweeping.free(place, wanted)
    sweeping.write_sweep(place, spec, found, trials, _asked())
    jobs: list[str] = []
    shapes = _shapes(found, wanted, packing)
    for name in dict.fromkeys(n for shape in shapes for n in shape.bases):
        sweeping.note_inputs(place, name, inputs[name])
    for shape, own in zip(shapes, packing.divided([len(s.numbers) for s in shapes]), strict=True):
        before = {i.job for n in shape.bases if (i := inputs[n]) and i.job}
        if packing.parallel is not None and packing.parallel < len(shapes):
            before |= {*jobs}  # they cannot run beside each other
        after = ":".join(sorted(before)) or None
        local = shape.config.cluster.executor == "local"
        bases = () if local else tuple(shape.bases)
        jobs += sweeping.submit_trials(place, shape.config, shape.numbers, own, after, bases)
    _report(how, place, trials, sweeping.states(place, trials), jobs, cost)
    left = [] if how["retry_failed"] or how["as_json"] else sweeping.left_alone(place, failed)
    if left:
        print(f"note: {len(left)} failed trials are left alone: --retry-failed", file=sys.stderr)
    return 0


def _asked() -> dict[str, Any]:
    return {"line": sys.argv[1:]}


def check_rows(
    place: SweepDir, found: Compiled, trials: Sequence[Trial], states: Mapping[int, str]
) -> None:
    """Raise `UsageError` where a trial that was begun read other rows than there are now.

    Its score, and those of trials that begin now, would be of two data sets.
    """
    from launch.existing import changed_rows

    known: dict[str, Any] = {}
    for trial in trials:
        base = found.bases.get(trial.base)
        if base is None or states[trial.number] == "missing":
            continue
        path = changed_rows(place.run(trial), base.config, known)
        if path is not None:
            raise UsageError(
                f"trial {trial.number} ({trial.words}) was made when {path} held other rows: "
                "for all trials on what it holds now, use another folder, --runs DIR; or put the "
                "file back"
            )


def check_packing(found: Compiled, packing: Packing) -> None:
    """Raise `UsageError` where trials cannot share a node, or not its GPUs."""
    from launch.trials import gpus_of_lane

    for base in found.bases.values():
        cluster, local = base.config.cluster, base.config.cluster.executor == "local"
        lanes, flag = packing.lanes_of(base.config), packing.words(base.config)
        if local and packing.lanes > 1:
            raise UsageError(
                f"--pack {packing.lanes} is for the nodes of a cluster: with --executor local, "
                f"--max-parallel {packing.lanes} runs so many trials at a time"
            )
        if cluster.nodes > 1 and packing.workers is not None:
            raise UsageError(
                f"--workers {packing.workers}: a job of {cluster.nodes} nodes runs one trial, so "
                f"there is one for each: to have few at a time, --max-parallel {packing.workers}"
            )
        if lanes == 1:
            continue
        if cluster.nodes > 1:
            raise UsageError(
                f"{flag}: trials of {cluster.nodes} nodes cannot share "
                "a node: leave out --pack or --nodes"
            )
        gpus, ranks = cluster.gpus_per_node or 0, cluster.procs_per_node or 1
        share = gpus_of_lane(gpus, lanes)
        if base.config.engine.device == "cuda" and ranks > share:
            whose = "this machine's" if local else "a node's"
            typed = "" if local else f"--gpus-per-node {gpus} "
            raise UsageError(
                f"{flag}: a trial has {ranks} ranks, and {share} of {whose} {gpus} GPUs: "
                f"use {typed}--procs-per-node {share}"
            )


def _provide(request: Request, found: Compiled, wanted: Sequence[Trial]) -> dict[str, Any]:
    """Fetch and prepare what the trials read, once for each base; return it by base.

    What was planned without rows or weights is planned with them.

    Raises:
        UsageError: something cannot be fetched, or does not load, or a trial does not fit.
    """
    from launch.existing import command_line
    from launch.fetch import fetch_all, make_cache
    from launch.preparation import provide, request_words
    from launch.space import check_space
    from launch.trials import plan_again
    from training.rundir import CACHE_FOLDER

    cache = found.runs / CACHE_FOLDER
    line = command_line("prepare", *request_words(request))
    inputs = {}
    for name in dict.fromkeys(t.base for t in wanted):
        base = found.bases[name]
        if base.config.cluster.private:
            make_cache(base.config, cache)
        fetched = fetch_all(base.config, cache)
        if fetched != base.config:
            found.bases[name] = replace(base, config=fetched)
            plan_again(found, name)
        check_space(fetched, found.runs)
        inputs[name] = provide(fetched, cache, line)
    return inputs


@dataclass
class _Shape:
    """Trials that need the same nodes, as many on each."""

    config: RunConfig
    bases: list[str]
    numbers: list[int]


def _shapes(found: Compiled, wanted: Sequence[Trial], packing: Packing) -> list[_Shape]:
    """Return the trials by what their nodes must be; on this machine all are of one kind."""
    groups: dict[Any, _Shape] = {}
    for trial in wanted:
        config = found.bases[trial.base].config
        cluster = config.cluster
        # What Slurm is asked for; the keys of a mapping are in the order typed.
        nodes = cluster.executor != "local" and cluster
        key = repr((nodes, config.engine.device, packing.lanes_of(config)))
        shape = groups.setdefault(key, _Shape(config, [], []))
        if (cluster.gpus_per_node or 0) > (shape.config.cluster.gpus_per_node or 0):
            shape.config = config
        if trial.base not in shape.bases:
            shape.bases.append(trial.base)
        shape.numbers.append(trial.number)
    return list(groups.values())


def _agree(
    place: SweepDir,
    spec: Spec,
    found: Compiled,
    trials: Sequence[Trial],
    removed: Sequence[Trial],
    running: int,
    yes: bool,
) -> None:
    """Show how a sweep differs from what it was, and ask before trials leave it.

    Raises:
        UsageError: there is nobody to ask.
        click.Abort: a person says no.
    """
    from launch.existing import confirmed
    from launch.sweeping import difference

    changed = difference(_spec_there(place), {**spec.plain(), "asked": _asked()})
    for line in [*changed, *_decided_otherwise(place, found, removed)]:
        print(f"changed  {line}", file=sys.stderr)
    if not removed or yes:
        return
    shown = "; ".join(t.words for t in removed[:3]) + ("; …" if removed[3:] else "")
    stopped = f", and stop the {running} of them that run" if running else ""
    question = (
        f"sweep {place.name} has {len(removed)} trials that are not asked for now ({shown}): "
        f"leave them out{stopped}, and make it the {len(trials)} of now?"
    )
    if not confirmed(question):
        raise click.Abort


def _decided_otherwise(place: SweepDir, found: Compiled, removed: Sequence[Trial]) -> list[str]:
    """Return what differs in a trial that is asked for by the same values as before, a line each.

    A preset that was edited, say, or a node with another number of GPUs.
    """
    from launch.existing import differences
    from training.config import load_config, place_keys

    same = {repr(t.axes): t for t in found.trials}
    pair = next(((t, same[repr(t.axes)]) for t in removed if repr(t.axes) in same), None)
    if pair is None:
        return []
    before, now = pair
    try:
        there = load_config(place.base(before.base)).with_values(before.values)
    except UsageError:
        return []
    unlike = differences(there, found.config(now))
    return [
        f"{key}: {old} → {new}" for key, (old, new) in unlike.items() if key not in place_keys()
    ]


def _spec_there(place: SweepDir) -> dict[str, Any]:
    """Return what a sweep was asked to be; empty if its file is gone or damaged."""
    from launch.presets import read_yaml

    try:
        return read_yaml(place.spec)
    except UsageError:
        return {}


def _report(
    how: Mapping[str, Any],
    place: SweepDir,
    trials: Sequence[Trial],
    states: Mapping[int, str],
    jobs: Sequence[str],
    cost: Mapping[str, Any],
) -> None:
    from launch.sweeping import count_text

    if how["as_json"]:
        value = {
            "sweep": place.name,
            "path": str(place.path),
            "jobs": list(jobs),
            "cost": dict(cost),
            "trials": [{**t.plain(), "state": states[t.number]} for t in trials],
        }
        print(json.dumps(value, ensure_ascii=False))
        return
    new = "to submit" if how["dry_run"] else "missing"
    what = f"{len(trials)} trials: {count_text(states, new)}"
    if jobs:
        count, names = cost["trials"], ", ".join(jobs)
        print(f"submitted {count} trials of sweep {place.name} as job {names}")
    else:
        print(f"sweep {place.name}: nothing to submit" if not how["dry_run"] else place.name)
    print(f"  {what}")
    print(f"  folder  {place.path}")


def _show(
    trials: Sequence[Trial], found: Compiled, removed: Sequence[Trial], cost: Mapping[str, Any]
) -> None:
    """Print what a dry run shows beside the counts."""
    from launch.sweep_cost import cost_words

    for trial in trials[:SHOWN]:
        plan = found.plans[trial.plan]
        time = plan.time["words"] if plan.time else "time unknown"
        print(f"  {trial.number:>5}  {trial.words}  {plan.steps_text}, {time}")
    if len(trials) > SHOWN:
        print(f"  {'…':>5}  {len(trials) - SHOWN} more")
    if removed:
        print(f"  {len(removed)} trials of the sweep as it is are not asked for now")
    if said := cost_words(cost):
        print(f"  cost    {said}")


def main() -> None:
    """Run the command."""
    run_command(sweep)


if __name__ == "__main__":
    main()
