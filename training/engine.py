"""The two ways to train: plain DDP and a DeepSpeed engine, both prepared by Accelerate.

Both show the loop the same few methods, and both give the exact mean over the real examples of
the global batch: the loop hands in `sum of losses / examples of the global batch × world size`,
since DDP and DeepSpeed average gradients over ranks.
"""

from __future__ import annotations

import torch
from torch import nn

from .compiling import prepare_compute
from .config import RunConfig, UsageError
from .engine_base import AUTOCAST, Engine, autocast, whole_fragments
from .engine_ddp import DDPEngine
from .engine_deepspeed import DeepSpeedEngineAdapter, deepspeed_config

__all__ = [
    "AUTOCAST",
    "DDPEngine",
    "DeepSpeedEngineAdapter",
    "Engine",
    "autocast",
    "build_engine",
    "check_device",
    "deepspeed_config",
    "prepare_compute",
    "whole_fragments",
]


def build_engine(
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Engine:
    """Return the engine that the configuration asks for: never another one in its place."""
    if config.engine.zero is None:
        return DDPEngine(config, model, optimizer)
    return DeepSpeedEngineAdapter(config, model, optimizer)


def check_device(config: RunConfig) -> None:
    """Raise `UsageError` where this machine lacks the device or precision that was planned."""
    engine = config.engine
    if engine.device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(
                "the plan has GPUs, but torch sees none on this node: "
                "check the driver and the allocation, or use --device cpu"
            )
        if engine.precision == "bf16" and not torch.cuda.is_bf16_supported(False):
            raise UsageError(
                f"bf16 needs a GPU of compute capability 8.0, {torch.cuda.get_device_name()} "
                "has less: use --precision fp16 or fp32"
            )
    elif engine.precision == "fp16":
        raise UsageError("fp16 does not run on CPU: use --precision bf16 or fp32")
    elif engine.precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise UsageError("this CPU has no bf16 (AVX-512 or AMX): use --precision fp32")
