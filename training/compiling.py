"""Faster operations for a model: compiled, or written by hand (`kernels`)."""

from __future__ import annotations

from shutil import which

import torch
from torch import nn

from .config import RunConfig, UsageError
from .kernels import DeferredEmbedding, use_kernels


def prepare_compute(
    config: RunConfig, model: nn.Module, defer: bool = True
) -> list[DeferredEmbedding]:
    """Compile the model or give it faster operations; return its deferred embeddings.

    Args:
        config: of the run.
        model: changed in place.
        defer: whether embeddings may build their gradient once a step. Not under ZeRO 2 and 3,
            which want a gradient of every parameter in every micro-batch.

    Raises:
        UsageError: there is nothing to compile, or nothing to compile with.
    """
    on_cpu = config.engine.device == "cpu"
    if config.engine.compile != "none" and on_cpu and not (which("g++") or which("clang++")):
        raise UsageError("--compile on CPUs needs a C++ compiler on the nodes (g++ or clang++)")
    if config.engine.compile != "none":
        from torch import _dynamo  # takes a while

        # Modules compiled one by one reduce their gradients in time; torch would cut them up more.
        _dynamo.config.optimize_ddp = False
    if config.engine.compile == "layers":
        compile_layers(model)
    elif config.engine.compile == "graphs":
        model.compile(mode="reduce-overhead", dynamic=True)
        return []
    device = torch.device(config.engine.device)
    return use_kernels(model, device, defer=defer, compiled=config.engine.compile != "none")


def compile_layers(model: nn.Module) -> None:
    """Compile every layer of a model by itself, in place.

    Layers share one compilation, and gradients are still ready one layer after the other, so
    that their reduction overlaps with the rest of the backward pass.

    Raises:
        UsageError: the model has no list of equal layers.
    """
    found = [
        layer
        for layers in model.modules()
        if isinstance(layers, nn.ModuleList) and len({type(layer) for layer in layers}) == 1
        for layer in layers
    ]
    if not found:
        raise UsageError(f"--compile layers: {type(model).__name__} has no list of equal layers")
    for layer in found:
        layer.compile(dynamic=True)
