"""Published numbers: the shipped files, what a file may say, and `--reference`."""

from __future__ import annotations

import importlib
import json
import shlex
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import presets
from launch.flags import Override, Request
from launch.reference_file import SET_KEYS, as_fraction, set_of
from launch.reference_sets import (
    COMPLETE,
    Reference,
    ReferenceSet,
    all_sets,
    find_reference,
    find_set,
    missing,
    sets_of,
)
from launch.resolve import compose, load_task
from launch.with_reference import recipe_notes, spelled_out
from training.config import RunConfig, UsageError
from training.config.schema import get_dotted

from .commandline import Answer, assert_refused, glueline

Type = Callable[[str], Answer]

OWN: dict[str, Any] = {
    "model": "tiny",
    "source": "somebody, somewhere",
    "unit": "percent",
    "statistic": "mean",
    "runs": 3,
    "recipe": {"lr": "2e-4", "global_batch": 16, "epochs": 2},
    "tasks": {"demo": {"scores": [{"split": "validation", "metric": "accuracy", "value": 93.5}]}},
}


def own(**changed: Any) -> dict[str, Any]:
    """Return a file's content with other keys; None leaves one out."""
    return {k: v for k, v in {**OWN, **changed}.items() if v is not None}


def scored(unit: str = "percent", **score: Any) -> dict[str, Any]:
    """Return a file's content with another score."""
    entry = {"split": "validation", "metric": "accuracy", "value": 93.5} | score
    return own(unit=unit, tasks={"demo": {"scores": [entry]}})


def made(content: Any) -> Reference:
    return next(iter(set_of(content, "x.yaml", "x").references.values()))


SHIPPED = all_sets()
REFERENCES = [r for s in SHIPPED for r in s.references.values()]


@pytest.mark.parametrize("found", SHIPPED, ids=lambda s: s.name)
def test_a_shipped_set(found: ReferenceSet) -> None:
    assert found.references and found.source and presets.model_preset(found.model)
    assert found.url is None or found.url.startswith(("https://", "benchmarks/"))
    # Who was not asked is said.
    notes = " ".join(note for r in found.references.values() for note in r.notes)
    assert found.checked or "ot re-checked" in notes
    assert (found.checked and found.url) or not found.checked
    # What went through JSON is the same set.
    again = set_of(json.loads(json.dumps(found.content)), "elsewhere", found.name)
    assert again.references == found.references


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r.name)
def test_a_shipped_reference(reference: Reference) -> None:
    task = load_task(reference.task)
    for score in reference.scores:
        assert score.split in (*task.validation_splits, *task.test)
        assert score.metric in task.metric_names
        assert 0 < score.value < 1
    assert reference.judged or reference.unjudged
    for assumption in reference.assumed.values():
        assert assumption.why
    # Complete, or told what is missing.
    told = {*reference.values, *(m.key for m in missing(reference))}
    if reference.seeds:
        told.add("train.seed")
    assert all(told & set(keys) for keys in COMPLETE)
    # The run's configuration is the recipe, whatever presets say.
    config, origins, _ = compose(Request(reference=reference.name))
    for key, value in reference.values.items():
        assert get_dotted(config, key) == value
        assert origins[key].startswith(f"reference {reference.name}")
    if "train.max_steps" not in reference.values:
        assert config.train.max_steps is None
    config.optim.check()


