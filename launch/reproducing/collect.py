"""From the runs of a reproduction to its verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launch.judging.average import Average, glue_average
from launch.judging.margin import POINT, default_margin
from launch.judging.verdict import Combined, Published, Terms, Verdict, combine, judge
from launch.reference_file import UNBOUNDED
from launch.reference_sets import Reference, ReferenceSet, Score, set_of
from launch.reporting.baseline import read_labels
from launch.reporting.cells import Trial, collapsed
from launch.reporting.gather import SweepReport, gather_sweep
from launch.reporting.records import Record, higher_is_better, mapping, number, whole
from training.config import UsageError
from training.predictions import read_predictions
from training.rundir import RunDir
from training.sweepdir import SweepDir

from .asked import Asked, Stop, own_tasks
from .inputs import manifest_of, mixed

ENDED = ("finished", "failed", "damaged")
"""States of trials that nothing more is to be expected of."""
ROUNDED = 0.0005
"""By how much a number that is published to a tenth of a point may be off."""


@dataclass(frozen=True)
class Line:
    """One published score, and ours."""

    score: Score
    values: tuple[float, ...]
    """Of the runs that did not collapse, in the order of seeds."""
    margin: float
    margin_words: str
    verdict: Verdict
    name: str
    """Of the metric, with its split where the task has several."""


@dataclass(frozen=True)
class Judged:
    """One task."""

    reference: Reference
    trials: tuple[Trial, ...]
    """Those that count, in the order of seeds."""
    spare: tuple[Trial, ...]
    """Runs that ended after the task was decided: they do not count."""
    lines: tuple[Line, ...]
    combined: Combined
    collapsed: tuple[Trial, ...]
    missing: tuple[Trial, ...]
    """Trials that have no score: failed, still running, or not begun."""
    open: bool
    """Whether the verdict is one of some seeds, while others have not ended."""
    changed: tuple[Mapping[str, Any], ...]
    stopped: int | None
    """After how many seeds it was decided, if that was before all."""
    mixed: tuple[str, ...] = ()
    """What of their inputs is not the same for all runs that count: then nothing is decided."""

    @property
    def task(self) -> str:
        """The task's name."""
        return self.reference.short

    @property
    def records(self) -> list[Record]:
        """The runs that cost something, those that do not count included."""
        return [t.record for t in (*self.trials, *self.spare)]


@dataclass(frozen=True)
class Reproduction:
    """All verdicts of one reproduction."""

    sweep: SweepDir
    asked: Asked
    reference: ReferenceSet
    tasks: tuple[Judged, ...]
    average: Average | None
    published_average: Average | None
    notes: tuple[str, ...]
    report: SweepReport


def gather(sweep: SweepDir, asked: Asked) -> Reproduction:
    """Read a reproduction's runs and judge them.

    Raises:
        UsageError: the sweep's files are damaged.
    """
    report = gather_sweep(sweep, None, 0.0)
    reference = references_of(sweep, asked)
    by_task = _by_task(report)
    tasks = tuple(
        judge_task(asked, reference.references[task], by_task.get(task, ())) for task in asked.tasks
    )
    average = _average(tasks)
    return Reproduction(
        sweep=sweep,
        asked=asked,
        reference=reference,
        tasks=tasks,
        average=average,
        published_average=_published_average(tasks, average),
        notes=report.notes,
        report=report,
    )


def judge_early(sweep: SweepDir, asked: Asked, task: str, count: int) -> str | None:
    """Return the verdict of a task's first so many seeds in a word; None while it is undecided.

    Raises:
        UsageError: the sweep's files are damaged.
    """
    reference = references_of(sweep, asked)
    found = _by_task(gather_sweep(sweep, None, 0.0)).get(task, ())
    outcome = judge_task(asked, reference.references[task], found, count).combined.outcome
    return None if outcome == "undecided" else outcome


def decided_tasks(sweep: SweepDir, asked: Asked) -> dict[str, int]:
    """Return the tasks that all seeds of were run and have decided, with their number of seeds.

    Raises:
        UsageError: the sweep's files are damaged.
    """
    return {
        judged.reference.task: len(judged.trials)
        for judged in gather(sweep, asked).tasks
        if judged.stopped is None
        and not judged.open
        and len(judged.trials) >= asked.seeds
        and judged.combined.outcome != "undecided"
    }


