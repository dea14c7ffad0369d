"""What a model is made of, as memory: parameters, and the bytes its activations take.

Computed on fake tensors, which have shapes and no numbers: a model of any size takes a few
seconds and no memory. `python -m training.anatomy` prints it as JSON for a
configuration on standard input; `launch` starts it, which must not import torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from .config import RunConfig
from .config.schema import build
from .engine import autocast
from .kernels import use_kernels
from .models import freeze_encoder

FORMAT = 1
PRECISIONS = ("fp32", "bf16")
LENGTHS = (8, 16, 32, 48)
"""Lengths that are tried; three unknowns are fitted to four."""
ROWS = 2


def anatomy(config: RunConfig, hf_config: Any) -> dict[str, Any]:
    """Return what launch wants to know of a model on a CPU, ready for JSON.

    `activations` are, by precision, a0, a1, a2 of the bytes that one forward pass keeps for the
    backward pass, b · (a0 + a1·L + a2·L²) for b rows of L tokens; `misfit` is the largest relative
    error of that form at the lengths that were tried.

    Args:
        config: the run.
        hf_config: the configuration of its model, see `models.build_config`.
    """
    kept: dict[str, list[float]] = {}
    misfit = 0.0
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _build(config, hf_config)
        if config.model.freeze_encoder:
            freeze_encoder(model)
        found = count(model)
        for precision in PRECISIONS:
            saved = [kept_bytes(model, ROWS, length, precision) for length in LENGTHS]
            kept[precision], error = fit(LENGTHS, [size / ROWS for size in saved])
            misfit = max(misfit, error)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {
        "format": FORMAT,
        **found,
        "activations": kept,
        "misfit": misfit,
        "versions": versions,
    }


def fit(lengths: Sequence[int], sizes: Sequence[float]) -> tuple[list[float], float]:
    """Return a0, a1, a2 of a0 + a1·L + a2·L² of least squares, and its largest error."""
    at = np.array(lengths, dtype=np.float64)
    grid = np.stack([np.ones_like(at), at, at**2], axis=1)
    wanted = np.array(sizes, dtype=np.float64)
    found = np.linalg.lstsq(grid, wanted, rcond=None)[0]
    misfit = float(np.abs(grid @ found / np.maximum(wanted, 1.0) - 1.0).max())
    return [float(value) for value in found], misfit


def _build(config: RunConfig, hf_config: Any) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    name = config.model.attention
    attention = {} if name == "auto" else {"attn_implementation": name}
    model = AutoModelForSequenceClassification.from_config(
        hf_config, dtype=torch.float32, **attention
    )
    use_kernels(model, torch.device("cpu"), compiled=config.engine.compile != "none")
    return model.train()


def count(model: nn.Module) -> dict[str, int]:
    """Return numbers of parameters: all, those trained, those of matrix products, the vocabulary's.

    Autocast makes a copy of the second kind in the lower precision.
    """
    sizes = {id(p): p.numel() for p in model.parameters()}
    products = {
        id(p): p.numel()
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
        for p in module.parameters(recurse=False)
    }
    lookup = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)]
    return {
        "parameters": sum(sizes.values()),
        "trained": sum({id(p): p.numel() for p in model.parameters() if p.requires_grad}.values()),
        "products": sum(products.values()),
        "vocabulary": max(lookup, default=0),
    }


def kept_bytes(model: nn.Module, rows: int, length: int, precision: str) -> int:
    """Return the bytes that a forward pass of rows × length tokens keeps for the backward pass.

    Each piece of memory counts once; parameters, their copies in a lower precision and buffers do
    not count.
    """
    kept: dict[int, tuple[Any, int]] = {}
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    shapes = {tuple(p.shape) for p in model.parameters()}
    shapes |= {tuple(reversed(s)) for s in shapes}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and tuple(tensor.shape) not in shapes:
            kept[storage._cdata] = (storage, storage.nbytes())
        return tensor

    ids = torch.ones(rows, length, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, autocast(precision, torch.device("cpu")):
        logits = model(**inputs).logits
    del logits
    return sum(size for _, size in kept.values())


def main() -> int:
    """Print the anatomy of a run's model as JSON; the configuration comes on standard input."""
    from transformers import AutoConfig

    from .models import apply_overrides
    from .sources import model_folder

    config = build(RunConfig, json.load(sys.stdin))
    folder = model_folder(config.model)
    if folder is not None:
        hf_config = AutoConfig.from_pretrained(folder)
    else:
        assert config.model.architecture is not None
        hf_config = AutoConfig.for_model(config.model.architecture)
        hf_config.vocab_size = config.model.vocab_size
    apply_overrides(hf_config, config.model)
    hf_config.num_labels = max(2, len(config.task.labels))
    print(json.dumps(anatomy(config, hf_config)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
