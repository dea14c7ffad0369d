"""A reference as a sweep: what is common, what is typed, what is a change."""

from launch.flags import Override, Request
from launch.grid import expand
from launch.reference_sets import set_of
from launch.reproducing.asked import Stop
from launch.reproducing.recipe import changes, make_spec, overrides, recipe_values
from training.config import RunConfig

CONTENT = {
    "model": "tiny",
    "source": "nobody",
    "unit": "percent",
    "recipe": {"global_batch": 32, "lr": 2e-5, "epochs": 3, "warmup_steps": 10},
    "tasks": {
        "cola": {"scores": [{"split": "validation", "metric": "matthews", "value": 56.5}]},
        "mrpc": {
            "recipe": {"epochs": 5},
            "scores": [{"split": "validation", "metric": "accuracy", "value": 84.0}],
        },
    },
}


def references():
    return list(set_of(CONTENT, "here", "set").references.values())


def request(model=None, **values):
    flags = tuple(
        Override(k.replace("__", "."), v, f"--{k.split('__')[1]}") for k, v in values.items()
    )
    return Request(model=model, flags=flags)


def test_common_values_are_set_and_others_go_with_their_task():
    spec = make_spec(references(), request(), [1, 2], {}, "x")
    assert spec.fixed == {
        "batch.global_batch": 32,
        "optim.lr": 2e-5,
        "optim.warmup_steps": 10,
        "train.max_steps": None,
    }
    assert expand(spec) == [
        {"seed": seed, "task": task, "model": "tiny", "train.epochs": epochs}
        for seed in (1, 2)
        for task, epochs in (("cola", 3.0), ("mrpc", 5.0))
    ]


def test_a_task_that_is_decided_needs_no_more_seeds():
    points = expand(
        make_spec(references(), request(), [1, 2, 3], {"cola": Stop(1, (1,), 0.05)}, "x")
    )
    assert [(p["task"], p["seed"]) for p in points if p["task"] == "cola"] == [("cola", 1)]
    assert sum(p["task"] == "mrpc" for p in points) == 3


def test_what_is_typed_takes_the_recipes_place_and_that_of_its_twin():
    reference = references()[0]
    typed = {"optim.warmup_ratio": "0.1", "train.max_steps": "9", "optim.lr_rule": "sqrt"}
    values = recipe_values(reference, typed)
    assert values == {
        "batch.global_batch": 32,
        "optim.lr": 2e-5,
        "optim.base_batch": 32,
        "optim.warmup_steps": None,  # a preset's would win over the ratio
    }
    assert "optim.base_batch" not in recipe_values(reference, {"optim.lr": 1})


def test_changes_are_named_and_what_is_the_same_is_none():
    reference = references()[0]
    config = RunConfig().with_values(reference.values)
    assert changes(reference, config, request(optim__lr="2e-5")) == []
    other = config.with_values({"batch.global_batch": 512, "model.dropout": 0.0})
    asked = request(model="minilm", batch__global_batch="512", model__dropout="0")
    assert [c.words for c in changes(reference, other, asked)] == [
        "model tiny → minilm",
        "batch.global_batch 32 → 512",
        "model.dropout not in the recipe → 0",
    ]
    site = {"task.train_fraction": "profile here", "optim.lr": "profile here", "x": "default"}
    assert [c.words for c in changes(reference, config, request(), site)] == [
        "task.train_fraction not in the recipe → 1"
    ]
    how = request(train__log_every="1", engine__precision="bf16", cluster__nodes="2")
    assert changes(reference, config, how) == []


def test_steps_at_another_batch_are_named_with_their_reason():
    reference = references()[0]
    asked = request(batch__global_batch="128")
    assert recipe_values(reference, {"batch.global_batch": "128"})["optim.warmup_steps"] == 2
    config = RunConfig().with_values(
        {**reference.values, "batch.global_batch": 128, "optim.warmup_steps": 2}
    )
    assert [c.words for c in changes(reference, config, asked)] == [
        "batch.global_batch 32 → 128",
        "optim.warmup_steps 10 → 2 (as many examples)",
    ]


def test_nodes_go_with_their_task():
    nodes = {"cola": 1, "mrpc": 2}
    points = expand(make_spec(references(), request(), [1], {}, "x", nodes))
    assert [(p["task"], p["nodes"]) for p in points] == [("cola", 1), ("mrpc", 2)]


def test_what_is_repeated_elsewhere_leaves_the_site_out():
    asked = request(optim__lr="1e-3", cluster__nodes="2", engine__zero="2", task__path="/x")
    assert overrides(asked) == [("optim.lr", "1e-3"), ("engine.zero", "2")]
