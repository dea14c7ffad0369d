"""What a run's files tell a report: one record a run. A file that is damaged counts as absent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.rundir import RunDir, Snapshot, json_lines, read_json, read_metrics, snapshot
from training.sweepdir import TrialState


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run: from the first agent's start to the last one's end."""

    number: int
    start: float
    """Epoch seconds."""
    end: float | None
    """None: nothing says when."""
    how: str
    """finished, failed, interrupted, or empty where it left no word."""
    ranks: int | None
    cores: int | None
    """Of the allocation, over all nodes."""
    gpus: float | None = None
    """Alike: held, whether or not each has a rank; a share where runs share a node."""
    lanes: int = 1
    """Runs that shared the node."""
    hosts: tuple[str, ...] = ()
    text: str = ""
    """How it ended and what followed, in one line."""

    @property
    def seconds(self) -> float:
        """Seconds from start to end; 0 where the end is not known."""
        return max(0.0, self.end - self.start) if self.end is not None else 0.0


@dataclass(frozen=True)
class Evaluation:
    """The first validation split, scored during training."""

    step: int
    examples: float | None
    """Training examples seen by then."""
    seconds: float | None
    """Of all attempts until then, without waiting in a queue."""
    hours: float | None
    """GPU-hours, or core-hours on CPUs, until then."""
    value: float | None


@dataclass(frozen=True)
class Record:
    """A run as a report sees it."""

    run_id: str
    path: Path
    state: TrialState
    task: str = ""
    model: str = ""
    global_batch: int | None = None
    seed: int | None = None
    ranks: int | None = None
    metric: str = ""
    split: str = ""
    score: float | None = None
    """Primary metric of the exported model, on the split that selects it."""
    steps: int | None = None
    total_steps: int | None = None
    examples: int | None = None
    seconds: float | None = None
    """Of all attempts."""
    hours: float | None = None
    """GPU-hours, or core-hours on CPUs, of all attempts."""
    unit: str = "core-hours"
    diverged: bool = False
    """The loss was not finite."""
    cause: str = ""
    log: str = ""
    job: str = ""
    worker: bool = False
    """Its job was a sweep's worker, which serves several trials."""
    attempts: tuple[Attempt, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    throughput: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)
    """Gradient noise, as results.json holds it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration by dotted key; empty where it cannot be read."""
    results: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)


def number(value: Any) -> float | None:
    """Return a finite number, or None of anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def whole(value: Any) -> int | None:
    """Return a whole number, or None of anything else."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def mapping(value: Any) -> dict[str, Any]:
    """Return a dictionary, an empty one of anything else."""
    return value if isinstance(value, dict) else {}


def higher_is_better(metric: str) -> bool:
    """Return whether more of a metric is better."""
    return metric != "mse"


def read_record(
    run: RunDir,
    state: TrialState,
    config: Mapping[str, Any],
    files: Snapshot | None = None,
    told: Mapping[str, str] | None = None,
) -> Record:
    """Return what a run's files tell.

    Args:
        run: the run.
        state: as its files and the scheduler say.
        config: its configuration by dotted key.
        files: its files, if they were read already with their nodes.
        told: `cause`, `log`, `job` and `worker` in words.
    """
    files = files or snapshot(run)
    results, plan = mapping(read_json(run.results)), mapping(read_json(run.plan))
    metric = str(results.get("primary_metric") or files.progress.get("primary_metric") or "")
    world = whole(results.get("world_size")) or whole(plan.get("world_size")) or _ranks(config)
    attempts = read_attempts(run, files, state, world)
    cuda = (plan.get("device") or config.get("engine.device")) == "cuda"
    rates = {a.number: _devices(a, cuda, plan, world) for a in attempts}
    seconds = math.fsum(a.seconds for a in attempts) or number(results.get("wall_seconds"))
    hours = math.fsum(a.seconds * (rates[a.number] or 0) for a in attempts) / 3600
    if not hours and seconds and (each := _devices(None, cuda, plan, world)):
        hours = seconds * each / 3600
    words = told or {}
    return Record(
        run_id=run.run_id,
        path=run.path,
        state=state,
        task=str(results.get("task") or config.get("task.name") or ""),
        model=str(results.get("model") or config.get("model.name") or ""),
        global_batch=whole(results.get("global_batch")) or whole(config.get("batch.global_batch")),
        seed=whole(results.get("seed", config.get("train.seed"))),
        ranks=world,
        metric=metric,
        split=str(results.get("primary_split") or ""),
        score=number(results.get("primary_value")),
        steps=whole(results.get("steps", files.progress.get("step"))),
        total_steps=whole(files.progress.get("total_steps")) or whole(plan.get("steps")),
        examples=whole(results.get("examples_seen")),
        seconds=seconds,
        hours=hours or None,
        unit="GPU-hours" if cuda else "core-hours",
        diverged=state != "finished" and _not_finite(files),
        cause=words.get("cause", ""),
        log=words.get("log", ""),
        job=words.get("job", ""),
        worker=bool(words.get("worker")),
        attempts=tuple(attempts),
        evaluations=tuple(read_evaluations(run, config, results, plan, metric, attempts, rates)),
        throughput=mapping(results.get("throughput")),
        noise=mapping(results.get("noise")),
        config=config,
        results=results,
        plan=plan,
    )


