"""A rank of the engine tests: trains a small model for some steps and prints what it saw.

Its words are OUT_DIR ENGINE PRECISION [key=value …].
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from training.batching import cut_step, epoch_order, measure, step_ids
from training.config import EngineConfig, OptimConfig, RunConfig
from training.engine import DeepSpeedEngineAdapter, build_engine
from training.feed import StepPlan
from training.loop import summed_loss
from training.optim import build_optimizer
from training.schedule import learning_rate

LABELS = 3


def make_model(labels: int):
    """Return a small BERT without dropout, the same on every rank."""
    config = AutoConfig.for_model("bert")
    config.num_hidden_layers, config.hidden_size, config.num_attention_heads = 2, 32, 4
    config.intermediate_size, config.vocab_size, config.num_labels = 64, 200, labels
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def rows(count: int, labels: int):
    """Return inputs [count, 24], lengths and labels from a fixed generator."""
    rng = np.random.default_rng(3)
    ids = rng.integers(5, 200, (count, 24))
    lengths = rng.integers(3, 25, count).astype(np.int32)
    target = rng.integers(0, labels, count) if labels > 1 else rng.normal(size=count)
    return ids, lengths, target


def micro_batch(ids, lengths, target, own):
    """Return tensors of one micro-batch, padded to its longest example."""
    width = int(lengths[own].max())
    mask = np.arange(width) < lengths[own][:, None]
    inputs = {
        "input_ids": torch.from_numpy(np.where(mask, ids[own][:, :width], 0)),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }
    return inputs, torch.from_numpy(target[own])


def accumulate(engine, cut, wanted, data, regression: bool, sketch=None) -> torch.Tensor:
    """Add up the gradients of a step as the training loop does; return the loss of all ranks.

    Args:
        engine: of this rank.
        cut: the step's micro-batches.
        wanted: ids of the whole step; an empty micro-batch runs the shortest with weight zero.
        data: what `rows` returns.
        regression: squared error instead of cross entropy.
        sketch: measures the noise of the step, whose cut is dealt.
    """
    if sketch is not None:
        with sketch.step(StepPlan(0, 0, wanted, cut, measure(cut, data[1]), dealt=True)):
            return _accumulate(engine, cut, wanted, data, regression, sketch.micro)
    return _accumulate(engine, cut, wanted, data, regression, contextlib.nullcontext)


def _accumulate(engine, cut, wanted, data, regression: bool, surround) -> torch.Tensor:
    ids, lengths, target = data
    shortest = wanted[np.argmin(lengths[wanted])][None]
    total = torch.zeros((), dtype=torch.float64)
    with engine.accumulation():
        for slot, own in enumerate(cut.micro[dist.get_rank()]):
            inputs, answers = micro_batch(ids, lengths, target, own if len(own) else shortest)
            last = slot == cut.slots - 1
            with surround(slot), engine.micro_step(last):
                loss = summed_loss(engine.forward(inputs), answers, regression)
                loss = loss * (float(len(own) > 0) / cut.examples)
                engine.backward(loss * dist.get_world_size(), last)
            total += loss.detach()
    dist.all_reduce(total)
    return total


def mean_loss(model, data, wanted, regression: bool) -> torch.Tensor:
    """Return the mean loss of a step in one batch."""
    ids, lengths, target = data
    inputs, answers = micro_batch(ids, lengths, target, wanted)
    logits = model(**inputs).logits
    if regression:
        return functional.mse_loss(logits.squeeze(-1), answers.double())
    return functional.cross_entropy(logits, answers)


def main() -> None:
    """Train and write OUT_DIR/rank-R.json, and the weights on rank 0."""
    out, name = Path(sys.argv[1]), sys.argv[2]
    precision: Any = sys.argv[3]
    options: dict[str, Any] = dict(pair.split("=") for pair in sys.argv[4:])
    steps, batch = int(options.get("steps", 10)), int(options.get("batch", 16))
    budget, count = int(options.get("budget", 64)), int(options.get("rows", 150))
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    zero: Any = None if name == "ddp" else int(name)
    config = RunConfig(
        optim=OptimConfig(lr=1e-3, clip=1.0, schedule="linear", warmup_ratio=0.2),
        engine=EngineConfig(
            zero=zero,
            precision=precision,
            device="cpu",
            offload=options.get("offload", "none"),
        ),
    )
    model = make_model(LABELS)
    whole = sum(p.numel() for p in model.parameters())
    engine = build_engine(config, model, build_optimizer(model, config.optim))
    data = rows(count, LABELS)
    losses, norms, slots = [], [], []
    engine.module.train()
    for step in range(steps):
        epoch, place = divmod(step, -(-count // batch))
        wanted = step_ids(epoch_order(count, 1, epoch), place, batch)
        cut = cut_step(wanted, data[1], world, budget)
        slots.append(cut.slots)
        losses.append(float(accumulate(engine, cut, wanted, data, regression=False)))
        norms.append(float(engine.step(learning_rate(config.optim, step, steps))))
    weights = engine.state_dict()
    report = {
        "engine": type(engine.module).__name__,
        "losses": losses,
        "norms": norms,
        "slots": slots,
        "parameters": whole,
        "dtypes": sorted({str(w.dtype) for w in weights.values() if w.is_floating_point()}),
    }
    if isinstance(engine, DeepSpeedEngineAdapter):
        report["stage"] = engine.engine.zero_optimization_stage()
        report |= {"held": engine.partition_sizes()}
    (out / f"rank-{rank}.json").write_text(json.dumps(report))
    if rank == 0:
        torch.save(weights, out / "weights.pt")
    dist.barrier()
    dist.destroy_process_group()


def reference(steps: int, batch: int, count: int):
    """Return losses and weights of the same run in float64 on one process, one batch a step."""
    model = make_model(LABELS).double()
    config = OptimConfig(lr=1e-3, clip=1.0, schedule="linear", warmup_ratio=0.2)
    optimizer = build_optimizer(model, config)
    data = rows(count, LABELS)
    losses = []
    for step in range(steps):
        epoch, place = divmod(step, -(-count // batch))
        wanted = step_ids(epoch_order(count, 1, epoch), place, batch)
        loss = mean_loss(model, data, wanted, regression=False)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, steps)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, model.state_dict()
