"""Evaluation: every example once, sorted by length over ranks, gathered with its index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .batching import cut_step, micro_overhead
from .distributed import World
from .memory import MemoryGuard, OutOfMemory
from .tokens import TokenSplit, collate

POLL_EVERY = 4
"""Forward passes between two looks whether to go on: the ranks stay about that close together."""


class EvaluationAbandoned(Exception):
    """The run was asked to stop meanwhile; every rank raises this at the same point."""


def to_tensors(batch: dict[str, NDArray[Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return a collated micro-batch as tensors on the device, without the labels."""
    return {
        name: torch.from_numpy(array).to(device, non_blocking=True)
        for name, array in batch.items()
        if name != "labels"
    }


def predict_split(
    module: nn.Module,
    split: TokenSplit,
    world: World,
    *,
    outputs: int,
    budget: int,
    device: torch.device,
    autocast: contextlib.AbstractContextManager[Any] | None = None,
    meets_in_forward: bool = False,
    poll: Callable[[], bool] | None = None,
) -> NDArray[np.float32]:
    """Return the logits of every example of a split, [rows, outputs], on rank 0.

    Every rank makes the same number of forward passes, since under ZeRO 3 each one is a
    collective; a rank without examples left repeats one and throws the answer away. Other ranks
    return an empty array. Where memory runs out on any rank, all begin anew with half the budget;
    not where ranks meet in the forward pass (`meets_in_forward`), since the others wait there.
    `poll` is called by all ranks at the same places and says whether to give up.

    Raises:
        EvaluationAbandoned: `poll` said so.
        OutOfMemory: memory ran out and no smaller budget can be tried.
    """
    while True:
        found = _forward(
            module, split, world, outputs, budget, device, autocast, poll, meets_in_forward
        )
        if found is None and meets_in_forward:
            raise OutOfMemory(f"evaluation needs more memory: try --micro-tokens {budget // 4}")
        if not world.any(found is None):
            break
        longest = int(split.lengths.max())
        if budget <= longest:
            raise OutOfMemory(f"evaluating one example of {longest} tokens needs more memory")
        budget = max(budget // 2, longest)
    assert found is not None
    rows = len(split)
    gathered = world.gather(found)
    if not world.is_main:
        return np.empty((0, outputs), dtype=np.float32)
    every_id = np.concatenate([part[0] for part in gathered])
    if len(every_id) != rows or not np.array_equal(np.sort(every_id), np.arange(rows)):
        raise RuntimeError(f"evaluation saw {len(every_id)} examples of {rows}")
    result = np.empty((rows, outputs), dtype=np.float32)
    result[every_id] = np.concatenate([part[1] for part in gathered])
    return result


def _forward(
    module: nn.Module,
    split: TokenSplit,
    world: World,
    outputs: int,
    budget: int,
    device: torch.device,
    autocast: contextlib.AbstractContextManager[Any] | None,
    poll: Callable[[], bool] | None,
    meets_in_forward: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Return this rank's ids and logits; None if memory ran out."""
    cut = cut_step(
        np.arange(len(split)),
        split.lengths,
        world.size,
        budget,
        overhead=micro_overhead(device.type),
    )
    shortest = np.array([int(split.lengths.argmin())])
    ids: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    logits: list[torch.Tensor] = []
    was_training = module.training
    module.eval()
    guard = MemoryGuard(world, active=True)

    def forward(own: NDArray[Any]) -> torch.Tensor:
        return module(**to_tensors(collate(split, own), device)).logits

    try:
        with torch.inference_mode(), autocast or contextlib.nullcontext():
            for slot, wanted in enumerate(cut.micro[world.rank]):
                if poll is not None and slot % POLL_EVERY == POLL_EVERY - 1 and poll():
                    raise EvaluationAbandoned
                own = wanted if len(wanted) else shortest
                # After a failure the others go on, and want to meet this rank in `poll`.
                answer = guard.alone(lambda own=own: forward(own))
                if answer is None and meets_in_forward:
                    break
                if answer is not None and len(wanted):
                    ids.append(wanted)
                    logits.append(answer)
            # Fetched at the end: a GPU need not be waited for in between.
            answers = guard.alone(lambda: [answer.float().cpu().numpy() for answer in logits])
    finally:
        module.train(was_training)
    if answers is None:
        return None
    return np.concatenate(ids), np.concatenate([np.empty((0, outputs), np.float32), *answers])
