"""What gives way in a recipe to what was typed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.recipe_rules import (
    base_of_rule,
    of_a_recipe,
    scaled_steps,
    shown,
    void_keys,
    word,
)
from launch.reference_sets import set_of
from training.config import RunConfig

CONTENT = {
    "model": "tiny",
    "source": "nobody",
    "unit": "percent",
    "recipe": {"global_batch": 32, "lr": 2e-5, "epochs": 3},
    "tasks": {"cola": {"scores": [{"split": "validation", "metric": "matthews", "value": 56.5}]}},
}


@pytest.fixture
def reference():
    return set_of(CONTENT, "here", "set").references["cola"]


@pytest.mark.parametrize(
    ("key", "said"),
    [("optim.lr", True), ("train.epochs", True), ("train.seed", False), ("cluster.nodes", False)],
)
def test_of_a_recipe(key, said):
    assert of_a_recipe(key) is said


def test_a_rule_starts_from_the_recipes_batch(reference):
    assert base_of_rule(reference, {"optim.lr_rule"}) == 32
    assert base_of_rule(reference, {"optim.lr"}) is None
    assert base_of_rule(reference, {"optim.lr_rule", "optim.base_batch"}) is None


def test_steps_that_were_typed_make_the_recipes_epochs_void(reference):
    config = RunConfig()
    assert void_keys(reference, config) == set()
    config = replace(config, train=replace(config.train, max_steps=9))
    assert void_keys(reference, config) == {"train.epochs"}


IN_STEPS = {**CONTENT, "recipe": {"global_batch": 16, "max_steps": 2036, "warmup_steps": 122}}


@given(st.integers(1, 100_000))
def test_another_batch_sees_as_many_examples(batch):
    reference = set_of(IN_STEPS, "here", "set").references["cola"]
    scaled = scaled_steps(reference, {"batch.global_batch": str(batch)})
    for key, steps in (("train.max_steps", 2036), ("optim.warmup_steps", 122)):
        now = scaled.get(key, steps)
        assert now == 1 or abs(now * batch - steps * 16) <= batch / 2


@pytest.mark.parametrize(
    ("typed", "scaled"),
    [
        ({}, {}),
        ({"batch.global_batch": "16"}, {}),
        ({"batch.global_batch": 512}, {"train.max_steps": 64, "optim.warmup_steps": 4}),
        ({"batch.global_batch": 512, "train.max_steps": "9"}, {"optim.warmup_steps": 4}),
        ({"batch.global_batch": 512, "train.epochs": "9"}, {"optim.warmup_steps": 4}),
        ({"batch.global_batch": 512, "optim.warmup_ratio": "0"}, {"train.max_steps": 64}),
        # The rule keeps the steps of the warm-up.
        ({"batch.global_batch": 512, "optim.lr_rule": "legew"}, {"train.max_steps": 64}),
        ({"batch.global_batch": "0"}, {}),
    ],
)
def test_steps_follow_a_typed_batch_unless_they_are_typed(typed, scaled):
    reference = set_of(IN_STEPS, "here", "set").references["cola"]
    assert scaled_steps(reference, typed) == scaled


def test_epochs_need_no_scaling(reference):
    assert scaled_steps(reference, {"batch.global_batch": "512"}) == {}


@pytest.mark.parametrize(
    ("value", "read", "typed"),
    [
        (2e-5, "2e-05", "2e-05"),
        (True, "True", "true"),
        (("a", "b"), "a, b", "a,b"),
        ((), "none", ""),
        (None, "none", "None"),
    ],
)
def test_values_in_words(value, read, typed):
    assert (shown(value), word(value)) == (read, typed)
