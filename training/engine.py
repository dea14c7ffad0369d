"""The two ways to train: plain DDP and a DeepSpeed engine, both prepared by Accelerate.

Both show the loop the same few methods, and both give the exact mean over the real examples of
the global batch: the loop hands in `sum of losses / examples of the global batch × world size`,
since DDP and DeepSpeed average gradients over ranks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from shutil import which
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .config import RunConfig, UsageError
from .fragments import Fragment, share
from .kernels import DeferredEmbedding, use_kernels
from .stopwatch import Stopwatch

INITIAL_MICRO_STEP_ID = -1
"""What DeepSpeed's ZeRO 1 and 2 count micro-batches from."""
FIRST_SCALE, GROWTH_STEPS = 65536.0, 2000
"""fp16's first loss scale, and after how many good steps it doubles: torch's GradScaler's own."""
ZERO_BUCKET = 50_000_000
"""Elements that DeepSpeed reduces or gathers at a time."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """What the loop needs of an engine."""

    name: str
    """`ddp` or `deepspeed`."""
    stage: int | None
    """ZeRO stage; None for DDP."""
    module: nn.Module
    """What is called with a micro-batch."""
    device: torch.device
    communication: Stopwatch
    """Time in collectives of gradients, where the device is not computing at the same time."""
    meets_in_forward = False
    """Whether ranks meet in collectives of the forward pass."""
    meets_in_every_backward = False
    """Whether ranks meet in every backward pass, or only in a step's last one."""
    embeddings: list[DeferredEmbedding]
    """Embeddings that build their gradient at a step's last micro-batch."""
    casts_once = True
    """Whether a step's micro-batches share one copy of the weights in the lower precision."""

    def __init__(self, config: RunConfig) -> None:
        self._precision = config.engine.precision

    def accumulation(self) -> contextlib.AbstractContextManager[Any]:
        """Surround all micro-batches of a step: weights are cast once, not once a micro-batch."""
        if not self.casts_once:
            return contextlib.nullcontext()
        return autocast(self._precision, self.device)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits of a micro-batch in fp32, shape [b, outputs]."""
        return self.module(**inputs).logits.float()

    @contextlib.contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Surround forward and backward of one micro-batch; gradients meet at the last one."""
        raise NotImplementedError

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of one micro-batch's share of the loss."""
        raise NotImplementedError

    def step(self, lr: float) -> float | torch.Tensor:
        """Clip, update, clear; return the gradient norm of the global batch before clipping."""
        raise NotImplementedError

    def discard(self, small: dict[str, torch.Tensor]) -> None:
        """Drop the gradients of a step that is begun anew, and free what memory is cached.

        Collective. `small` is a micro-batch that is sure to fit.
        """
        for embedding in self.embeddings:
            embedding.forget()
        self._discard(small)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _discard(self, small: dict[str, torch.Tensor]) -> None:
        raise NotImplementedError

    def _mark(self, last: bool) -> None:
        for embedding in self.embeddings:
            embedding.last = last

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all weights in fp32 on the CPU, on rank 0; empty on others. Collective."""
        raise NotImplementedError

    def warm(self, small: dict[str, torch.Tensor]) -> None:
        """Do at the start of an attempt what makes its first step like every other one.

        Collective. `small` is a micro-batch that is sure to fit.
        """

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer itself, which holds the moments."""
        raise NotImplementedError

    def fragments(self) -> list[Fragment]:
        """Return the parts of all parameters that this rank holds, trained or not."""
        raise NotImplementedError

    def own_fragments(self) -> list[Fragment]:
        """Return the parts that this rank writes: those of all ranks make up the whole, once."""
        raise NotImplementedError

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every parameter."""
        return {name: list(p.shape) for name, p in self._parameters()}

    def _parameters(self) -> list[tuple[str, Any]]:
        return list(self.eval_module().named_parameters())

    def scaler_state(self) -> dict[str, float]:
        """Return fp16's loss scale and the good steps since it changed; empty without one."""
        return {}

    def set_scaler_state(self, state: dict[str, float]) -> None:
        """Take over what `scaler_state` returned, of any engine."""

    def eval_module(self) -> nn.Module:
        """Return the module to evaluate with."""
        return self.module

    def evaluation(self) -> contextlib.AbstractContextManager[Any]:
        """Surround evaluation."""
        return contextlib.nullcontext()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _place() -> tuple[int, int]:
    return _rank(), dist.get_world_size() if dist.is_initialized() else 1


