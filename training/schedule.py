"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from .config import OptimConfig


def warmup_steps(optim: OptimConfig, total: int) -> int:
    """Return the warm-up in optimizer steps; a ratio is rounded up, as transformers does."""
    if optim.warmup_steps is not None:
        return min(optim.warmup_steps, total)
    return math.ceil(total * optim.warmup_ratio)


def learning_rate(optim: OptimConfig, step: int, total: int) -> float:
    """Return the learning rate of optimizer step `step` (from 0) out of `total`.

    The shapes are those of `transformers.get_scheduler`: a linear warm-up from 0, then a line to
    0, half a cosine to 0, or a constant.
    """
    warmup = warmup_steps(optim, total)
    if step < warmup:
        return optim.lr * step / max(1, warmup)
    if optim.schedule == "constant":
        return optim.lr
    progress = (step - warmup) / max(1, total - warmup)
    if optim.schedule == "cosine":
        return optim.lr * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return optim.lr * max(0.0, 1.0 - progress)