def test_the_main_target() -> None:
    """As in the source, to the last digit."""
    found = find_set("hf-bert-base-cased")
    scores = {
        (r.short, s.metric, s.split): round(s.value * 100, 2)
        for r in found.references.values()
        for s in r.scores
    }
    assert scores == {
        ("cola", "matthews", "validation"): 56.53,
        ("sst2", "accuracy", "validation"): 92.32,
        ("mrpc", "f1", "validation"): 88.85,
        ("mrpc", "accuracy", "validation"): 84.07,
        ("stsb", "pearson", "validation"): 88.64,
        ("stsb", "spearman", "validation"): 88.48,
        ("qqp", "accuracy", "validation"): 90.71,
        ("qqp", "f1", "validation"): 87.49,
        ("mnli", "accuracy", "validation_matched"): 83.91,
        ("mnli", "accuracy", "validation_mismatched"): 84.10,
        ("qnli", "accuracy", "validation"): 90.66,
        ("rte", "accuracy", "validation"): 65.70,
        ("wnli", "accuracy", "validation"): 56.34,
    }
    epochs = {r.short: r.values["train.epochs"] for r in found.references.values()}
    assert {k for k, v in epochs.items() if v == 5} == {"mrpc", "wnli"}
    cola = found.references["cola"]
    assert not missing(cola) and cola.values["optim.weight_decay"] == 0
    assert cola.values["train.select"] == "last" and cola.values["optim.warmup_ratio"] == 0


def test_a_published_spread_is_that_of_its_seeds() -> None:
    for task in ("mrpc", "sst2"):
        reference = find_reference(f"nvidia-bert-large/{task}")
        (score,), seeds = reference.scores, reference.extra["scores_by_seed"]
        assert score.runs == len(seeds) == len(reference.seeds) == 10
        assert score.value == pytest.approx(statistics.fmean(seeds) / 100, abs=5e-5)
        assert score.sd == pytest.approx(statistics.stdev(seeds) / 100, abs=3e-5)


