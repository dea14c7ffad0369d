"""Plans steps and prepares their micro-batches ahead of the training loop, in one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from .batching import (
    Cut,
    CutCost,
    cut_step,
    epoch_order,
    measure,
    round_up,
    step_ids,
    steps_in_epoch,
)
from .dealing import deal_step, is_measured
from .tokens import TokenSplit, collate

_AHEAD = 3
"""Micro-batches that wait for the loop, at most: memory stays flat."""


@dataclass(frozen=True)
class StepPlan:
    """One step: which examples, how they are cut, what that costs."""

    step: int
    budget: int
    ids: np.ndarray
    cut: Cut
    cost: CutCost
    dealt: bool = False
    """Whether the cut is in pairs, to measure the gradient's noise: see `dealing.deal_step`."""


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of this rank, on its device."""

    inputs: dict[str, torch.Tensor]
    """[b, L] each; rows from `rows` on are filling."""
    labels: torch.Tensor
    """[rows]."""
    rows: int
    weight: float
    """0 where the micro-batch is empty and only keeps the collectives in step, else 1."""


@dataclass(frozen=True)
class Shapes:
    """How micro-batches are filled up, so that few shapes occur."""

    tokens: int = 1
    """Lengths are multiples of this."""
    rows: int = 1
    """Numbers of rows are multiples of this."""
    longest: int | None = None
    """No length is rounded up beyond this: the model's positions end there."""

    def lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Return lengths rounded up."""
        return round_up(lengths, self.tokens, self.longest)


@dataclass(frozen=True)
class FeedSettings:
    """What a step's cut follows from, beside the data."""

    global_batch: int
    seed: int
    rank: int
    world_size: int
    quadratic: float
    overhead: float
    shapes: Shapes = Shapes()
    noise_every: int = 0
    """Every how many steps the gradient's noise is measured; 0 never."""


class Feed:
    """Gives the loop one step after the other; the next micro-batch is ready while one computes.

    The thread stays at most a few micro-batches ahead. `seek` begins again at any step with any
    budget, as after running out of memory.
    """

    def __init__(
        self, train: TokenSplit, settings: FeedSettings, device: torch.device, total: int
    ) -> None:
        self._train, self._settings, self._device, self._total = train, settings, device, total
        self._padded = settings.shapes.lengths(train.lengths)
        self._queue: queue.Queue[StepPlan | MicroBatch | BaseException] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.waited: Callable[[float], None] = lambda seconds: None
        """Is told how long the loop waited for a micro-batch."""

    def seek(self, step: int, budget: int) -> None:
        """Begin anew at a step (counted from 0 over all epochs) with a token budget."""
        self.close()
        self._stop, self._queue = threading.Event(), queue.Queue(_AHEAD)
        self._thread = threading.Thread(
            target=self._produce,
            args=(step, budget, self._queue, self._stop),
            name="feed",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            while self._thread.is_alive():
                _drain(self._queue)
                self._thread.join(0.01)
            self._thread = None

    def next_step(self) -> StepPlan:
        """Return the plan of the next step; its micro-batches follow by `micro_batches`.

        Raises:
            BudgetTooSmall: an example is longer than the budget.
        """
        plan = self._next()
        assert isinstance(plan, StepPlan), "the micro-batches of the step before were not all taken"
        return plan

    def micro_batches(self, plan: StepPlan) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches of the step that `next_step` returned."""
        for _ in range(plan.cut.slots):
            micro = self._next()
            assert isinstance(micro, MicroBatch)
            yield micro

    @property
    def longest(self) -> int:
        """Padded length of the longest example: no budget may be smaller."""
        return int(self._padded.max())

    def shortest(self) -> dict[str, torch.Tensor]:
        """Return the inputs of the shortest example alone."""
        batch = collate(self._train, np.array([self._train.lengths.argmin()]))
        return {name: self._tensor(array) for name, array in batch.items() if name != "labels"}

    def _next(self) -> StepPlan | MicroBatch:
        start = time.perf_counter()
        item = self._queue.get()
        self.waited(time.perf_counter() - start)
        if isinstance(item, BaseException):
            raise item
        return item

    def _produce(
        self,
        step: int,
        budget: int,
        out: queue.Queue[StepPlan | MicroBatch | BaseException],
        stop: threading.Event,
    ) -> None:
        try:
            for item in self._items(step, budget):
                while not stop.is_set():
                    try:
                        out.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
        except BaseException as error:  # raised again where it is waited for
            out.put(error)

    def _items(self, step: int, budget: int) -> Iterator[StepPlan | MicroBatch]:
        settings, rows = self._settings, len(self._train)
        per_epoch = steps_in_epoch(rows, settings.global_batch)
        order, order_epoch = np.empty(0, dtype=np.int64), -1
        for at in range(step, self._total):
            epoch, place = divmod(at, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(rows, settings.seed, epoch), epoch
            plan = self._plan(at, step_ids(order, place, settings.global_batch), budget)
            yield plan
            for own in plan.cut.micro[settings.rank]:
                yield self._micro_batch(own, plan)

    def _plan(self, step: int, ids: np.ndarray, budget: int) -> StepPlan:
        settings = self._settings
        dealt = is_measured(step, settings.noise_every) and len(ids) > 1
        how = partial(deal_step, seed=settings.seed, step=step) if dealt else cut_step
        cut = how(
            ids,
            self._padded,
            settings.world_size,
            budget,
            quadratic=settings.quadratic,
            overhead=settings.overhead,
            row_multiple=settings.shapes.rows,
        )
        cost = measure(
            cut, self._train.lengths, settings.quadratic, self._padded, settings.shapes.rows
        )
        return StepPlan(step, budget, ids, cut, cost, dealt)

    def _micro_batch(self, own: np.ndarray, plan: StepPlan) -> MicroBatch:
        shapes = self._settings.shapes
        weight = float(len(own) > 0)
        # An empty micro-batch runs the shortest example with weight zero.
        real = own if len(own) else plan.ids[np.argmin(self._train.lengths[plan.ids])][None]
        ids = real
        if len(real) % shapes.rows:
            filling = np.full(shapes.rows - len(real) % shapes.rows, real[-1])
            ids = np.concatenate([real, filling])
        batch = collate(self._train, ids, int(self._padded[ids].max()))
        labels = self._tensor(batch.pop("labels"))[: len(real)]
        inputs = {name: self._tensor(array) for name, array in batch.items()}
        return MicroBatch(inputs, labels, len(real), weight)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor


def _drain(waiting: queue.Queue[StepPlan | MicroBatch | BaseException]) -> None:
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
