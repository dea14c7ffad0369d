"""The gradients of one step, added up over its micro-batches."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from .config import RunConfig
from .distributed import World
from .engine import Engine
from .faults import Rehearsal
from .feed import Feed, MicroBatch, StepPlan
from .kernels import seed_masks
from .memory import MemoryGuard
from .sketch import GradientSketch
from .watchdog import Watchdog


def seed_micro_batch(seed: int, step: int, rank: int, slot: int) -> None:
    """Seed dropout by its place, so that masks repeat on the same shape."""
    place = [seed, step, rank, slot]
    state = np.random.SeedSequence(place).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    seed_masks(place)


def summed_loss(logits: torch.Tensor, labels: torch.Tensor, regression: bool) -> torch.Tensor:
    """Return the sum of the losses of a micro-batch, in fp32: a scalar.

    Args:
        logits: [b, classes], or [b, 1] of a regression.
        labels: [b].
        regression: squared error instead of cross entropy.
    """
    if regression:
        return functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
    return functional.cross_entropy(logits, labels, reduction="sum")


class Accumulator:
    """Runs forward and backward of a step's micro-batches."""

    def __init__(
        self,
        config: RunConfig,
        world: World,
        engine: Engine,
        feed: Feed,
        *,
        rehearsal: Rehearsal,
        watchdog: Watchdog,
    ) -> None:
        self._seed = config.train.seed
        self._regression = config.task.problem == "regression"
        self._world, self._engine, self._feed = world, engine, feed
        self._rehearsal, self._watchdog = rehearsal, watchdog
        self.sketch = GradientSketch(engine, world, config.train.seed)

    def add_up(self, plan: StepPlan, guard: MemoryGuard) -> torch.Tensor:
        """Add up the gradients of a step; return this rank's share of its loss, a scalar.

        Raises:
            StepAbandoned: memory ran out on some rank; all ranks raise it.
        """
        world, engine = self._world, self._engine
        total = torch.zeros((), dtype=torch.float32, device=engine.device)
        micro_batches = self._feed.micro_batches(plan)
        with engine.accumulation(), self.sketch.step(plan):
            for slot in range(plan.cut.slots):
                last = slot == plan.cut.slots - 1
                self._watchdog.beat(f"micro-batch {slot} of step {plan.step}")
                forward = guard.together if engine.meets_in_forward else guard.alone
                meets = last or engine.meets_in_every_backward
                backward = guard.together if meets else guard.alone
                micro = guard.alone(lambda: next(micro_batches))
                seed_micro_batch(self._seed, plan.step, world.rank, slot)
                with self.sketch.micro(slot), engine.micro_step(last):
                    if engine.meets_in_forward:
                        guard.alone(lambda last=last: self._pretend_fault(plan, last))
                    loss = forward(lambda micro=micro: self._loss_of(micro, plan))
                    if not engine.meets_in_forward:
                        guard.alone(lambda last=last: self._pretend_fault(plan, last))
                    backward(lambda loss=loss, last=last: self._backward(loss, last))
                if loss is not None:
                    total += loss.detach()
        return total

    def _loss_of(self, micro: MicroBatch | None, plan: StepPlan) -> torch.Tensor:
        assert micro is not None, "a rank without a micro-batch does not get here"
        logits = self._engine.forward(micro.inputs)[: micro.rows]
        loss = summed_loss(logits, micro.labels, self._regression)
        if self._rehearsal.meets(plan.step, "nan"):
            loss = loss * float("nan")
        return loss * (micro.weight / plan.cut.examples)

    def _backward(self, loss: torch.Tensor | None, last: bool) -> None:
        assert loss is not None, "a rank without a loss does not get here"
        # DDP and DeepSpeed average over ranks; the sum is wanted.
        self._engine.backward(loss * self._world.size, last)

    def _pretend_fault(self, plan: StepPlan, last: bool) -> None:
        """Run out of memory where `train.fault` says so: late in a step."""
        if last:
            self._rehearsal.run_out_of_memory(plan.step, plan.budget)
