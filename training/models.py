"""Models: loading or building, overrides, label names, what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import ModelConfig, TaskConfig, UsageError
from .label_order import look_at_head
from .sources import model_folder

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "classifier_dropout_prob",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "seq_classif_dropout",
    "pooler_dropout",
    "summary_last_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "embd_dropout",
)
"""Names under which model families keep a dropout probability."""

_SIZES = {
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
}
_ALIASES = {
    "activation": ("hidden_act", "hidden_activation", "activation", "activation_function"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim"),
}


@dataclass(frozen=True)
class Labels:
    """What the head predicts."""

    names: tuple[str, ...]
    """Class names in order; one name for a regression."""
    regression: bool


def _set(config: Any, names: tuple[str, ...], value: Any) -> bool:
    for name in names:
        if hasattr(config, name):
            setattr(config, name, value)
            return True
    return False


def apply_overrides(config: Any, model: ModelConfig) -> None:
    """Change sizes, activation and dropout of a transformers configuration, in place.

    Raises:
        UsageError: this model family has no such setting.
    """
    for key, name in _SIZES.items():
        value = getattr(model, key)
        if value is not None and not _set(config, _ALIASES.get(key, (name,)), value):
            raise UsageError(f"model {model.name} ({config.model_type}) has no setting for {key}")
    if model.activation is not None and not _set(config, _ALIASES["activation"], model.activation):
        raise UsageError(f"model {model.name} ({config.model_type}) has no activation setting")
    if model.dropout is not None:
        found = [_set(config, (name,), model.dropout) for name in _DROPOUTS]
        if not any(found):
            raise UsageError(f"model {model.name} ({config.model_type}) has no dropout setting")


def build_config(
    model: ModelConfig, task: TaskConfig, labels: Labels, tokenizer: Any, longest: int
) -> Any:
    """Return the transformers configuration of a run's model, label names included.

    Raises:
        UsageError: an override does not fit, or inputs are longer than the model's positions.
    """
    from transformers import AutoConfig

    folder = model_folder(model)
    if folder is None:
        assert model.architecture is not None
        try:
            config = AutoConfig.for_model(model.architecture)
        except ValueError:
            raise UsageError(
                f"unknown architecture '{model.architecture}': transformers knows bert, roberta, …"
            ) from None
        config.vocab_size = len(tokenizer)
        config.pad_token_id = tokenizer.pad_token_id
    else:
        config = AutoConfig.from_pretrained(folder)
    apply_overrides(config, model)
    config.num_labels = len(labels.names)
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: i for i, name in enumerate(labels.names)}
    config.problem_type = "regression" if labels.regression else "single_label_classification"
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    positions = getattr(config, "max_position_embeddings", None)
    if positions and longest > positions:
        raise UsageError(
            f"inputs have up to {longest} tokens, model {model.name} has {positions} positions: "
            f"use --max-length {positions}"
        )
    return config


def load_model(model: ModelConfig, config: Any, seed: int) -> nn.Module:
    """Return the model with fp32 weights on the CPU, the same on every rank.

    A new head (or a whole new model) is drawn from `seed`. A head that was trained on the same
    labels in another order is put into the order of the configuration.

    Raises:
        UsageError: the weights do not fit the configuration.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    attention = {} if model.attention == "auto" else {"attn_implementation": model.attention}
    folder = model_folder(model)
    try:
        if folder is None or not model.pretrained:
            built = AutoModelForSequenceClassification.from_config(
                config, dtype=torch.float32, **attention
            )
        else:
            # The checkpoint's own dtype would be taken otherwise: half precision in, half trained.
            # A head with another number of labels is drawn anew.
            built = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                **attention,
            )
            _check_encoder_loaded(built, model)
            _match_labels(built, model, config)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(f"model {model.name}: {' '.join(str(error).split())}") from None
    if model.freeze_encoder:
        freeze_encoder(built)
    return built


def _check_encoder_loaded(built: nn.Module, model: ModelConfig) -> None:
    """Refuse weights that are not real numbers: a damaged file trains to NaN hours later."""
    for name, parameter in built.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UsageError(f"model {model.name}: the weights of {name} are not finite")


def _match_labels(built: nn.Module, model: ModelConfig, config: Any) -> None:
    """Put the rows of a head whose labels are in another order than the data's into the data's."""
    if config.problem_type == "regression":
        return
    head = look_at_head(model, [config.id2label[i] for i in range(config.num_labels)])
    if head is not None and head.kind == "reordered":
        reorder_head(built, model.name, head.order)


def reorder_head(built: nn.Module, name: str, order: Sequence[int]) -> None:
    """Take row `order[i]` of the last layer for class i, in place.

    Raises:
        UsageError: which layer is the last one cannot be told.
    """
    base = f"{getattr(built, 'base_model_prefix', '')}."
    last = [
        module
        for path, module in built.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == len(order)
        and not path.startswith(base)
    ]
    if len(last) != 1:
        raise UsageError(
            f"model {name}: its labels are in another order than the data's, and which layer of "
            f"{type(built).__name__} gives them cannot be told: name the labels in the model's "
            "order with --labels"
        )
    rows = torch.tensor(order)
    with torch.no_grad():
        for parameter in (last[0].weight, last[0].bias):
            if parameter is not None:
                parameter.copy_(parameter[rows])


def freeze_encoder(model: nn.Module) -> None:
    """Stop gradients of everything below the classification head."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if base is None:
        raise UsageError(f"{type(model).__name__} does not tell its encoder: cannot freeze it")
    for parameter in base.parameters():
        parameter.requires_grad_(False)


def freeze_unused(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[str]:
    """Freeze parameters that the loss does not reach, and return their names.

    DDP waits for a gradient of every trainable parameter; some families (XLNet's mask embedding,
    say) carry parameters that classification never uses.
    """
    was_training = model.training
    model.eval()
    model(**inputs).logits.float().sum().backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if name in unused:
            parameter.requires_grad_(False)
    model.train(was_training)
    return unused


def quadratic_cost(config: Any) -> float:
    """Return q of the micro-batch cost b·L·(1 + q·L) for a model: about 1 / (6·hidden size)."""
    return 1.0 / (6.0 * (getattr(config, "hidden_size", None) or 768))


def model_flops_per_token(config: Any) -> float:
    """Return floating point operations of one forward and backward pass a token, without L.

    6 times the parameters of the matrix products (Kaplan et al. 2001.08361, section 2.1).
    """
    return 6.0 * matrix_parameters(config)


def matrix_parameters(config: Any) -> float:
    """Return the parameters of the layers' matrix products.

    4·h² of attention and 2·h·f of the feed-forward block in each layer.
    """
    hidden = getattr(config, "hidden_size", None) or 768
    layers = getattr(config, "num_hidden_layers", None) or 12
    inner = next(
        (v for n in _ALIASES["intermediate_size"] if (v := getattr(config, n, None))), 4 * hidden
    )
    return 1.0 * layers * (4 * hidden * hidden + 2 * hidden * inner)


def attention_flops(config: Any, length: float) -> float:
    """Return operations of the attention products a token at a length: 12·layers·h·L."""
    hidden = getattr(config, "hidden_size", None) or 768
    layers = getattr(config, "num_hidden_layers", None) or 12
    return 12.0 * layers * hidden * length


def load_exported(folder: Path) -> nn.Module:
    """Return the model of a run's `model/` folder, as anyone with transformers would load it."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
