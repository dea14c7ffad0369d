"""The learning-rate rules, at the numbers of their papers."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import BatchConfig, OptimConfig, RunConfig, TrainConfig, UsageError
from training.scaling import scaled, scaled_for
from training.schedule import warmup_steps

BASE = OptimConfig(lr=1e-4, base_batch=32, lr_rule="linear", warmup_ratio=0.1)
RULES = ("linear", "sqrt", "sqrt_adam", "legew")


def at(rule, batch, **more):
    return scaled(replace(BASE, lr_rule=rule, **more), batch)


def test_the_rules():
    assert at("linear", 128).lr == pytest.approx(4e-4)
    assert at("sqrt", 128).lr == pytest.approx(2e-4)
    assert at("legew", 128).lr == pytest.approx(2e-4)
    assert at("linear", 8).lr == pytest.approx(0.25e-4)
    assert scaled(OptimConfig(lr=1e-4), 4096).lr == 1e-4


def test_adams_square_root_rule_scales_the_moments():
    found = at("sqrt_adam", 128)
    assert found.lr == pytest.approx(2e-4)
    assert 1 - found.beta1 == pytest.approx(4 * (1 - BASE.beta1))
    assert 1 - found.beta2 == pytest.approx(4 * (1 - BASE.beta2))
    assert found.eps == pytest.approx(BASE.eps / 2)
    with pytest.raises(UsageError, match="use at most 320, or --lr-rule sqrt"):
        at("sqrt_adam", 321)


def test_legews_warm_up_keeps_its_steps():
    # At equal epochs a batch four times as large has a quarter of the steps.
    assert warmup_steps(at("legew", 32), 1000) == warmup_steps(at("legew", 128), 250) == 100
    assert at("legew", 32 * 100).warmup_ratio == 1.0
    assert at("legew", 128, warmup_steps=7).warmup_steps == 7
    # At equal steps it has four times the epochs anyway.
    asked = replace(BASE, lr_rule="legew")
    of_run = RunConfig(optim=asked, batch=BatchConfig(global_batch=128))
    assert scaled_for(of_run) == at("legew", 128)
    of_steps = replace(of_run, train=TrainConfig(max_steps=1000))
    assert warmup_steps(scaled_for(of_steps), 1000) == 100 and scaled_for(of_steps).lr == 2e-4


@given(st.sampled_from(RULES), st.integers(1, 320))
def test_at_the_base_nothing_changes_and_scaling_is_done_once(rule, batch):
    same = at(rule, 32)
    assert math.isclose(same.lr, BASE.lr) and math.isclose(same.beta2, BASE.beta2)
    once = at(rule, batch)
    assert scaled(once, 4096) == once
    once.check()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_batch": None}, "needs --base-batch"),
        ({"base_batch": 0}, "--base-batch must be at least 1"),
        ({"lr_rule": "sqrt_adam", "name": "sgd"}, "not of --optimizer sgd"),
    ],
)
def test_what_contradicts_itself_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        replace(BASE, **change).check()
