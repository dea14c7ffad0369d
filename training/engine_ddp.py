"""Plain DDP, prepared by Accelerate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .compiling import prepare_compute
from .config import RunConfig
from .engine_base import (
    Engine,
    give_scaler_state,
    rank_and_world,
    read_scaler_state,
    same_world,
    whole_fragments,
)
from .fragments import Fragment, share
from .stopwatch import Stopwatch


class DDPEngine(Engine):
    """Accelerate with plain DistributedDataParallel (or one process)."""

    name = "ddp"
    stage = None

    def __init__(
        self, config: RunConfig, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        super().__init__(config)
        self.embeddings = prepare_compute(config, model)
        precision = config.engine.precision
        self.accelerator = Accelerator(
            cpu=config.engine.device == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            kwargs_handlers=[
                # Buffers of classifiers are constants (positions); gradients live in the buckets.
                DistributedDataParallelKwargs(
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                    bucket_cap_mb=config.engine.bucket_megabytes,
                )
            ],
        )
        same_world(self.accelerator.num_processes)
        self.device = self.accelerator.device
        prepared: Any = self.accelerator.prepare(model, optimizer)
        self.module, self.optimizer = prepared
        self.clip = config.optim.clip
        self.communication = Stopwatch(self.device)
        if isinstance(self.module, DistributedDataParallel):
            # The input's parameters get their gradient last: what is left of the backward pass
            # from there on is waiting for other ranks.
            first = next(p for p in self.module.parameters() if p.requires_grad)
            first.register_post_accumulate_grad_hook(lambda _: self.communication.begin())
        self._graphs = config.engine.compile == "graphs"
        if self._graphs:
            # Else the first gradients would be the graphs' own memory, and overwritten.
            for parameter in self.module.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    @contextlib.contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        self._mark(last)
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module):
            yield

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.accelerator.backward(loss)
        if last:
            self.communication.end()

    def _discard(self, small: dict[str, torch.Tensor]) -> None:
        # On ranks whose forward pass had begun the reduction, DDP still waits for its backward
        # pass, and would start it in the next one: give it one of weight zero.
        with self.micro_step(last=True):
            self.backward(self.forward(small).sum() * 0.0, last=True)
        self.optimizer.zero_grad(set_to_none=False)

    def step(self, lr: float) -> float | torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # An infinite bound measures the norm and leaves the gradient.
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.clip or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return norm.detach() if norm is not None else float("nan")

    def warm(self, small: dict[str, torch.Tensor]) -> None:
        # DDP builds its gradient buckets anew after the first backward pass: a resumed run would
        # add up over ranks in another order than the run that was not interrupted.
        if isinstance(self.module, DistributedDataParallel):
            for _ in range(2):
                self._discard(small)
            self.communication.take()

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer.optimizer

    def fragments(self) -> list[Fragment]:
        return whole_fragments(self._parameters())

    def own_fragments(self) -> list[Fragment]:
        return share(self.fragments(), *rank_and_world())

    def scaler_state(self) -> dict[str, float]:
        return read_scaler_state(self.accelerator.scaler)

    def set_scaler_state(self, state: dict[str, float]) -> None:
        give_scaler_state(self.accelerator.scaler, state)

    def evaluation(self) -> contextlib.AbstractContextManager[Any]:
        # Graphs would keep a recording of every shape, and overwrite answers not yet fetched.
        return torch.compiler.set_stance("force_eager") if self._graphs else super().evaluation()

    def eval_module(self) -> nn.Module:
        plain: Any = self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=True)
        return plain

    def state_dict(self) -> dict[str, torch.Tensor]:
        rank, _ = rank_and_world()
        if rank != 0:
            return {}
        return {
            k: v.detach().to("cpu", copy=True) for k, v in self.eval_module().state_dict().items()
        }
