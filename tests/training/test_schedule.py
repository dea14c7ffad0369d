"""The schedule is transformers', as a function of the step."""

import pytest
import torch
from transformers import get_scheduler

from training.config import OptimConfig
from training.schedule import learning_rate, warmup_steps


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 20), (20, 20), (1, 1)])
def test_equals_transformers(shape, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    name = "constant_with_warmup" if shape == "constant" else shape
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    ours = OptimConfig(lr=0.3, schedule=shape, warmup_steps=warmup)
    for step in range(total):
        assert learning_rate(ours, step, total) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_warmup_ratio_is_rounded_up():
    assert warmup_steps(OptimConfig(warmup_ratio=0.1), 101) == 11
    assert warmup_steps(OptimConfig(warmup_steps=500), 100) == 100