def references_of(sweep: SweepDir, asked: Asked) -> ReferenceSet:
    """Return the references of a reproduction, also when its own task files have moved since.

    Raises:
        UsageError: what was written down of them is damaged.
    """
    where = f"{sweep.path}: reproduction.json"
    return set_of(asked.reference, where, asked.set_name, copies=own_tasks(sweep.path))


def _by_task(report: SweepReport) -> dict[str, list[tuple[Trial, float | None]]]:
    """Return the trials by task, each with the score of one constant answer."""
    found: dict[str, list[tuple[Trial, float | None]]] = {}
    for part in report.parts:
        for trial in part.trials:
            found.setdefault(str(trial.axes.get("task")), []).append((trial, part.baseline))
    return found


def judge_task(
    asked: Asked,
    reference: Reference,
    found: Sequence[tuple[Trial, float | None]],
    count: int | None = None,
) -> Judged:
    """Return the verdict of one task.

    Args:
        asked: how it is judged.
        reference: what was published.
        found: its trials, each with the score of one constant answer.
        count: only so many seeds, at a look before the last; None: all that were wanted.
    """
    ordered = sorted(found, key=lambda pair: whole(pair[0].axes.get("seed")) or 0)
    stop = asked.stopped.get(reference.task)
    plan = stop or Stop(len(ordered), asked.looks, asked.level)
    wanted = count or plan.after
    counted, spare = ordered[:wanted], ordered[wanted:]
    told = counted[: _decidable([t.record.state for t, _ in counted], plan.looks)]
    fallen = [
        t
        for t, floor in told
        if _ended(t.record) and collapsed(t.record, _floor(reference, t.record, floor))
    ]
    well = [t for t, _ in told if t.record.state == "finished" and t not in fallen]
    lines = tuple(_line(asked, plan, reference, s, well, len(fallen)) for s in reference.judged)
    combined = _with_waiting(combine({n.name: n.verdict for n in lines}), len(told), len(counted))
    unlike = mixed(manifests_of([t for t, _ in told]))
    if unlike:
        lines, combined = _undecidable(lines, combined, unlike)
    return Judged(
        reference=reference,
        trials=tuple(t for t, _ in counted),
        spare=tuple(t for t, _ in spare if t.record.state != "missing"),
        lines=lines,
        combined=combined,
        collapsed=tuple(fallen),
        missing=tuple(t for t, _ in counted if not _ended(t.record)),
        open=len(told) < len(counted),
        changed=tuple(asked.changed.get(reference.task, ())),
        stopped=stop.after if stop else None,
        mixed=tuple(unlike),
    )


def manifests_of(trials: Iterable[Trial]) -> dict[int, dict[str, Any]]:
    """Return the manifests of trials by seed; of one that nobody began there is none."""
    found = {}
    for trial in trials:
        if (manifest := manifest_of(trial.record.path)) and (seed := trial.axes.get("seed")):
            found[int(seed)] = manifest
    return found


def _undecidable(
    lines: Iterable[Line], combined: Combined, unlike: Sequence[str]
) -> tuple[tuple[Line, ...], Combined]:
    """Return verdicts of runs whose inputs differ: these are no seeds of one recipe."""
    why = f"{'; '.join(unlike)}: remove the runs of one of them and type the same line again"
    return (
        tuple(
            replace(n, verdict=replace(n.verdict, outcome="undecided", why=why, needed=None))
            for n in lines
        ),
        replace(combined, outcome="undecided", why=why, needed=None),
    )


def _with_waiting(combined: Combined, told: int, wanted: int) -> Combined:
    if told == wanted:
        return combined
    why = f"{combined.why} (of the first {told} of {wanted} seeds: a later one has not ended)"
    return replace(combined, why=why)


def ended_in_a_row(states: Sequence[str]) -> int:
    """Return how many of a task's seeds have ended, counted from the first without a gap.

    A seed that happens to be quicker than one before it must not decide alone: scores may go with
    speed (a run that collapsed stops no earlier, one that was preempted ends later).
    """
    return next((n for n, state in enumerate(states) if state not in ENDED), len(states))


