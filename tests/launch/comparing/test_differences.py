"""What differs between two runs, and in which order it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.comparing.differences import Difference, find_differences, shown
from launch.comparing.facts import Digests, Facts, unread_notes
from launch.comparing.ranking import GROUPS, RULES, TITLES, rule_of
from launch.comparing.scores import Paired, Score, Scores
from launch.comparing.summary import blame, summarise
from training.config import RunConfig
from training.config.schema import leaves

BASE = Facts(
    run_id="a",
    path=Path("/runs/a"),
    finished=True,
    state="finished",
    config={"task.name": "rte", "model.name": "bert", "train.seed": 1, "cluster.nodes": 1},
    in_force={"optim.name": "adamw", "optim.lr": 2e-5, "optim.momentum": 0.9, "warmup": 10},
    data=Digests({"train.parquet": "aa", "validation.parquet": "bb"}),
    weights=Digests({"model.safetensors": "cc"}),
    model_labels=("yes", "no"),
    data_labels=("yes", "no"),
    history={"attempts": 1, "out_of_memory": 0},
    versions={"torch": "2.13.0", "tokenizers": "0.23", "rich": "14"},
    hardware={"world_size": 1, "device": "EPYC"},
)


def changed(**more: Any) -> Facts:
    return replace(BASE, run_id="b", **more)


def config(**values: Any) -> dict[str, Any]:
    return {**BASE.config, **{k.replace("__", "."): v for k, v in values.items()}}


def in_force(**values: Any) -> dict[str, Any]:
    return {**BASE.in_force, **{k.replace("__", "."): v for k, v in values.items()}}


def keys(b: Facts) -> list[tuple[str, str]]:
    return [(d.group, d.key) for d in find_differences(BASE, b)]


def test_a_run_does_not_differ_from_itself():
    assert find_differences(BASE, BASE) == []
    assert blame([]) == "nothing differs"


def test_the_likeliest_cause_comes_first():
    b = changed(
        config=config(cluster__nodes=4, train__seed=2, **{"engine.precision": "bf16"}),
        in_force=in_force(optim__lr=6e-4, warmup=0),
        data=Digests({"train.parquet": "xx", "validation.parquet": "bb"}),
        weights=Digests({"model.safetensors": "dd"}),
        model_labels=("no", "yes"),
        data_labels=("no", "yes"),
        history={"attempts": 3, "out_of_memory": 0},
        versions={"torch": "2.12.0", "tokenizers": "0.22", "rich": "13"},
        hardware={"world_size": 4, "device": "H200"},
    )
    a = replace(BASE, config=config(**{"engine.precision": "fp32"}))
    found = find_differences(a, b)
    assert [(d.group, d.key) for d in found] == [
        ("rows", "data"),
        ("weights", "weights"),
        ("labels", "labels"),
        ("recipe", "optim.lr"),
        ("recipe", "warmup"),
        ("history", "attempts"),
        ("seed", "train.seed"),
        ("precision", "engine.precision"),
        ("versions", "torch"),
        ("versions", "tokenizers"),
        ("versions", "rich"),
        ("engine", "world_size"),
        ("hardware", "device"),
        ("place", "cluster.nodes"),
    ]
    quiet = {d.key for d in found if not d.matters}
    assert quiet == {"attempts", "rich", "world_size", "device", "cluster.nodes"}
    assert found[0].a == ["train.parquet"] and all(d.why for d in found)
    assert "exact" not in found[-3].why and "same rows however they are cut" in found[-3].why


def test_files_count_by_what_they_hold():
    moved = Digests({"other.parquet": "aa", "renamed.parquet": "bb"})
    assert not keys(changed(data=moved))
    unknown = changed(data=Digests({}), weights=Digests({}))
    assert not keys(unknown)
    named = config(task__name="mine", model__name="copy")
    assert keys(changed(config=named)) == [("place", "task.name"), ("place", "model.name")]
    assert keys(changed(config=named, data=Digests({}), weights=Digests({}))) == [
        ("rows", "task.name"),
        ("weights", "model.name"),
    ]


def test_a_head_of_which_nothing_is_known_is_no_difference():
    for known in ("plain", "reordered", "unnamed", "other"):
        told = changed(head=known, in_force=in_force(optim__lr=6e-4))
        assert [d.key for d in find_differences(BASE, told)] == ["optim.lr"]
        assert [d.key for d in find_differences(told, BASE)] == ["optim.lr"]


LARGE = {"model.safetensors": 5 << 30}


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (Digests({}, LARGE), Digests({}, LARGE), None),
        (Digests({}, LARGE), Digests({}, {"model.safetensors": 6 << 30}), False),
        (Digests({}, LARGE), Digests({}, {"moved.safetensors": 5 << 30}), None),
        (Digests({}, LARGE), Digests({}, {**LARGE, "more.safetensors": 2 << 30}), False),
        (Digests({"a": "11"}, LARGE), Digests({"a": "11"}, LARGE), None),
        (Digests({"a": "11"}, LARGE), Digests({"a": "22"}, LARGE), False),
        (Digests({"a": "11"}), Digests({"a": "11"}, LARGE), False),
        (Digests({"a": "11"}), Digests({"b": "11"}), True),
        (Digests({}, LARGE), Digests({}, {"model.safetensors": None}), None),
        (Digests({}, LARGE), Digests({}), None),
    ],
)
def test_of_files_that_were_not_read_equal_sizes_say_nothing(
    ours: Digests, theirs: Digests, same: bool | None
):
    assert ours.same(theirs) is same and theirs.same(ours) is same
    assert ours.same(ours) is (True if ours.files and not ours.unread else None)


def test_weights_that_may_be_others_are_not_folded():
    def run(name: str, path: str, **more: Any) -> Facts:
        named = config(model__name=name, model__path=path)
        return replace(BASE, config=named, **{"weights": Digests({}, LARGE), **more})

    a = run("ours", "/m/one")
    (found,) = find_differences(a, run("ours", "/m/two"))
    assert (found.group, found.name, found.matters) == ("weights", "model folder", True)
    assert blame([found]) == "most likely: model folder /m/one → /m/two"
    assert {d.key for d in find_differences(a, run("theirs", "/m/one")) if d.matters} == {
        "model.name"
    }
    (note,) = unread_notes(a, a)
    assert "whether model.safetensors holds the same in both is not known" in note
    # Folders of the cache are named by the commit that they hold.
    fetched = "/runs/.cache/hub/models/org--m@0123"
    (found,) = find_differences(run("ours", fetched), run("ours", f"/other{fetched}"))
    assert (found.group, found.matters) == ("place", False)
    (found,) = find_differences(a, run("ours", "/m/one", weights=Digests({}, {"m.safetensors": 9})))
    assert (found.key, found.a) == ("weights", [f"model.safetensors {5 << 30} bytes"])
    assert found.b == ["m.safetensors 9 bytes"]
    assert not unread_notes(a, BASE)
    assert not unread_notes(run("ours", fetched), run("ours", f"/other{fetched}"))


def test_rows_that_may_be_others_are_not_folded():
    def run(path: str, **more: Any) -> Facts:
        named = config(task__path=path)
        return replace(BASE, data=Digests({}, {"train.csv": 3 << 30}), config=named, **more)

    a, b = run("/d/one"), run("/d/two")
    (found,) = find_differences(a, b)
    assert (found.group, found.name, found.matters) == ("rows", "data folder", True)
    # What was prepared of them tells.
    tokens = {"train": Digests({"input_ids": "11"})}
    (found,) = find_differences(replace(a, tokens=tokens), replace(b, tokens=tokens))
    assert (found.group, found.matters) == ("place", False)


def test_prepared_rows_tell_more_than_files():
    tokens = {"train": Digests({"input_ids": "11", "labels": "22"})}
    a = replace(BASE, tokens=tokens)
    other = Digests({"train.parquet": "zz", "validation.parquet": "bb"})
    (found,) = find_differences(a, changed(tokens=tokens, data=other))
    assert (found.group, found.matters) == ("place", False)
    shorter = {"train": Digests({"input_ids": "99", "labels": "22"})}
    (found,) = find_differences(a, changed(tokens=shorter))
    assert (found.group, found.key) == ("rows", "tokens.train")
    assert "the labels are the same" in found.why and found.a == ["input_ids 11"]


def test_label_orders():
    swapped = changed(model_labels=("no", "yes"))
    found = find_differences(BASE, swapped)
    assert [d.key for d in found] == ["labels", "model_labels"]
    assert found[1].b == "model no, yes; data yes, no" and found[1].a == "as the data"
    plain = replace(BASE, head="plain")
    (head,) = find_differences(plain, changed(head="reordered"))
    assert (head.group, head.b) == ("labels", "left in another order")
    assert head.a == "new, or in the data's order"
    (head,) = find_differences(plain, changed(head="reordered", head_handled=True))
    assert head.b == "put into the data's order"
    (other,) = find_differences(BASE, changed(model_labels=("a", "b"), data_labels=()))
    assert (other.group, other.name) == ("rows", "labels")


def test_a_setting_that_the_optimizer_does_not_use_is_folded():
    (found,) = find_differences(BASE, changed(in_force=in_force(optim__momentum=0.5)))
    assert (found.group, found.matters) == ("place", False)
    assert found.why == "adamw does not use it"


def test_a_rule_that_comes_to_the_same_rate_is_folded():
    a = replace(BASE, config=config(**{"optim.lr": 2e-5, "optim.lr_rule": "fixed"}))
    b = changed(config=config(**{"optim.lr": 1e-5, "optim.lr_rule": "linear"}))
    found = find_differences(a, b)
    assert {d.key for d in found} == {"optim.lr", "optim.lr_rule"}
    assert all(d.group == "place" for d in found)


def test_a_collapse_and_what_only_one_tells():
    (found,) = find_differences(BASE, changed(), (None, "yes"))
    assert (found.group, found.a, found.b) == ("history", "several classes", "yes to every row")
    assert not find_differences(BASE, changed(), ("yes", "yes"))
    assert not keys(changed(versions={}, hardware={}, history={}, config={}, in_force={}))
    (found,) = find_differences(BASE, changed(versions={"torch": "2.13.0", "tokenizers": "0.23"}))
    assert (found.key, found.b) == ("rich", None)


def test_a_peer_is_told_before_code_and_versions():
    a = replace(BASE, config=config(**{"engine.peer": "none"}))
    b = changed(config=config(**{"engine.peer": "trainer"}), versions={"torch": "2.12.0"})
    first = find_differences(a, b)[0]
    assert first.words() == "implementation glueline → trainer" and first.matters


def test_code():
    a = replace(BASE, code={"commit": "c" * 40, "diff": None, "digest": "d" * 40})
    b = changed(code={"commit": "c" * 40, "diff": "e" * 40, "digest": None})
    (found,) = find_differences(a, b)
    assert (found.key, found.a, found.b) == ("diff", None, "e" * 12)


def test_every_key_of_the_configuration_has_a_group():
    known = {*leaves(RunConfig)}
    assert all(rule_of(key).group in GROUPS for key in known)
    ours = {key for key in RULES if "." in key}
    assert ours <= known, ours - known
    assert TITLES.keys() == set(GROUPS)
    assert rule_of("optim.lr").group == "recipe" and rule_of("cluster.nodes").group == "place"
    # What trains must not fall among paths unseen.
    loud = {"task", "model", "batch", "optim"}
    place = {k for k in known if k.partition(".")[0] in loud and rule_of(k).group == "place"}
    assert place == {
        "task.description",
        "task.folder",
        "task.path",
        "task.files",
        "task.test",
        "model.path",
        "optim.lr_rule",
        "optim.base_batch",
        "optim.warmup_steps",
    }


def told(group: str, name: str, a: Any, b: Any, matters: bool = True) -> Difference:
    return Difference(group, name, name, a, b, "why", matters)


SEED = told("seed", "seed", 1, 2)
RATE = told("recipe", "learning rate", 2e-5, 6e-4)
RANKS = told("engine", "ranks", 1, 4, matters=False)
GAP = Score("validation", "accuracy", 0.803, 0.782)


def scores(low: float | None, high: float | None, score: Score = GAP) -> Scores:
    paired = Paired(score.split, score.metric, 277, low, high, 0.95, 12, 6, 0.2)
    return Scores((score,), (paired,), score.metric, score.split)


def test_the_summary():
    assert summarise([RATE, SEED], scores(-0.039, -0.002)) == (
        "B scores 2.1 points lower (accuracy 0.803 → 0.782, 95% of the paired difference "
        "-3.9 … -0.2); most likely: learning rate 2e-05 → 0.0006, then seed 1 → 2"
    )
    assert summarise([SEED, RANKS], scores(-0.05, 0.01)) == (
        "no difference beyond chance on these 277 examples (accuracy 0.803 → 0.782, 95% of the "
        "paired difference -5.0 … +1.0); nothing differs but the seed"
    )
    assert summarise([RANKS], Scores()) == "nothing differs that should matter"
    alone = Scores((GAP,), (), "accuracy", "validation")
    assert summarise([], alone).startswith("B scores 2.1 points lower (accuracy 0.803 → 0.782); ")
    error = Score("validation", "mse", 1.5, 1.25)
    assert "B scores 0.25 lower (mse" in summarise([], scores(-0.4, -0.1, error))
    same = Score("validation", "accuracy", 0.5, 0.5)
    assert "both score the same" in summarise([], Scores((same,), (), "accuracy", "validation"))


def test_values():
    assert [shown(v) for v in (None, True, 2e-5, ["a", 1], 3)] == [
        "none",
        "yes",
        "2e-05",
        "a, 1",
        "3",
    ]
    assert len(shown("x" * 100)) == 60
