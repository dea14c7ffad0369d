"""The cut of a step whose gradient noise is measured: pairs of micro-batches, dealt at random.

Pure numpy, like `batching`, whose cut this changes as little as the estimator allows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .batching import BudgetTooSmall, Cut, Ids, cut_step

_PURPOSE = 0x6E6F697365
"""Tells this use of (seed, step) from others."""


def is_measured(step: int, every: int) -> bool:
    """Return whether step `step` (from 0) is one whose noise is measured; `every` 0 is none."""
    return every > 0 and (step + 1) % every == 0


def deal_step(
    ids: Ids,
    lengths: NDArray[np.int32],
    world_size: int,
    budget: int,
    *,
    seed: int,
    step: int,
    quadratic: float = 0.0,
    overhead: float = 0.0,
    row_multiple: int = 1,
) -> Cut:
    """Cut a step into blocks of twice the budget, and deal each block's rows to two micro-batches.

    Slots 2·k and 2·k + 1 of a rank share a block of neighbours in length. Which rows go to which
    of the two follows from seed and step alone, given the block, so a resumed run deals alike.

    Args:
        ids: see `batching.cut_step`; `lengths`, `world_size`, `budget`, `quadratic`, `overhead`
            and `row_multiple` alike.
        lengths: see there.
        world_size: see there.
        budget: see there; each micro-batch keeps within it.
        seed: of the run.
        step: of the run, from 0.
        quadratic: see there.
        overhead: see there.
        row_multiple: see there.

    Raises:
        BudgetTooSmall: one example is longer than the budget.
    """
    longest = int(lengths[ids].max(initial=0))
    if longest > budget:
        raise BudgetTooSmall(longest, budget)
    blocks = cut_step(
        ids,
        lengths,
        world_size,
        2 * budget,
        quadratic=quadratic,
        overhead=2 * overhead,
        # An even number of the longest fits a block, so its larger half is within the budget.
        row_multiple=2 * row_multiple,
    )
    rng = np.random.default_rng([seed, step, _PURPOSE])
    micro = []
    for rank in blocks.micro:
        dealt: list[Ids] = []
        for block in rank:
            mixed = rng.permutation(block)
            half = -(-len(block) // 2)
            dealt += [np.sort(mixed[:half]), np.sort(mixed[half:])]
        micro.append(tuple(dealt))
    return Cut(tuple(micro), blocks.examples)
