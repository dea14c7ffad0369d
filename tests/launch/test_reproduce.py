"""`glueline reproduce` and `replay` as a person types them: what is refused, and a dry run."""

import json

import pytest

from .commandline import assert_refused, glueline, tree

REFERENCE = """
model: tiny
source: nobody, for a test
unit: percent
statistic: mean
recipe: {global_batch: 32, lr: 1.0e-3, epochs: 1, train.select: last}
tasks:
  demo: {scores: [{split: validation, metric: accuracy, value: 99.0}]}
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "demo.yaml").write_text(REFERENCE)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["what is to be reproduced", "--reference"]),
        (["--model", "tiny"], ["nothing is published here of model 'tiny'"]),
        (["--reference", "nope"], ["nope"]),
        (["--reference", "none.yaml"], ["none.yaml does not exist"]),
        (["--reference", "demo.yaml", "--seeds", "2"], ["--seeds 2", "needs 3 or more"]),
        (["--reference", "demo.yaml", "--margin", "0.01"], ["points of 100"]),
        (["--reference", "demo.yaml", "--tasks", "cola"], ["no number for 'cola'"]),
        (["--reference", "demo.yaml", "--suite", "glu"], ["unknown suite 'glu'"]),
        (["--reference", "demo.yaml", "--seed", "7"], ["--seed", "which the sweep varies"]),
        (["--reference", "bert-agnews"], ["without a score to judge", "submit --reference"]),
        (["--reference", "demo.yaml", "--suite", "glue"], ["no number for any task of glue"]),
        (["--reference", "demo.yaml", "--tasks", ","], ["--tasks names no task", "demo"]),
        (["--reference", "demo.yaml", "--task", ""], ["--task names no task"]),
        (["--reference", "demo.yaml", "--suite", ""], ["unknown suite ''"]),
        (["--collect", "none"], ["none"]),
        (["--reference", "demo.yaml", "--train-file", "a.csv"], ["published is of its task's own"]),
        (["--reference", "hf-bert-base-cased/nope"], ["no number for 'nope'"]),
        (["--reference", "hf-bert-base-cased/rte", "--tasks", "rte"], ["names the task"]),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(here, words, said):
    assert_refused(glueline("reproduce", *words, "--executor", "local", cwd=here), *said)
    assert tree(here) == {"demo.yaml"}


def test_a_dry_run_names_what_is_changed_and_touches_nothing(here):
    line = "--reference demo.yaml --executor local --tracker none --global-batch 64 --dry-run"
    done = glueline("reproduce", *line.split(), cwd=here)
    assert done.returncode == 0, done.stderr
    assert "5 trials: 5 to submit" in done.stdout and "seed=5" in done.stdout
    assert "not the published recipe, and so the verdict is about: batch.global_batch 32 → 64" in (
        done.stderr
    )
    assert "optim.schedule linear" in done.stderr  # what the reference does not say
    assert "best of several" not in done.stderr
    assert tree(here) == {"demo.yaml"}


def test_the_best_of_several_runs_is_told_from_a_mean(here):
    (here / "demo.yaml").write_text(REFERENCE.replace("mean", "best of several"))
    line = "--reference demo.yaml --executor local --tracker none --dry-run"
    done = glueline("reproduce", *line.split(), cwd=here)
    assert done.returncode == 0 and "published is the best of several runs" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no receipt"),
        ("# verdicts", "is no receipt"),
        (json.dumps({"kind": "receipt", "format": 99}), "of a newer glueline"),
        (json.dumps({"kind": "receipt", "format": 1}), "'asked' is missing"),
    ],
)
def test_a_receipt_that_is_none(tmp_path, content, said):
    if content is not None:
        (tmp_path / "receipt.json").write_text(content)
    assert_refused(glueline("replay", "receipt.json", cwd=tmp_path), said)
