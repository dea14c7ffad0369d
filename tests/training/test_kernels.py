"""The faster operations give what torch's own give."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from training.kernels import ATTENTION, Dropout, attention, keep_mask, seed_masks, use_kernels

from .engine_worker import make_model

CPU = torch.device("cpu")
INPUTS = {
    "input_ids": torch.tensor([[5, 9, 9, 0], [7, 8, 5, 6]]),
    "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_keep_the_right_share_and_the_mean(dtype, p):
    seed_masks([1])
    mask = keep_mask(torch.Size((1000, 301)), p, dtype).double()
    values = mask.unique().tolist()
    assert values[0] == 0 and len(values) == 2
    # A value of 8 bits may be off by 2^-9.
    assert values[1] == pytest.approx(1 / (1 - p), rel=4e-3)
    assert float((mask > 0).double().mean()) == pytest.approx(1 - p, abs=5e-3)
    # 301,000 draws: the mean's own spread is 0.0006 at p = 0.1 and 0.0055 at 0.9.
    assert float(mask.mean()) == pytest.approx(1, abs=0.0024 if p == 0.1 else 0.02)


def test_masks_repeat_with_their_seed_and_differ_otherwise():
    def draw(seed):
        seed_masks([seed])
        return keep_mask(torch.Size((100,)), 0.5, torch.float32)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_neighbouring_elements_are_independent():
    seed_masks([0])
    kept = (keep_mask(torch.Size((400_000,)), 0.5, torch.float32) > 0).double()
    for lag in (1, 2, 3, 4, 8):
        assert abs(float(torch.corrcoef(torch.stack([kept[lag:], kept[:-lag]]))[0, 1])) < 0.01


def test_dropout_scales_its_gradient_as_its_output():
    layer = Dropout(0.3)
    x = torch.ones(50, 40, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    assert torch.equal(layer.eval()(x), x)


class Layer(nn.Module):
    is_causal = False


def heads(dtype=torch.float32):
    torch.manual_seed(0)
    return (torch.randn(2, 3, 5, 8, dtype=dtype, requires_grad=True) for _ in range(3))


@pytest.mark.parametrize("masked", [True, False])
def test_attention_equals_torchs_but_for_the_dropped_ones(masked):
    query, key, value = heads(torch.float64)
    mask = None
    if masked:
        seen = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
        mask = seen[:, None, None].expand(2, 1, 5, 5)
    layer = Layer()
    # So little is dropped that nothing is: the path is ours, the result torch's.
    seed_masks([0])
    own, _ = attention(layer, query, key, value, mask, dropout=1e-9)
    whole = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert torch.allclose(own, whole.transpose(1, 2), rtol=1e-9)


def test_attention_without_dropout_is_torchs():
    query, key, value = heads()
    layer = Layer()
    own, _ = attention(layer, query, key, value, None)
    whole = functional.scaled_dot_product_attention(query, key, value)
    assert torch.equal(own, whole.transpose(1, 2))


def test_a_causal_layer_without_a_mask_is_left_to_torch():
    query, key, value = heads()
    own, _ = attention(nn.Module(), query, key, value, None, dropout=1e-12)
    whole = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.allclose(own, whole.transpose(1, 2), atol=1e-6)


def test_dropped_attention_has_the_mean_of_the_whole():
    query, key, value = (x.detach() for x in heads())
    layer = Layer()
    seed_masks([0])
    drawn = [attention(layer, query, key, value, None, dropout=0.2)[0] for _ in range(4000)]
    whole = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    assert torch.allclose(torch.stack(drawn).mean(0), whole, atol=0.03)


def test_a_row_that_sees_nothing_is_not_nan():
    query, key, value = heads()
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    own, _ = attention(Layer(), query, key, value, mask, dropout=0.1)
    assert torch.isfinite(own).all()


def gradients(model, parts, embeddings=()):
    model.zero_grad()
    for number, (ids, mask) in enumerate(parts):
        for embedding in embeddings:
            embedding.last = number == len(parts) - 1
        model(input_ids=ids, attention_mask=mask).logits.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_deferred_gradient_is_the_sum_of_the_micro_batches():
    parts = [(INPUTS["input_ids"][i : i + 1], INPUTS["attention_mask"][i : i + 1]) for i in (0, 1)]
    plain = gradients(make_model(3), parts)
    model = make_model(3)
    embeddings = use_kernels(model, CPU)
    assert len(embeddings) == 1
    deferred = gradients(model, parts, embeddings)
    assert plain.keys() == deferred.keys()
    for name, expected in plain.items():
        assert torch.allclose(deferred[name], expected, atol=1e-7), name


def test_the_gradient_waits_for_the_last_micro_batch_unless_much_is_kept():
    model = make_model(3)
    (embedding,) = use_kernels(model, CPU)
    embedding.last = False
    model(**INPUTS).logits.sum().backward()
    assert embedding.weight.grad is None
    many = torch.randint(5, 200, (20, 12))
    model(input_ids=many).logits.sum().backward()
    assert embedding.weight.grad is not None, "more was kept than the gradient itself holds"
    embedding.forget()


def test_evaluation_does_not_keep_anything():
    model = make_model(3).eval()
    (embedding,) = use_kernels(model, CPU)
    with torch.no_grad():
        model(**INPUTS)
    assert embedding._kept == []


def test_the_saved_configuration_does_not_name_our_attention(tmp_path):
    model = make_model(3)
    use_kernels(model, CPU)
    assert model.config._attn_implementation == ATTENTION
    model.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.allclose(
            model.eval()(**INPUTS).logits, again.eval()(**INPUTS).logits, atol=1e-6
        )


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "xlnet", "gpt2"]
)
def test_families_train_with_the_kernels(family):
    config = AutoConfig.for_model(family)
    for name in ("num_hidden_layers", "n_layers", "n_layer"):
        if hasattr(config, name):
            setattr(config, name, 1)
    config.vocab_size, config.num_labels, config.pad_token_id = 200, 3, 0
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).train()
    embeddings = use_kernels(model, CPU)
    for embedding in embeddings:
        embedding.last = True
    seed_masks([0])
    model(**INPUTS).logits.square().sum().backward()
    words = model.get_input_embeddings().weight
    assert torch.isfinite(words.grad).all() and words.grad.abs().sum() > 0


def test_what_cannot_be_deferred_is_left_alone():
    class Odd(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.words = nn.Embedding(10, 4, **options)

        def get_input_embeddings(self):
            return self.words

    assert use_kernels(Odd(sparse=True), CPU) == []
    assert use_kernels(Odd(max_norm=1.0), CPU) == []
    assert use_kernels(nn.Linear(2, 2), CPU) == []
    assert len(use_kernels(Odd(padding_idx=0), CPU)) == 1
