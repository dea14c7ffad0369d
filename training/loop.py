"""The training loop: steps of exact global batches, logging, evaluation, the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .batching import BudgetTooSmall, micro_overhead, steps_in_epoch, total_steps
from .config import RunConfig, UsageError
from .distributed import Agreement, World
from .engine import Engine
from .evaluate import predict_split
from .export import save_best
from .feed import Feed, FeedSettings, MicroBatch, Shapes, StepPlan
from .kernels import seed_masks
from .memory import MemoryGuard, Proven, StepAbandoned
from .meters import Costs, Meters, memory_bytes
from .metrics import better, compute_metrics
from .rundir import RunDir, read_json, write_json
from .schedule import learning_rate
from .tokens import TokenData, TokenSplit
from .tracking import RunLog

PROGRESS_SECONDS = 2.0
"""How often progress.json is written, at most."""


@dataclass
class Progress:
    """Where the run is, and what it found so far; the same on every rank."""

    step: int = 0
    total: int = 0
    epoch: float = 0.0
    examples: int = 0
    best_value: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Evaluations since the best one."""
    interrupted: bool = False
    stopped_early: bool = False
    slots: list[int] = field(default_factory=list)
    """Micro-batches a rank of every step."""


def seed_micro_batch(seed: int, step: int, rank: int, slot: int) -> None:
    """Seed dropout by its place, so that masks repeat on the same shape."""
    place = [seed, step, rank, slot]
    state = np.random.SeedSequence(place).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    seed_masks(place)


def fault_step(fault: str) -> tuple[int, int | None]:
    """Return the step of `oom@STEP` and the budget of `oom@STEP:TOKENS` (None without one)."""
    place = fault.partition("@")[2]
    step, _, tokens = place.partition(":")
    return int(step), int(tokens) if tokens else None


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


def shapes(config: RunConfig, data: TokenData) -> Shapes:
    """Return how micro-batches are filled up: so that few shapes occur, where that is asked for."""
    tokens = config.batch.pad_multiple
    rows = 8 if config.engine.compile == "graphs" else 1
    return Shapes(tokens, rows, data.manifest.get("max_length"))


