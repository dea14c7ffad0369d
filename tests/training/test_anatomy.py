"""The formula that launch plans memory by, against the model's own tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, DebertaV2Config

from launch.memory import Sizes, encoder
from training.anatomy import anatomy, kept_bytes
from training.config import EngineConfig, ModelConfig, RunConfig

MINILM = Sizes(hidden=384, layers=6, heads=12, inner=1536, vocabulary=30522)
BASE = Sizes(hidden=768, layers=12, heads=12, inner=3072, vocabulary=30522)


def bert(sizes: Sizes, **more: float) -> Any:
    build: Any = BertConfig
    return build(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.inner,
        num_labels=3,
        **more,
    )


@pytest.mark.parametrize("sizes", [MINILM, BASE], ids=["minilm", "bert-base"])
def test_the_formula_counts_what_the_model_keeps(sizes: Sizes) -> None:
    found = anatomy(RunConfig(engine=EngineConfig(device="cpu")), bert(sizes))
    assert found["misfit"] < 0.01
    for precision in ("fp32", "bf16"):
        formula = encoder(sizes, "cpu", precision)
        assert formula.parameters == pytest.approx(found["parameters"], rel=1e-3)
        assert formula.products == pytest.approx(found["products"], rel=1e-3)
        assert formula.vocabulary == found["vocabulary"]
        _, a1, a2 = found["activations"][precision]
        assert formula.activations[1] == pytest.approx(a1, rel=0.01)
        assert formula.activations[2] == pytest.approx(a2, rel=0.01)


def test_without_dropout_no_masks_are_kept() -> None:
    calm = bert(MINILM, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    found = anatomy(RunConfig(engine=EngineConfig(device="cpu")), calm)
    with_masks = anatomy(RunConfig(engine=EngineConfig(device="cpu")), bert(MINILM))
    for precision in ("fp32", "bf16"):
        assert found["activations"][precision][1] < with_masks["activations"][precision][1]


def test_a_family_of_another_kind_is_counted_too() -> None:
    build: Any = DebertaV2Config
    other = build(
        vocab_size=1000,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        num_labels=2,
    )
    found = anatomy(RunConfig(engine=EngineConfig(device="cpu")), other)
    plain = encoder(Sizes(64, 2, 4, 128, 1000), "cpu", "fp32")
    # Attention by content and by place keeps several times what plain attention does.
    assert found["activations"]["fp32"][2] > 1.5 * plain.activations[2]


def test_a_frozen_encoder_keeps_next_to_nothing() -> None:
    frozen = RunConfig(
        model=ModelConfig(path="x", freeze_encoder=True), engine=EngineConfig(device="cpu")
    )
    found = anatomy(frozen, bert(MINILM))
    whole = anatomy(
        replace(frozen, model=replace(frozen.model, freeze_encoder=False)), bert(MINILM)
    )
    assert found["trained"] < found["parameters"] / 50
    assert found["activations"]["fp32"][1] < whole["activations"]["fp32"][1] / 50


def test_real_tensors_keep_what_fake_ones_do() -> None:
    from transformers import BertForSequenceClassification

    small = bert(Sizes(hidden=32, layers=2, heads=4, inner=64, vocabulary=100))
    real = kept_bytes(BertForSequenceClassification(small).train(), 3, 20, "bf16")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = BertForSequenceClassification(small).train()
        assert kept_bytes(model, 3, 20, "bf16") == real
    assert real > 3 * 20 * torch.finfo(torch.float32).bits
