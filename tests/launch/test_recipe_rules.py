"""What gives way in a recipe to what was typed."""

from dataclasses import replace

import pytest

from launch.recipe_rules import base_of_rule, of_a_recipe, shown, void_keys, word
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
