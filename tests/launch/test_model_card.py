"""A model card: what it tells of a run, what the hub reads, and what it must not tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from launch.card_facts import command, read_facts, score_intervals
from launch.hub_rows import GLUE_ROWS
from launch.model_card import (
    is_ours,
    known_places,
    model_card,
    other_rows,
    seal,
    secrets_in,
    without_paths,
)
from launch.reporting.stats import wilson
from training.config import UsageError, load_config
from training.predictions import Predictions
from training.rundir import write_json

from .card_run import COMMIT, make_run

OFFICIAL = {"validation": GLUE_ROWS["rte"]["validation"]}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs")


@pytest.fixture
def facts(run):
    found = read_facts(run, "org/rte-bert", "apache-2.0")
    return replace(found, rows=dict(found.rows) | OFFICIAL)


def front(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(facts):
    found = front(model_card(facts))
    results = found.pop("model-index")[0]
    assert found == {
        "language": ["en"],
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["glueline"],
        "base_model": "google-bert/bert-base-uncased",
        "datasets": ["nyu-mll/glue"],
        "metrics": ["accuracy"],
    }
    assert results["name"] == "rte-bert"
    assert results["results"][0]["dataset"] == {
        "type": "nyu-mll/glue",
        "name": "nyu-mll/glue rte",
        "config": "rte",
        "revision": COMMIT,
        "split": "validation",
    }


def test_huggingface_hub_reads_the_scores(facts):
    data: Any = ModelCard(model_card(facts)).data
    assert data.model_name == "rte-bert"
    (score,) = data.eval_results or []
    told = (score.task_type, score.dataset_type, score.dataset_config, score.dataset_split)
    assert told == ("text-classification", "nyu-mll/glue", "rte", "validation")
    assert (score.metric_type, score.metric_value) == ("accuracy", 0.8)


def test_the_body(facts):
    text = model_card(facts)
    low_high = wilson(8, 10)
    assert low_high is not None and low_high.low is not None and low_high.high is not None
    for part in (
        "# rte-bert\n",
        f"Accuracy 0.8000 ({low_high.low:.4f} to {low_high.high:.4f}) on validation.",
        '{"text": "…", "text_pair": "…"}',
        "Labels: entailment, not_entailment.",
        "chosen by Accuracy on validation (step 40)",
        "Rows: train 2,490, validation 277, test 3,000.",
        f"| rte/train-00000-of-00001.parquet | 4 | {'a' * 64} |",
        "| model.safetensors | 9 | not taken |",
        "| `optim.lr` | 2e-05 |",
        "| `train.seed` | 42 |",
        "60 optimizer steps, 1920 examples seen, 0.77 epochs",
        "4 ranks on 2 nodes: 4 × NVIDIA H100",
        "2 attempts: 1 interrupted, 1 finished",
        "torch 2.13.0+cu130",
        f"glueline at commit {COMMIT} with changes that were not committed (SHA-256 dddd",
        "glueline submit --task rte --model bert-base-uncased",
        "--nodes 2 --procs-per-node 2",
    ):
        assert part in text, part
    assert "momentum" not in text  # AdamW has none


def test_nothing_of_the_site_is_told(run, facts, tmp_path):
    text = model_card(facts)
    secret = "login1 node17 secret-project gpu my-team /home /scratch env/bin".split()
    for word in (*secret, str(tmp_path), str(run.path), "job", ".cache"):
        assert word not in text, word


def test_rows_that_are_not_the_hubs_are_not_called_so(run):
    found = read_facts(run)
    assert other_rows(found) == ["validation has 10 rows here and 277 there"]
    text = model_card(found)
    assert "These are not the rows of the hub's data set" in text
    matter = front(text)
    assert "datasets" not in matter
    dataset = matter["model-index"][0]["results"][0]["dataset"]
    assert dataset == {"type": "local", "name": "rte (own rows)", "split": "validation"}


def test_a_hold_out_counts_as_training_rows(run):
    found = read_facts(run)
    task = replace(found.config.task, holdout=0.1)
    held = replace(found, config=replace(found.config, task=task))
    held = replace(held, rows={"train": 2241, "validation": 249, "test": 3000})
    assert other_rows(held) == []
    assert front(model_card(held))["model-index"][0]["results"][0]["dataset"]["split"] == (
        "train (held out)"
    )


def test_metrics_by_their_names_on_the_hub(facts):
    scores = {"accuracy": 0.5, "matthews": 0.1, "macro_f1": 0.4, "f1": None}
    results = dict(facts.results) | {"metrics": {"validation": scores, "test": {}}}
    found = front(model_card(replace(facts, results=results)))
    assert found["metrics"] == ["accuracy", "matthews_correlation", "f1"]
    metrics = found["model-index"][0]["results"][0]["metrics"]
    assert [m["type"] for m in metrics] == ["accuracy", "matthews_correlation", "f1"]
    assert [m["value"] for m in metrics] == [0.5, 0.1, 0.4]


def test_own_files_and_random_weights(facts):
    task = replace(facts.config.task, hub=None, subset=None, folder=None, name="mine")
    model = replace(facts.config.model, hub=None, architecture="bert", name="tiny")
    config = replace(facts.config, task=task, model=model)
    text = model_card(replace(facts, config=config, command=None, license=None, commit=None))
    found = front(text)
    assert not {"language", "license", "base_model", "datasets"} & set(found)
    assert "A bert model from random weights, trained on mine" in text
    assert "The author's own files." in text and "No line of flags says" in text


def test_a_changed_card_is_told_from_ours(facts):
    text = model_card(facts)
    assert is_ours(text) and model_card(facts) == text
    assert not is_ours(text.replace("0.8000", "0.9000"))
    assert not is_ours(text.replace("license: apache-2.0", "license: mit"))
    assert not is_ours(text + "I add a word.\n")
    assert not is_ours("# My card\n")
    assert is_ours(seal("---\n---\n", "words\n"))


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("see /home/me/data/x.csv now", "see x.csv now"),
        ("--set task.files.train=/data/mine/a.csv", "--set task.files.train=a.csv"),
        ("~/models/bert and ../up/here", "bert and here"),
        ("file:///home/me/x", "x"),
        ("(/gpfs/a/b)", "(b)"),
        ("https://huggingface.co/datasets/nyu-mll/glue", None),
        ("nyu-mll/glue, 12 examples/s, and/or, glue/rte/train.parquet", None),
    ],
)
def test_paths_become_names(text, public):
    assert without_paths(text) == (text if public is None else public)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("of /home/jane doe/x.csv.", "of x.csv."),
        ("/home/jane doe/a (new)/data/glue", "glue"),
        ("(/home/jane doe/a (new)/data/glue/rte/train.parquet)", "(train.parquet)"),
        ("/home/jane doe/a (new) and more", "a (new) and more"),
        ("see '/home/jane doe'.", "see 'jane doe'."),
        ("/home/jane doe/a (newer)/b", "a (newer)/b"),
        ("/data, /datasets and https://a.org/data", None),
    ],
)
def test_known_paths_become_names_whatever_is_in_them(run, text, public):
    config = load_config(run.config)
    files = {"train": ("/home/jane doe/x.csv", "/data/y.csv")}
    path = "/home/jane doe/a (new)/data/glue"
    config = replace(config, task=replace(config.task, path=path, files=files))
    assert without_paths(text, known_places(config)) == (text if public is None else public)


def test_a_folder_above_the_data_that_is_called_like_the_subset(tmp_path):
    """Neither there nor in the name of a file does it begin what is told."""
    root = "/home/jane/rte/secret-project/data/glue"
    run = make_run(tmp_path / "runs", **{"task.path": root})
    for path, name in (
        (f"{root}/rte/train-0.parquet", "rte/train-0.parquet"),
        (f"{root}/rte/more/rte/train-0.parquet", "rte/train-0.parquet"),
        (f"{root}/train/rte", "rte"),
        (f"{root}/README.md", "README.md"),
        ("/home/rte/secret-project/train-0.parquet", "train-0.parquet"),
    ):
        manifest = {"data": [{"path": path, "bytes": 4, "sha256": "a" * 64}]}
        write_json(run.manifest, manifest)
        facts = read_facts(run)
        assert facts.data == [(name, 4, "a" * 64)]
        text = model_card(facts)
        assert "secret-project" not in text and "jane" not in text


def test_the_line_of_own_files_in_a_folder_with_spaces(tmp_path):
    config = load_config(make_run(tmp_path / "runs").config)
    folder = "/home/jane doe/top (secret)"
    files = {"train": (f"{folder}/a b.csv", f"{folder}/c.csv")}
    own = {"name": "mine", "hub": None, "folder": None, "subset": None, "path": None}
    line = command(
        replace(config, task=replace(config.task, **own, files=files)),  # type: ignore[arg-type]
        tmp_path,
    )
    assert line is not None and "'task.files.train=a b.csv,c.csv'" in line
    assert "jane" not in line and "secret" not in line


def test_an_error_is_told_as_one(facts):
    task = replace(facts.config.task, problem="regression", metrics=("mse",))
    train = replace(facts.config.train, select="best")
    config = replace(facts.config, task=task, train=train)
    scores = {"metrics": {"validation": {"mse": 0.31}}, "primary_metric": "mse"}
    results = {**facts.results, **scores, "primary_value": 0.31}
    text = model_card(replace(facts, config=config, results=results, labels=(), intervals={}))
    assert "chosen by Mean squared error on validation (step 40), so this score is on the low" in (
        text
    )
    assert "Fractions" not in text and "\nErrors (lower is better) of the weights" in text
    results["metrics"] = {"validation": {"pearson": 0.9, "mse": 0.31}}
    results["primary_metric"] = "pearson"
    text = model_card(replace(facts, config=config, results=results, labels=(), intervals={}))
    assert "so this score is on the high side" in text
    assert "Fractions, but for the mean squared error (lower is better), of the weights" in text
    assert "\nFractions, of the weights in this repository." in model_card(facts)


def test_labels_are_told_as_they_are(facts):
    task = replace(facts.config.task, text=("/my/first column", "b"))
    config = replace(facts.config, task=task)
    labels = ("/r/politics", "/home/jane/x", "a\nb")
    text = model_card(replace(facts, labels=labels, config=config))
    assert "Labels: /r/politics, /home/jane/x, a\\nb.\n" in text
    assert "Input: /my/first column and b," in text


def test_other_rows_are_not_what_the_task_says_of_its_own(facts):
    """Files that took the place of a task's rows, or were set beside them."""
    files = {"train": ("/home/me/mine.csv",)}
    assert "fine-tuned on rte (textual entailment)." in model_card(facts)
    for gone in ({"hub": None, "subset": None, "path": None}, {}):
        task = replace(facts.config.task, files=files, **gone)  # type: ignore[arg-type]
        text = model_card(replace(facts, config=replace(facts.config, task=task)))
        assert "fine-tuned on rte (own rows)." in text and "textual entailment" not in text
        assert "The author's own files." in text and "datasets/nyu-mll" not in text
        found = front(text)
        assert not {"datasets", "language"} & set(found)
        assert found["model-index"][0]["results"][0]["dataset"]["type"] == "local"
    # What a task of one's own says of the files that it names is true.
    task = replace(task, hub=None, folder=None, name="mine", description="reviews of shops")
    text = model_card(replace(facts, config=replace(facts.config, task=task)))
    assert "fine-tuned on mine (reviews of shops)." in text


