"""LAMB and LARS make the steps of their papers, and are refused where tensors are in pieces."""

import pytest
import torch
from torch import nn

from training.config import (
    EngineConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TaskConfig,
    UsageError,
)
from training.config.schema import build
from training.optim import build_optimizer
from training.scaling import scaled

from .test_train import demo

STEPS = 6


def model() -> nn.Sequential:
    """Return two layers with a norm between them; one matrix is longer than the package's bound."""
    torch.manual_seed(0)
    first = nn.Linear(6, 5)
    with torch.no_grad():
        first.weight.mul_(40.0)
    return nn.Sequential(first, nn.LayerNorm(5), nn.Linear(5, 3)).double()


def walk(optim: OptimConfig) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """Return gradients of every step, and the weights before the first and after each."""
    found = model()
    optimizer = build_optimizer(found, optim)
    gradients, weights = [], [{n: p.detach().clone() for n, p in found.named_parameters()}]
    for step in range(STEPS):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
        optimizer.zero_grad()
        found(inputs).square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in found.named_parameters()})  # type: ignore[union-attr]
        optimizer.step()
        weights.append({n: p.detach().clone() for n, p in found.named_parameters()})
    return gradients, weights


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_algorithm_2(decay):
    optim = OptimConfig(name="lamb", lr=0.01, weight_decay=decay, eps=1e-6)
    gradients, weights = walk(optim)
    x = weights[0]
    for name in x:
        value, m, v = x[name].clone(), torch.zeros_like(x[name]), torch.zeros_like(x[name])
        for t, gradient in enumerate(gradients, 1):
            g = gradient[name]
            m = optim.beta1 * m + (1 - optim.beta1) * g
            v = optim.beta2 * v + (1 - optim.beta2) * g * g
            r = m / (1 - optim.beta1**t) / ((v / (1 - optim.beta2**t)).sqrt() + optim.eps)
            if g.ndim == 1:
                value = value - optim.lr * r
            else:
                u = r + decay * value
                value = value - optim.lr * value.norm() / u.norm() * u
            assert torch.allclose(weights[t][name], value, rtol=1e-5, atol=1e-9), (name, t)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_is_algorithm_1(decay):
    optim = OptimConfig(name="lars", lr=0.5, weight_decay=decay, trust_coefficient=0.02)
    gradients, weights = walk(optim)
    for name in weights[0]:
        value, v = weights[0][name].clone(), torch.zeros_like(weights[0][name])
        for t, gradient in enumerate(gradients, 1):
            g, rate = gradient[name], 1.0
            if g.ndim > 1:
                rate = 0.02 * value.norm() / (g.norm() + decay * value.norm())
                g = g + decay * value
            v = optim.momentum * v + rate * g
            value = value - optim.lr * v
            assert torch.allclose(weights[t][name], value, rtol=1e-9), (name, t)


@pytest.mark.parametrize("name", ["lamb", "lars"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_pieces_of_tensors_are_refused(name, stage):
    settings = {
        "task": build(TaskConfig, demo()),
        "model": ModelConfig(name="tiny", architecture="bert"),
        "optim": OptimConfig(name=name),
    }
    RunConfig(**settings, engine=EngineConfig(zero=0)).check()
    with pytest.raises(UsageError, match=f"--optimizer {name} .* --zero {stage} .* use --zero 0"):
        RunConfig(**settings, engine=EngineConfig(zero=stage)).check()


def test_learning_rate_rules_are_those_of_large_batches():
    """LAMB's authors scale by the square root, with a warm-up as long in steps: legew's rule."""
    optim = OptimConfig(name="lamb", lr=1e-3, lr_rule="legew", base_batch=512, warmup_ratio=1 / 320)
    found = scaled(optim, 32768)
    assert (found.lr, found.warmup_ratio) == (pytest.approx(8e-3), pytest.approx(0.2))
    assert scaled(OptimConfig(name="lars", lr=1.0, lr_rule="linear", base_batch=256), 1024).lr == 4
    with pytest.raises(UsageError, match="sqrt_adam is Adam's, not of --optimizer lamb"):
        OptimConfig(name="lamb", lr_rule="sqrt_adam", base_batch=32).check()