class Loop:
    """Trains one run. All that decides (stopping, the best step) is agreed by all ranks."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDir,
        attempt: int,
        world: World,
        engine: Engine,
        data: TokenData,
        log: RunLog | None,
        *,
        costs: Costs,
        stop_raised: Callable[[], bool],
    ) -> None:
        self.config, self.run, self.attempt = config, run, attempt
        self.world, self.engine, self.data, self.log = world, engine, data, log
        self.stop_raised = stop_raised
        assert config.task.train is not None
        self.train: TokenSplit = data.splits[config.task.train]
        self.regression = config.task.problem == "regression"
        self.budget = self._first_budget = int(config.batch.micro_tokens)
        self._proven = Proven()
        self._fault = fault_step(config.train.fault) if config.train.fault else None
        self.meters = Meters(costs, engine.communication)
        self.progress = Progress(
            total=total_steps(
                len(self.train),
                config.batch.global_batch,
                config.train.epochs,
                config.train.max_steps,
            )
        )
        self.feed = Feed(
            self.train,
            FeedSettings(
                global_batch=config.batch.global_batch,
                seed=config.train.seed,
                rank=world.rank,
                world_size=world.size,
                quadratic=costs.quadratic,
                overhead=micro_overhead(config.engine.device),
                shapes=shapes(config, data),
            ),
            engine.device,
            self.progress.total,
        )
        self.feed.waited = self.meters.waited
        self._loss = torch.zeros((), dtype=torch.float32, device=engine.device)
        self._steps_since_log = 0
        self._written = self._looked = 0.0
        self._last: dict[str, Any] = {}

    def fit(self) -> Progress:
        """Train to the end, to an early stop, or to an interruption at a step boundary.

        Raises:
            UsageError: an example is longer than the token budget, or memory runs out with the
                smallest budget that holds the longest example.
        """
        config, progress = self.config, self.progress
        per_epoch = steps_in_epoch(len(self.train), config.batch.global_batch)
        agreement = Agreement(self.world)
        self.engine.module.train()
        self._write_progress("training")
        self.feed.seek(progress.step, self.budget)
        try:
            while progress.step < progress.total:
                agreement.start(self.stop_raised() or self._asked_to_stop())
                lr = learning_rate(config.optim, progress.step, progress.total)
                norm = self._step(lr)
                progress.step += 1
                progress.epoch = progress.step / per_epoch
                self._steps_since_log += 1
                done = progress.step == progress.total
                if done or progress.step % config.train.log_every == 0:
                    self._log_train(lr, norm)
                if self._evaluation_due(per_epoch) and self._evaluate():
                    progress.stopped_early = not done
                    break
                self._write_progress("training")
                if agreement.result() and not done:
                    progress.interrupted = True
                    break
        finally:
            self.feed.close()
        self.meters.finish()
        self._write_progress("interrupted" if progress.interrupted else "exporting", force=True)
        return progress

    def _step(self, lr: float) -> float | torch.Tensor:
        """Make one optimizer step, with smaller micro-batches where memory runs out."""
        while True:
            try:
                plan = self.feed.next_step()
            except BudgetTooSmall as error:
                raise UsageError(str(error)) from None
            pretended = self._fault is not None and self._fault[0] == plan.step
            unproven = not self._proven.holds(plan.cost)
            guard = MemoryGuard(self.world, active=unproven or pretended)
            try:
                loss = self._accumulate(plan, guard)
                break
            except StepAbandoned:
                pass  # until here the exception's frames keep the step's activations alive
            self._halve_budget(plan)
        norm = self.engine.step(lr)
        self._proven.add(plan.cost)
        self._loss += loss
        self.progress.slots.append(plan.cut.slots)
        self.progress.examples += plan.cut.examples
        self.meters.step(plan)
        return norm

    def _accumulate(self, plan: StepPlan, guard: MemoryGuard) -> torch.Tensor:
        """Add up the gradients of a step; return this rank's share of its loss, a scalar.

        Raises:
            StepAbandoned: memory ran out on some rank; all ranks raise it.
        """
        world, engine = self.world, self.engine
        total = torch.zeros((), dtype=torch.float32, device=engine.device)
        micro_batches = self.feed.micro_batches(plan)
        with engine.accumulation():
            for slot in range(plan.cut.slots):
                last = slot == plan.cut.slots - 1
                forward = guard.together if engine.meets_in_forward else guard.alone
                meets = last or engine.meets_in_every_backward
                backward = guard.together if meets else guard.alone
                micro = guard.alone(lambda: next(micro_batches))
                seed_micro_batch(self.config.train.seed, plan.step, world.rank, slot)
                with engine.micro_step(last):
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
        logits = self.engine.forward(micro.inputs)[: micro.rows]
        loss = summed_loss(logits, micro.labels, self.regression)
        return loss * (micro.weight / plan.cut.examples)

    def _backward(self, loss: torch.Tensor | None, last: bool) -> None:
        assert loss is not None, "a rank without a loss does not get here"
        # DDP and DeepSpeed average over ranks; the sum is wanted.
        self.engine.backward(loss * self.world.size, last)

    def _pretend_fault(self, plan: StepPlan, last: bool) -> None:
        """Run out of memory where `train.fault` says so: on the last rank, late in a step."""
        if self._fault is None or self.world.rank != self.world.size - 1 or not last:
            return
        step, below = self._fault
        if plan.step == step and plan.budget >= (below or self._first_budget):
            raise torch.OutOfMemoryError(f"pretended at step {step} (train.fault)")

    def _halve_budget(self, plan: StepPlan) -> None:
        """Begin the step of a plan anew with half the budget."""
        self.engine.discard(self.feed.shortest())
        longest = self.feed.longest
        if plan.budget <= longest:
            raise UsageError(
                f"out of memory with one example of {longest} tokens a micro-batch: use a smaller "
                "--max-length or model, --zero 3, --offload, or a device with more memory"
            )
        self.budget = max(plan.budget // 2, longest)
        if self.log is not None:
            self.log.write(
                "event",
                plan.step,
                self.progress.epoch,
                event="out_of_memory",
                micro_tokens=self.budget,
            )
        print(f"out of memory: micro-batches of {self.budget} tokens from here on", flush=True)
        self.feed.seek(plan.step, self.budget)

    def _log_train(self, lr: float, norm: float | torch.Tensor) -> None:
        mean = float(self.world.sum(np.array([float(self._loss)]))[0]) / self._steps_since_log
        self._loss.zero_()
        self._steps_since_log, norm = 0, float(norm)
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss is {mean} at step {self.progress.step}: a smaller --lr, more warm-up, "
                "or --precision fp32 or bf16 may help"
            )
        self._last = {"loss": mean, "lr": lr, **self.meters.window()}
        if self.log is not None:
            values = dict(self._last)
            values["memory_bytes"] = memory_bytes(self.engine.device)
            if math.isfinite(norm):
                values["grad_norm"] = norm
            self.log.write("train", self.progress.step, self.progress.epoch, **values)

    def _evaluation_due(self, per_epoch: int) -> bool:
        step, every = self.progress.step, self.config.train.eval_every
        if not self.config.task.validation_splits:
            return False
        if step == self.progress.total:
            return True
        return step % (per_epoch if every == "epoch" else every) == 0

    def _evaluate(self) -> bool:
        """Score the validation splits; return whether to stop early."""
        config, progress, task = self.config, self.progress, self.config.task
        self._write_progress("evaluating")
        value: float | None = None
        with self.meters.apart("evaluation"):
            for place, name in enumerate(task.validation_splits):
                split = self.data.splits[name]
                with self.engine.evaluation():
                    outputs = self.predict(self.engine.eval_module(), split)
                if self.world.is_main:
                    assert split.labels is not None
                    scores = compute_metrics(task, outputs, np.asarray(split.labels))
                    if place == 0:
                        value = scores[task.primary_metric]
                    assert self.log is not None
                    self.log.write("eval", progress.step, progress.epoch, split=name, **scores)
        value = self.world.broadcast(value)
        if better(task.primary_metric, value, progress.best_value) or progress.best_step is None:
            progress.best_value, progress.best_step, progress.stale = value, progress.step, 0
            if config.train.select == "best":
                with self.meters.apart("checkpoint"):
                    weights = self.engine.state_dict()
                    if self.world.is_main:
                        save_best(self.run, progress.step, weights)
        else:
            progress.stale += 1
        return bool(config.train.patience) and progress.stale >= config.train.patience

    def predict(
        self, module: torch.nn.Module, split: TokenSplit, autocast: Any = None
    ) -> np.ndarray:
        """Return the outputs of a whole split on rank 0."""
        return predict_split(
            module,
            split,
            self.world,
            outputs=len(self.data.label_names) or 1,
            # Without gradients and their activations twice the tokens fit.
            budget=max(2 * self.budget, int(split.lengths.max())),
            device=self.engine.device,
            autocast=autocast or self.engine.accumulation(),
            meets_in_forward=self.engine.meets_in_forward and module is self.engine.module,
        )

    def _asked_to_stop(self) -> bool:
        """Return whether a person asked this run to stop (rank 0 looks every two seconds)."""
        if not self.world.is_main or time.monotonic() - self._looked < PROGRESS_SECONDS:
            return False
        self._looked = time.monotonic()
        return bool((read_json(self.run.request) or {}).get("stop"))

    def _write_progress(self, phase: str, force: bool = False) -> None:
        now = time.monotonic()
        if not self.world.is_main or (not force and now - self._written < PROGRESS_SECONDS):
            return
        self._written = now
        progress = self.progress
        write_json(
            self.run.progress,
            {
                "phase": phase,
                "attempt": self.attempt,
                "step": progress.step,
                "total_steps": progress.total,
                "epoch": progress.epoch,
                "time": time.time(),
                "primary_metric": self.config.task.primary_metric,
                "primary_value": progress.best_value,
                "interrupted": progress.interrupted,
                **self._last,
            },
            durable=force,  # training does not wait for a disk every few seconds
        )
