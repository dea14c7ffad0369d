"""A sweep's folder and its jobs: what is there, what is missing, and how that is submitted."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import yaml

from slurm.begun import beginning, read_past, want
from slurm.claims import MOST_LOST, let_go, lost_claims, read_claims
from slurm.scontrol import Refused, Silent, ask
from training.config import RunConfig, UsageError
from training.rundir import (
    RunDir,
    Snapshot,
    State,
    read_json,
    run_state,
    snapshot,
    submissions,
    write_atomic,
    write_json,
)
from training.sweepdir import SweepDir, Trial, TrialState, pruned_at, read_trials

from .packing import Packing
from .slurm_site import QUEUED

if TYPE_CHECKING:
    from pathlib import Path

    from .grid import Spec
    from .jobs import Agents
    from .preparation import Inputs
    from .trials import Compiled

SECONDS = 20.0
"""How long Slurm may take to answer."""
USUAL_ARRAY = 1001
"""Slurm's own MaxArraySize, where it does not tell."""

OPEN = ("missing", "created", "interrupted", "damaged")
"""States of trials that a submission is for."""


def merged(sweep: SweepDir, found: Compiled) -> tuple[list[Trial], list[Trial]]:
    """Return the trials of a sweep, with the numbers of those it has already, and those it loses.

    Numbers are never given out twice: what a worker took under one stays what it was.
    """
    old = {trial.run_id: trial for trial in read_trials(sweep)}
    used = [trial.number for trial in old.values()]
    used += [int(m[1]) for m in map(re.compile(r"(\d+)\.").match, _names(sweep)) if m]
    following = max(used, default=-1) + 1
    trials = []
    for trial in found.trials:
        if (there := old.pop(trial.run_id, None)) is not None:
            trials.append(replace(trial, number=there.number))
        else:
            trials.append(replace(trial, number=following))
            following += 1
    return sorted(trials, key=lambda t: t.number), list(old.values())


def _names(sweep: SweepDir) -> list[str]:
    try:
        return os.listdir(sweep.claims)  # noqa: PTH208 (thousands of files)
    except OSError:
        return []


def write_sweep(
    sweep: SweepDir, spec: Spec, found: Compiled, trials: Sequence[Trial], asked: Mapping[str, Any]
) -> None:
    """Write a sweep's folder. What workers read together is in place before it is named.

    Whoever cancelled the sweep before is not heard any more.

    Raises:
        UsageError: it cannot be written.
    """
    from .manifest import inputs_key, make_manifest, with_inputs_of

    try:
        sweep.path.mkdir(parents=True, exist_ok=True)
        for name, base in found.bases.items():
            _write_changed(sweep.base(name), base.config.dump())
        known = read_json(sweep.plans)
        plans = known if isinstance(known, dict) else {}
        new = {name: plan.to_json() for name, plan in found.plans.items()}
        if new.keys() - plans.keys():
            write_json(sweep.plans, plans | new)
        first = next(iter(found.bases.values())).config
        manifest = make_manifest(first)
        write_json(sweep.manifest, manifest)
        own = {inputs_key(first): manifest}
        for name, base in found.bases.items():
            key = inputs_key(base.config)
            if key not in own:
                own[key] = with_inputs_of(manifest, base.config)
            if own[key] is not manifest:
                write_json(sweep.own_manifest(name), own[key])
        text = yaml.safe_dump(
            {"asked": dict(asked), **spec.plain()}, sort_keys=False, allow_unicode=True
        )
        write_atomic(sweep.spec, text)
        lines = (json.dumps(t.plain(), ensure_ascii=False) for t in trials)
        write_atomic(sweep.trials, "".join(f"{line}\n" for line in lines))
        sweep.request.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {sweep.path}: {error.strerror}") from None


