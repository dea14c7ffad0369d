"""A search: `glueline sweep` where trials are drawn one by one, from what earlier ones scored."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm.search import last_runs, ranked, settle
from slurm.search_file import FRACTION, SEED, Search, SearchFile, read_search
from training.config import UsageError
from training.rundir import write_json
from training.sweepdir import SweepDir, Trial, read_trials, words_of

from . import sweeping
from .search_plan import CompiledSearch, compile_search, difference
from .search_space import axis_words
from .sweep_cost import Planned, cost_of, cost_words

if TYPE_CHECKING:
    from .flags import Request
    from .grid import Spec
    from .packing import Packing

ROUNDS = 5
"""How often the workers of a search come round, where nobody says how many there are: what was
learned from the trials of a round is used in the next."""


def run_search(
    request: Request, spec: Spec, file: str | None, packing: Packing, how: Mapping[str, Any]
) -> int:
    """Submit what is missing of a search, or show it.

    Raises:
        UsageError: the request is wrong, or another search has the name.
    """
    from launch import sweep as command

    made = compile_search(request, spec, packing)
    command.tell_notes(made.found)
    name = how["name"] or spec.name or (Path(file).stem if file else _own_name(made))
    place = command.folder_of(made.found, name)
    _check_place(place, made.file)
    command.check_packing(made.found, packing)
    search = made.file.search
    if not how["dry_run"]:
        _bring_up_to_date(place, made.file)
    trials = read_trials(place)
    states = sweeping.states(place, trials)
    command.check_rows(place, made.found, trials, states)
    failed = [t for t in trials if states[t.number] == "failed"]
    again = [t for t in trials if states[t.number] in sweeping.OPEN]
    if how["retry_failed"]:
        again = sorted([*again, *failed], key=lambda t: t.number)
    open_ = [t.number for t in again]
    new, last = _missing(place, search, trials)
    if not (new or open_ or how["dry_run"]):
        last = 0  # those that there can be were made just now
    packing = replace(packing, parallel=packing.parallel or _parallel(made, packing))
    cost = _cost(made, trials, open_, new, last, packing)
    if how["dry_run"] or not (open_ or new or last):
        _report(how, place, made, trials, states, [], cost)
        return 0
    inputs = command._provide(request, made.found, made.found.trials)
    sweeping.write_sweep(place, spec, made.found, [], {"line": sys.argv[1:]})
    for base in inputs:
        sweeping.note_inputs(place, base, inputs[base])
    # What makes it a search comes last: workers find all that it names.
    write_json(place.search, made.file.plain())
    sweeping.free(place, again)
    jobs = _submit(place, made, open_, new, last, packing, inputs)
    trials = read_trials(place)
    _report(how, place, made, trials, sweeping.states(place, trials), jobs, cost)
    left = [] if how["retry_failed"] or how["as_json"] else sweeping.left_alone(place, failed)
    if left:
        print(f"note: {len(left)} failed trials are left alone: --retry-failed", file=sys.stderr)
    return 0


def _own_name(made: CompiledSearch) -> str:
    """Return a name that stays the same when more trials are asked for."""
    from training.config import slug
    from training.prepared import digest

    config = next(iter(made.found.bases.values())).asked
    axes = made.file.plain()["search"]["axes"]
    bases = [base.asked.experiment() for base in made.found.bases.values()]
    what = [axes, made.file.search.fraction, bases]
    return f"{slug(config.task.name)}-{slug(config.model.name)}-search-{digest(what)[:6]}"


def _check_place(place: SweepDir, new: SearchFile) -> None:
    old = read_search(place)
    if old is None:
        if read_trials(place):
            raise UsageError(f"sweep {place.name} is a grid: give the search another --name")
        return
    if what := difference(old, new):
        raise UsageError(
            f"search {place.name} has {what}, and its trials would not compare: use another --name"
        )


def _bring_up_to_date(place: SweepDir, new: SearchFile) -> None:
    """Tell Optuna what became of trials while no worker was there, and make the last runs."""
    if not place.journal.exists():
        return
    old = read_search(place)
    assert old is not None
    # More of the best may be wanted now; what they are made of stays.
    write_json(place.search, replace(old, search=new.search).plain())
    settle(place)
    last_runs(place)


def _missing(place: SweepDir, search: Search, trials: Sequence[Trial]) -> tuple[int, int]:
    """Return how many trials and last runs nobody will make who is there."""
    target = max((int(e.get("target", 0)) for e in _alive(place)), default=0)
    own = sum(t.best_of is None for t in trials)
    made = len(trials) - own
    new = max(0, search.target - max(own, target))
    return new, 0 if target else max(0, search.last_runs - made)


def _alive(place: SweepDir) -> list[dict[str, Any]]:
    submitted = sweeping.read_jobs(place)
    alive = {j.partition("_")[0] for j in sweeping.alive_jobs(submitted)} if submitted else set()
    return [entry for entry in submitted if str(entry["job_id"]) in alive]


def _parallel(made: CompiledSearch, packing: Packing) -> int | None:
    """Return how many jobs of a search run at a time, where nobody says."""
    search, config = made.file.search, next(iter(made.found.bases.values())).config
    learns = search.sampler == "tpe" or search.pruner != "none"
    if config.cluster.executor == "local" or not learns:
        return None
    return math.ceil(search.target / ROUNDS / packing.lanes)


def _submit(
    place: SweepDir,
    made: CompiledSearch,
    open_: Sequence[int],
    new: int,
    last: int,
    packing: Packing,
    inputs: Mapping[str, Any],
) -> list[str]:
    config = next(iter(made.found.bases.values())).config
    target = made.file.search.target
    after = ":".join(sorted({i.job for i in inputs.values() if i and i.job})) or None
    following = max((t.number for t in read_trials(place)), default=-1) + 1
    numbers = [*open_, *range(following, following + new)]
    more = list(range(following + new, following + new + last))
    # Workers of several nodes run one trial each, and the last one does not know that it is.
    apart = bool(numbers and more) and config.cluster.nodes > 1
    jobs = sweeping.submit_trials(
        place, config, numbers if apart or new else [*numbers, *more], packing, after, (), target
    )
    if apart:
        before = ":".join(jobs)
        jobs += sweeping.submit_trials(place, config, more, packing, before, (), target)
    return jobs


def _cost(
    made: CompiledSearch,
    trials: Sequence[Trial],
    open_: Sequence[int],
    new: int,
    last: int,
    packing: Packing,
) -> dict[str, Any]:
    """Return what is missing takes, as far as plans know: the mean of those that may come."""
    whole = {t.number for t in trials if t.best_of is not None} & {*open_}
    counts = [(len(open_) - len(whole) + new, False), (len(whole) + last, True)]
    config = next(iter(made.found.bases.values())).config
    planned: list[Planned] = []
    for count, all_rows in counts:
        times = [t for plan in made.plans(all_rows) if (t := plan.time)]
        mean = None
        if times:
            mean = {k: statistics.fmean(t[k] for t in times) for k in ("hours", "seconds")}
            mean["unit"] = times[0]["unit"]
        planned += [(config, mean)] * count
    return cost_of(planned, packing)


def _report(
    how: Mapping[str, Any],
    place: SweepDir,
    made: CompiledSearch,
    trials: Sequence[Trial],
    states: Mapping[int, str],
    jobs: Sequence[str],
    cost: Mapping[str, Any],
) -> None:
    file, search = made.file, made.file.search
    own = ranked(place, file, [t for t in trials if t.best_of is None])
    whole = ranked(place, file, [t for t in trials if t.best_of is not None])
    if how["as_json"]:
        plain = made.file.plain()["search"]
        best = [{**t.plain(), file.metric: value} for t, value in own[: max(1, search.finish)]]
        value = {
            "sweep": place.name,
            "path": str(place.path),
            "jobs": list(jobs),
            "cost": dict(cost),
            "search": {**plain, "target": search.target, "metric": file.metric, "best": best},
            "trials": [{**t.plain(), "state": states[t.number]} for t in trials],
        }
        print(json.dumps(value, ensure_ascii=False))
        return
    asked = sum(t.best_of is None for t in trials)
    if jobs:
        print(f"submitted workers of search {place.name} as job {', '.join(jobs)}")
    else:
        print(place.name if how["dry_run"] else f"search {place.name}: nothing to submit")
    print(f"  {asked} of {search.target} trials asked for: {sweeping.count_text(states)}")
    print(f"  folder  {place.path}")
    for title, found in (("best", own), ("on all rows", whole)):
        for trial, value in found[: max(1, search.finish)]:
            axes = {k: v for k, v in trial.axes.items() if k != FRACTION}
            print(f"  {title:<6}  {file.metric} {value:.4f}  {_words(axes)}  {trial.run_id}")
    if how["dry_run"]:
        _show(made, cost)


def _words(axes: Mapping[str, Any]) -> str:
    rounded = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in axes.items()}
    return words_of(rounded)


def _show(made: CompiledSearch, cost: Mapping[str, Any]) -> None:
    search = made.file.search
    words = [f"{search.target} trials", f"sampler {search.sampler}", f"pruner {search.pruner}"]
    if search.target < search.trials:
        words[0] += " (all that there are)"
    if search.fraction < 1:
        words.append(f"on {search.fraction:.0%} of the rows")
    print(f"  search  {', '.join(words)}")
    if search.last_runs:
        with_seeds = f", with {SEED}s {', '.join(map(str, search.finish_seeds))}"
        print(
            f"  finish  the best {search.finish} on all rows"
            + (with_seeds if search.finish_seeds else "")
        )
    for axis in search.axes:
        print(f"  space   {axis_words(axis)}")
    for option, plan in zip(made.file.parts, made.plans(False), strict=True):
        time = plan.time["words"] if plan.time else "time unknown"
        print(f"  plan    {words_of(option.when) or 'all'}  {plan.steps_text}, {time}")
    if said := cost_words(cost):
        print(f"  cost    {said}")
