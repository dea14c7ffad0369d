"""The plan: what a configuration means in ranks, micro-batches and steps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slurm.lead import describe_lead
from training.batching import (
    BudgetTooSmall,
    micro_overhead,
    round_up,
    steps_in_epoch,
    summarise,
    total_steps,
)
from training.config import RunConfig, UsageError
from training.scaling import scaled_for
from training.schedule import warmup_steps

from .capacity import Capacity
from .forecast import Forecast, forecast, model_key

UNKNOWN = "unknown: the data is not here yet"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of a run before it starts; None is unknown."""

    world_size: int
    """Ranks in all."""
    nodes: int
    procs_per_node: int
    gpus_per_node: int
    cores_per_rank: int | None
    """Cores, and threads, of one rank."""
    device: str
    engine: str
    """`DDP` or `DeepSpeed ZeRO-n`."""
    zero_stage: int | None
    offload: str
    precision: str

    global_batch: int
    micro_tokens: int
    """Budget of padded tokens of one micro-batch."""
    micro_batches: float | None
    """Mean micro-batches a rank and step: the accumulation."""
    micro_batches_max: int | None
    padding_efficiency: float | None
    """Real over padded tokens."""
    rank_imbalance: float | None
    """Cost of the slowest rank of a step over the mean."""
    empty_share: float | None
    """Share of micro-batches without an example."""

    rows: dict[str, int] | None
    """Rows by split; those held out of the training rows are `validation`."""
    steps_per_epoch: int | None
    steps: int | None
    """Optimizer steps in all."""
    warmup_steps: int | None
    lr: float
    """Peak learning rate, after the rule by which it follows the global batch."""
    longest: int | None
    """Longest sampled input in tokens."""
    mean_length: float | None
    lengths_from: str
    """Where the histogram of lengths came from."""
    lead: str = ""
    """How long before the time limit the ranks are told to save and stop, in words."""
    disk: str = ""
    """What the run keeps and needs of the runs folder's file system, in words."""
    model: str = ""
    """The model and its sizes: what runs are compared by."""
    device_kind: str = ""
    """CPU, GPU or partition: what runs are compared by."""
    memory: dict[str, Any] | None = None
    """Bytes of a rank by parts, and what there is: see `docs/plan.md`."""
    time: dict[str, Any] | None = None
    """Seconds of the run by parts, what they are taken from, and what they cost."""
    unknown: str = ""
    """Why there is no estimate of memory."""
    notes: tuple[str, ...] = ()

    @property
    def steps_text(self) -> str:
        """How many steps there are, for people."""
        return "steps unknown" if self.steps is None else f"{self.steps} steps"

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `plan.json` holds it."""
        return {**asdict(self), "notes": list(self.notes)}


def make_plan(
    config: RunConfig,
    rows: Mapping[str, int] | None,
    lengths: NDArray[np.int32] | None,
    lengths_from: str | None = None,
    known: Capacity | None = None,
    ledger: Iterable[Mapping[str, Any]] = (),
) -> Plan:
    """Return the plan of a resolved configuration.

    Args:
        config: without `auto` values.
        rows: rows by split as the run sees them, without those held out of the training rows;
            None where the data is not here.
        lengths: tokens of sampled training rows, None where they are not known.
        lengths_from: says how they were counted, or why they are not known, where that is unusual.
        known: the model's sizes and the nodes' memory; none: no estimate of memory and time.
        ledger: past runs.

    Raises:
        UsageError: a sampled input is longer than a micro-batch's budget of tokens, or the run is
            sure not to fit in memory.
    """
    cluster, engine, batch = config.cluster, config.engine, config.batch
    micro_tokens = batch.micro_tokens
    assert micro_tokens != "auto", "the plan is made of resolved values"
    world = config.world_size
    procs = cluster.procs_per_node or 1
    notes = []
    train_rows = rows.get(config.task.train or "") if rows is not None else None
    if lengths is not None:
        lengths = round_up(lengths, batch.pad_multiple, config.task.max_length)
    longest = int(lengths.max()) if lengths is not None and len(lengths) else None
    if longest is not None and longest > micro_tokens:
        raise UsageError(
            f"the longest sampled input has {longest} tokens, --micro-tokens is {micro_tokens}: "
            f"use --micro-tokens {longest} or more, or a smaller --max-length"
        )
    cut = None
    anatomy = known.anatomy if known else None
    ratio = anatomy.trained / anatomy.products if anatomy else 1.0
    if train_rows and longest is not None and lengths is not None:
        try:
            cut = summarise(
                lengths,
                train_rows,
                batch.global_batch,
                world,
                micro_tokens,
                config.train.seed,
                overhead=micro_overhead(engine.device, engine.precision, ratio),
            )
        except BudgetTooSmall as error:
            raise UsageError(str(error)) from None
    source = lengths_from or UNKNOWN
    if lengths is not None:
        source = f"sampled from {len(lengths)} rows" + (f", {lengths_from}" if lengths_from else "")
    total = config.train.max_steps
    if train_rows:
        total = total_steps(
            train_rows, batch.global_batch, config.train.epochs, config.train.max_steps
        )
    if batch.global_batch < world:
        idle = (world - batch.global_batch) / world
        notes.append(
            f"the global batch ({batch.global_batch}) is smaller than the world size ({world}): "
            f"{world - batch.global_batch} ranks have no example in a step, {idle:.0%} idle"
        )
    if train_rows and batch.global_batch > train_rows:
        notes.append(
            f"the global batch ({batch.global_batch}) is larger than the training rows "
            f"({train_rows}): one step an epoch"
        )
    if engine.zero and world == 1:
        notes.append(f"ZeRO-{engine.zero} with one process has nothing to partition")
    optim = scaled_for(config)
    warmup = warmup_steps(optim, total) if total else optim.warmup_steps
    if total and warmup and warmup >= total:
        notes.append(f"the warm-up ({warmup} steps) lasts the whole run ({total} steps)")
    cores = cluster.cpus_per_node
    if cores is not None and cores < procs:
        notes.append(f"{procs} ranks a node share {cores} cores")
    mean_length = float(lengths.mean()) if longest is not None and lengths is not None else None
    told = Forecast()
    if known is not None:
        span = None if mean_length is None or longest is None else (mean_length, longest)
        told = forecast(config, known, ledger, cut, span, rows, total)
        notes += told.notes
    return Plan(
        world_size=world,
        nodes=cluster.nodes,
        procs_per_node=procs,
        gpus_per_node=cluster.gpus_per_node or 0,
        cores_per_rank=max(1, cores // procs) if cores else None,
        device=engine.device,
        engine="DDP" if engine.zero is None else f"DeepSpeed ZeRO-{engine.zero}",
        zero_stage=engine.zero,
        offload=engine.offload,
        precision=engine.precision,
        global_batch=batch.global_batch,
        micro_tokens=micro_tokens,
        micro_batches=cut.micro_batches if cut else None,
        micro_batches_max=cut.micro_batches_max if cut else None,
        padding_efficiency=cut.padding_efficiency if cut else None,
        rank_imbalance=cut.rank_imbalance if cut else None,
        empty_share=cut.empty_share if cut else None,
        rows=dict(rows) if rows is not None else None,
        steps_per_epoch=steps_in_epoch(train_rows, batch.global_batch) if train_rows else None,
        steps=total,
        warmup_steps=warmup,
        lr=optim.lr,
        longest=longest,
        mean_length=mean_length,
        lengths_from=source,
        lead=describe_lead(60 * cluster.time_minutes),
        model=model_key(config, known) if known else "",
        device_kind=known.device_kind if known else "",
        memory=told.memory,
        time=told.time,
        unknown=told.why_unknown,
        notes=tuple(notes),
    )
