"""DeepSpeed at ZeRO stage 0 to 3, prepared by Accelerate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .compiling import prepare_compute
from .config import RunConfig
from .engine_base import (
    AUTOCAST,
    Engine,
    give_scaler_state,
    rank_and_world,
    read_scaler_state,
    same_world,
    whole_fragments,
)
from .fragments import Fragment, share
from .stopwatch import Stopwatch

INITIAL_MICRO_STEP_ID = -1
"""What DeepSpeed's ZeRO 1 and 2 count micro-batches from."""
ZERO_BUCKET = 50_000_000
"""Elements that are reduced or gathered at a time; `launch.memory` counts on it."""
FIRST_SCALE, GROWTH_STEPS = 65536.0, 2000
"""fp16's first loss scale, and after how many good steps it doubles: torch's GradScaler's own."""


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a run.

    Mixed precision is `torch_autocast`, not DeepSpeed's bf16 mode: weights stay fp32, and
    gradients are reduced in fp32 (no module is declared safe for a lower one), as under DDP.
    """
    engine = config.engine
    zero: dict[str, Any] = {
        "stage": engine.zero,
        "overlap_comm": engine.device != "cpu",
        # By default buffers of 500 M elements are taken, several times what the model itself needs.
        "reduce_bucket_size": ZERO_BUCKET,
        "allgather_bucket_size": ZERO_BUCKET,
    }
    zero.update(engine.zero_settings)
    if engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": engine.device == "cuda"}
    if engine.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": engine.device == "cuda"}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
    }
    if engine.precision in AUTOCAST:
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": {"bf16": "bfloat16", "fp16": "float16"}[engine.precision],
            "lower_precision_safe_modules": [],
        }
    return settings


class DeepSpeedEngineAdapter(Engine):
    """Accelerate with DeepSpeed at ZeRO stage 0 to 3."""

    name = "deepspeed"

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        super().__init__(config)
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        if config.engine.device == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed
        from accelerate import Accelerator, DeepSpeedPlugin
        from accelerate.utils import InitProcessGroupKwargs

        deepspeed.utils.logger.setLevel("WARNING")
        # A shared-memory all-reduce for one-host inference, compiled on first use: training
        # never calls it, and a node may have no compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.stage = config.engine.zero
        self.clip = config.optim.clip
        plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(config), zero3_init_flag=False)
        self.embeddings = prepare_compute(config, model, defer=self.stage in (0, 1))
        backend = "gloo" if config.engine.device == "cpu" else "nccl"
        # Without the backend Accelerate counts one process on CPU; with `cpu=True` it would
        # train plain DDP without a word.
        self.accelerator = Accelerator(
            mixed_precision="no",
            deepspeed_plugin=plugin,
            kwargs_handlers=[InitProcessGroupKwargs(backend=backend)],
        )
        same_world(self.accelerator.num_processes)
        prepared, _ = self.accelerator.prepare(model, optimizer)
        if not isinstance(prepared, deepspeed.DeepSpeedEngine):
            raise RuntimeError(
                f"asked for DeepSpeed ZeRO {self.stage}, got a {type(prepared).__name__}"
            )
        if prepared.zero_optimization_stage() != self.stage:
            raise RuntimeError(
                f"asked for ZeRO {self.stage}, got stage {prepared.zero_optimization_stage()}"
            )
        self.engine: Any = prepared
        self.module = prepared
        self.device = self.accelerator.device
        self.meets_in_forward = self.stage == 3
        self.meets_in_every_backward = self.stage in (1, 2, 3)
        self.communication = Stopwatch(self.device)
        _time_collectives(self.communication)
        self._scales = config.engine.precision == "fp16" and self.stage != 0
        self._good_steps = 0
        if self._scales:
            # With the scaler of its torch_autocast mode DeepSpeed 0.19 clips scaled gradients,
            # and never lowers the scale after an overflow: its own loss scale is set instead.
            self.engine.optimizer.torch_autocast_gradscaler = None
            self.engine.optimizer.override_loss_scale(FIRST_SCALE)
        # Whole weights in a second precision, kept for a step, are what ZeRO 3 is there to avoid.
        self.casts_once = self.stage != 3

    @contextlib.contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        self._mark(last)
        self.engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        # DeepSpeed would divide by a constant accumulation count; the loss is scaled already.
        self.engine.backward(loss, scale_wrt_gas=False)

    def _discard(self, small: dict[str, torch.Tensor]) -> None:
        """Do what DeepSpeed itself does with the gradients of a step that overflowed."""
        self.engine.zero_grad()
        if self.stage == 0:
            return
        optimizer = self.engine.optimizer
        optimizer.zero_grad(set_to_none=True)
        if self.stage == 3:
            return
        optimizer.micro_step_id = INITIAL_MICRO_STEP_ID
        optimizer._release_preflattened_grad_buffers()
        if optimizer.cpu_offload:
            optimizer.reset_cpu_buffers()
        for kept in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
            for group in kept:
                kept[group] = None

    def step(self, lr: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        # Stage 0 in fp32 reports no norm: its gradients are whole on every rank, so take it here.
        whole = self._whole_norm() if self.stage == 0 else None
        self.engine.step()
        if self._scales:
            self._adapt_scale()
        if whole is not None:
            return whole
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def _adapt_scale(self) -> None:
        """Halve fp16's loss scale after an overflow, double it after many steps without one."""
        optimizer = self.engine.optimizer
        if optimizer.overflow:
            optimizer.override_loss_scale(max(optimizer.loss_scale / 2, 1.0))
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == GROWTH_STEPS:
            optimizer.override_loss_scale(optimizer.loss_scale * 2)
            self._good_steps = 0

    def _whole_norm(self) -> float:
        grads = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        scaler = getattr(self.engine, "torch_autocast_z0_gradscaler", None)
        return float(norm) / (scaler.get_scale() if scaler else 1.0)

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.engine.optimizer
        return optimizer if self.stage == 0 else optimizer.optimizer

    def _parameters(self) -> list[tuple[str, Any]]:
        return list(self.engine.module.named_parameters())

    def shapes(self) -> dict[str, list[int]]:
        return {n: list(getattr(p, "ds_shape", p.shape)) for n, p in self._parameters()}

    def fragments(self) -> list[Fragment]:
        if self.stage == 0:
            return whole_fragments(self._parameters())
        found = [self._fragment(name, p) for name, p in self._parameters()]
        return [f for f in found if f is not None and f.numel]

    def own_fragments(self) -> list[Fragment]:
        fragments = self.fragments()
        if self.stage in (1, 2):
            # Parameters that are not trained are whole on every rank.
            alike = share([f for f in fragments if f.owner is None], *rank_and_world())
            return [f for f in fragments if f.owner is not None] + alike
        return fragments if self.stage == 3 else share(fragments, *rank_and_world())

    def _fragment(self, name: str, parameter: Any) -> Fragment | None:
        """Return this rank's part of a parameter under ZeRO 1 to 3, None if it has none."""
        optimizer = self.engine.optimizer
        if self.stage != 3:
            if not parameter.requires_grad:
                return Fragment(name, 0, parameter.detach().view(-1), None)
            mapping = parameter._hp_mapping
            if mapping is None:
                return None
            flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            held, place = mapping.hp_fragment_address, mapping.lp_fragment_address.start
            weight = flat.detach().narrow(0, held.start, held.numel)
            return Fragment(name, place, weight, flat, held.start)
        size = parameter.ds_tensor.ds_numel
        rank, _ = rank_and_world()
        start = rank * size
        numel = max(0, min(size, parameter.ds_numel - start))  # the last partition is filled up
        if not parameter.requires_grad:
            return Fragment(name, start, parameter.ds_tensor.detach().narrow(0, 0, numel), None)
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        flat = optimizer.fp32_partitioned_groups_flat[group]
        return Fragment(name, start, flat.detach().narrow(0, offset, numel), flat, offset)

    def scaler_state(self) -> dict[str, float]:
        if self._scales:
            optimizer = self.engine.optimizer
            return {"scale": float(optimizer.loss_scale), "good_steps": self._good_steps}
        return read_scaler_state(getattr(self.engine, "torch_autocast_z0_gradscaler", None))

    def set_scaler_state(self, state: dict[str, float]) -> None:
        if self._scales and state:
            self.engine.optimizer.override_loss_scale(state["scale"])
            self._good_steps = int(state["good_steps"])
        else:
            give_scaler_state(getattr(self.engine, "torch_autocast_z0_gradscaler", None), state)

    def state_dict(self) -> dict[str, torch.Tensor]:
        module = self.engine.module
        rank, _ = rank_and_world()
        if self.stage != 3:
            if rank != 0:
                return {}
            return {k: v.detach().to("cpu", copy=True) for k, v in module.state_dict().items()}
        import deepspeed

        whole: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter]):
                if rank == 0:
                    whole[name] = parameter.detach().to("cpu", copy=True)
        if rank == 0:
            known = module.state_dict().keys()
            for name, buffer in module.named_buffers():
                if name in known:
                    whole[name] = buffer.detach().to("cpu", copy=True)
        return whole

    def partition_sizes(self) -> dict[str, int]:
        """Return elements of parameters and of optimizer state that this rank holds."""
        base = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
        moments = sum(
            value.numel()
            for state in base.state.values()
            for value in state.values()
            if torch.is_tensor(value) and value.ndim > 0
        )
        held = sum(getattr(p, "ds_tensor", p).numel() for p in self.engine.module.parameters())
        return {"parameters": held, "optimizer_state": moments}


_COLLECTIVES = (
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "all_gather",
    "reduce_scatter",
)


def _time_collectives(stopwatch: Stopwatch) -> None:
    """Let DeepSpeed's own collectives run the stopwatch."""
    from deepspeed.comm import comm

    backend: Any = comm.cdb
    for name in _COLLECTIVES:
        original = getattr(backend, name, None)
        if original is None:
            continue

        def timed(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            stopwatch.begin()
            try:
                return _original(*args, **kwargs)
            finally:
                stopwatch.end()

        setattr(backend, name, timed)