def test_a_best_epoch_is_the_score() -> None:
    for name in ("distilbert-cola", "distilbert-cola-card", "distilbert-cola-notebook"):
        reference = find_reference(name)
        by_epoch = reference.extra["matthews_by_epoch"]
        assert len(by_epoch) == reference.values["train.epochs"] == 5
        assert reference.scores[0].value == max(by_epoch)
        assert reference.extra["steps"] == 5 * -(-8551 // reference.values["batch.global_batch"])


def test_conflicting_sources_stand_side_by_side() -> None:
    found = [r for r in REFERENCES if r.model == "distilbert-base-uncased" and r.short == "cola"]
    assert len({r.scores[0].value for r in found}) == len(found) >= 3


def test_what_a_task_says_takes_the_place_of_what_the_set_says() -> None:
    content = own(
        recipe={"lr": 1e-4, "epochs": 2, "warmup_ratio": 0.1},
        assumed={"weight_decay": {"value": 0.0, "why": "a guess"}},
        notes="of the\n  set",
        extra={"hardware": "a GPU", "seconds": 5},
    )
    task = dict(content["tasks"]["demo"])
    task |= {
        "recipe": {"epochs": 3, "optim.weight_decay": 0.01},
        "assumed": {"lr": {"value": "3e-4", "why": "not told"}},
        "statistic": "median",
        "runs": 7,
        "seeds": [4, 5],
        "collapsed": "excluded",
        "notes": "of the task",
        "extra": {"seconds": 6},
    }
    reference = made({**content, "tasks": {"demo": task}})
    assert reference.recipe == {
        "train.epochs": 3,
        "optim.warmup_ratio": 0.1,
        "optim.weight_decay": 0.01,
    }
    assert {k: a.value for k, a in reference.assumed.items()} == {"optim.lr": 3e-4}
    assert reference.values["optim.lr"] == 3e-4
    assert (reference.statistic, reference.seeds, reference.collapsed) == (
        "median",
        (4, 5),
        "excluded",
    )
    assert reference.scores[0].runs == 7 and reference.scores[0].value == 0.935
    assert reference.notes == ("of the set", "of the task")
    assert reference.extra == {"hardware": "a GPU", "seconds": 6}
    assert reference.name == "x/demo"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (own(source=None), "'source' is missing"),
        (own(model=None), "'model' is missing"),
        (own(unit=None), "'unit' is missing"),
        (own(tasks={}), "'tasks' is missing"),
        (own(sorce="x"), "unknown key 'sorce': did you mean 'source'"),
        (own(unit="percents"), "unknown value 'percents': did you mean 'percent'"),
        (own(statistic="average"), "statistic: unknown value 'average'"),
        (own(checked="yesterday"), "checked: write a day"),
        (own(model="tinny"), "unknown model 'tinny': did you mean 'tiny'"),
        (own(collapsed="maybe"), "collapsed: unknown value"),
        (own(runs="many"), "runs: expected a number of runs"),
        (own(seeds=[1.5]), "seeds: expected a list of seeds"),
        (own(recipe={"learning_rate": 1}), "recipe of the set: unknown key 'learning_rate'"),
        (own(recipe={"model.max_length": 1}), "unknown key 'model.max_length'"),
        (own(recipe={"lr": 1, "optim.lr": 2}), "optim.lr stands there twice"),
        (own(recipe={"lr": "fast"}), "lr: expected a number"),
        (own(recipe={"lr": -1}), "--lr must not be below 0"),
        (own(recipe={"seed": 42}), "write the source's seeds as 'seeds: [42]'"),
        (own(recipe={"task": "cola"}), "task is no part of a recipe"),
        (own(recipe={"nodes": 2}), "nodes is no part of a recipe"),
        (own(recipe={"log_every": 2}), "log_every is no part of a recipe"),
        (own(assumed={"clip": 1}), "needs {value: …, why: …}"),
        (own(assumed={"optim.clip": {"value": 1}}), "a guess has its reason"),
        (own(assumed={"lr": {"value": 1, "why": "so"}}), "in the recipe and assumed"),
        (own(tasks={"coala": {}}), "unknown task 'coala'"),
        (own(tasks={"demo": {"score": []}}), "unknown key 'score': did you mean 'scores'"),
        (own(tasks={"demo": {"scores": []}}), "no score can be judged: say why with 'unjudged'"),
        (own(tasks={"demo": {"scores": [{"split": "test"}]}}), "'metric' is missing"),
        (scored(split="validaton"), "no split 'validaton': did you mean 'validation'"),
        (scored(metric="matthews"), "does not compute 'matthews'"),
        (scored(value=0.935), "0.935 with 'unit: percent': write 93.5, or 'unit: fraction'"),
        (scored("fraction"), "93.5 with 'unit: fraction': write 0.935, or 'unit: percent'"),
        (scored(value=101), "101 is not between 0 and 100"),
        (scored(value=-2), "-2 is not between 0 and 100"),
        (scored(value="high"), "value: expected a number"),
        (scored(value=True), "value: expected a number"),
        (scored(sd=-1), "sd: -1 is not between 0 and 100"),
        (scored(sd=60), "60 with 'unit: percent' is a spread of 60 points: write 0.6"),
        (scored(sd=0.0045, runs=5), "0.0045 with 'unit: percent' is 0.0045 points of 100: write"),
        (scored("fraction", value=0.9174, sd=0.45), "is a spread of 45 points: write 0.0045"),
        (scored("fraction", value=0.9, sd=1.2), "write 0.012, or 'unit: percent'"),
        (scored(sd=1.2, runs=1), "sd is of several runs"),
        (scored(judged=False), "'judged: false' needs a 'note'"),
        ([1], "expected keys and values"),
    ],
)
def test_a_file_that_is_refused(content: Any, says: str) -> None:
    with pytest.raises(UsageError) as error:
        set_of(content, "x.yaml", "x")
    assert says in str(error.value) and str(error.value).startswith("x.yaml")
    assert "\n" not in str(error.value)