def test_secrets_are_found_by_value_and_by_form():
    assert secrets_in("all is well", {"HF_TOKEN": "abcdefgh1234"}) == []
    assert secrets_in("an abcdefgh1234 here", {"HF_TOKEN": "abcdefgh1234"}) == [
        "the value of $HF_TOKEN"
    ]
    assert secrets_in("short", {"X_TOKEN": "short"}) == []
    (found,) = secrets_in("token hf_abcdefghijklmnopqrst", {})
    assert found == "a token (hf_…)"


def test_the_line_means_the_same_without_this_site(run):
    line = command(load_config(run.config), run.path.parent)
    assert line is not None
    assert line.startswith("glueline submit --task rte --model bert-base-uncased ")
    for part in ("--set", "--data", "--account", "--wandb", "--executor", "/"):
        assert part not in line, line


def test_the_line_of_rows_that_lay_in_a_folder(tmp_path):
    run = make_run(tmp_path / "runs", **{"task.path": "/data/glue", "cluster.executor": "local"})
    line = command(load_config(run.config), run.path.parent)
    assert line is not None and line.endswith(" --data DIR") and "--executor local" in line
    assert "DIR holds `glue/`" in model_card(read_facts(run))


def test_the_line_of_own_files(tmp_path):
    run = make_run(tmp_path / "runs")
    config = load_config(run.config)
    files = {"train": ("/home/me/a.csv", "/home/me/b.csv")}
    task = replace(
        config.task, name="mine", hub=None, folder=None, subset=None, path=None, files=files
    )
    line = command(replace(config, task=task), tmp_path)
    assert line is not None and "task.files.train=a.csv,b.csv" in line and "/home" not in line