def _ranks(config: Mapping[str, Any]) -> int | None:
    nodes, procs = whole(config.get("cluster.nodes")), whole(config.get("cluster.procs_per_node"))
    return nodes * procs if nodes and procs else None


def _devices(
    attempt: Attempt | None, cuda: bool, plan: Mapping[str, Any], world: int | None
) -> float | None:
    """Return the GPUs that an attempt held, one a rank where that is not known.

    Without GPUs the cores of its allocation.
    """
    ranks = (attempt.ranks if attempt else None) or world
    if cuda:
        return (attempt.gpus if attempt else None) or ranks
    if ranks is None:
        return None
    cores = attempt.cores if attempt else None
    return cores or ranks * (whole(plan.get("cores_per_rank")) or 1)


def _not_finite(files: Snapshot) -> bool:
    """Return whether the last attempt ended because the loss was not finite."""
    if not files.nodes:
        return False
    causes = [mapping(node.get("cause")) for node in files.nodes[max(files.nodes)]]
    return any(cause.get("kind") == "FloatingPointError" for cause in causes)


def read_attempts(
    run: RunDir, files: Snapshot, state: TrialState, world: int | None
) -> list[Attempt]:
    """Return a run's attempts in order; of one without a start nothing is known."""
    starts, last = {}, {}
    for line in json_lines(run.metrics):
        at, when = whole(line.get("attempt")), number(line.get("time"))
        if at is None or when is None:
            continue
        last[at] = max(when, last.get(at, when))
        if line.get("event") == "start":
            starts[at] = whole(line.get("world_size"))
    if (at := whole(files.progress.get("attempt"))) is not None:
        when = number(files.progress.get("time"))
        if when is not None:
            last[at] = max(when, last.get(at, when))
    found = []
    for n, nodes in sorted(files.nodes.items()):
        begun = [s for node in nodes if (s := number(node.get("start"))) is not None]
        if not begun:
            continue
        ended = [e for node in nodes if (e := number(node.get("ended"))) is not None]
        ends = {str(node.get("end") or "") for node in nodes}
        how = next((e for e in ("failed", "interrupted", "finished") if e in ends), "")
        going = state == "running" and n == max(files.nodes)
        cores = [c for node in nodes if (c := whole(node.get("cores")))]
        gpus = [g for node in nodes if (g := number(node.get("gpus")))]
        found.append(
            Attempt(
                number=n,
                start=min(begun),
                end=max(ended) if ended and not going else last.get(n),
                how="running" if going else how,
                ranks=starts.get(n) or world,
                cores=sum(cores) if len(cores) == len(nodes) else None,
                gpus=math.fsum(gpus) if len(gpus) == len(nodes) else None,
                lanes=max(whole(node.get("lanes")) or 1 for node in nodes),
                hosts=tuple(sorted({str(node.get("host")) for node in nodes})),
            )
        )
    return found


def read_evaluations(
    run: RunDir,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    plan: Mapping[str, Any],
    metric: str,
    attempts: Iterable[Attempt],
    rates: Mapping[int, float | None],
) -> list[Evaluation]:
    """Return the evaluations of the split that selects the model, in order of step."""
    lines = [line for line in read_metrics(run.metrics) if line.get("kind") == "eval"]
    split = results.get("primary_split") or (lines[0].get("split") if lines else None)
    rows = whole(mapping(plan.get("rows")).get("train"))
    seen, epochs = number(results.get("examples_seen")), number(results.get("epochs"))
    if rows is None and seen and epochs:
        rows = round(seen / epochs)
    batch = whole(results.get("global_batch")) or whole(config.get("batch.global_batch"))
    begun = list(attempts)
    found = []
    for line in lines:
        step = whole(line.get("step"))
        if line.get("split") != split or step is None:
            continue
        examples = _examples(step, rows, batch)
        seconds, used = _spent(line, begun, rates)
        found.append(Evaluation(step, examples, seconds, used, number(line.get(metric))))
    return found


def _examples(step: int, rows: int | None, batch: int | None) -> float | None:
    """Return the rows that so many steps trained on; the last step of an epoch takes what is left.

    `epoch` of a line is in steps: by it the last step would weigh as much as the others.
    """
    if not batch or not rows:
        return step * batch if batch else None
    whole_epochs, more = divmod(step, -(-rows // batch))
    return whole_epochs * rows + min(more * batch, rows)


def _spent(
    line: Mapping[str, Any], attempts: list[Attempt], rates: Mapping[int, float | None]
) -> tuple[float | None, float | None]:
    """Return seconds and device hours of all attempts until a line was written."""
    when, at = number(line.get("time")), whole(line.get("attempt"))
    own = next((a for a in attempts if a.number == at), None)
    if when is None or own is None or when < own.start:
        return None, None
    spans = [(a.number, a.seconds) for a in attempts if a.number < own.number]
    spans.append((own.number, when - own.start))
    hours = None
    if all(rates.get(n) for n, _ in spans):
        hours = math.fsum(s * (rates[n] or 0) for n, s in spans) / 3600
    return math.fsum(s for _, s in spans), hours