def test_numbers_and_their_unit() -> None:
    assert as_fraction(56.53, "percent", "matthews", "") == 0.5653
    assert as_fraction(-12, "percent", "matthews", "") == -0.12
    assert as_fraction(0, "percent", "matthews", "") == 0
    assert as_fraction("0.5653", "fraction", "accuracy", "") == 0.5653
    assert as_fraction(0.45, "percent", "accuracy", "", spread=True) == 0.0045
    assert as_fraction(0, "percent", "accuracy", "", spread=True) == 0
    assert as_fraction(0.02, "percent", "accuracy", "", spread=True) == 0.0002
    assert as_fraction(25, "percent", "matthews", "", spread=True) == 0.25
    assert as_fraction(0.0001, "fraction", "accuracy", "", spread=True) == 0.0001
    assert as_fraction(40, "percent", "mse", "", spread=True) == 40
    assert as_fraction(3.5, "percent", "mse", "") == 3.5
    for value, metric in ((-0.1, "accuracy"), (-1, "mse"), (-0.1, "matthews")):
        with pytest.raises(UsageError):
            as_fraction(value, "fraction", metric, "", spread=metric == "matthews")


def test_hidden_labels_judge_nothing() -> None:
    entry = {"split": "test", "metric": "matthews", "value": 52.1}
    with pytest.raises(UsageError, match="labels of cola's test are hidden"):
        made(own(tasks={"cola": {"scores": [entry]}}))
    entry |= {"judged": False, "note": "of the GLUE server"}
    told = {"scores": [entry], "unjudged": "only the server can"}
    reference = made(own(tasks={"cola": told}))
    assert reference.scores and not reference.judged
    with pytest.raises(UsageError, match="contradict"):
        good = {"split": "validation", "metric": "matthews", "value": 52.1}
        made(own(tasks={"cola": told | {"scores": [good]}}))


def test_what_is_missing_is_what_a_run_takes() -> None:
    reference = made(own(recipe={"lr": 1e-4}, tasks={"mrpc": {"unjudged": "recipe only"}}))
    gaps = {m.key: m for m in missing(reference)}
    assert gaps["train.epochs"].value == 5
    # The task's preset wins over the model's, as in a run.
    assert gaps["train.epochs"].origin == "task mrpc"
    assert gaps["optim.eps"].value == RunConfig().optim.eps
    assert gaps["optim.eps"].origin == "default" and "optim.lr" not in gaps


def test_finding() -> None:
    assert find_reference("distilbert-cola").name == "distilbert-cola/cola"
    assert find_reference("hf-bert-base-cased/mnli").short == "mnli"
    assert find_reference("hf-bert-base-cased", "rte").short == "rte"
    for text, says in (
        ("hf-bert-base-casd", "did you mean 'hf-bert-base-cased'"),
        ("hf-bert-base-cased", "has several tasks: write hf-bert-base-cased/TASK (cola, sst2"),
        ("hf-bert-base-cased/colla", "did you mean 'cola'"),
        ("none.yaml", "reference file none.yaml does not exist"),
        ("none.yaml/cola", "reference file none.yaml does not exist"),
    ):
        with pytest.raises(UsageError) as error:
            find_reference(text)
        assert says in str(error.value)
    with pytest.raises(UsageError, match="it is 'hf-bert-base-cased'"):
        find_set("hf-bert-base-cased/cola")


def test_a_task_that_is_not_there_is_not_another_one(mine: Path, typed: Type, job: Any) -> None:
    one = "distilbert-cola has no task 'mrpc': choose from: cola (its recipe on other rows: "
    one += "--reference distilbert-cola/cola --task mrpc)"
    for name, task, says in (
        ("distilbert-cola", "mrpc", one),
        ("hf-bert-base-cased", "colla", "has no task 'colla': did you mean 'cola'?"),
        ("mine/ours.yaml", "none.yaml", "mine/ours.yaml has no task 'none.yaml'"),
    ):
        with pytest.raises(UsageError) as error:
            find_reference(name, task)
        assert says in str(error.value)
    # A task file as it is typed, from the folder that one is in.
    assert find_reference("mine/ours.yaml", "mine/mine.yaml").short == "reviews"
    assert find_reference("distilbert-cola", "cola").short == "cola"
    done = typed("--reference distilbert-cola --task mrpc --tracker none --dry-run")
    assert (done.status, done.err) == (2, f"error: {one}\n")
    said = glueline("references", "distilbert-cola", "--task", "mrpc", cwd=mine)
    assert_refused(said, "distilbert-cola has no task 'mrpc'")
    said = glueline("references", "distilbert-cola/cola", "--task", "mrpc", cwd=mine)
    assert_refused(said, "distilbert-cola/cola is of another task than --task mrpc")


