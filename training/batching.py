"""The batch planner: which examples make a step, and how a step is cut into micro-batches.

Pure numpy. The set of examples of step *t* of epoch *e* follows from the seed alone; how it is
cut over ranks and micro-batches is scheduling, and never changes the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_FACTORS = (1, 1.25, 1.5, 2, 2.5, 3, 4)
"""Numbers of micro-batches that are tried, in multiples of the fewest that the budget allows."""


class BudgetTooSmall(ValueError):
    """One example alone is longer than the token budget of a micro-batch."""

    def __init__(self, length: int, budget: int) -> None:
        super().__init__(
            f"the longest example has {length} tokens, the budget of a micro-batch is {budget}: "
            f"use --micro-tokens {length} or more, or a smaller --max-length"
        )
        self.length = length
        self.budget = budget


def epoch_order(rows: int, seed: int, epoch: int) -> Ids:
    """Return the order of the training rows in an epoch: a permutation of `range(rows)`.

    It depends on the seed and the epoch alone, not on batch size or world size.
    """
    return np.random.default_rng([seed, epoch]).permutation(rows)


def steps_in_epoch(rows: int, global_batch: int) -> int:
    """Return the optimizer steps of one epoch; the last one takes what is left."""
    return -(-rows // global_batch)


def step_ids(order: Ids, step: int, global_batch: int) -> Ids:
    """Return the ids of step `step` (from 0) of an epoch with this order."""
    return order[step * global_batch : (step + 1) * global_batch]


def total_steps(rows: int, global_batch: int, epochs: float, max_steps: int | None) -> int:
    """Return the optimizer steps of a run: `max_steps`, or the epochs' (rounded up)."""
    if max_steps is not None:
        return max_steps
    return max(1, int(np.ceil(steps_in_epoch(rows, global_batch) * epochs - 1e-9)))


def micro_overhead(device: str, precision: str = "fp32", ratio: float = 1.0) -> float:
    """Return what a micro-batch costs beside its tokens, in tokens: launches, casts, gradients.

    On a CPU gradients are added up, and with a lower precision weights are cast, for every
    micro-batch: it grows with the parameters, as a token's cost grows with those of the matrix
    products. `benchmarks/micro_batches.py` measures it. The optimum is flat, so that the smaller
    micro-batches, which need less memory, are preferred. On a GPU starting a few thousand kernels
    costs more.

    Args:
        device: `cpu` or `cuda`.
        precision: of the products; a token costs half as much in a lower one.
        ratio: trained parameters for each one of a matrix product: the more of them are of a
            vocabulary, the dearer is a micro-batch in tokens.
    """
    if device == "cuda":
        return 1024.0
    return max(20.0, (20.0 if precision == "fp32" else 30.0) * ratio)


