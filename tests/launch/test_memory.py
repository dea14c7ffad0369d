from __future__ import annotations

import pytest

from launch.memory import MIB, Anatomy, Shape, Sizes, encoder, highest, measured, memory, sizes_of
from training.config import ModelConfig

BASE = Sizes(hidden=768, layers=12, heads=12, inner=3072, vocabulary=30522)


def rank(tokens: int = 768, square: int = 70_000, **shape: object) -> float:
    precision = str(shape.get("precision", "bf16"))
    values = {"device": "cpu", "precision": precision, "world": 2, **shape}
    anatomy = encoder(BASE, str(values["device"]), precision)
    return memory(anatomy, Shape(**values), tokens, square).increment / MIB  # type: ignore[arg-type]


def test_bert_base_has_the_parameters_that_everybody_counts() -> None:
    anatomy = encoder(BASE, "cpu", "fp32")
    assert anatomy.parameters == pytest.approx(109.48e6, rel=1e-3)
    assert anatomy.vocabulary == 30522 * 768


@pytest.mark.parametrize(("zero", "seen"), [(None, 2658), (1, 2874), (2, 2711), (3, 3376)], ids=str)
def test_what_two_ranks_were_seen_to_take(zero: int | None, seen: float) -> None:
    """The increments of BERT-base that `python -m benchmarks.memory` printed, in MiB."""
    assert rank(zero=zero) == pytest.approx(seen, rel=0.15)


def test_parts_follow_the_engine() -> None:
    def parts(zero: int | None, world: int = 8, **more: str) -> dict[str, int]:
        shape = Shape("cuda", "bf16", world, zero, **more)  # type: ignore[arg-type]
        return memory(encoder(BASE, "cuda", "bf16"), shape, 4096, 4096 * 128).parts

    plain, one, two, three = parts(None), parts(1), parts(2), parts(3)
    assert plain["optimizer"] == 2 * plain["weights"]
    assert one["optimizer"] * 8 == pytest.approx(3 * plain["weights"], rel=1e-6)
    assert two["gradients"] < one["gradients"]
    assert parts(2, 16)["optimizer"] * 2 == pytest.approx(two["optimizer"], rel=1e-6)
    assert three["activations"] == plain["activations"]
    assert "optimizer" not in parts(2, offload="optimizer")
    assert sum(parts(3, offload="all").values()) < sum(three.values())


def test_offloaded_state_is_in_the_nodes_memory() -> None:
    anatomy = encoder(BASE, "cuda", "bf16")
    here = memory(anatomy, Shape("cuda", "bf16", 4, 2), 1024, 1024 * 64)
    away = memory(anatomy, Shape("cuda", "bf16", 4, 2, offload="optimizer"), 1024, 1024 * 64)
    assert away.host - here.host >= here.parts["optimizer"]
    assert away.total < here.total


def test_activations_grow_with_tokens_and_length_and_shrink_with_precision() -> None:
    assert rank(tokens=1536, square=140_000) > rank() > rank(tokens=768, square=10_000)
    small, large = (rank(precision=p, tokens=4096, square=4096 * 128) for p in ("bf16", "fp32"))
    assert small < large


def test_a_frozen_encoder_has_hardly_any_gradients() -> None:
    frozen = encoder(BASE, "cpu", "fp32", frozen=True)
    found = memory(frozen, Shape("cpu", "fp32", 2), 1024, 1024 * 64).parts
    assert found["gradients"] < found["weights"] / 50
    assert found["activations"] < 20 * MIB


def test_sizes_come_from_the_configuration_first_then_the_models_own() -> None:
    described = {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "vocab_size": 30522}
    found = sizes_of(ModelConfig(path="x"), described)
    assert found == Sizes(768, 6, 12, 3072, 30522)
    assert sizes_of(ModelConfig(path="x", layers=2, dropout=0.0), described) == Sizes(
        768, 2, 12, 3072, 30522, dropout=False
    )
    assert sizes_of(ModelConfig(path="x"), {}) is None


def test_what_another_version_counted_is_not_used() -> None:
    assert measured({"activations": [1, 2, 3]}, "fp32") is None
    counted = {"parameters": 10, "trained": 10, "products": 5, "vocabulary": 2}
    assert measured(counted | {"activations": {"fp32": [1, 2, 3]}}, "bf16") is None
    found = measured(counted | {"activations": {"fp32": [1, 2, 3]}}, "fp32")
    assert isinstance(found, Anatomy) and found.activations == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("most_that_fits", "found"), [(50, None), (100, 100), (1000, 960), (10**6, 4096)]
)
def test_the_highest_budget(most_that_fits: int, found: int | None) -> None:
    assert highest(lambda tokens: tokens <= most_that_fits, 100, 4096) == found
