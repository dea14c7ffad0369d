from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs import __file__ as configs
from launch.grid import Spec, spec_of_file
from launch.search_space import axis_of, corners, plain, search_of, with_flags
from slurm.search_file import Search
from training.config import UsageError

from .commandline import glueline

LR = {"low": 1e-5, "high": 1e-3, "log": True}


def search(**values: Any) -> Search:
    space = values.pop("space", {"lr": LR})
    return search_of({"trials": 8, "space": space, **values}, "s.yaml: search")


def test_a_file_becomes_a_search() -> None:
    found = search(
        sampler="random",
        pruner="median",
        fraction=0.25,
        space={"lr": {"low": "1e-5", "high": 1e-3, "log": True}, "global-batch": [64, 128]},
        finish=2,
        finish_seeds=3,
    )
    lr, batch = found.axes
    assert (lr.key, lr.low, lr.high, lr.log, lr.planned) == ("optim.lr", 1e-5, 1e-3, True, False)
    assert (batch.name, batch.key, batch.choices) == (
        "global_batch",
        "batch.global_batch",
        (64, 128),
    )
    assert batch.planned and found.finish_seeds == (1, 2, 3) and found.last_runs == 6
    assert search_of(plain(found), "again") == found


def test_the_file_in_configs_is_a_search() -> None:
    path = Path(configs).parent / "sweeps" / "search.yaml"
    spec = spec_of_file(yaml.safe_load(path.read_text()), "search.yaml")
    assert spec.search is not None and spec.search.target == 40 and spec.search.last_runs == 3


def test_flags_go_over_the_file() -> None:
    found = with_flags(search(), ["lr=1e-4..1e-2", "epochs=1,2"], {"trials": 3, "pruner": None})
    assert found is not None and found.trials == 3 and found.pruner == "none"
    lr, epochs = found.axes
    assert (lr.low, lr.high, lr.log) == (1e-4, 1e-2, False) and epochs.choices == (1.0, 2.0)
    alone = with_flags(None, ["lr=1e-5..1e-3:log"], {"trials": 3, "sampler": "random"})
    assert alone is not None and alone.sampler == "random" and alone.axes[0].log
    assert with_flags(None, [], {"trials": None}) is None


