"""From a sweep's or a run's folder to what a report says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.existing import command_line
from training.config import RunConfig, UsageError, load_config
from training.rundir import RunDir, Snapshot, read_metrics, run_state, snapshot
from training.sweepdir import SweepDir, TrialState, read_trials
from training.sweepdir import Trial as Line

from .baseline import constant_score, read_labels
from .cells import Trial
from .efficiency import Efficiency, efficiency
from .parts import Part, make_part
from .records import Record, mapping, read_record
from .repeat import flat, submit_arguments

ORDER = "finished running queued failed pruned interrupted created damaged missing".split()
"""In which states are counted."""


@dataclass(frozen=True)
class SweepReport:
    """All that a report says of a sweep."""

    name: str
    path: Path
    parts: tuple[Part, ...]
    states: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """All that a report says of a run."""

    record: Record
    command: str
    lines: tuple[dict[str, Any], ...]
    """Those of metrics.jsonl that count."""
    efficiency: Efficiency | None
    notes: tuple[str, ...]


def gather_run(run: RunDir) -> RunReport:
    """Read one run."""
    notes: list[str] = []
    files, jobs = _asked([run], notes)
    seen, job = files[run.run_id], jobs.get(run.run_id)
    state = run_state(seen, job.state if job else None)
    record, config = _record(run, seen, state, job, None, notes)
    record = replace(record, attempts=_with_words(run, files[run.run_id], record))
    used = _used([(record, files[run.run_id])])
    return RunReport(
        record=record,
        command=_command(config, run.path.parent, notes),
        lines=tuple(read_metrics(run.metrics)),
        efficiency=efficiency(record, used),
        notes=tuple(notes),
    )


def gather_sweep(sweep: SweepDir, target: float | None, margin: float | None) -> SweepReport:
    """Read a sweep and all its runs.

    Args:
        sweep: its folder.
        target: the score to reach; None: one that follows from the runs.
        margin: by how much a recommended batch may be worse than the best; None: see
            `advice.default_margin`.

    Raises:
        UsageError: it has no trials, or the target is none that its metric can have.
    """
    lines = read_trials(sweep)
    if not lines:
        raise UsageError(
            f"sweep {sweep.name} has no trials yet: {sweep.trials} is "
            f"{'empty' if sweep.trials.is_file() else 'not there'}"
        )
    notes: list[str] = []
    runs = {line.number: sweep.run(line) for line in lines}
    files, jobs = _asked([run for run in runs.values() if run.path.is_dir()], notes)
    states = _states(sweep, lines, files, jobs, notes)
    bases: dict[str, RunConfig | None] = {}
    trials = []
    for line in lines:
        run, state = runs[line.number], states[line.number]
        config = _configured(sweep, line, bases)
        seen = files.get(run.run_id)
        if seen is None:
            record = _absent(run, state, config)
        else:
            job = jobs.get(run.run_id)
            record, config = _record(run, seen, state, job, config, notes)
        command = _command(config, sweep.runs, notes)
        trials.append(Trial(line.number, mapping(line.axes), record, command))
    used = _used([(t.record, files[t.record.run_id]) for t in trials if t.record.run_id in files])
    counts = Counter(t.record.state for t in trials)
    counted = {state: counts[state] for state in ORDER if counts[state]}
    by_task: dict[str, list[Trial]] = {}
    known = {t.record.task for t in trials if t.record.task}
    for trial in trials:
        # A run that lost its configuration belongs to the others, where there is one task.
        task = trial.record.task or (next(iter(known)) if len(known) == 1 else "")
        by_task.setdefault(task, []).append(trial)
    parts = tuple(
        make_part(task, group, target, margin, used, _baseline(group))
        for task, group in by_task.items()
    )
    return SweepReport(sweep.name, sweep.path, parts, counted, tuple(dict.fromkeys(notes)))


def _asked(runs: Sequence[RunDir], notes: list[str]) -> tuple[dict[str, Snapshot], dict[str, Any]]:
    """Return the files of runs and what the scheduler says of those that did not finish."""
    from launch.jobs import last_jobs
    from launch.slurm_site import SlurmSilent

    files = {run.run_id: snapshot(run) for run in runs}
    try:
        return files, last_jobs([f for f in files.values() if not f.finished])
    except SlurmSilent as error:
        notes.append(f"{error}; the states shown are what the files say")
        return files, {}


def _states(
    sweep: SweepDir,
    lines: Sequence[Line],
    files: Mapping[str, Snapshot],
    jobs: Mapping[str, Any],
    notes: list[str],
) -> dict[int, TrialState]:
    """Return the state of every trial; where Slurm is silent, what the files say."""
    from launch.sweeping import alive_jobs, read_jobs, trial_states

    submitted = read_jobs(sweep)
    try:
        alive = alive_jobs(submitted) if submitted else {}
    except UsageError as error:
        notes.append(f"{error}; the states shown are what the files say")
        alive = {}
    known = {}
    for name, seen in files.items():
        job = jobs.get(name)
        known[name] = run_state(seen, job.state if job else None)
    return trial_states(sweep.runs, lines, known, submitted, alive)


def _record(
    run: RunDir,
    files: Snapshot,
    state: TrialState,
    job: Any,
    config: RunConfig | None,
    notes: list[str],
) -> tuple[Record, RunConfig | None]:
    from launch.view import explain

    if config is None:
        try:
            config = load_config(run.config)
        except UsageError as error:
            notes.append(f"{run.run_id}: {error}")
    told = {"job": _job(files), "worker": str((files.jobs or [{}])[-1].get("sweep") or "")}
    if state == "failed":
        cause, log = explain(run, files, job)
        told |= {"cause": cause, "log": str(log or "")}
    plain = flat(config) if config else {}
    return read_record(run, state, plain, files, told), config


def _job(files: Snapshot) -> str:
    nodes = files.nodes.get(max(files.nodes, default=-1), [])
    known = [str(n["job_id"]) for n in nodes if n.get("job_id") is not None]
    return known[0] if known else str(files.jobs[-1]["job_id"]) if files.jobs else ""


def _absent(run: RunDir, state: TrialState, config: RunConfig | None) -> Record:
    if config is None:
        return Record(run.run_id, run.path, state)
    return Record(
        run.run_id,
        run.path,
        state,
        task=config.task.name,
        model=config.model.name,
        metric=config.task.primary_metric,
        global_batch=config.batch.global_batch,
        seed=config.train.seed,
        ranks=config.world_size,
        config=flat(config),
    )


def _configured(
    sweep: SweepDir, line: Line, bases: dict[str, RunConfig | None]
) -> RunConfig | None:
    """Return a trial's configuration as the sweep's own files say it; None without them."""
    try:
        if line.base not in bases:
            path = sweep.base(line.base)
            bases[line.base] = load_config(path) if path.is_file() else None
        base = bases[line.base]
        return base.with_values(mapping(line.values)) if base else None
    except (UsageError, ValueError):
        return None


def _command(config: RunConfig | None, runs: Path, notes: list[str]) -> str:
    if config is None:
        return ""
    words = submit_arguments(config, runs)
    if words is None:
        notes.append("a configuration that no line of flags says: see the run's config.yaml")
        return ""
    where = [] if runs == Path("runs").absolute() else ["--runs", str(runs)]
    return command_line("submit", *words, *where)


def _used(runs: Iterable[tuple[Record, Snapshot]]) -> dict[str, Any]:
    """Return what accounting says of the jobs of finished runs on Slurm."""
    from .sacct import ask_used

    asked, times = [], []
    for record, files in runs:
        if record.state != "finished" or record.config.get("cluster.executor") != "slurm":
            continue
        if record.job:
            asked.append(record.job)
            times += [a.start for a in record.attempts[:1]]
            times += [j["time"] for j in files.jobs if isinstance(j.get("time"), (int, float))]
    if not asked:
        return {}
    return ask_used(asked, min(times) - _QUEUE if times else 0.0)


_QUEUE = 30 * 86400.0
"""Seconds that a job may have waited before what we know of it began."""


def _with_words(run: RunDir, files: Snapshot, record: Record) -> tuple[Any, ...]:
    from launch.view import attempt_end

    return tuple(
        replace(a, text="running" if a.how == "running" else attempt_end(run, files, a.number))
        for a in record.attempts
    )


def _baseline(trials: Iterable[Trial]) -> Callable[[str, str], float | None]:
    """Return what tells the score of one constant answer: a split's rows are the same in all."""

    def tell(metric: str, split: str) -> float | None:
        if metric in ("matthews", "pearson", "spearman"):
            return 0.0
        for trial in trials:
            if trial.record.state == "finished":
                labels, positive = read_labels(RunDir(trial.record.path), split)
                if labels:
                    return constant_score(metric, labels, positive)
        return None

    return tell
