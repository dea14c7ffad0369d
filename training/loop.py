"""The training loop: steps of exact global batches, logging, evaluation, checkpoints."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from .accumulate import Accumulator, seed_micro_batch, summed_loss
from .batching import BudgetTooSmall, steps_in_epoch, total_steps
from .config import RunConfig, UsageError
from .distributed import Agreement, World
from .engine import Engine
from .evaluate import EvaluationAbandoned, predict_split
from .export import BestWeights
from .faults import Rehearsal
from .feed import Feed, FeedSettings, Shapes, StepPlan
from .keeping import SaveTimes, describe_place
from .memory import MemoryGuard, Proven, StepAbandoned
from .meters import Costs, Meters, memory_bytes
from .metrics import better, compute_metrics
from .noise import NoiseMeter
from .progress import Progress, ProgressFile, Requests
from .restore import Checkpoint, check_steps
from .rundir import RunDir
from .saver import Saver, disk_problem
from .schedule import learning_rate
from .tokens import TokenData, TokenSplit
from .tracking import RunLog
from .watchdog import Watchdog

__all__ = ["Loop", "Progress", "seed_micro_batch", "summed_loss"]


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
        self.config = config
        self.world, self.engine, self.data, self.log = world, engine, data, log
        self.stop_raised = stop_raised
        assert config.task.train is not None
        self.train: TokenSplit = data.splits[config.task.train]
        self.budget = int(config.batch.micro_tokens)
        if budget is not None:
            self.budget = max(min(self.budget, budget), int(self.train.lengths.max()))
        self._proven = Proven()
        self._rehearsal = Rehearsal(config, run, attempt, world)
        self._agreement = Agreement(world, flags=3)
        self.saver = Saver(run, world, engine)
        self._best = BestWeights(run)
        self._requests = Requests(run, world)
        self._save_times = SaveTimes(config, self.saver, self._requests)
        self._file = ProgressFile(run, attempt, world, config.task.primary_metric, tracker)
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
                overhead=costs.overhead,
                shapes=shapes(config, data),
                noise_every=config.train.noise_every,
            ),
            engine.device,
            self.progress.total,
        )
        self.feed.waited = self.meters.waited
        self._accumulator = Accumulator(
            config,
            world,
            engine,
            self.feed,
            rehearsal=self._rehearsal,
            watchdog=self._watchdog,
        )
        self._loss = torch.zeros((), dtype=torch.float32, device=engine.device)
        self._steps_since_log = 0
        self.noise = NoiseMeter()
        self._started, self._earlier_seconds = started or time.time(), 0.0
        self._last: dict[str, Any] = {}

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
        if "noise" in state:
            self.noise.restore(state["noise"])
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
                if not stop and (save or self._save_times.due(progress.step)):
                    self._begin_save()
                began = time.perf_counter()
        except FloatingPointError:
            # All ranks learn of it at once: the checkpoint that is being written is completed.
            if self.saver.open:
                self._commit()
            self.saver.close()
            raise
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
                "noise": self.noise.state(),
                "seconds": self.seconds(),
            }
            best = self.progress.best_step
            last = self.progress.interrupted
            self.saver.begin(self.progress.step, state, best, self._best.write, last)
        self._save_times.saved()
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
        self._event(
            event,
            step,
            **describe_place(self.config, len(self.train), step, self.progress.total),
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
            self._rehearsal.strike(plan.step)
            unproven = not self._proven.holds(plan.cost)
            guard = MemoryGuard(self.world, active=unproven or self._rehearsal.due(plan.step))
            try:
                loss = self._accumulator.add_up(plan, guard)
                break
            except StepAbandoned:
                pass  # until here the exception's frames keep the step's activations alive
            self._halve_budget(plan)
        self._agreement.start(
            self.stop_raised() or self._requests.stop(),
            self.world.is_main and self._save_times.wanted(),
            self.saver.writing,
        )
        scale = self.engine.scaler_state().get("scale", 1.0) if plan.dealt else 1.0
        norm = self.engine.step(lr)
        if plan.dealt:
            self.noise.add(self._accumulator.sketch.result(plan, float(norm), scale))
        self._proven.add(plan.cost)
        self._loss += loss
        self.progress.slots += plan.cut.slots
        self.progress.slots_most = max(self.progress.slots_most, plan.cut.slots)
        self.progress.examples += plan.cut.examples
        self.meters.step(plan)
        return norm

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
        noise = self.noise.window()
        if self.log is not None:
            values = self._last | noise
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
                        self._best.hold(progress.step, weights)
                        problem = disk_problem(self._best.write)
                        if problem is not None:
                            self._event("save_failed", reason=f"best weights: {problem}")
        else:
            progress.stale += 1
        if config.train.patience and progress.stale >= config.train.patience:
            progress.stopped_early = progress.step < progress.total

    def best_weights(self) -> dict[str, torch.Tensor]:
        """Return the best weights. Rank 0 only.

        Raises:
            RuntimeError: those on the disk are damaged.
        """
        assert self.progress.best_step is not None
        return self._best.load(self.progress.best_step)

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
        return self.world.any(self.stop_raised() or self._requests.stop())

    def seconds(self) -> float:
        """Return the seconds of this attempt and, as far as it goes on from them, earlier ones."""
        return self._earlier_seconds + time.time() - self._started

    def _write_progress(self, phase: str, force: bool = False) -> None:
        more = {
            "checkpoint": self.saver.last,
            "step_seconds": max(self._recent, default=None),
            "save_seconds": self.saver.seconds or None,
            **self._last,
        }
        self._file.write(phase, self.progress, more, force)
