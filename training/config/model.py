"""Which encoder is fine-tuned, and what is changed about it."""

from __future__ import annotations

from dataclasses import dataclass

from .schema import UsageError, nearest, option

ACTIVATIONS = (
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh "
    "gelu_pytorch_tanh hardswish laplace leaky_relu linear mish prelu quick_gelu relu relu2 relu6 "
    "sigmoid silu sqrtsoftplus swish tanh"
).split()
"""Activation functions that transformers knows by name; it imports torch, so they stand here."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A transformer encoder with a classification head. One YAML in `configs/models/` a preset."""

    name: str = "bert-base-uncased"
    """Short name, part of the run's id."""
    hub: str | None = None
    """Id of the model on the hub."""
    revision: str | None = None
    """Branch, tag or commit of the hub model; none means its main branch."""
    package: str | None = None
    """Installed Python package that carries the weights in its folder `model`."""
    path: str | None = None
    """Local folder with config, weights and tokenizer; set from --model DIR or after fetching."""
    architecture: str | None = None
    """Model type (`bert`) to build from the sizes below: random weights, own vocabulary."""
    vocab_size: int = 4096
    """With `architecture`: size of the WordPiece vocabulary trained on the task's texts."""
    pretrained: bool = True
    """False keeps the architecture and the tokenizer but starts from random weights."""

    layers: int | None = None
    """Number of layers; fewer than the weights hold keeps the first ones."""
    hidden_size: int | None = None
    """Width; only with random weights."""
    heads: int | None = None
    """Attention heads; only with random weights."""
    intermediate_size: int | None = None
    """Width of the feed-forward block; only with random weights."""
    activation: str | None = None
    """Activation function by its transformers name: gelu, relu, silu, …"""
    dropout: float | None = None
    """Every dropout probability of the model, attention and head included."""
    attention: str = "auto"
    """Attention implementation of transformers: auto, sdpa, eager, flash_attention_2."""
    freeze_encoder: bool = option(False, "--freeze-encoder")
    """Train the classification head alone."""

    def check(self) -> None:
        """Raise `UsageError` for values that contradict each other."""
        where = f"model {self.name}"
        if not (self.hub or self.package or self.path or self.architecture):
            raise UsageError(f"{where}: needs one of hub, package, path or architecture")
        random_weights = bool(self.architecture) or not self.pretrained
        for key in ("hidden_size", "heads", "intermediate_size"):
            if getattr(self, key) is not None and not random_weights:
                raise UsageError(
                    f"{where}: model.{key} cannot be changed on pretrained weights: "
                    "add --set model.pretrained=false"
                )
        for key in ("layers", "hidden_size", "heads", "intermediate_size", "vocab_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"{where}: model.{key} must be at least 1, got {value}")
        if self.hidden_size and self.heads and self.hidden_size % self.heads:
            raise UsageError(
                f"{where}: model.hidden_size={self.hidden_size} does not divide by "
                f"model.heads={self.heads}"
            )
        if self.activation is not None and self.activation not in ACTIVATIONS:
            hint = nearest(self.activation, ACTIVATIONS)
            raise UsageError(f"{where}: unknown activation '{self.activation}': {hint}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(
                f"{where}: model.dropout must be at least 0 and below 1, got {self.dropout}"
            )
