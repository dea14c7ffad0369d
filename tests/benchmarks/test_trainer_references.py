"""The Trainer's scores: which are taken again, and what is told of a process that fails."""

import json

import click
import pytest

from benchmarks import trainer_references as made
from launch.reference_sets import find_set

RUN = {"task": "rte", "seed": 101, "steps": 234, "seconds": 1.0, "scores": {"accuracy": 0.6}}


def test_scores_of_another_recipe_are_refused(tmp_path):
    place = tmp_path / "rte-101.json"
    place.write_text(json.dumps({**RUN, "recipe": made.recipe_of("rte")}))
    assert made.run("rte", 101, "nowhere", tmp_path)["scores"] == RUN["scores"]
    for other in ({**made.recipe_of("rte"), "rate": 1e-3}, None):
        place.write_text(json.dumps({**RUN, "recipe": other}))
        with pytest.raises(click.ClickException, match="of another recipe"):
            made.run("rte", 101, "nowhere", tmp_path)


def test_a_process_that_fails_says_which_it_was_and_why(tmp_path):
    # There is no such task, so that nothing is trained.
    with pytest.raises(click.ClickException) as error:
        made.run("none", 101, str(tmp_path), tmp_path)
    assert error.value.message.startswith("none, seed 101: the Trainer ended with status 1\n")
    assert len(error.value.message.splitlines()) <= 1 + made.LAST_LINES
    assert "Error" in error.value.message


def test_a_file_says_the_steps_of_warm_up_that_were_taken():
    runs = [{**RUN, "seed": seed, "recipe": made.recipe_of("rte")} for seed in (101, 102)]
    content = made.reference({"rte": runs}, 2, {})
    assert content["tasks"]["rte"]["recipe"] == {"epochs": 3, "warmup_steps": 23}
    assert "warmup_ratio" not in content["recipe"]


def test_the_shipped_file_has_what_the_trainer_did():
    for reference in find_set("trainer-minilm").references.values():
        steps = reference.extra["steps"]
        assert reference.values["optim.warmup_steps"] == made.warmup_steps(steps)
        assert reference.values["train.epochs"] == made.EPOCHS[reference.short]
