"""How the optimizer's settings follow the global batch: the learning-rate rules. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from .config import OptimConfig, RunConfig, UsageError


def scaled(optim: OptimConfig, global_batch: int, equal_steps: bool = False) -> OptimConfig:
    """Return the optimizer's settings at a global batch, by its rule from its base batch.

    With k = global batch / base batch:

    - `linear`: the learning rate times k (Goyal et al. 2017, arXiv:1706.02677, section 2.1).
    - `sqrt`: times √k (Krizhevsky 2014, arXiv:1404.5997, section 5; Hoffer et al. 2017,
      arXiv:1705.08741).
    - `sqrt_adam`: times √k, and 1 - β₁ and 1 - β₂ times k, ε over √k: the square root rule of
      the stochastic differential equation of Adam (Malladi et al. 2022, arXiv:2205.10287,
      definition 5.2).
    - `legew`: times √k, and the warm-up times k in epochs, so it has as many steps as at the base
      batch (You et al. 2019, arXiv:1901.08256): of equal epochs k times the share, of equal steps
      the same share.

    The result carries the rule `fixed`: it is scaled already.

    Args:
        optim: as asked for.
        global_batch: examples a step.
        equal_steps: every batch has the same number of steps (`train.max_steps`), not of epochs.

    Raises:
        UsageError: the rule does not hold this far from the base batch.
    """
    rule, base = optim.lr_rule, optim.base_batch
    if rule == "fixed" or base is None:
        return optim
    k = global_batch / base
    factor = k if rule == "linear" else math.sqrt(k)
    found = replace(optim, lr=optim.lr * factor, lr_rule="fixed", base_batch=None)
    if rule == "legew" and optim.warmup_steps is None:
        share = optim.warmup_ratio * (1.0 if equal_steps else k)
        return replace(found, warmup_ratio=min(1.0, share))
    if rule != "sqrt_adam":
        return found
    beta1, beta2 = 1 - k * (1 - optim.beta1), 1 - k * (1 - optim.beta2)
    if beta1 < 0 or beta2 < 0:
        most = int(base / max(1 - optim.beta1, 1 - optim.beta2))
        raise UsageError(
            f"--lr-rule sqrt_adam: at global batch {global_batch} Adam's β would be below 0 "
            f"(base batch {base}): use at most {most}, or --lr-rule sqrt"
        )
    return replace(found, beta1=beta1, beta2=beta2, eps=optim.eps / factor)


def scaled_for(config: RunConfig) -> OptimConfig:
    """Return the optimizer's settings of a run, at its global batch and its budget.

    Raises:
        UsageError: as `scaled`.
    """
    equal_steps = config.train.max_steps is not None
    return scaled(config.optim, config.batch.global_batch, equal_steps)


def scaled_config(config: RunConfig) -> RunConfig:
    """Return a run's configuration with the optimizer's settings at its global batch.

    Raises:
        UsageError: as `scaled`.
    """
    return replace(config, optim=scaled_for(config))
