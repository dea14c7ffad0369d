"""`glueline predict` on a finished run."""

import json

import pytest

from tests.training.test_train import demo, make_run, train

from .commandline import assert_refused, glueline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("runs") / "tiny", demo(), "train.max_steps=60")
    train(made, 1)
    return made


def predict(run, *args):
    return glueline("predict", "tiny", *args, "--runs", str(run.path.parent), cwd=run.path.parent)


def test_texts_of_the_command_line(run):
    done = predict(run, "it has fins", "it lives in the sea", "it has wings", "it sings", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert line["probabilities"][line["label"]] == line["value"]


def test_a_split_equals_the_runs_own_predictions(run):
    done = predict(run, "--task", "demo", "--split", "test", "--json")
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    rows = (run.predictions / "test.tsv").read_text().splitlines()[1:]
    assert labels == [row.split("\t")[2] for row in rows]


def test_files(run, tmp_path):
    text, table = tmp_path / "a.txt", tmp_path / "a.csv"
    text.write_text("one note\tanother note\n")
    table.write_text('first_note,second_note\n"one note","another note"\n')
    shown = [predict(run, "--file", str(f)).stdout for f in (text, table)]
    assert shown[0] == shown[1] and shown[0].count("\n") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ["give texts, --file FILE or --task NAME"]),
        (("one text",), ["2 texts", "1 given"]),
        (("--file", "none.txt"), ["no such file", "none.txt"]),
        (("--task", "axx"), ["did you mean 'ax'"]),
        (("--task", "ax"), ["--data DIR"]),
    ],
)
def test_bad_input(run, args, words):
    assert_refused(predict(run, *args), *words)


def test_unknown_and_unfinished_runs(run, tmp_path):
    assert_refused(glueline("predict", "tinny", "x", cwd=run.path.parent.parent, env={
        "GLUELINE_RUNS": str(run.path.parent)}), "did you mean 'tiny'")  # fmt: skip
    new = make_run(tmp_path / "new", demo())
    assert_refused(glueline("predict", str(new.path), "a", "b", cwd=tmp_path), "did not finish")
