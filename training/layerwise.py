"""LAMB and LARS of the package pytorch-optimizer, set up as their papers have them."""

from __future__ import annotations

import math
from typing import Any

import pytorch_optimizer
import torch

from .config import OptimConfig

_SHOWN = ("weight_norm", "adam_norm", "trust_ratio")
"""What the package keeps for people to look at, of each tensor: no part of the training state."""


class Lamb(pytorch_optimizer.Lamb):
    """LAMB (You et al. 2019, arXiv:1904.00962, algorithm 2).

    With r = m̂ / (√v̂ + ε) of Adam's corrected moments, a tensor x makes the step

        x ← x - lr · |x| / |r + λ·x| · (r + λ·x)

    Weight decay λ is in the ratio, not beside it; φ is the identity, as in the authors' own
    implementation (the package's default cuts |x| off at 10, which the word embeddings of BERT
    exceed many times). Groups without weight decay (biases and norms) have no ratio either: Adam.

    The package leaves the moments uncorrected, and would divide the rate by 1 - β₁ᵗ instead, which
    a ratio does not undo. With c₁ = 1 - β₁ᵗ and c₂ = 1 - β₂ᵗ,
    m / (√v + ε·√c₂) is r / s with s = √c₂ / c₁: so ε·√c₂ and λ / s give the direction above, whose
    length the ratio sets, and lr·s gives Adam's step where there is no ratio.
    """

    clamp = float("inf")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make a step; the learning rate is that of the groups."""
        done = next((int(s["step"]) for s in self.state.values() if "step" in s), 0) + 1
        asked = [dict(group) for group in self.param_groups]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            c1, c2 = 1 - beta1**done, 1 - beta2**done
            s = math.sqrt(c2) / c1
            group["eps"] *= math.sqrt(c2)
            group["weight_decay"] /= s
            if group["adam"]:
                group["lr"] *= s
        try:
            return super().step(closure)
        finally:
            for group, values in zip(self.param_groups, asked, strict=True):
                group.update({key: values[key] for key in ("eps", "weight_decay", "lr")})
            count = torch.tensor(float(done))
            for state in self.state.values():
                for key in _SHOWN:
                    state.pop(key, None)
                state["step"] = count


def build_layerwise(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.Optimizer:
    """Return LAMB or LARS over parameter groups.

    LARS (You et al. 2017, arXiv:1708.03888, algorithm 1) makes the local rate of a tensor
    η·|x| / (|g| + λ·|x|); tensors of one dimension have plain SGD without weight decay. As in
    torch's SGD, the learning rate multiplies the momentum, not what is added to it.

    Args:
        groups: `weight_decay` 0 marks biases and norms, which are spared whatever the others' is.
        optim: of the run.
    """
    found = []
    for group in groups:
        spared = group["weight_decay"] == 0
        found.append(group | {"weight_decay": 0.0 if spared else optim.weight_decay})
        if optim.name == "lamb":
            # With `adam_debias` the package leaves the learning rate to `Lamb.step`.
            found[-1] |= {"adam": spared, "adam_debias": True}
    if optim.name == "lars":
        return pytorch_optimizer.LARS(
            found,
            lr=optim.lr,
            momentum=optim.momentum,
            trust_coefficient=optim.trust_coefficient,
        )
    return Lamb(
        found,
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decouple=False,
    )