def test_the_line_that_trains_a_file_of_ones_own(mine: Path) -> None:
    """What it names is found: a file's references go by its stem in tables alone."""
    (mine / "my own.yaml").write_text((mine / "ours.yaml").read_text())
    for typed, name in (
        (["mine/ours.yaml"], "mine/ours.yaml/TASK"),
        (["mine/ours.yaml", "--task", "demo"], "mine/ours.yaml/demo"),
        (["mine/ours.yaml/reviews"], "mine/ours.yaml/reviews"),
        ([f"{mine}/my own.yaml/demo"], f"'{mine}/my own.yaml/demo'"),
        (["distilbert-cola"], "distilbert-cola/cola"),
        (["hf-bert-base-cased"], "hf-bert-base-cased/TASK"),
    ):
        done = glueline("references", *typed, cwd=mine.parent)
        assert done.returncode == 0, done.stderr
        line = done.stdout.splitlines()[-1]
        assert line.startswith("train it: ") and f" --reference {name} --data DIR" in line, line
        if not name.endswith("/TASK"):
            assert find_reference(shlex.split(line)[-3])


def test_the_sets_of_a_model() -> None:
    names = [s.name for s in sets_of("google-bert/bert-base-cased", ["cola"])]
    assert "hf-bert-base-cased" in names and names == [
        s.name for s in sets_of("bert-base-cased", ["cola"])
    ]
    names = [s.name for s in sets_of("bert-base-uncased", ["ag_news", "none"])]
    assert names == ["bert-agnews", "sun2019-bert-agnews"]
    assert not sets_of("bert-base-uncased", ["demo"])