def whole_fragments(parameters: list[tuple[str, Any]]) -> list[Fragment]:
    """Return the fragments of parameters that are whole on every rank."""
    return [
        Fragment(name, 0, p.detach().view(-1), p if p.requires_grad else None)
        for name, p in parameters
    ]


def _scaler_state(scaler: Any) -> dict[str, float]:
    state = scaler.state_dict() if scaler is not None and scaler.is_enabled() else {}
    return {"scale": state["scale"], "good_steps": state["_growth_tracker"]} if state else {}


def _set_scaler_state(scaler: Any, state: dict[str, float]) -> None:
    if scaler is not None and scaler.is_enabled() and state:
        taken = {"scale": state["scale"], "_growth_tracker": int(state["good_steps"])}
        scaler.load_state_dict(scaler.state_dict() | taken)


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
        _same_world(self.accelerator.num_processes)
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
        return share(self.fragments(), *_place())

    def scaler_state(self) -> dict[str, float]:
        return _scaler_state(self.accelerator.scaler)

    def set_scaler_state(self, state: dict[str, float]) -> None:
        _set_scaler_state(self.accelerator.scaler, state)

    def evaluation(self) -> contextlib.AbstractContextManager[Any]:
        # Graphs would keep a recording of every shape, and overwrite answers not yet fetched.
        return torch.compiler.set_stance("force_eager") if self._graphs else super().evaluation()

    def eval_module(self) -> nn.Module:
        plain: Any = self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=True)
        return plain

    def state_dict(self) -> dict[str, torch.Tensor]:
        if _rank() != 0:
            return {}
        return {
            k: v.detach().to("cpu", copy=True) for k, v in self.eval_module().state_dict().items()
        }


def deepspeed_config(config: RunConfig, extra: dict[str, Any] | None = None) -> dict[str, Any]:
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
    zero.update(extra or {})
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
        extra: dict[str, Any] | None = None,
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
        plugin = DeepSpeedPlugin(
            hf_ds_config=deepspeed_config(config, extra), zero3_init_flag=False
        )
        self.embeddings = prepare_compute(config, model, defer=self.stage in (0, 1))
        backend = "gloo" if config.engine.device == "cpu" else "nccl"
        # Without the backend Accelerate counts one process on CPU; with `cpu=True` it would
        # train plain DDP without a word.
        self.accelerator = Accelerator(
            mixed_precision="no",
            deepspeed_plugin=plugin,
            kwargs_handlers=[InitProcessGroupKwargs(backend=backend)],
        )
        _same_world(self.accelerator.num_processes)
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
            alike = share([f for f in fragments if f.owner is None], *_place())
            return [f for f in fragments if f.owner is not None] + alike
        return fragments if self.stage == 3 else share(fragments, *_place())

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
        start = _rank() * size
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
        return _scaler_state(getattr(self.engine, "torch_autocast_z0_gradscaler", None))

    def set_scaler_state(self, state: dict[str, float]) -> None:
        if self._scales and state:
            self.engine.optimizer.override_loss_scale(state["scale"])
            self._good_steps = int(state["good_steps"])
        else:
            _set_scaler_state(getattr(self.engine, "torch_autocast_z0_gradscaler", None), state)

    def state_dict(self) -> dict[str, torch.Tensor]:
        module = self.engine.module
        if self.stage != 3:
            if _rank() != 0:
                return {}
            return {k: v.detach().to("cpu", copy=True) for k, v in module.state_dict().items()}
        import deepspeed

        whole: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter]):
                if _rank() == 0:
                    whole[name] = parameter.detach().to("cpu", copy=True)
        if _rank() == 0:
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


def _same_world(counted: int) -> None:
    world = dist.get_world_size() if dist.is_initialized() else 1
    if counted != world:
        raise RuntimeError(f"Accelerate counts {counted} processes, torch.distributed {world}")


def build_engine(
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: dict[str, Any] | None = None,
) -> Engine:
    """Return the engine that the configuration asks for: never another one in its place."""
    if config.engine.zero is None:
        return DDPEngine(config, model, optimizer)
    return DeepSpeedEngineAdapter(config, model, optimizer, extra)


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


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast of a precision: none for fp32."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()
