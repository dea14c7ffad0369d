"""Memory and time of a plan, with their errors, and what to change where it does not fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.batching import CutSummary
from training.config import RunConfig, UsageError

from . import duration as timing
from .capacity import Capacity, Limit
from .memory import ERROR, GPU_ERROR, Memory, Shape, gib, highest, memory

UNUSUAL_ERROR = 0.3
"""Where only the sizes of a model are known that is not built like BERT."""


@dataclass(frozen=True)
class Forecast:
    """What the plan says of memory and time."""

    memory: dict[str, Any] | None = None
    time: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    why_unknown: str = ""
    """Why there is no estimate of memory."""


def forecast(
    config: RunConfig,
    known: Capacity,
    ledger: Iterable[Mapping[str, Any]],
    cut: CutSummary | None,
    lengths: tuple[float, int] | None,
    rows: Mapping[str, int] | None,
    steps: int | None,
) -> Forecast:
    """Return memory and time of a run, as far as they can be told.

    Args:
        config: without `auto` values.
        known: the model and the nodes.
        ledger: past runs.
        cut: how steps are cut, None where the data is not known.
        lengths: mean and longest of the sampled inputs in tokens, None where they are not known.
        rows: rows by split.
        steps: optimizer steps.

    Raises:
        UsageError: it is sure not to fit, whatever the budget of a micro-batch; what does fit is
            said.
    """
    notes: list[str] = []
    found = None
    if known.anatomy is not None:
        found, notes = plan_memory(config, known, cut, lengths)
    time = None
    if cut is not None and lengths is not None and rows is not None and steps is not None:
        time, said = plan_time(config, known, ledger, cut, lengths[0], rows, steps)
        notes += said
    unknown = "" if known.anatomy else "unknown: the model's sizes are not here yet"
    return Forecast(found, time, tuple(notes), unknown)


def memory_of(
    config: RunConfig, known: Capacity, tokens: int, square: int, **changed: Any
) -> Memory:
    """Return the memory of a rank of a run, with some values of its `Shape` changed."""
    assert known.anatomy is not None
    engine = config.engine
    shape = Shape(
        engine.device,
        engine.precision,
        config.world_size,
        engine.zero,
        engine.offload,
        config.optim.name,
    )
    return memory(known.anatomy, replace(shape, **changed), tokens, square)


def limit_of(config: RunConfig, known: Capacity) -> Limit | None:
    """Return what one rank may take of a GPU, or its share of a CPU node."""
    if config.engine.device == "cuda":
        return known.gpu
    procs = config.cluster.procs_per_node or 1
    return Limit(known.node.bytes / procs, known.node.where) if known.node else None


def error_of(config: RunConfig, known: Capacity) -> float:
    """Return the relative error of the estimate of memory."""
    if not known.usual:
        return UNUSUAL_ERROR
    return ERROR if config.engine.device == "cpu" else GPU_ERROR


def highest_budget(
    config: RunConfig, known: Capacity, longest: int, most: int, sure: bool = True
) -> int | None:
    """Return the highest budget of tokens up to `most` that fits, with its error added if `sure`.

    None where not even one input does, or where memory is not known.
    """
    limit = limit_of(config, known)
    if limit is None or known.anatomy is None:
        return None
    margin = 1.0 + (error_of(config, known) if sure else 0.0)

    def fits(tokens: int) -> bool:
        return memory_of(config, known, tokens, tokens * longest).total * margin <= limit.bytes

    return highest(fits, longest, max(most, longest))


def plan_memory(
    config: RunConfig, known: Capacity, cut: CutSummary | None, lengths: tuple[float, int] | None
) -> tuple[dict[str, Any], list[str]]:
    """Return memory as `plan.json` holds it, and notes.

    Raises:
        UsageError: it is sure not to fit.
    """
    budget = config.batch.micro_tokens
    assert isinstance(budget, int)
    longest = lengths[1] if lengths is not None else config.task.max_length
    tokens, square = budget, budget * longest
    if cut is not None:
        tokens, square = cut.most_tokens, cut.most_square
    found = memory_of(config, known, tokens, square)
    limit, error = limit_of(config, known), error_of(config, known)
    notes = []
    best = highest_budget(config, known, longest, 16 * budget)
    if limit is not None:
        smallest = memory_of(config, known, longest, longest * longest)
        if smallest.total * (1 - error) > limit.bytes:
            raise UsageError(_does_not_fit(config, known, limit, smallest, longest))
        if found.total > limit.bytes:
            lower = best or highest_budget(config, known, longest, budget, sure=False)
            advice = f"--micro-tokens {lower} {'fits' if best else 'may fit'}"
            notes.append(
                f"memory: about {gib(found.total)} a rank, {gib(limit.bytes)} there "
                f"({limit.where}): {advice if lower else 'it is not likely to fit'}"
            )
        elif found.total * (1 + error) > limit.bytes:
            notes.append(
                f"memory is tight: about {gib(found.total)} ±{error:.0%} a rank, "
                f"{gib(limit.bytes)} there ({limit.where})"
            )
    procs = config.cluster.procs_per_node or 1
    if config.engine.device == "cuda" and known.node and found.host * procs > known.node.bytes:
        notes.append(
            f"the node's memory: {procs} ranks hold about {gib(found.host * procs)} in it, "
            f"{known.node.where} has {gib(known.node.bytes)}"
        )
    assert known.anatomy is not None
    return {
        "rank_bytes": found.total,
        "increment_bytes": found.increment,
        "baseline_bytes": found.baseline,
        "parts": found.parts,
        "host_bytes": found.host,
        "error": error,
        "limit_bytes": round(limit.bytes) if limit else None,
        "limit_of": limit.where if limit else None,
        "share": found.total / limit.bytes if limit else None,
        "largest_micro_batch": tokens,
        "highest_micro_tokens": best,
        "source": known.anatomy.source,
    }, notes


def _does_not_fit(
    config: RunConfig, known: Capacity, limit: Limit, least: Memory, longest: int
) -> str:
    """Return one line: what does not fit, and the first change that does."""
    what = "a GPU" if config.engine.device == "cuda" else "a rank's share of the node"
    text = (
        f"model {config.model.name} does not fit: a rank needs at least {gib(least.total)} with "
        f"one input of {longest} tokens, {what} has {gib(limit.bytes)} ({limit.where})"
    )
    stages = [s for s in (1, 2, 3) if s > (config.engine.zero or 0) and config.world_size > 1]
    tried: list[tuple[str, dict[str, Any]]] = [
        (f"ZeRO {s} fits with {{}} (--zero {s})", {"zero": s}) for s in stages
    ]
    if config.engine.device == "cuda":
        stage = max(config.engine.zero or 0, 2)
        tried += [
            (
                f"ZeRO {stage} with its optimizer in the node's memory fits with {{}} "
                f"(--zero {stage} --offload optimizer)",
                {"zero": stage, "offload": "optimizer"},
            ),
            (
                "ZeRO 3 with all of it in the node's memory fits with {} (--zero 3 --offload all)",
                {"zero": 3, "offload": "all"},
            ),
        ]
    for words, changed in tried:
        total = memory_of(config, known, longest, longest * longest, **changed).total
        if total <= limit.bytes:
            return f"{text}: {words.format(f'{gib(total)} of {gib(limit.bytes)}')}"
    if config.engine.device == "cpu" and known.node is not None:
        for procs in range((config.cluster.procs_per_node or 1) - 1, 0, -1):
            world = config.cluster.nodes * procs
            total = memory_of(config, known, longest, longest * longest, world=world).total
            if total * procs <= known.node.bytes:
                return f"{text}: --procs-per-node {procs} fits with {gib(total)} a rank"
    return f"{text}: use a smaller --max-length or model, or nodes with more memory"


def work_of(
    config: RunConfig,
    known: Capacity,
    cut: CutSummary,
    mean_length: float,
    rows: Mapping[str, int],
    steps: int,
) -> timing.Work:
    """Return what a run computes."""
    cluster, task, every = config.cluster, config.task, config.train.eval_every
    per_epoch = cut.steps_per_epoch
    interval = per_epoch if every == "epoch" else int(every)
    evaluations = steps // interval + (1 if steps % interval else 0)
    validated = sum(rows.get(name, 0) for name in task.validation_splits)
    tested = sum(rows.get(name, 0) for name in task.test)
    procs, cores = cluster.procs_per_node or 1, cluster.cpus_per_node
    sizes = known.sizes
    flops = None
    if sizes is not None:
        # As `training.models.model_flops_per_token` and `attention_flops`.
        h = sizes.hidden
        flops = 6.0 * sizes.layers * (4 * h * h + 2 * h * sizes.inner + 2 * h * mean_length)
        flops /= 3 if config.model.freeze_encoder else 1
    return timing.Work(
        task=task.name,
        model=model_key(config, known),
        device=config.engine.device,
        device_kind=known.device_kind,
        cores_per_rank=max(1, cores // procs) if cores else None,
        world=config.world_size,
        zero=config.engine.zero,
        precision=config.engine.precision,
        steps=steps,
        tokens_per_step=cut.padded_tokens,
        imbalance=cut.rank_imbalance,
        evaluated=validated * evaluations * mean_length,
        scored=(validated + tested) * mean_length,
        flops_per_token=flops,
    )


def model_key(config: RunConfig, known: Capacity) -> str:
    """Return what tells a model's speed: its name and sizes."""
    sizes = known.sizes
    shape = f" {sizes.layers}×{sizes.hidden}×{sizes.inner}" if sizes else ""
    frozen = " frozen" if config.model.freeze_encoder else ""
    return f"{config.model.name}{shape}{frozen}"


def plan_time(
    config: RunConfig,
    known: Capacity,
    ledger: Iterable[Mapping[str, Any]],
    cut: CutSummary,
    mean_length: float,
    rows: Mapping[str, int],
    steps: int,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return time as `plan.json` holds it, and notes."""
    work = work_of(config, known, cut, mean_length, rows, steps)
    found = timing.duration(work, ledger, known.cpu_rate)
    if found is None:
        return None, []
    cluster = config.cluster
    gpus = (cluster.gpus_per_node or 0) * cluster.nodes
    units = gpus or (cluster.cpus_per_node or cluster.procs_per_node or 1) * cluster.nodes
    note = None
    if cluster.executor == "slurm":
        note = timing.enough(found, cluster.time_minutes, cluster.time)
    return {
        **found.to_json(),
        "words": timing.in_words(found),
        "unit": "GPU-hours" if gpus else "core-hours",
        "hours": units * found.seconds / 3600,
    }, [note] if note else []
