"""Evaluation: every example once, sorted by length over ranks, gathered with its index."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .batching import cut_step
from .distributed import World
from .tokens import TokenSplit, collate


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
) -> NDArray[np.float32]:
    """Return the logits of every example of a split, [rows, outputs], on rank 0.

    Every rank makes the same number of forward passes, since under ZeRO 3 each one is a
    collective; a rank without examples left repeats one and throws the answer away. Other ranks
    return an empty array.
    """
    rows = len(split)
    cut = cut_step(np.arange(rows), split.lengths, world.size, budget)
    own = cut.micro[world.rank]
    shortest = np.array([int(split.lengths.argmin())])
    ids: list[NDArray[np.int64]] = []
    logits: list[NDArray[np.float32]] = []
    was_training = module.training
    module.eval()
    with torch.inference_mode(), autocast or contextlib.nullcontext():
        for wanted in own:
            batch = collate(split, wanted if len(wanted) else shortest)
            answer = module(**to_tensors(batch, device)).logits.float().cpu().numpy()
            if len(wanted):
                ids.append(wanted)
                logits.append(answer)
    module.train(was_training)
    none = np.empty(0, dtype=np.int64)
    mine = (
        np.concatenate(ids) if ids else none,
        np.concatenate(logits) if logits else np.empty((0, outputs), dtype=np.float32),
    )
    gathered = world.gather(mine)
    if not world.is_main:
        return np.empty((0, outputs), dtype=np.float32)
    every_id = np.concatenate([part[0] for part in gathered])
    if len(every_id) != rows or not np.array_equal(np.sort(every_id), np.arange(rows)):
        raise RuntimeError(f"evaluation saw {len(every_id)} examples of {rows}")
    result = np.empty((rows, outputs), dtype=np.float32)
    result[every_id] = np.concatenate([part[1] for part in gathered])
    return result
