"""A rank of the tests of the exact global batch: one step a case, and the weights around each.

Its words are OUT_DIR ENGINE PRECISION LABELS K [K …].

Every K takes one epoch: a full step and the short one that is left. SGD without momentum, weight
decay and clipping makes the difference of the weights before and after a step the gradient that
the engine stepped with. At the end the noise of a full step's gradient is measured, several times
at the same weights. Rank 0 writes the weights around every step, so that they are compared in
a process that no engine has touched.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from training.batching import Cut, cut_step, epoch_order, measure, step_ids
from training.config import EngineConfig, OptimConfig, RunConfig
from training.dealing import deal_step
from training.distributed import World
from training.engine import build_engine
from training.feed import StepPlan
from training.optim import build_optimizer
from training.sketch import COLUMNS, GradientSketch

from .engine_worker import accumulate, make_model, rows

KINDS = ("full", "ragged")
BATCH = 48
LAST = 3
"""Examples of the short step: less than most shapes have micro-batches."""
ROWS = BATCH + LAST
LR = {"full": 1.0, "ragged": 0.25}
"""Large, so that weights in fp32 hold the update well; a few examples have a larger gradient."""


def chosen(epoch: int, kind: str) -> np.ndarray:
    """Return the ids of a step: the first of an epoch, or the short one after it."""
    return step_ids(epoch_order(ROWS, 1, epoch), KINDS.index(kind), BATCH)


def cut_case(epoch: int, kind: str, world: int, slots: int) -> Cut:
    """Return that step in `world × slots` micro-batches."""
    lengths = rows(ROWS, 3)[1]
    return cut_step(chosen(epoch, kind), lengths, world, 0, slots=slots)


def deal_case(world: int) -> Cut:
    """Return a full step in pairs of micro-batches, dealt at random."""
    return deal_step(chosen(0, "full"), rows(ROWS, 3)[1], world, 96, seed=1, step=0)


def noise_of(engine, world: World, data, regression: bool, draws: int, columns: int):
    """Return norm, |G|² and tr Σ of a dealt step, for some draws of the projection."""
    wanted, cut = chosen(0, "full"), deal_case(world.size)
    plan = StepPlan(0, 0, wanted, cut, measure(cut, data[1]), dealt=True)
    found = []
    for seed in range(draws):
        sketch = GradientSketch(engine, world, seed, columns)
        accumulate(engine, cut, wanted, data, regression, sketch)
        scale = engine.scaler_state().get("scale", 1.0)
        norm = float(engine.step(0.0))
        estimate = sketch.result(plan, norm, scale)
        assert estimate is not None
        found.append((norm, estimate.square, estimate.trace))
    return found


def main() -> None:
    """Take all steps; rank 0 writes OUT_DIR/report.json and OUT_DIR/weights.pt."""
    out, name = Path(sys.argv[1]), sys.argv[2]
    precision: Any = sys.argv[3]
    labels, depths = int(sys.argv[4]), [int(k) for k in sys.argv[5:]]
    zero: Any = None if name == "ddp" else int(name)
    config = RunConfig(
        optim=OptimConfig(name="sgd", momentum=0.0, weight_decay=0.0, clip=0.0),
        engine=EngineConfig(zero=zero, precision=precision, device="cpu"),
    )
    ranks = World(config)
    rank, world = ranks.rank, ranks.size
    model = make_model(labels)
    engine = build_engine(config, model, build_optimizer(model, config.optim))
    data = rows(ROWS, labels)
    weights, losses, norms = [engine.state_dict()], [], []
    engine.module.train()
    for epoch, slots in enumerate(depths):
        for kind in KINDS:
            wanted = chosen(epoch, kind)
            cut = cut_case(epoch, kind, world, slots)
            losses.append(float(accumulate(engine, cut, wanted, data, labels == 1)))
            norms.append(float(engine.step(LR[kind])))
            weights.append(engine.state_dict())
    noise = {
        "copied": noise_of(engine, ranks, data, labels == 1, 1, 1000),
        "projected": noise_of(engine, ranks, data, labels == 1, 12, COLUMNS),
    }
    if rank == 0:
        report = {"engine": engine.name, "stage": engine.stage, "world": world}
        report |= {"losses": losses, "norms": norms, "noise": noise}
        (out / "report.json").write_text(json.dumps(report))
        torch.save(weights, out / "weights.pt")
    ranks.barrier()
    dist.destroy_process_group()
