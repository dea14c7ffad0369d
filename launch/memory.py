"""How much memory a rank takes, by parts. Pure: sizes in, bytes out; no torch.

The activations follow from what the layers of a BERT-like encoder keep for the backward pass, or
from `training.anatomy`, which counts them on the model itself. `benchmarks/memory.py` compares the
whole with what real ranks take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.config import ModelConfig

FP32 = 4
HALF = 2
GIB = 1 << 30
MIB = 1 << 20
ERROR = 0.15
"""Relative error of the estimate: of CPU ranks as `benchmarks/memory.py` shows it."""
GPU_ERROR = 0.25
"""The same on GPUs: the formula is the same, but it was not measured there."""
ZERO_BUCKET = 50_000_000
"""Elements of DeepSpeed's buckets, as `training.engine` sets them."""
LIVE = 1_000_000_000
"""Elements that ZeRO 3 keeps whole at a time (stage3_max_live_parameters)."""
MOMENTS = {"adamw": 2, "adam": 2, "lamb": 2, "lars": 1, "sgd": 1, "adagrad": 1}
"""Numbers that an optimizer keeps for every parameter."""

IMPORTS = {"ddp": 520 * MIB, "zero": 545 * MIB}
"""Resident after the imports of a rank, before it has a model: libraries, and no data."""
CONTEXT = 1 * GIB
"""What CUDA, cuBLAS and NCCL take of a GPU beside tensors: a guess, it differs by driver."""
RUNTIME = {"bf16": 110 * MIB, "fp16": 110 * MIB, "fp32": 70 * MIB}
"""Of a CPU rank: compiled kernels, threads, pages of libraries that are used late."""
HEAP = 1.7
"""How much of the heap micro-batches of many shapes occupy, over the largest one's activations:
what is freed between two shapes is not always of use to the next one (glibc's malloc)."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder, as its config.json has them."""

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int = 512
    types: int = 2
    dropout: bool = True


@dataclass(frozen=True)
class Anatomy:
    """What a model is made of, as memory."""

    parameters: int
    trained: int
    products: int
    """Parameters of matrix products: autocast makes a copy of them in the lower precision."""
    vocabulary: int
    """Parameters of the word embedding: its gradient is built whole."""
    activations: tuple[float, float, float]
    """a0, a1, a2: b rows of L tokens keep b · (a0 + a1·L + a2·L²) bytes."""
    source: str
    """For people: where the numbers come from."""


@dataclass(frozen=True)
class Shape:
    """How a model is trained, as far as memory goes."""

    device: str
    precision: str
    world: int
    zero: int | None = None
    offload: str = "none"
    optimizer: str = "adamw"
    selects_best: bool = True
    """Whether rank 0 copies the best weights so far."""