def _write_changed(path: Path, text: str) -> None:
    """Write a file that says something new: where rows or weights are now, of a base."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)


def states(sweep: SweepDir, trials: Iterable[Trial]) -> dict[int, TrialState]:
    """Return the state of every trial.

    A run that another sweep's worker has, or a job of its own, is queued or running as well.

    Raises:
        UsageError: Slurm does not answer.
    """
    trials = list(trials)
    try:
        there = set(os.listdir(sweep.runs))  # noqa: PTH208
    except OSError:
        there = set()
    files = [snapshot(sweep.run(t), brief=True) for t in trials if t.run_id in there]
    submitted = read_jobs(sweep)
    alive, known = _known_states(files, submitted)
    return trial_states(sweep.runs, trials, known, submitted, alive)


def _known_states(
    files: Iterable[Snapshot], submitted: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Literal["queued", "running"]], dict[str, State]]:
    """Return the elements that are queued or running, and the states of runs; one question."""
    from .jobs import Agents, last_submission

    files = list(files)
    jobs = {f.run_id: last_submission(f) for f in files if f.jobs and not f.finished}
    ours = {str(entry["job_id"]) for entry in submitted}
    arrays = {
        str(entry["job_id"]).partition("_")[0]
        for some in jobs.values()
        for entry in some
        if entry.get("executor") != "local" and not entry.get("released")
    }
    asked = [*submitted, *({"job_id": job} for job in sorted(arrays - ours))]
    alive = alive_jobs(asked) if asked else {}
    agents = Agents()
    return alive, {
        f.run_id: run_state(f, _job_state(f.run_id, jobs.get(f.run_id, ()), alive, agents))
        for f in files
    }


def _job_state(
    run_id: str,
    jobs: Iterable[Mapping[str, Any]],
    alive: Mapping[str, Literal["queued", "running"]],
    agents: Agents,
) -> Literal["queued", "running", "gone"] | None:
    """Return the state of a run's jobs; None where nobody can be asked."""
    from .jobs import elsewhere, local_job

    found: set[Literal["queued", "running", "gone"] | None] = set()
    for entry in jobs:
        job = str(entry["job_id"])
        if entry.get("released"):
            continue
        if entry.get("executor") == "local":
            # A trial has the job of a worker, which serves the whole sweep.
            info = local_job(str(entry.get("sweep", run_id)), dict(entry), agents=agents)
            found.add(info.state if info else None)
        elif job in alive:
            found.add(alive[job])
        else:
            found.add(None if elsewhere([entry]) else "gone")
    for state in ("running", "queued", None):
        if state in found:
            return state
    return "gone"


def trial_states(
    runs: Path,
    trials: Iterable[Trial],
    known: Mapping[str, State],
    submitted: Iterable[Mapping[str, Any]],
    alive: Iterable[str],
) -> dict[int, TrialState]:
    """Return the state of every trial: its run's, and `missing` where nobody is to run it.

    One that nobody runs is `queued` while a worker that was submitted for it may come.

    Args:
        runs: the runs folder.
        trials: of the sweep.
        known: states of the runs that are there, by run id.
        submitted: the sweep's arrays.
        alive: elements that are queued or running.
    """
    arrays = {job.partition("_")[0] for job in alive}
    waiting: set[Any] = set()
    searching = False
    for entry in submitted:
        if str(entry["job_id"]) in arrays:
            waiting.update(entry.get("trials") or ())
            # Workers of a search take whatever trial there is.
            searching = searching or "target" in entry
    found: dict[int, TrialState] = {}
    for trial in trials:
        state: TrialState = known.get(trial.run_id, "missing")
        ended = state in ("interrupted", "failed")
        if ended and pruned_at(RunDir(runs / trial.run_id)) is not None:
            state = "pruned"
        comes = searching or trial.number in waiting
        found[trial.number] = "queued" if state in OPEN and comes else state
    return found


def read_jobs(sweep: SweepDir) -> list[dict[str, Any]]:
    """Return the arrays that were submitted for a sweep, oldest first."""
    return submissions(sweep.jobs)


