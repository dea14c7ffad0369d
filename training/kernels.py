"""Faster forms of a few operations, with the same result: dropout, attention, embeddings.

Measured by `benchmarks/kernels.py`. On a CPU, drawing dropout masks and the fp32 products of
`scaled_dot_product_attention` with dropout cost more than a third of the matrix products; on
every device, the gradient of a vocabulary is as large as the model's body, and accumulation would
pay for it once a micro-batch instead of once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ATTENTION = "glueline"
"""Name of our attention among those of transformers."""

_LEVELS = 1 << 16


class _MaskStream:
    """Random bits for dropout masks: a generator of its own, several times torch's speed."""

    def __init__(self) -> None:
        self._bits = np.random.SFC64(0)

    def seed(self, entropy: list[int]) -> None:
        self._bits = np.random.SFC64(np.random.SeedSequence(entropy))

    def words(self, count: int) -> torch.Tensor:
        """Return `count` random int16."""
        raw = self._bits.random_raw(-(-count // 4))
        return torch.from_numpy(raw.view(np.int16)[:count])


_STREAM = _MaskStream()


def seed_masks(entropy: list[int]) -> None:
    """Seed the masks of `Dropout` and of our attention."""
    _STREAM.seed(entropy)


def keep_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
    """Return a CPU mask of zeros (with probability p) and 1 / (1 - p), of a shape and dtype.

    The kept value is rounded to the dtype, and the probability to the multiple of 2^-16 that makes
    the mean 1 with it: in bf16 a p of 0.1 becomes 0.0986.
    """
    scale = torch.tensor(1.0 / (1.0 - p), dtype=dtype)
    # The share follows the value as the dtype rounds it: the other way round the mean would be off.
    kept = min(max(round(_LEVELS / float(scale)), 1), _LEVELS - 1)
    mask = _STREAM.words(shape.numel()).lt_(kept - _LEVELS // 2).view(shape)
    if dtype.itemsize == 2:
        # 0 or 1, times the bits of the kept value, is the value: no conversion of a whole array.
        return mask.mul_(int(scale.view(torch.int16))).view(dtype)
    return mask.to(dtype).mul_(scale)


class Dropout(nn.Dropout):
    """Dropout on a CPU with masks of `keep_mask`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the input with elements dropped, in training."""
        if not self.training or self.p == 0 or not input.is_floating_point():
            return input
        if self.p == 1:
            return input * 0
        return input * keep_mask(input.shape, self.p, input.dtype)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention in the interface of transformers: torch's own, or a faster one under dropout.

    Args:
        module: the attention layer.
        query: [b, heads, L, d]; `key` and `value` alike.
        key: see `query`.
        value: see `query`.
        attention_mask: bool [b, 1, L, L], true where a token is seen, or None.
        dropout: of the attention probabilities.
        scaling: of the scores; 1 / sqrt(d) by default.
        is_causal: as transformers passes it.
        **kwargs: what some families add; unknown ones go to torch's own.

    Returns:
        The output [b, L, heads, d], and no weights.
    """
    # A mask holds causality too; without one transformers takes a layer for causal by default.
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    causal = causal and attention_mask is None
    special = any(kwargs.get(k) is not None for k in ("softcap", "position_bias", "s_aux", "cache"))
    same_heads = query.shape[:2] == key.shape[:2]
    if dropout == 0 or causal or special or not same_heads or query.device.type != "cpu":
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
    scores = torch.matmul(query * (scaling or query.shape[-1] ** -0.5), key.transpose(-1, -2))
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            if attention_mask.stride(2) == 0:
                attention_mask = attention_mask[:, :, :1]
            # Not -inf: a row of padding that sees nothing must not become NaN.
            seen = torch.zeros(attention_mask.shape, dtype=scores.dtype)
            attention_mask = seen.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
        scores.add_(attention_mask)
    weights = functional.softmax(scores, dim=-1)
    weights = weights * keep_mask(weights.shape, dropout, weights.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


class DeferredEmbedding(nn.Embedding):
    """A vocabulary whose gradient is built once a step, not once a micro-batch.

    Every micro-batch but the last keeps its ids and the gradient of what it looked up; the last
    one adds all rows into one dense gradient. The sum is the same. What is kept never outgrows
    the dense gradient itself: it is built earlier where it would.
    """

    last: bool = True
    """Whether the micro-batch that runs is the last of its step."""
    watch: Callable[[torch.Tensor, torch.Tensor], None] | None = None
    """Is told the ids [n] and gradients [n, width] of every micro-batch."""
    _kept: list[tuple[torch.Tensor, torch.Tensor]]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the rows of some ids, [..., width]."""
        if not (self.training and torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        return _Lookup.apply(self.weight, input, self)  # type: ignore[return-value]

    def forget(self) -> None:
        """Drop what was kept, as when a step is begun anew."""
        self._kept = []

    @classmethod
    def adopt(cls, module: nn.Embedding) -> DeferredEmbedding:
        """Turn an embedding into one of this kind, in place."""
        module.__class__ = cls
        assert isinstance(module, cls)
        module.forget()
        return module


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor, owner: Any) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.owner = owner
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        owner: DeferredEmbedding = ctx.owner
        (ids,) = ctx.saved_tensors
        kept = owner._kept
        kept.append((ids.reshape(-1), grads[0].reshape(-1, owner.embedding_dim)))
        if owner.watch is not None:
            owner.watch(*kept[-1])
        if not owner.last and sum(len(ids) for ids, _ in kept) < owner.num_embeddings:
            return None, None, None
        owner.forget()
        padding = -1 if owner.padding_idx is None else owner.padding_idx
        dense = torch.ops.aten.embedding_dense_backward(
            torch.cat([rows for _, rows in kept]),
            torch.cat([ids for ids, _ in kept]),
            owner.num_embeddings,
            padding,
            False,
        )
        return dense, None, None


def _deferrable(module: Any) -> TypeGuard[nn.Embedding]:
    if type(module) is not nn.Embedding:
        return False
    return not module.sparse and module.max_norm is None and not module.scale_grad_by_freq


def use_kernels(
    model: nn.Module, device: torch.device, defer: bool = True, compiled: bool = False
) -> list[DeferredEmbedding]:
    """Replace operations of a model by faster ones of the same result, in place.

    Args:
        model: a classifier of transformers; what has no faster form here stays as it is.
        device: where it will run; dropout and attention are replaced on a CPU only, where torch's
            own draw their masks slowly and one after the other.
        defer: whether embeddings may build their gradient once a step.
        compiled: whether the model's layers are compiled: then they keep torch's operations.

    Returns:
        The embeddings whose `last` must be set before each micro-batch.
    """
    if device.type == "cpu" and not compiled:
        for module in model.modules():
            if type(module) is nn.Dropout:
                module.__class__ = Dropout
        _use_attention(model)
    lookup = getattr(model, "get_input_embeddings", None)
    try:
        words = lookup() if lookup is not None else None
    except NotImplementedError:
        words = None
    if not defer or not _deferrable(words):
        return []
    uses = sum(p is words.weight for _, p in model.named_parameters(remove_duplicate=False))
    return [DeferredEmbedding.adopt(words)] if uses == 1 else []


def _use_attention(model: Any) -> None:
    """Take our attention where the model would use torch's own."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if getattr(getattr(model, "config", None), "_attn_implementation", None) != "sdpa":
        return
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
