"""A rank of the tests of the exact global batch: one step a case, and the weights around each.

Started by torchrun: `-m tests.training.exact_worker OUT_DIR ENGINE PRECISION LABELS K [K …]`.

Every K takes one epoch: a full step and the short one that is left. SGD without momentum, weight
decay and clipping makes the difference of the weights before and after a step the gradient that
the engine stepped with. Rank 0 writes the weights around every step, so that they are compared in
a process that no engine has touched.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from training.batching import Cut, cut_step, epoch_order, step_ids
from training.config import EngineConfig, OptimConfig, RunConfig
from training.engine import build_engine
from training.optim import build_optimizer

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


def main() -> None:
    """Take all steps; rank 0 writes OUT_DIR/report.json and OUT_DIR/weights.pt."""
    out, name = Path(sys.argv[1]), sys.argv[2]
    precision: Any = sys.argv[3]
    labels, depths = int(sys.argv[4]), [int(k) for k in sys.argv[5:]]
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    zero: Any = None if name == "ddp" else int(name)
    config = RunConfig(
        optim=OptimConfig(name="sgd", momentum=0.0, weight_decay=0.0, clip=0.0),
        engine=EngineConfig(zero=zero, precision=precision, device="cpu"),
    )
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
    if rank == 0:
        report = {"engine": engine.name, "stage": engine.stage, "world": world}
        report |= {"losses": losses, "norms": norms}
        (out / "report.json").write_text(json.dumps(report))
        torch.save(weights, out / "weights.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    # Engines hold process groups to the end, whose threads let go of their last tensors while
    # the interpreter ends: now and then that aborts a rank that has done its work.
    os._exit(0)