def test_there_are_no_more_trials_than_configurations() -> None:
    found = search(space={"global_batch": [1, 2, 3], "warmup_steps": {"low": 0, "high": 1}})
    assert found.size == 6 and found.target == 6 and search().size == math.inf
    assert search().last_runs == 0  # they are the search's own


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(["lr", "weight_decay", "beta1", "eps"]), unique=True, max_size=4),
    st.floats(0, 0.4),
    st.floats(0.5, 0.9),
)
def test_corners_are_in_the_space_and_have_every_plan(
    batches: list[int], ranges: list[str], low: float, high: float
) -> None:
    names = {"beta1": "optim.beta1", "eps": "optim.eps"}
    space: dict[str, Any] = {"global_batch": batches}
    space |= {names.get(name, name): {"low": low, "high": high} for name in ranges}
    found = search(space=space)
    seen = corners(found)
    assert {c["global_batch"] for c in seen} == set(batches)
    for axis in found.axes:
        assert {c[axis.name] for c in seen} == set(axis.ends)
    assert len(seen) == len(batches) * 2 ** len(ranges)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"sampler": "tbe"}, "sampler: unknown value 'tbe': did you mean 'tpe'"),
        ({"pruner": "medan"}, "pruner: unknown value 'medan': did you mean 'median'"),
        ({"trails": 3}, "unknown key 'trails': did you mean 'trials'"),
        ({"trials": 0}, "trials: expected at least 1, got 0"),
        ({"trials": "many"}, "trials: expected a whole number"),
        ({"fraction": 0}, "fraction: expected more than 0 and at most 1, got 0"),
        ({"fraction": 1.5}, "fraction: expected more than 0 and at most 1"),
        ({"finish": -1}, "finish: expected at least 0"),
        ({"finish_seeds": "x"}, "finish_seeds: expected a number of seeds"),
        ({"finish": 0, "finish_seeds": 2}, "there is nothing to finish"),
        ({"space": {}}, "space: there is nothing to vary"),
        ({"space": {"lrr": LR}}, "unknown axis 'lrr': did you mean 'lr'"),
        ({"space": {"lr": {**LR, "low": 1}}}, "lr: low must be below high, got 1 and 0.001"),
        ({"space": {"lr": {**LR, "low": 0}}}, "lr: log needs a low above 0"),
        ({"space": {"lr": {"low": 0}}}, "lr: the key 'high' is missing"),
        ({"space": {"lr": {**LR, "step": 1}}}, "lr: unknown key 'step'"),
        ({"space": {"lr": {**LR, "low": "x"}}}, "lr: low: expected a number"),
        ({"space": {"lr": {**LR, "log": "yes"}}}, "log: expected true or false"),
        ({"space": {"lr": []}}, "lr: there are no values"),
        ({"space": {"lr": [1e-4, "1e-4"]}}, "lr: 0.0001 appears twice"),
        ({"space": {"lr": 3}}, "lr: expected a list of values, or low and high"),
        ({"space": {"lr": [1], "optim.lr": [2]}}, "lr and optim.lr are the same key"),
        ({"space": {"global_batch": {"low": 1, "high": 9}}}, "write a list of values"),
        ({"space": {"epochs": {"low": 1, "high": 9}}}, "all plans are made before"),
        ({"space": {"schedule": {"low": 1, "high": 9}}}, "has no range: write a list"),
        ({"space": {"warmup_steps": {"low": 0.5, "high": 9}}}, "takes whole numbers"),
        ({"space": {"task": ["a", "b"]}}, "scores of two tasks do not compare"),
        ({"space": {"nodes": [1, 2]}}, "run on the same nodes"),
        ({"space": {"optim.name": ["adamm"]}}, "unknown value 'adamm'"),
        ({"sampler": "grid"}, "the sampler grid needs a list of values for lr"),
        (
            {"space": {"seed": {"low": 1, "high": 9}}, "finish_seeds": 2},
            "space and finish_seeds both set the seed",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(values: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        search(**values)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("s.yaml: search")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"grid": {"epochs": [1]}}, "search and epochs contradict each other"),
        ({"points": [{"epochs": 1}]}, "search and points contradict each other"),
        ({"seeds": 3}, "search and seed contradict each other.*use finish_seeds"),
        ({"set": {"optim.lr": 1}}, "set and the search's axis lr both set optim.lr"),
    ],
)
def test_a_search_stands_alone(values: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        spec_of_file({"search": {"trials": 3, "space": {"lr": LR}}, **values}, "s.yaml")


@pytest.mark.parametrize(
    ("axes", "typed", "match"),
    [
        ([], {"trials": 3}, "--trials is of a search: name what, --search KEY="),
        (["lr=1..2"], {}, "--search needs --trials N"),
        (["lr"], {"trials": 3}, "--search 'lr': write KEY=LOW..HIGH"),
        (["lr=1..2:lgo"], {"trials": 3}, "unknown scale 'lgo': did you mean 'log'"),
        (["lr=2..1"], {"trials": 3}, "low must be below high"),
    ],
)
def test_wrong_flags(axes: list[str], typed: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        with_flags(None, axes, typed)


def test_a_search_is_kept_as_its_file_has_it() -> None:
    found = search(finish_seeds=[4, 5])
    kept = Spec(search=found).plain()
    assert spec_of_file(yaml.safe_load(yaml.safe_dump(kept)), "kept").search == found


def test_axes_have_a_field_s_type() -> None:
    assert axis_of("model.dropout", {"low": 0, "high": 0.5}, "x").light
    assert axis_of("model.dropout", [0, 0.1], "x").light
    assert not axis_of("model", ["tiny", "minilm"], "x").light
    assert axis_of("lr", ["1e-4", 1], "x").choices == (1e-4, 1.0)
    assert axis_of("warmup_steps", {"low": 1, "high": 9, "log": True}, "x").ends == (1, 9)


def test_what_a_dry_run_shows_and_what_is_refused_before_submission(workplace: Path) -> None:
    line = ["--task", "demo", "--model", "tiny", "--tracker", "none", "--executor", "local"]
    searched = ["--search", "lr=1e-4..1e-2:log", "--search", "global_batch=16,32", "--trials", "6"]

    def typed(*words: str) -> Any:
        return glueline("sweep", *line, *words, cwd=workplace)

    done = typed(*searched, "--fraction", "0.5", "--dry-run", "--pruner", "median")
    assert done.returncode == 0, done.stderr
    assert "6 trials, sampler tpe, pruner median, on 50% of the rows" in done.stdout
    assert "lr 0.0001 to 0.01 (log)" in done.stdout and "global_batch=32  " in done.stdout
    told = json.loads(typed(*searched, "--dry-run", "--json").stdout)
    assert told["search"]["target"] == 6 and told["cost"]["trials"] == 6
    wrong = [
        (["--epochs", "1", "--pruner", "median"], "no evaluation before its end: use --eval-every"),
        (["--lr", "1"], "--lr sets optim.lr, which the sweep varies"),
        (["--grid", "epochs=1,2"], "search and epochs contradict each other"),
        (["--search", "optim.beta1=0.5..1"], "optim.beta1 must be at least 0 and below 1"),
        (["--search", "lr_rule=fixed,sqrt"], "--lr-rule sqrt needs --base-batch"),
        (["--fraction", "2"], "fraction: expected more than 0 and at most 1, got 2"),
        (
            ["--fraction", "0.5", "--set", "task.train_fraction=0.1"],
            "--set and the search's fraction both set task.train_fraction",
        ),
        (
            ["--search", "engine.precision=auto,fp32"],
            "engine.precision=auto and engine.precision=fp32 are the same run here: leave one",
        ),
        (["--search", "batch.micro_tokens=auto,512"], "auto is no value of its own"),
    ]
    for words, said in wrong:
        done = typed(*searched, *words)
        assert done.returncode == 2 and said in done.stderr, (words, done.stderr)
        assert done.stderr.count("\n") == 1 and not done.stdout
    assert not list(workplace.iterdir())