def _decidable(states: Sequence[str], looks: Sequence[int]) -> int:
    """Return how many of a task's first seeds a verdict may be of now.

    All, once all have ended; before that those of the last planned look that is due, counted
    without a gap.
    """
    ended = ended_in_a_row(states)
    if ended == len(states):
        return ended
    return max((n for n in looks if n <= ended), default=ended)


def _floor(reference: Reference, record: Record, floor: float | None) -> float | None:
    """Return the score at which a run collapsed, by the terms of what was published; None: none.

    Where the published score is itself that of one constant answer, a run that gets it reproduces
    it; where the published mean has collapsed runs in it, ours has them too.
    """
    if floor is None or reference.collapsed == "included":
        return None
    above = [
        s.value - floor if higher_is_better(s.metric) else floor - s.value
        for s in reference.judged
        if s.metric == record.metric
    ]
    return None if any(points <= ROUNDED for points in above) else floor


def _ended(record: Record) -> bool:
    return record.state == "finished" or record.diverged


def _line(
    asked: Asked,
    plan: Stop,
    reference: Reference,
    score: Score,
    runs: Sequence[Trial],
    fallen: int,
) -> Line:
    values = tuple(value for t in runs if (value := score_of(t.record.results, score)) is not None)
    rows = next((n for t in runs if (n := rows_of(t.record, score.split))), None)
    if asked.margin is None:
        margin, words = _margin(score, rows, runs)
    elif score.metric in UNBOUNDED:
        margin, words = 100 * asked.margin, f"as asked, in units of {score.metric}"
    else:
        margin, words = asked.margin, "as asked"
    terms = Terms(
        margin=margin,
        level=plan.level,
        looks=plan.looks,
        resolution=1 / rows if rows and score.metric == "accuracy" else None,
        together=len(reference.judged),
    )
    verdict = judge(values, Published(score.value, score.sd, score.runs), terms, fallen)
    return Line(score, values, margin, words, verdict, _name(score, reference.judged))


def _margin(score: Score, rows: int | None, runs: Sequence[Trial]) -> tuple[float, str]:
    if rows is None:
        return POINT, "1 point"  # nobody has a score, so nothing is judged by it
    if score.metric != "f1":
        return default_margin(score.metric, score.value, rows)
    labels, positive = read_labels(RunDir(runs[0].record.path), score.split)
    share = labels.count(positive) / len(labels) if labels and positive is not None else 0.5
    return default_margin(score.metric, score.value, rows, share or 0.5)


def _name(score: Score, beside: Sequence[Score]) -> str:
    if len({s.split for s in beside}) == 1:
        return score.metric
    return f"{score.metric} ({score.split.removeprefix('validation_')})"


def score_of(results: Mapping[str, Any], score: Score) -> float | None:
    """Return a run's score of this split and metric, a fraction; None where it has none."""
    return number(mapping(mapping(results.get("metrics")).get(score.split)).get(score.metric))


def rows_of(record: Record, split: str) -> int | None:
    """Return how many rows a split has: as the plan says, else as the predictions have them.

    A plan that was made before the rows were fetched does not say.
    """
    told = whole(mapping(record.plan.get("rows")).get(split))
    if told is not None:
        return told
    try:
        return len(read_predictions(RunDir(record.path), split))
    except (FileNotFoundError, UsageError):
        return None


def _average(tasks: Sequence[Judged]) -> Average | None:
    """Return our average over GLUE's tasks; None of fewer than two of them."""
    runs = {
        judged.task: [
            mapping(t.record.results.get("metrics"))
            for t in judged.trials
            if t.record.state == "finished" and t not in judged.collapsed
        ]
        for judged in tasks
    }
    found = glue_average(runs)
    return found if found and len(found.tasks) > 1 else None


def _published_average(tasks: Sequence[Judged], ours: Average | None) -> Average | None:
    """Return the published average over the tasks that ours is of; None where it is not known."""
    if ours is None:
        return None
    published: dict[str, list[dict[str, dict[str, float | None]]]] = {}
    for judged in tasks:
        if judged.task in ours.tasks:
            scores: dict[str, dict[str, float | None]] = {}
            for score in judged.reference.scores:
                scores.setdefault(score.split, {})[score.metric] = score.value
            published[judged.task] = [scores]
    found = glue_average(published)
    return found if found and found.tasks.keys() == ours.tasks.keys() else None
