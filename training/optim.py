"""Optimizers, and which parameters decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .config import LAYERWISE, OptimConfig, UsageError


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: what decays, and biases and norms, which do not.

    A norm is told by its class or its parameter's single dimension, not by its name: names
    differ between model families.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    }
    decay, spared = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or id(parameter) in norms
            (spared if plain else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the configuration over the model's trainable parameters.

    Raises:
        UsageError: its package is not installed.
    """
    groups = decay_groups(model, optim.weight_decay)
    betas = (optim.beta1, optim.beta2)
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=True)
    if optim.name == "adam":
        return torch.optim.Adam(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=True)
    if optim.name in LAYERWISE:
        # It takes over a second to import: only runs that use it pay.
        try:
            from .layerwise import build_layerwise
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--optimizer {optim.name} needs the package pytorch-optimizer, which is not "
                f"installed ({error}): pip install -c constraints.txt pytorch-optimizer"
            ) from None
        return build_layerwise(decay_groups(model, 1.0), optim)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum)
    return torch.optim.Adagrad(groups, lr=optim.lr, eps=optim.eps)