@pytest.fixture
def mine(here: Path) -> Path:
    """A reference file of one's own, with a task file beside it, in another folder."""
    # Before a stand-in takes the place of what it imports.
    importlib.import_module("launch.jobs")
    folder = here / "mine"
    folder.mkdir()
    for name in ("mine.yaml", "train.csv"):
        (here / name).rename(folder / name)
    task = {"task": "mine.yaml", "scores": OWN["tasks"]["demo"]["scores"]}
    content = own(tasks={"reviews": task, **OWN["tasks"]})
    (folder / "ours.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_task_file_of_ones_own(mine: Path) -> None:
    found = find_set("mine/ours.yaml")
    reference = found.of_task("reviews")
    assert reference is not None and reference.name == "ours/reviews"
    assert reference.task == str(mine / "mine.yaml")
    assert find_reference("mine/ours.yaml/reviews") == reference
    assert find_reference("mine/ours.yaml", str(mine / "mine.yaml")) == reference
    # Its content means the same elsewhere.
    again = set_of(json.loads(json.dumps(found.content)), "elsewhere", "ours")
    assert again.references == found.references


def test_submit_by_a_reference(mine: Path, job: Any, typed: Type) -> None:
    line = "--reference mine/ours.yaml/reviews --tracker none --nodes 2"
    done = typed(line)
    assert done.status == 0 and "is not the recipe" not in done.err, done.err
    assert "does not say all of its recipe; taken instead: task.max_length 128" in done.err
    (run,) = [p for p in (mine.parent / "runs").iterdir() if p.name[0] != "."]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["task"]["name"] == "mine" and config["model"]["name"] == "tiny"
    # The model's preset says 1e-3 and five epochs.
    assert (config["optim"]["lr"], config["train"]["epochs"]) == (2e-4, 2)
    assert config["batch"]["global_batch"] == 16
    again = typed(line + " --dry-run")
    assert run.name in again.out and "is there already" in again.out


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no cell of a table is folded."""
    monkeypatch.setenv("COLUMNS", "200")


def test_what_breaks_the_recipe_is_noted(mine: Path, job: Any, typed: Type) -> None:
    done = typed(
        "--reference mine/ours.yaml/demo --tracker none --dry-run --lr 1e-3 --seed 3 --log-every 5 "
        "--global-batch 16 --set optim.clip=4 --epochs 1 --nodes 2 --set model.dropout=0.1"
    )
    assert done.status == 0, done.err
    notes = [line for line in done.out.splitlines() if "is not the" in line]
    assert notes == [
        "note: --lr 1e-3 is not the recipe of ours/demo (0.0002)",
        "note: --epochs 1 is not the recipe of ours/demo (2)",
        "note: --set optim.clip=4 is not the recipe of ours/demo (1)",
        "note: --set model.dropout=0.1 is not the recipe of ours/demo (0)",
    ]
    done = typed(
        "--reference mine/ours.yaml/demo --task mine/mine.yaml --model minilm --tracker none "
        "--dry-run"
    )
    assert "note: --model minilm is not the model of ours/demo (tiny)" in done.out
    assert "note: --task mine/mine.yaml is not the task of ours/demo (demo)" in done.out


def test_a_model_by_its_other_name_and_steps_at_another_batch() -> None:
    def notes(*flags: tuple[str, str], reference: str, model: str | None = None) -> list[str]:
        typed = tuple(Override(k, v, f"--{k.split('.')[1]}") for k, v in flags)
        request = Request(reference=reference, model=model, flags=typed)
        asked, published = compose(request)[0], compose(replace(request, flags=()))[0]
        return recipe_notes(find_reference(reference), request, asked, published)

    same = notes(reference="hf-bert-base-cased/rte", model="google-bert/bert-base-cased")
    assert not any("is not the model" in line for line in same)
    other = notes(reference="hf-bert-base-cased/rte", model="minilm")
    assert any("is not the model" in line for line in other)
    scaled = notes(("batch.global_batch", "512"), reference="fairseq-roberta-large/rte")
    said = "as many examples as in fairseq-roberta-large/rte"
    assert f"train.max_steps 2036 → 64: {said}" in scaled
    assert f"optim.warmup_steps 122 → 4: {said}" in scaled


def test_a_published_recipe_on_real_rows(
    here: Path, job: Any, typed: Type, data_dir: Path, wide: None
) -> None:
    done = typed(
        f"--reference hf-bert-base-cased/cola --data {data_dir} --model minilm --tracker none "
        "--dry-run"
    )
    assert done.status == 0, done.err
    words = " ".join(done.out.split())
    assert "train 8551" in words and "optimizer steps 804" in words
    assert "warm-up steps 0 " in words and "peak learning rate 2e-05" in words
    # minilm.yaml has a rate of its own.
    assert "optim.lr 2e-05 reference hf-bert-base-cased/cola" in words
    assert "optim.clip 1.0 reference hf-bert-base-cased/cola, assumed" in words
    assert "note: --model minilm is not the model of hf-bert-base-cased/cola" in done.out


def test_steps_and_epochs_do_not_outlive_each_other() -> None:
    def composed(*flags: tuple[str, str], reference: str) -> RunConfig:
        typed = tuple(Override(k, v, f"--{k.split('.')[1]}") for k, v in flags)
        return compose(Request(reference=reference, flags=typed))[0]

    by_steps = "fairseq-roberta-large/rte"
    assert composed(reference=by_steps).train.max_steps == 2036
    assert composed(reference=by_steps).optim.warmup_steps == 122
    config = composed(("train.epochs", "2"), reference=by_steps)
    assert (config.train.max_steps, config.train.epochs) == (None, 2)
    config = composed(("optim.warmup_ratio", "0.2"), reference=by_steps)
    assert (config.optim.warmup_steps, config.optim.warmup_ratio) == (None, 0.2)
    config = composed(("train.max_steps", "9"), reference="hf-bert-base-cased/rte")
    assert config.train.max_steps == 9
    # At another batch a recipe in steps sees as many examples: 16 of each of 2036 steps.
    config = composed(("batch.global_batch", "512"), reference=by_steps)
    assert (config.train.max_steps, config.optim.warmup_steps) == (64, 4)
    config = composed(("batch.global_batch", "512"), ("train.epochs", "3"), reference=by_steps)
    assert (config.train.max_steps, config.train.epochs) == (None, 3)
    assert config.optim.warmup_steps == 4
    # A rule that is typed starts from the recipe's batch.
    rule = ("optim.lr_rule", "sqrt"), ("batch.global_batch", "512")
    assert composed(*rule, reference="hf-bert-base-cased/rte").optim.base_batch == 32


def test_a_line_to_type_again_names_the_inputs() -> None:
    request = Request(
        reference="hf-bert-base-cased/cola", flags=(Override("optim.lr", "1", "--lr"),)
    )
    told = spelled_out(request)
    assert (told.task, told.model, told.reference) == ("cola", "bert-base-cased", None)
    assert told.sets == (Override("task.max_length", "128", "--set"),)
    typed = Request(
        reference="hf-bert-base-cased/cola",
        model="tiny",
        flags=(Override("task.max_length", "64", "--max-length"),),
    )
    assert (spelled_out(typed).model, spelled_out(typed).sets) == ("tiny", ())
    assert spelled_out(Request(task="rte")) == Request(task="rte")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--reference nothing/cola", "unknown set of references 'nothing'"),
        ("--reference hf-bert-base-cased --dry-run", "has several tasks"),
        ("--reference hf-bert-base-cased/cola --resume x", "leave out --reference"),
        ("--reference fairseq-roberta-base/rte --device cpu", "use --precision bf16 or fp32"),
    ],
)
def test_a_reference_that_cannot_be_trained(
    here: Path, job: Any, typed: Type, line: str, says: str
) -> None:
    done = typed(line + " --tracker none")
    assert done.status == 2 and says in done.err and len(done.err.strip().splitlines()) == 1


def test_the_command(tmp_path: Path) -> None:
    done = glueline("references", "--task", "cola", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["hf-bert-base-cased/cola"][1:5] == [
        "bert-base-cased",
        "validation",
        "matthews",
        "0.5653",
    ]
    done = glueline("references", "nvidia-bert-large/mrpc", cwd=tmp_path)
    assert "mean of 10, sd 0.0123" in done.stdout and "glue_config.sh" in done.stdout
    assert "--reference nvidia-bert-large/mrpc" in done.stdout
    done = glueline("references", "bert-agnews", cwd=tmp_path)
    assert "recipe only, nothing to judge" in done.stdout and "not re-checked" in done.stdout
    assert "missing: default is taken" in done.stdout
    assert_refused(glueline("references", "bert-agnew", cwd=tmp_path), "bert-agnews")


def test_the_command_as_json(tmp_path: Path) -> None:
    done = glueline("references", "--model", "bert-base-cased", "--json", cwd=tmp_path)
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    entry = found["hf-bert-base-cased/mrpc"]
    assert entry["recipe"]["train.epochs"] == 5 and entry["missing"] == []
    assert entry["scores"][0]["value"] == 0.8885 and entry["seeds"] == [42]
    assert all(entry["model"] == "bert-base-cased" for entry in found.values())


def test_every_key_is_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "references.md").read_text()
    assert all(f"`{key}`" in text for key in SET_KEYS)