def round_up(
    lengths: NDArray[np.int32], multiple: int, longest: int | None = None
) -> NDArray[np.int32]:
    """Return lengths rounded up to a multiple, but not beyond `longest`."""
    if multiple == 1 or len(lengths) == 0:
        return lengths
    rounded = -(-lengths // multiple) * multiple
    return np.minimum(rounded, longest or rounded.max()).astype(lengths.dtype)


def micro_batch_cost(
    size: NDArray[np.int64] | int, length: NDArray[np.int64] | int, quadratic: float
) -> NDArray[np.float64]:
    """Return the cost of micro-batches of `size` examples padded to `length`: b·L·(1 + q·L).

    The linear part is what the matrix products cost a token, the quadratic part what attention
    adds; a transformer of width h has q of about 1 / (6·h).
    """
    tokens = np.asarray(size, dtype=np.float64) * length
    return tokens * (1.0 + quadratic * np.asarray(length, dtype=np.float64))


@dataclass(frozen=True)
class Cut:
    """One step's examples in `world_size × slots` micro-batches."""

    micro: tuple[tuple[Ids, ...], ...]
    """`micro[rank][slot]`: ids of that micro-batch; may be empty."""
    examples: int
    """Examples of the step over all ranks: what the summed loss is divided by."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.micro)

    @property
    def slots(self) -> int:
        """Micro-batches of every rank (K): equal, so that collectives match."""
        return len(self.micro[0])


def cut_step(
    ids: Ids,
    lengths: NDArray[np.int32],
    world_size: int,
    budget: int,
    *,
    quadratic: float = 0.0,
    overhead: float = 0.0,
    slots: int | None = None,
    row_multiple: int = 1,
) -> Cut:
    """Cut a set of examples into equally costly micro-batches for `world_size` ranks.

    The examples are sorted by length and cut into neighbouring runs, so that padding is small.
    K is at least the number of micro-batches a rank that keeps each within the budget, and more
    where the padding that smaller ones save outweighs their overhead; for a K the cut with the
    least cost of the dearest micro-batch is taken (bisection). Micro-batches of one slot have
    neighbouring costs, so that ranks that run at the same time run equally long; the rank with
    the least so far takes the dearest of a slot.

    Args:
        ids: the step's examples, shape [n].
        lengths: tokens of every example of the data set, indexed by id.
        world_size: ranks.
        budget: padded tokens that a micro-batch may hold.
        quadratic: weight of the quadratic part of the cost, see `micro_batch_cost`.
        overhead: cost of a micro-batch beside its tokens, see `micro_overhead`.
        slots: K, where it is given from outside; then the budget does not count.
        row_multiple: micro-batches will be filled up to a multiple of so many rows; the budget
            holds for the filled ones, as long as that many of the longest fit.

    Raises:
        BudgetTooSmall: one example is longer than the budget.
    """
    n = len(ids)
    own = lengths[ids].astype(np.int64)
    by_length = np.lexsort((ids, -own))
    ids, own = ids[by_length], own[by_length]
    if n == 0:
        empty = tuple(tuple(ids for _ in range(slots or 1)) for _ in range(world_size))
        return Cut(empty, 0)
    if slots is None:
        if own[0] > budget:
            raise BudgetTooSmall(int(own[0]), budget)
        per_micro = np.maximum(budget // own, 1)
        filled = per_micro // row_multiple * row_multiple
        per_micro = np.where(filled > 0, filled, per_micro)
        fewest = -(-len(_chunks(per_micro)) // world_size)
        slots, bounds = _best_slots(own, per_micro, world_size, fewest, quadratic, overhead)
    else:
        per_micro = np.full(n, n, dtype=np.int64)
        bounds = _equal_cost(own, per_micro, slots * world_size, quadratic)
    return Cut(_deal(ids, own, bounds, world_size, slots, quadratic), n)


def _best_slots(
    own: NDArray[np.int64],
    per_micro: NDArray[np.int64],
    world_size: int,
    fewest: int,
    quadratic: float,
    overhead: float,
) -> tuple[int, list[int]]:
    """Return the cheapest K from `fewest` on, and the starts of its micro-batches."""
    floor = float(micro_batch_cost(1, own, quadratic).sum()) / world_size
    best = (np.inf, fewest, [])
    for slots in dict.fromkeys(int(np.ceil(fewest * factor)) for factor in _FACTORS):
        # Without any padding this many micro-batches would still cost so much.
        if floor + slots * overhead >= best[0] or (slots - 1) * world_size >= len(own):
            break
        bounds = _equal_cost(own, per_micro, slots * world_size, quadratic)
        edges = np.array([*bounds, len(own)])
        cost = micro_batch_cost(np.diff(edges), own[edges[:-1]], quadratic).sum() / world_size
        if cost + slots * overhead >= best[0]:
            break
        best = (float(cost) + slots * overhead, slots, bounds)
    return best[1], best[2]


def _chunks(per_micro: NDArray[np.int64]) -> list[int]:
    """Return the starts of greedy runs where a run that starts at i may hold per_micro[i]."""
    starts = []
    i, n = 0, len(per_micro)
    sizes = per_micro.tolist()
    while i < n:
        starts.append(i)
        i += sizes[i]
    return starts


def _equal_cost(
    own: NDArray[np.int64], per_micro: NDArray[np.int64], wanted: int, quadratic: float
) -> list[int]:
    """Return the starts of at most `wanted` runs with the least dearest cost, then fill up."""
    n = len(own)
    if wanted >= n:
        return list(range(n))
    single = micro_batch_cost(1, own, quadratic)
    low, high = float(single[0]), float(single.sum()) * 2 + 1
    # The mean is a lower bound up to padding; starting there saves most of the bisection.
    low = max(low, float(single.sum()) / wanted)
    best: list[int] | None = None
    ceiling = low
    for _ in range(40):
        sizes = np.minimum(per_micro, np.maximum(np.floor(ceiling / single), 1).astype(np.int64))
        starts = _chunks(sizes)
        if len(starts) <= wanted:
            best, high = starts, ceiling
            if high - low < 0.005 * high:
                break
        else:
            low = ceiling
        ceiling = (low + high) / 2 if best is not None else min(ceiling * 1.15, high)
    if best is None:
        best = _chunks(per_micro)
    return _split_up(best, single, n, wanted)


def _split_up(starts: list[int], single: NDArray[np.float64], n: int, wanted: int) -> list[int]:
    """Halve the dearest runs until there are `wanted` of them."""
    while len(starts) < wanted:
        edges = np.array([*starts, n])
        sizes = np.diff(edges)
        cost = np.where(sizes > 1, sizes * single[edges[:-1]], -1.0)
        dearest = int(cost.argmax())
        starts.insert(dearest + 1, int(edges[dearest] + sizes[dearest] // 2))
    return starts


def _deal(
    ids: Ids,
    own: NDArray[np.int64],
    starts: list[int],
    world_size: int,
    slots: int,
    quadratic: float,
) -> tuple[tuple[Ids, ...], ...]:
    """Give the runs to ranks and slots: neighbours in cost share a slot."""
    edges = np.array([*starts, len(ids)])
    cost = micro_batch_cost(np.diff(edges), own[edges[:-1]], quadratic)
    order = np.argsort(-cost, kind="stable")
    nothing = ids[:0]
    micro: list[list[Ids]] = [[] for _ in range(world_size)]
    load = np.zeros(world_size)
    for slot in range(slots):
        runs = order[slot * world_size : (slot + 1) * world_size]
        ranks = np.argsort(load, kind="stable")
        for place, rank in enumerate(ranks):
            if place < len(runs):
                run = runs[place]
                micro[rank].append(ids[edges[run] : edges[run + 1]])
                load[rank] += cost[run]
            else:
                micro[rank].append(nothing)
    return tuple(tuple(rank) for rank in micro)


@dataclass(frozen=True)
class CutSummary:
    """What cutting costs, for the plan and the meters."""

    steps_per_epoch: int
    micro_batches: float
    """Mean micro-batches a rank and step (K)."""
    micro_batches_max: int
    padding_efficiency: float
    """Real tokens over padded tokens."""
    rank_imbalance: float
    """Cost of the slowest rank of a step over the mean of its ranks."""
    empty_share: float
    """Share of micro-batches that are empty."""
    most_tokens: int
    """Padded tokens of the largest micro-batch."""
    most_square: int
    """b·L² of the micro-batch where it is largest."""
    padded_tokens: float
    """Mean padded tokens of a step, over all ranks."""


@dataclass(frozen=True)
class CutCost:
    """What the micro-batches of a step cost."""

    real_tokens: int
    padded_tokens: int
    square: float
    """Sum of the squared lengths of the examples: what attention's operations grow with."""
    slowest: float
    """Cost of the dearest rank."""
    mean: float
    """Mean cost of the ranks."""
    empty: int
    """Micro-batches without an example."""
    most_tokens: int
    """Padded tokens of the largest micro-batch of any rank."""
    most_square: int
    """b·L² of the micro-batch of any rank where it is largest."""


def measure(
    cut: Cut,
    lengths: NDArray[np.int32],
    quadratic: float = 0.0,
    padded_lengths: NDArray[np.int32] | None = None,
    row_multiple: int = 1,
) -> CutCost:
    """Return what a cut costs; `lengths`, `quadratic` and `row_multiple` as in `cut_step`.

    `padded_lengths` are the lengths that were cut by, where they were rounded up.
    """
    flat = [ids for rank in cut.micro for ids in rank]
    sizes = np.array([len(ids) for ids in flat], dtype=np.int64)
    if cut.examples == 0:
        return CutCost(0, 0, 0.0, 0.0, 0.0, len(flat), 0, 0)
    ids = np.concatenate(flat)
    own = lengths[ids].astype(np.int64)
    wide = own if padded_lengths is None else padded_lengths[ids].astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    full = sizes > 0
    longest = np.zeros(len(flat), dtype=np.int64)
    longest[full] = np.maximum.reduceat(wide, starts[full])
    rows = -(-sizes // row_multiple) * row_multiple
    padded = rows * longest
    costs = micro_batch_cost(rows, longest, quadratic).reshape(cut.world_size, cut.slots).sum(1)
    return CutCost(
        real_tokens=int(own.sum()),
        padded_tokens=int(padded.sum()),
        square=float((own * own).sum()),
        slowest=float(costs.max()),
        mean=float(costs.mean()),
        empty=int((~full).sum()),
        most_tokens=int(padded.max()),
        most_square=int((padded * longest).max()),
    )


def summarise(
    lengths: NDArray[np.int32],
    examples: int,
    global_batch: int,
    world_size: int,
    micro_tokens: int,
    seed: int,
    *,
    quadratic: float = 0.0,
    overhead: float = 0.0,
    steps: int = 8,
) -> CutSummary:
    """Return what cutting will cost, from a sample of the data set's lengths.

    Args:
        lengths: tokens of sampled examples (any number of them).
        examples: training rows.
        global_batch: examples a step.
        world_size: ranks.
        micro_tokens: budget of padded tokens a micro-batch.
        seed: of the draw from the sample.
        quadratic: see `micro_batch_cost`.
        overhead: see `micro_overhead`.
        steps: steps to try out.

    Raises:
        BudgetTooSmall: a sampled example is longer than the budget.
    """
    rng = np.random.default_rng(seed)
    size = min(global_batch, examples)
    found, slots, micro = [], [], 0
    for _ in range(steps):
        sample = rng.choice(lengths, size, replace=size > len(lengths)).astype(np.int32)
        cut = cut_step(
            np.arange(size),
            sample,
            world_size,
            micro_tokens,
            quadratic=quadratic,
            overhead=overhead,
        )
        found.append(measure(cut, sample, quadratic))
        slots.append(cut.slots)
        micro += cut.slots * world_size
    slowest, mean = sum(f.slowest for f in found), sum(f.mean for f in found)
    return CutSummary(
        steps_per_epoch=steps_in_epoch(examples, global_batch),
        micro_batches=float(np.mean(slots)),
        micro_batches_max=max(slots),
        padding_efficiency=sum(f.real_tokens for f in found) / sum(f.padded_tokens for f in found),
        rank_imbalance=slowest / mean,
        empty_share=sum(f.empty for f in found) / micro,
        most_tokens=max(f.most_tokens for f in found),
        most_square=max(f.most_square for f in found),
        padded_tokens=sum(f.padded_tokens for f in found) / steps,
    )
