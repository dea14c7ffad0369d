"""The training loop: steps of exact global batches, logging, evaluation, checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .batching import (
    BudgetTooSmall,
    epoch_order,
    micro_overhead,
    step_ids,
    steps_in_epoch,
    total_steps,
)
from .checkpoints import best_folder
from .config import RunConfig, UsageError
from .distributed import Agreement, World
from .engine import Engine
from .evaluate import EvaluationAbandoned, predict_split
from .export import load_best, save_best
from .faults import parse_fault, spent, strike
from .feed import Feed, FeedSettings, MicroBatch, Shapes, StepPlan
from .kernels import seed_masks
from .memory import MemoryGuard, Proven, StepAbandoned
from .meters import Costs, Meters, memory_bytes
from .metrics import better, compute_metrics
from .restore import Checkpoint, check_steps
from .rundir import RunDir, read_json, write_json
from .saver import Saver, disk_problem
from .schedule import learning_rate
from .tokens import TokenData, TokenSplit
from .tracking import RunLog
from .watchdog import Watchdog

PROGRESS_SECONDS = 2.0
"""How often progress.json is written, at most."""
SAVE_SECONDS = 300.0
"""How often `--save-every auto` writes a checkpoint, at most."""
SAVE_SHARE = 0.01
"""Which share of the time `--save-every auto` may stand still for it."""


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
    unevaluated: bool = False
    """Whether the evaluation after this step is still to be made."""
    slots: int = 0
    """Micro-batches a rank, over all steps."""
    slots_most: int = 0
    """Most micro-batches a rank of a step."""


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
        budget: int | None = None,
        started: float | None = None,
        tracker: dict[str, Any] | None = None,
    ) -> None:
        """Prepare to train from step 0; `restore` goes on from a checkpoint instead.

        `budget` is the most tokens of a micro-batch where an earlier attempt found the
        configuration's too large; `started` is when the attempt began, in epoch seconds, if not
        now; `tracker` says what mirrors the log, for who looks at the run.
        """
        self.config, self.run, self.attempt = config, run, attempt
        self.world, self.engine, self.data, self.log = world, engine, data, log
        self.stop_raised = stop_raised
        assert config.task.train is not None
        self.train: TokenSplit = data.splits[config.task.train]
        self.regression = config.task.problem == "regression"
        self.budget = self._first_budget = int(config.batch.micro_tokens)
        if budget is not None:
            self.budget = max(min(self.budget, budget), int(self.train.lengths.max()))
        self._proven = Proven()
        self._fault = parse_fault(config.train.fault) if config.train.fault else None
        if self._fault is not None and self._fault.kind != "oom" and spent(run):
            self._fault = None
        self._agreement = Agreement(world, flags=3)
        self.saver = Saver(run, world, engine)
        self._saved_at = time.monotonic()
        self._asked_checkpoint: Any = None
        self._best: tuple[int, dict[str, torch.Tensor]] | None = None
        """Step and weights of the best ones, while they are not on the disk."""
        self._recent: deque[float] = deque(maxlen=20)
        self._watchdog = Watchdog(run, attempt, world, config.engine.hang_timeout)
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
        self._requested: dict[str, Any] = {}
        self._started, self._earlier_seconds = started or time.time(), 0.0
        self._last: dict[str, Any] = {}
        self._tracker = tracker

    def restore(self, checkpoint: Checkpoint, weights: str, optimizer: str) -> None:
        """Go on from a checkpoint whose numbers the engine already has.

        Args:
            checkpoint: where to go on from.
            weights: checksum of the weights that the engine holds now.
            optimizer: checksum of its optimizer's state.

        Raises:
            UsageError: the checkpoint is of a run with another number of steps.
        """
        check_steps(checkpoint, self.progress.total)
        state, world = checkpoint.state, self.world
        self.progress = Progress(**state["progress"])
        self.budget = min(self.budget, max(state["budget"], int(self.train.lengths.max())))
        losses = state["losses"]
        same = len(losses) == world.size
        own = losses[world.rank] if same else math.fsum(losses) if world.is_main else 0.0
        self._loss.fill_(own)
        self._steps_since_log = state["steps_since_log"]
        self._last = state["last"]
        self._earlier_seconds = state["seconds"]
        self.meters.restore(state["meters"])
        self._tell_place(
            "resumed", self.progress.step, weights, optimizer, from_world_size=len(losses)
        )

    def fit(self) -> Progress:
        """Train to the end, to an early stop, or to an interruption at a step boundary.

        Raises:
            UsageError: an example is longer than the token budget, or memory runs out with the
                smallest budget that holds the longest example.
            FloatingPointError: the loss is not finite.
        """
        config, progress = self.config, self.progress
        per_epoch = steps_in_epoch(len(self.train), config.batch.global_batch)
        self.engine.module.train()
        self.engine.warm(self.feed.shortest())
        self._write_progress("training")
        self.feed.seek(progress.step, self.budget)
        stop = progress.unevaluated and self._evaluate()
        began = time.perf_counter()
        try:
            while not stop and progress.step < progress.total and not progress.stopped_early:
                lr = learning_rate(config.optim, progress.step, progress.total)
                norm = self._step(lr)
                progress.step += 1
                progress.epoch = progress.step / per_epoch
                self._steps_since_log += 1
                done = progress.step == progress.total
                stop, save, writing = self._agreement.result()
                self._recent.append(time.perf_counter() - began)
                if self.saver.open and not writing:
                    self._commit()
                if done or progress.step % config.train.log_every == 0:
                    self._log_train(lr, norm)
                progress.unevaluated = self._evaluation_due(per_epoch)
                if progress.unevaluated and not stop:
                    stop = self._evaluate()
                self._write_progress("training")
                if not stop and (save or self._save_due()):
                    self._begin_save()
                began = time.perf_counter()
        finally:
            self.feed.close()
        if stop:
            self.interrupt()
            return progress
        if self.saver.open:
            self._commit()
        self.meters.finish()
        self._write_progress("exporting", force=True)
        return progress

    def interrupt(self) -> None:
        """Save what was reached, and note that the run goes on another time."""
        self.progress.interrupted = True
        self._write_progress("saving", force=True)
        if self.saver.open:
            self._commit()
        if self.saver.last != self.progress.step:
            self._begin_save()
            self._commit()
        self.saver.close()
        self.meters.finish()
        self._write_progress("interrupted", force=True)

    def close(self) -> None:
        """End what runs in the background."""
        self.saver.close()
        self._watchdog.close()

    def _save_due(self) -> bool:
        every = self.config.train.save_every
        return every != "auto" and self.progress.step % every == 0

    def _save_wanted(self) -> bool:
        """Return whether rank 0 wants a checkpoint: it is time, or a person asks for one."""
        if not self.world.is_main or self.saver.open:
            return False
        asked = self._request().get("checkpoint")
        if asked is not None and asked != self._asked_checkpoint:
            self._asked_checkpoint = asked
            return True
        if self.config.train.save_every != "auto":
            return False
        interval = max(SAVE_SECONDS, self.saver.pause / SAVE_SHARE)
        return time.monotonic() - self._saved_at >= interval

    def _begin_save(self) -> None:
        if self.saver.open:
            self._commit()
        with self.meters.apart("checkpoint"):
            losses = self.world.gather_all(float(self._loss))
            if not all(math.isfinite(loss) for loss in losses):
                raise self._not_finite(math.fsum(losses) / max(1, self._steps_since_log))
            state = {
                "progress": asdict(self.progress) | {"interrupted": False},
                "budget": self.budget,
                "losses": losses,
                "steps_since_log": self._steps_since_log,
                "last": self._last,
                "meters": self.meters.state(),
                "seconds": self.seconds(),
            }
            best = self.progress.best_step
            self.saver.begin(self.progress.step, state, best, self._write_best)
        self._saved_at = time.monotonic()
        self._watchdog.beat("a checkpoint")

    def _commit(self) -> None:
        with self.meters.apart("checkpoint"):
            saved = self.saver.commit()
        if saved.error is not None:
            print(f"checkpoint step-{saved.step} could not be written: {saved.error}", flush=True)
            self._event("save_failed", reason=saved.error)
            return
        self._tell_place("saved", saved.step, saved.weights, saved.optimizer)

    def _tell_place(
        self, event: str, step: int, weights: str, optimizer: str, **values: Any
    ) -> None:
        """Log where the run is, in a form that shows whether anything was lost."""
        if self.log is None:
            return  # an epoch's order takes a while to make
        config = self.config
        batch = config.batch.global_batch
        epoch, place = divmod(step, steps_in_epoch(len(self.train), batch))
        ids = step_ids(epoch_order(len(self.train), config.train.seed, epoch), place, batch)
        self._event(
            event,
            step,
            next_ids=hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16],
            lr=learning_rate(config.optim, step, self.progress.total),
            optimizer=optimizer,
            weights=weights,
            world_size=self.world.size,
            micro_tokens=self.budget,
            **values,
        )

    def _event(self, event: str, step: int | None = None, **values: Any) -> None:
        if self.log is not None:
            at = self.progress.step if step is None else step
            self.log.write("event", at, self.progress.epoch, event=event, **values)

    def _step(self, lr: float) -> float | torch.Tensor:
        """Make one optimizer step, with smaller micro-batches where memory runs out."""
        while True:
            try:
                plan = self.feed.next_step()
            except BudgetTooSmall as error:
                raise UsageError(str(error)) from None
            self._strike(plan)
            pretended = self._fault is not None and self._fault.step == plan.step
            unproven = not self._proven.holds(plan.cost)
            guard = MemoryGuard(self.world, active=unproven or pretended)
            try:
                loss = self._accumulate(plan, guard)
                break
            except StepAbandoned:
                pass  # until here the exception's frames keep the step's activations alive
            self._halve_budget(plan)
        self._agreement.start(
            self.stop_raised() or self._asked_to_stop(), self._save_wanted(), self.saver.writing
        )
        norm = self.engine.step(lr)
        self._proven.add(plan.cost)
        self._loss += loss
        self.progress.slots += plan.cut.slots
        self.progress.slots_most = max(self.progress.slots_most, plan.cut.slots)
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
                self._watchdog.beat(f"micro-batch {slot} of step {plan.step}")
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
        if self._met(plan.step, "nan"):
            loss = loss * float("nan")
        return loss * (micro.weight / plan.cut.examples)

    def _backward(self, loss: torch.Tensor | None, last: bool) -> None:
        assert loss is not None, "a rank without a loss does not get here"
        # DDP and DeepSpeed average over ranks; the sum is wanted.
        self.engine.backward(loss * self.world.size, last)

    def _pretend_fault(self, plan: StepPlan, last: bool) -> None:
        """Run out of memory where `train.fault` says so: on the last rank, late in a step."""
        if not last or not self._met(plan.step, "oom"):
            return
        assert self._fault is not None
        if plan.budget >= (self._fault.number or self._first_budget):
            raise torch.OutOfMemoryError(f"pretended at step {plan.step} (train.fault)")

    def _met(self, step: int, kind: str) -> bool:
        """Return whether a fault of this kind meets this rank in this step."""
        fault = self._fault
        if fault is None or fault.kind != kind or fault.step != step:
            return False
        return fault.rank(self.world.size) == self.world.rank

    def _strike(self, plan: StepPlan) -> None:
        fault = self._fault
        if fault is not None and fault.kind != "oom" and self._met(plan.step, fault.kind):
            strike(fault, self.run, self.attempt, self.world.rank)

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
        self._event("out_of_memory", micro_tokens=self.budget)
        print(f"out of memory: micro-batches of {self.budget} tokens from here on", flush=True)
        self.feed.seek(plan.step, self.budget)

    def _log_train(self, lr: float, norm: float | torch.Tensor) -> None:
        mean = float(self.world.sum(np.array([float(self._loss)]))[0]) / self._steps_since_log
        self._loss.zero_()
        self._steps_since_log, norm = 0, float(norm)
        if not math.isfinite(mean):
            raise self._not_finite(mean)
        self._last = {"loss": mean, "lr": lr, **self.meters.window()}
        if self.log is not None:
            values = dict(self._last)
            values["memory_bytes"] = memory_bytes(self.engine.device)
            if math.isfinite(norm):
                values["grad_norm"] = norm
            self.log.write("train", self.progress.step, self.progress.epoch, **values)

    def _not_finite(self, mean: float) -> FloatingPointError:
        return FloatingPointError(
            f"the loss is {mean} at step {self.progress.step}: a smaller --lr, more warm-up, "
            "or --precision fp32 or bf16 may help"
        )

    def _evaluation_due(self, per_epoch: int) -> bool:
        step, every = self.progress.step, self.config.train.eval_every
        if not self.config.task.validation_splits:
            return False
        if step == self.progress.total:
            return True
        return step % (per_epoch if every == "epoch" else every) == 0

    def _evaluate(self) -> bool:
        """Score the validation splits; return whether the run was asked to stop meanwhile."""
        self._write_progress("evaluating")
        try:
            self._score()
        except EvaluationAbandoned:
            return True
        self.progress.unevaluated = False
        return False

    def _score(self) -> None:
        """Score the validation splits, keep the best weights, see whether to stop early."""
        config, progress, task = self.config, self.progress, self.config.task
        value: float | None = None
        found: list[tuple[str, dict[str, float | None]]] = []
        with self.meters.apart("evaluation"):
            for name in task.validation_splits:
                split = self.data.splits[name]
                with self.engine.evaluation():
                    outputs = self.predict(self.engine.eval_module(), split)
                if self.world.is_main:
                    assert split.labels is not None
                    labels = np.asarray(split.labels)
                    found.append((name, compute_metrics(task, outputs, labels)))
        if found:
            value = found[0][1][task.primary_metric]
        for name, scores in found if self.log is not None else ():
            assert self.log is not None
            self.log.write("eval", progress.step, progress.epoch, split=name, **scores)
        value = self.world.broadcast(value)
        if better(task.primary_metric, value, progress.best_value) or progress.best_step is None:
            progress.best_value, progress.best_step, progress.stale = value, progress.step, 0
            if config.train.select == "best":
                with self.meters.apart("checkpoint"):
                    weights = self.engine.state_dict()
                    if self.world.is_main:
                        self._best = (progress.step, weights)
                        problem = disk_problem(self._write_best)
                        if problem is not None:
                            self._event("save_failed", reason=f"best weights: {problem}")
        else:
            progress.stale += 1
        if config.train.patience and progress.stale >= config.train.patience:
            progress.stopped_early = progress.step < progress.total

    def _write_best(self) -> None:
        """Put the best weights on the disk, if they are not there yet. Rank 0 only.

        A full disk does not cost them: they stay in memory until there is room.

        Raises:
            OSError: the disk is full or broken.
        """
        if self._best is not None:
            save_best(self.run, *self._best)
            self._best = None

    def best_weights(self) -> dict[str, torch.Tensor]:
        """Return the best weights. Rank 0 only.

        Raises:
            RuntimeError: those on the disk are damaged.
        """
        if self._best is not None:
            return self._best[1]
        assert self.progress.best_step is not None
        return load_best(best_folder(self.run, self.progress.best_step))

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
            poll=self._polled,
        )

    def _polled(self) -> bool:
        """Return whether a rank was asked to stop; all ranks call it at the same places."""
        self._watchdog.beat("an evaluation")
        return self.world.any(self.stop_raised() or self._asked_to_stop())

    def seconds(self) -> float:
        """Return the seconds of this attempt and, as far as it goes on from them, earlier ones."""
        return self._earlier_seconds + time.time() - self._started

    def _asked_to_stop(self) -> bool:
        """Return whether a person asked this run to stop (rank 0 looks every two seconds)."""
        return self.world.is_main and bool(self._request().get("stop"))

    def _request(self) -> dict[str, Any]:
        """Return what a person asked of this run (looked at every two seconds)."""
        if time.monotonic() - self._looked >= PROGRESS_SECONDS:
            self._looked = time.monotonic()
            self._requested = read_json(self.run.request) or {}
        return self._requested

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
                "checkpoint": self.saver.last,
                "step_seconds": max(self._recent, default=None),
                "save_seconds": self.saver.seconds or None,
                "world_size": self.world.size,
                "tracker": self._tracker,
                **self._last,
            },
            durable=force,  # training does not wait for a disk every few seconds
        )