def alive_jobs(
    submitted: Iterable[Mapping[str, Any]],
) -> dict[str, Literal["queued", "running"]]:
    """Return the elements, `12_3` or `12`, that are queued or running.

    Raises:
        UsageError: Slurm does not answer.
    """
    from .jobs import local_job

    found: dict[str, Literal["queued", "running"]] = {}
    arrays = []
    for entry in submitted:
        if entry.get("executor") == "local":
            info = local_job(str(entry.get("sweep", "")), dict(entry))
            if info is None or info.state == "running":
                found[str(entry["job_id"])] = "running"
        else:
            arrays.append(str(entry["job_id"]))
    if not arrays:
        return found
    try:
        text = ask("squeue", "-h", "-r", "-j", ",".join(arrays), "-o", "%i %T", seconds=SECONDS)
    except Refused as error:
        if "Invalid job id" in str(error):
            return found  # of one array that Slurm has forgotten
        raise UsageError(f"Slurm does not answer: {error}") from None
    except Silent as error:
        raise UsageError(f"Slurm does not answer: {error}") from None
    for line in text.splitlines():
        job, _, state = line.partition(" ")
        found[job] = "queued" if state in QUEUED else "running"
    return found


@cache
def array_limit() -> int:
    """Return how many elements one array may have."""
    try:
        text = ask("scontrol", "show", "config", seconds=SECONDS)
    except (Refused, Silent):
        return USUAL_ARRAY
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.M)
    return max(1, int(match[1])) if match else USUAL_ARRAY