@dataclass(frozen=True)
class Memory:
    """Bytes of the rank that takes most, by parts."""

    parts: dict[str, int]
    """On the device that computes."""
    baseline: int
    """Imports of a CPU rank; CUDA's own on a GPU."""
    host: int
    """On a GPU node: what a rank holds in the node's memory."""

    @property
    def increment(self) -> int:
        """All parts together, without the baseline."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """Parts and baseline."""
        return self.increment + self.baseline


def sizes_of(model: ModelConfig, described: Mapping[str, Any]) -> Sizes | None:
    """Return an encoder's sizes, None where they are not all known.

    Args:
        model: its own sizes go before the others.
        described: the model's `config.json`; empty without one.
    """

    def size(own: int | None, *names: str) -> int | None:
        found = own or next((described[n] for n in names if described.get(n)), None)
        return found if isinstance(found, int) else None

    hidden = size(model.hidden_size, "hidden_size", "dim", "d_model")
    layers = size(model.layers, "num_hidden_layers", "n_layers", "num_layers")
    if hidden is None or layers is None:
        return None
    heads = size(model.heads, "num_attention_heads", "n_heads") or max(1, hidden // 64)
    inner = size(model.intermediate_size, "intermediate_size", "hidden_dim", "d_ff") or 4 * hidden
    rates = (
        [model.dropout]
        if model.dropout is not None
        else [
            described.get(name, 0.1)
            for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")
        ]
    )
    return Sizes(
        hidden,
        layers,
        heads,
        inner,
        described.get("vocab_size", model.vocab_size),
        described.get("max_position_embeddings", 512),
        described.get("type_vocab_size", 2),
        any(rates),
    )


def encoder(sizes: Sizes, device: str, precision: str, frozen: bool = False) -> Anatomy:
    """Return the anatomy of a BERT-like encoder with a classification head, from its sizes.

    Per layer and token a training forward pass keeps, in bytes, with h the hidden size, f the inner
    one and s the bytes of a value in the products' precision:

    - inputs of query, key and value: 3·h·s (one copy each; in fp32 one for all), their outputs
      3·h·s, the context h·s, the input of the inner product h·s, GELU's input and output 2·f·s;
    - inputs of the two norms in fp32: 8·h, and their statistics 16;
    - dropout's masks: 2·h·s on a CPU, 2·h on a GPU;
    - attention on a CPU: weights, mask and product, 3·heads·L·s; on a GPU it is fused, 4·heads.

    Args:
        sizes: of the encoder.
        device: `cpu` or `cuda`.
        precision: `fp32`, `bf16` or `fp16`.
        frozen: whether the head alone is trained: then nothing below it is kept.
    """
    h, f, a = sizes.hidden, sizes.inner, sizes.heads
    s = FP32 if precision == "fp32" else HALF
    layer = 4 * h * h + 2 * h * f + 9 * h + f
    products = sizes.layers * (layer - 4 * h) + h * h + 4 * h
    vocabulary = sizes.vocabulary * h
    tables = vocabulary + (sizes.positions + sizes.types) * h + 2 * h
    parameters = tables + sizes.layers * layer + h * h + 4 * h
    copies = 1 if precision == "fp32" else 3
    linear = (copies + 3 + 1 + 1) * h * s + 2 * f * s + 8 * h + 16
    embeddings = 4 * h + 8 + 24  # the norm's input and statistics, three ids
    square = 0.0
    if device == "cpu":
        linear += 2 * h * s if sizes.dropout else 0
        embeddings += FP32 * h if sizes.dropout else 0
        square = (3.0 if sizes.dropout else 1.0) * a * s * sizes.layers
    else:
        linear += 2 * h + 4 * a
        embeddings += h
        square = float(HALF)  # the mask of the padding, once
    activations = (0.0, float(embeddings + linear * sizes.layers), square)
    return Anatomy(
        parameters,
        h * h + 4 * h if frozen else parameters,
        products,
        0 if frozen else vocabulary,
        (0.0, 4.0 * h, 0.0) if frozen else activations,
        "the encoder's sizes",
    )


def measured(found: Mapping[str, Any], precision: str, frozen: bool = False) -> Anatomy | None:
    """Return what `training.anatomy` printed, None if it is of another format."""
    try:
        a0, a1, a2 = found["activations"][precision]
        return Anatomy(
            found["parameters"],
            found["trained"],
            found["products"],
            0 if frozen else found["vocabulary"],
            (float(a0), float(a1), float(a2)),
            "the model's own tensors",
        )
    except (KeyError, TypeError, ValueError):
        return None


def kept(anatomy: Anatomy, tokens: int, square: int) -> float:
    """Return the bytes that a micro-batch keeps for its backward pass.

    Args:
        anatomy: of the model.
        tokens: b·L, padded.
        square: b·L².
    """
    rows = tokens * tokens / square if square else 0.0
    a0, a1, a2 = anatomy.activations
    return a0 * rows + a1 * tokens + a2 * square


def memory(anatomy: Anatomy, shape: Shape, tokens: int, square: int) -> Memory:
    """Return the memory of a rank at its peak, by parts, in bytes.

    ZeRO (Rajbhandari et al. 1910.02054) divides the optimizer's state (stage 1), the gradients
    (2) and the weights (3) over the ranks; from stage 1 on the partitioned fp32 weights are a copy
    of their own. Beside what the paper counts stand DeepSpeed's flat gradients and its buckets.

    Args:
        anatomy: of the model.
        shape: how it is trained.
        tokens: padded tokens of the largest micro-batch.
        square: b·L² of the micro-batch where it is largest.
    """
    trained, whole = FP32 * anatomy.trained, FP32 * anatomy.parameters
    share = trained / shape.world
    moments = MOMENTS.get(shape.optimizer, 2)
    bucket = min(trained, FP32 * ZERO_BUCKET)
    stage, host = shape.zero or 0, 0.0
    parts = {
        "weights": float(whole),
        "gradients": float(trained),
        "optimizer": float(moments * trained),
        "buffers": 0.0,
    }
    if stage:
        parts["optimizer"] = (1 + moments) * share
        parts["buffers"] = bucket * (1 if shape.device == "cpu" else 2)
        parts["gradients"] = trained + share if stage == 1 else 2 * share
    if stage >= 2:
        # The vocabulary's gradient comes with every micro-batch, beside what is there of it.
        parts["gradients"] += FP32 * anatomy.vocabulary
    if stage == 3:
        # DeepSpeed keeps up to a thousand million weights whole once they were gathered.
        parts["weights"] = whole / shape.world + min(whole, FP32 * LIVE)
        parts["gradients"] += min(trained, FP32 * LIVE)
    if shape.offload != "none" and shape.device == "cuda":
        # With the optimizer go the gradients that it steps with.
        host += parts["optimizer"] + share
        parts["optimizer"] = 0.0
        parts["gradients"] -= share
        if shape.offload == "all":
            host += parts["weights"]
            parts["weights"] = 0.0
    if shape.precision != "fp32":
        parts["low precision"] = float(HALF * anatomy.products)
    parts["vocabulary"] = float(FP32 * anatomy.vocabulary)
    parts["activations"] = kept(anatomy, tokens, square)
    if shape.device == "cpu":
        parts["activations"] *= HEAP
        parts["runtime"] = float(RUNTIME[shape.precision])
        baseline = IMPORTS["ddp" if shape.zero is None else "zero"]
    else:
        baseline = CONTEXT
        host += IMPORTS["ddp" if shape.zero is None else "zero"]
    rounded = {name: round(value) for name, value in parts.items() if value}
    return Memory(rounded, baseline, round(host))


def highest(fits: Callable[[int], bool], longest: int, most: int, multiple: int = 64) -> int | None:
    """Return the highest budget of tokens that fits, None if not even the longest input does.

    Args:
        fits: whether a budget does; if one does, all below it do.
        longest: the longest input: no budget may be smaller.
        most: the highest that is tried.
        multiple: what the answer is rounded down to, unless it is `longest` or `most`.
    """
    if not fits(longest):
        return None
    if fits(most):
        return most
    low, high = longest, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return max(longest, low // multiple * multiple)


def gib(count: float) -> str:
    """Return bytes as a person reads them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
