"""How it is trained: batch, optimizer, schedule, length, evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .schema import UsageError, option

FAULT = re.compile(r"(raise|kill|hang|nan|stop|oom|slow)@\d+(:\d+)?")
"""What `train.fault` may be."""

LAYERWISE = ("lamb", "lars")
"""Optimizers whose steps follow the norms of whole tensors."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The global batch, and how it is cut."""

    global_batch: int = option(32, "--global-batch", "B")
    """Examples per optimizer step, over all ranks and micro-batches."""
    micro_tokens: int | Literal["auto"] = option("auto", "--micro-tokens", "T")
    """Padded tokens of one micro-batch; auto: 1024 on CPU, 16384 on a GPU, or the longest input."""
    pad_multiple: int = 1
    """Pad lengths to a multiple of this, so that few shapes occur (`--compile graphs`: 16)."""

    def check(self) -> None:
        """Raise `UsageError` for values out of range."""
        if self.global_batch < 1:
            raise UsageError(f"--global-batch must be at least 1, got {self.global_batch}")
        if self.micro_tokens != "auto" and self.micro_tokens < 1:
            raise UsageError(f"--micro-tokens must be at least 1, got {self.micro_tokens}")
        if self.pad_multiple < 1:
            raise UsageError(f"batch.pad_multiple must be at least 1, got {self.pad_multiple}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and learning-rate schedule."""

    name: Literal["adamw", "adam", "sgd", "adagrad", "lamb", "lars"] = option(
        "adamw", "--optimizer", "NAME"
    )
    """adamw (fused), adam, sgd (with momentum), adagrad, or layer-wise lamb or lars."""
    lr: float = option(2e-5, "--lr", "RATE")
    """Peak learning rate; with a rule, the one at the base batch."""
    lr_rule: Literal["fixed", "linear", "sqrt", "sqrt_adam", "legew"] = option(
        "fixed", "--lr-rule", "NAME"
    )
    """How the learning rate follows the global batch from --base-batch: fixed, linear, sqrt,
    sqrt_adam (β and ε too) or legew (warm-up too)."""
    base_batch: int | None = option(None, "--base-batch", "B")
    """Global batch at which --lr holds; for --lr-rule."""
    beta1: float = 0.9
    """Adam's and LAMB's first moment decay."""
    beta2: float = 0.999
    """Adam's and LAMB's second moment decay."""
    eps: float = 1e-8
    """Adam's, LAMB's and Adagrad's denominator offset."""
    momentum: float = 0.9
    """SGD's and LARS's momentum."""
    trust_coefficient: float = 0.001
    """LARS's η: a layer's step over its weights' norm, before the learning rate."""
    weight_decay: float = option(0.01, "--weight-decay", "W")
    """Weight decay; biases and norms are spared."""
    clip: float = 1.0
    """Largest global gradient norm; 0 does not clip."""
    schedule: Literal["linear", "cosine", "constant"] = option("linear", "--schedule", "NAME")
    """Shape of the learning rate after warm-up."""
    warmup_ratio: float = option(0.1, "--warmup-ratio", "R")
    """Warm-up as a fraction of all optimizer steps."""
    warmup_steps: int | None = option(None, "--warmup-steps", "N")
    """Warm-up in optimizer steps; overrides the ratio."""

    def check(self) -> None:
        """Raise `UsageError` for values out of range."""
        if self.lr < 0:
            raise UsageError(f"--lr must not be below 0, got {self.lr:g}")
        if self.base_batch is not None and self.base_batch < 1:
            raise UsageError(f"--base-batch must be at least 1, got {self.base_batch}")
        if self.lr_rule != "fixed" and self.base_batch is None:
            raise UsageError(
                f"--lr-rule {self.lr_rule} needs --base-batch, the global batch at which --lr holds"
            )
        if self.lr_rule == "sqrt_adam" and self.name not in ("adamw", "adam"):
            raise UsageError(f"--lr-rule sqrt_adam is Adam's, not of --optimizer {self.name}")
        if self.weight_decay < 0:
            raise UsageError(f"--weight-decay must not be below 0, got {self.weight_decay:g}")
        if not 0 <= self.warmup_ratio <= 1:
            raise UsageError(f"--warmup-ratio must be between 0 and 1, got {self.warmup_ratio:g}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise UsageError(f"--warmup-steps must not be below 0, got {self.warmup_steps}")
        for key in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, key) < 1:
                raise UsageError(
                    f"optim.{key} must be at least 0 and below 1, got {getattr(self, key):g}"
                )
        for key in ("eps", "clip", "trust_coefficient"):
            if getattr(self, key) < 0:
                raise UsageError(f"optim.{key} must not be below 0, got {getattr(self, key):g}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length of the run, evaluation, logging."""

    epochs: float = option(3.0, "--epochs", "E")
    """Passes over the training rows; fractions are allowed."""
    max_steps: int | None = option(None, "--max-steps", "N")
    """Optimizer steps in all; overrides the epochs, and the schedule ends there."""
    seed: int = option(42, "--seed", "N")
    """Seed of order, dropout and new weights."""
    eval_every: int | Literal["epoch"] = option("epoch", "--eval-every", "N|epoch")
    """Evaluate at each epoch's end, or every N optimizer steps; always at the end too."""
    select: Literal["best", "last"] = option("best", "--select", "best|last")
    """Keep the weights with the best primary metric, or the last ones."""
    patience: int = option(0, "--patience", "N")
    """Stop after N evaluations without a better primary metric; 0 never stops early."""
    log_every: int = option(10, "--log-every", "N")
    """Optimizer steps between two lines of metrics.jsonl."""
    save_every: int | Literal["auto"] = option("auto", "--save-every", "N|auto")
    """Write a checkpoint every N optimizer steps; auto: every five minutes, or more seldom where
    that would cost more than a hundredth of the time."""
    noise_every: int = 0
    """Measure the gradient noise scale at every N-th optimizer step; 0 never does."""
    keep: Literal["results", "model", "all"] = "model"
    """What stays of a run that finished: results are scores, predictions and logs; model the
    weights too; all the checkpoints too."""
    fault: str | None = None
    """Rehearse a fault, once: raise, kill, hang, nan or stop@STEP[:RANK]. oom@STEP runs out of
    memory there once, oom@STEP:TOKENS until the budget is below TOKENS. slow@0[:RANK] makes a rank
    slow in the health check before step 0."""

    def check(self) -> None:
        """Raise `UsageError` for values out of range."""
        if self.epochs <= 0:
            raise UsageError(f"--epochs must be above 0, got {self.epochs:g}")
        if self.max_steps is not None and self.max_steps < 1:
            raise UsageError(f"--max-steps must be at least 1, got {self.max_steps}")
        if self.eval_every != "epoch" and self.eval_every < 1:
            raise UsageError(f"--eval-every must be at least 1, got {self.eval_every}")
        if self.patience < 0:
            raise UsageError(f"--patience must not be below 0, got {self.patience}")
        if self.patience and self.select == "last":
            raise UsageError("--patience needs --select best: the last weights are not compared")
        if self.log_every < 1:
            raise UsageError(f"--log-every must be at least 1, got {self.log_every}")
        if self.save_every != "auto" and self.save_every < 1:
            raise UsageError(f"--save-every must be at least 1, got {self.save_every}")
        if self.noise_every < 0:
            raise UsageError(f"train.noise_every must be at least 0, got {self.noise_every}")
        if self.fault is not None and not FAULT.fullmatch(self.fault):
            raise UsageError(
                "train.fault must be raise, kill, hang, nan or stop@STEP[:RANK], "
                f"oom@STEP[:TOKENS] or slow@0[:RANK], got {self.fault}"
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be between 0 and {2**32 - 1}, got {self.seed}")
