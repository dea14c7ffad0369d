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

from .batching import cut_step, epoch_order, step_ids, steps_in_epoch, total_steps
from .config import RunConfig
from .distributed import Agreement, World
from .engine import Engine
from .evaluate import predict_split, to_tensors
from .export import save_best
from .meters import Meters
from .metrics import better, compute_metrics
from .rundir import RunDir, read_json, write_json
from .schedule import learning_rate
from .tokens import TokenData, TokenSplit, collate
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
    state = np.random.SeedSequence([seed, step, rank, slot]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))


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
        quadratic: float,
        stop_raised: Callable[[], bool],
    ) -> None:
        self.config, self.run, self.attempt = config, run, attempt
        self.world, self.engine, self.data, self.log = world, engine, data, log
        self.quadratic = quadratic
        self.stop_raised = stop_raised
        assert config.task.train is not None
        self.train: TokenSplit = data.splits[config.task.train]
        self.regression = config.task.problem == "regression"
        self.budget = int(config.batch.micro_tokens)
        self.meters = Meters(quadratic)
        self.progress = Progress(
            total=total_steps(
                len(self.train),
                config.batch.global_batch,
                config.train.epochs,
                config.train.max_steps,
            )
        )
        self._loss = 0.0
        self._steps_since_log = 0
        self._written = 0.0
        self._last: dict[str, Any] = {}

    def fit(self) -> Progress:
        """Train to the end, to an early stop, or to an interruption at a step boundary."""
        config, progress = self.config, self.progress
        batch = config.batch.global_batch
        per_epoch = steps_in_epoch(len(self.train), batch)
        agreement = Agreement(self.world)
        order, order_epoch = None, -1
        self.engine.module.train()
        self._write_progress("training")
        while progress.step < progress.total:
            agreement.start(self.stop_raised() or self._asked_to_stop())
            epoch, place = divmod(progress.step, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(len(self.train), config.train.seed, epoch), epoch
            assert order is not None
            lr = learning_rate(config.optim, progress.step, progress.total)
            norm = self._step(step_ids(order, place, batch), progress.step, lr)
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
        self._write_progress("interrupted" if progress.interrupted else "exporting", force=True)
        return progress

    def _step(self, ids: np.ndarray, step: int, lr: float) -> float:
        world, engine = self.world, self.engine
        cut = cut_step(ids, self.train.lengths, world.size, self.budget, quadratic=self.quadratic)
        self.progress.slots.append(cut.slots)
        shortest = ids[np.argmin(self.train.lengths[ids])][None]
        total = torch.zeros((), dtype=torch.float32, device=engine.device)
        for slot, own in enumerate(cut.micro[world.rank]):
            start = time.perf_counter()
            # A micro-batch without examples runs one with weight zero: collectives must match.
            batch = collate(self.train, own if len(own) else shortest)
            labels = torch.from_numpy(batch["labels"]).to(engine.device, non_blocking=True)
            inputs = to_tensors(batch, engine.device)
            self.meters.waited(time.perf_counter() - start)
            seed_micro_batch(self.config.train.seed, step, world.rank, slot)
            last = slot == cut.slots - 1
            with engine.micro_step(last):
                loss = summed_loss(engine.forward(inputs), labels, self.regression)
                loss = loss * (float(len(own) > 0) / cut.examples)
                # DDP and DeepSpeed average over ranks; the sum is wanted.
                engine.backward(loss * world.size, last)
            total += loss.detach()
        norm = engine.step(lr)
        self._loss += float(total)
        self.progress.examples += cut.examples
        self.meters.step(cut, self.train.lengths)
        return norm

    def _log_train(self, lr: float, norm: float) -> None:
        mean = float(self.world.sum(np.array([self._loss]))[0]) / self._steps_since_log
        self._loss, self._steps_since_log = 0.0, 0
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss is {mean} at step {self.progress.step}: a smaller --lr, more warm-up, "
                "or --precision fp32 or bf16 may help"
            )
        self._last = {"loss": mean, "lr": lr, **self.meters.window()}
        if self.log is not None:
            values = dict(self._last)
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
            autocast=autocast,
        )

    def _asked_to_stop(self) -> bool:
        """Return whether a person asked this run to stop (rank 0 looks every two seconds)."""
        if not self.world.is_main or time.monotonic() - self._written < PROGRESS_SECONDS:
            return False
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
        )