def cut(elements: int, limit: int, parallel: int | None) -> list[tuple[int, int]]:
    """Return (elements, of which at a time) of each array that a sweep is cut into.

    Together no more run at a time than `parallel`; where that is less than the number of arrays,
    the array count shrinks to it: workers of one node take one trial after the other.

    Args:
        elements: workers that are wanted.
        limit: what one array may have.
        parallel: how many may run at a time; None: all.
    """
    count = math.ceil(elements / limit)
    if parallel is not None and parallel < count:
        elements, count = parallel * limit, parallel
    sizes = [elements // count + (i < elements % count) for i in range(count)]
    if parallel is None:
        return [(size, size) for size in sizes]
    shares = [parallel // count + (i < parallel % count) for i in range(count)]
    return [(size, min(size, share)) for size, share in zip(sizes, shares, strict=True)]


def ask_to_stop(sweep: SweepDir, trials: Iterable[Trial]) -> None:
    """Have runs of trials end at their next step; their workers go on with other trials.

    Those that another sweep runs, or a job of their own, are not ours to end.

    Raises:
        OSError: a run directory cannot be written.
    """
    for trial in trials:
        if runs_here(sweep, trial):
            run = sweep.run(trial)
            known = read_json(run.request)
            write_json(run.request, (known if isinstance(known, dict) else {}) | {"stop": True})


def runs_here(sweep: SweepDir, trial: Trial) -> bool:
    """Return whether nobody began a trial's run since a worker of the sweep did, if any did."""
    jobs = submissions(sweep.run(trial).jobs)
    return not jobs or jobs[-1].get("sweep") == sweep.name


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs between two sweeps as `sweep.yaml` holds them, a line each."""
    found = []
    for part in ("set", "grid"):
        before, now = old.get(part) or {}, new.get(part) or {}
        for key in dict.fromkeys([*before, *now]):
            if before.get(key) != now.get(key):
                found.append(f"{key}: {_told(before, key)} → {_told(now, key)}")
    for part in ("points", "exclude"):
        before, now = old.get(part) or [], new.get(part) or []
        found += [f"{part}: no longer {dict(p)}" for p in before if p not in now]
        found += [f"{part}: now also {dict(p)}" for p in now if p not in before]
    lines = [shlex.join(map(str, (s.get("asked") or {}).get("line") or [])) for s in (old, new)]
    if not found and lines[0] != lines[1]:
        found.append(f"the line: {lines[0]} → {lines[1]}")
    return found


def _told(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not given"
    value = values[key]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def free(sweep: SweepDir, trials: Iterable[Trial]) -> None:
    """Have workers run trials again that a person asks for: who had them is gone.

    One that somebody begins meanwhile is left to them.

    Raises:
        UsageError: Slurm does not answer, or the sweep's folder cannot be written.
    """
    trials = list(trials)
    # Read before Slurm is asked: what is begun from now on is not taken for what it says is gone.
    claims = read_claims(sweep)
    begun = {t.number: [beginning(e) for e in submissions(sweep.run(t).jobs)] for t in trials}
    now = states(sweep, trials)
    over = [t.number for t in trials if now[t.number] not in ("finished", "running", "queued")]
    try:
        want(sweep, {number: begun[number] for number in over if begun[number]})
        for number in over:
            let_go(sweep, number, claims.get(number))
    except OSError as error:
        raise UsageError(f"cannot write to {sweep.path}: {error.strerror}") from None


def left_alone(sweep: SweepDir, failed: Iterable[Trial]) -> list[Trial]:
    """Return the failed trials that no worker goes on with.

    One whose worker vanished without a word is taken over by the next one.
    """
    from slurm.worker import ended

    claims, past = read_claims(sweep), read_past(sweep)
    return [
        t
        for t in failed
        if t.number not in claims
        or ended(sweep.run(t))
        or len(lost_claims(sweep, t.number)) >= MOST_LOST
        or not past.free(sweep, t, str(claims[t.number].get("job")))
    ]


def submit_trials(
    sweep: SweepDir,
    config: RunConfig,
    numbers: Sequence[int],
    packing: Packing,
    after: str | None = None,
    bases: tuple[str, ...] = (),
    target: int | None = None,
) -> list[str]:
    """Submit workers for some trials; return the ids of the arrays, or of the local job.

    Args:
        sweep: the sweep's folder, written.
        config: what the nodes of these trials have in common.
        numbers: of the trials.
        packing: how they share the nodes.
        after: a job that must have ended before.
        bases: those of these trials: other trials may need other nodes.
        target: of a search: how many trials its workers ask for in all.

    Raises:
        UsageError: Slurm refuses; arrays that it took before stay, and are in `jobs.json`.
    """
    from .executor import submit_workers
    from .jobs import whose

    local = config.cluster.executor == "local"
    lanes = min(packing.lanes_of(config), len(numbers))
    wanted = math.ceil(len(numbers) / lanes)
    # Each takes trial after trial: where a site limits how many jobs a person submits, fewer do.
    wanted = min(wanted, packing.workers or wanted)
    limit = array_limit() if not local else 1
    in_a_row = config.cluster.nodes > 1 and (packing.parallel or wanted) * limit < wanted
    if local:
        arrays = [(1, 1)]
    elif in_a_row:
        # Jobs of several nodes run one trial each: none can be left out.
        arrays = [(size, packing.parallel or size) for size, _ in cut(wanted, limit, None)]
    else:
        arrays = cut(wanted, limit, packing.parallel)
    ids: list[str] = []
    for elements, parallel in arrays:
        if in_a_row and ids:
            after = ids[-1]
        job = submit_workers(config, sweep, lanes, elements, parallel, after, packing.hold, bases)
        entry = {
            "job_id": job,
            "executor": config.cluster.executor,
            "elements": elements,
            "lanes": lanes,
            "parallel": parallel,
            "time": time.time(),
            "host": socket.gethostname(),
            **whose(config.cluster.executor),
            "sweep": sweep.name,
            # Any worker takes any trial: all of them stand for all.
            "trials": list(numbers),
            **({} if target is None else {"target": target}),
        }
        write_json(sweep.jobs, {"jobs": [*read_jobs(sweep), entry]})
        ids.append(job)
    return ids


def note_inputs(sweep: SweepDir, base: str, inputs: Inputs | None) -> None:
    """Write down which prepared inputs the trials of a base read."""
    if inputs is not None:
        write_json(sweep.prepared(base), inputs.plain())


def count_text(found: Mapping[int, str], missing: str = "missing") -> str:
    """Return how many trials are in which state: `3 finished, 1 failed`.

    Args:
        found: states by trial.
        missing: the word for those that have no run yet.
    """
    counts = Counter(found.values())
    order = "finished running queued failed pruned interrupted created damaged".split()
    parts = [f"{counts[s]} {s}" for s in order if counts[s]]
    parts += [f"{counts['missing']} {missing}"] if counts["missing"] else []
    return ", ".join(parts) or "none"