def test_intervals_are_those_of_accuracies():
    right = ("a",) * 8 + ("b",) * 2
    scored = {
        "validation": Predictions("validation", right, ("a",) * 10, ("a", "b")),
        "test": Predictions("test", right, None, ("a", "b")),
        "values": Predictions("values", ("1",) * 10, ("1",) * 10, ()),
    }
    results = {"metrics": {"validation": {"accuracy": 0.8, "f1": 0.7}, "test": {"accuracy": 0.5}}}
    found = score_intervals(scored, results)
    assert found == {("validation", "accuracy"): wilson(8, 10)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: run.results.unlink(), "has not finished"),
        (lambda run: (run.model / "config.json").unlink(), "kept no model"),
        (lambda run: (run.predictions / "validation.tsv").write_bytes(b"\xff"), "cannot be read"),
    ],
)
def test_runs_that_cannot_be_published(run, change, words):
    change(run)
    with pytest.raises(UsageError, match=words):
        read_facts(run)


def test_scores_that_are_not_those_of_the_predictions(run, facts):
    write_json(run.results, dict(facts.results) | {"metrics": {"validation": {"accuracy": 0.9}}})
    with pytest.raises(UsageError, match=r"0\.9000 on validation, its predictions 0\.8000"):
        read_facts(run)


def test_the_least_that_a_run_can_have(run):
    for path in (run.manifest, run.plan, run.jobs, run.environment(1), run.environment(0)):
        path.unlink()
    text = model_card(read_facts(run))
    assert is_ours(text) and "## Scores" in text and "None" not in text
