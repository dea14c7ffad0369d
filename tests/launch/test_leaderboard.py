"""`glueline leaderboard`: from finished runs to a zip that the GLUE server takes."""

from __future__ import annotations

import json
import shlex
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import glue_runs
from launch.glue_files import BY_NAME, FILES, TASKS
from launch.glue_runs import Candidate, own_rows, rows_below
from launch.glue_zip import names_of, pack, read_text
from launch.leaderboard import CannotMake, leaderboard, make_one
from launch.main import run_command
from tests.training.test_train import make_run as make_real
from tests.training.test_train import train
from training.config import UsageError, load_config
from training.predictions import Predictions, predictions_file
from training.rundir import RunDir, write_json

from .glue_folder import make_run, predictions, write_data


@dataclass
class Answer:
    """What the command printed in this process, and its exit status."""

    status: object
    out: str
    err: str


@pytest.fixture
def ask(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLUELINE_RUNS", raising=False)

    def typed(line: str) -> Answer:
        with pytest.raises(SystemExit) as stop:
            run_command(leaderboard, shlex.split(line))
        said = capsys.readouterr()
        return Answer(stop.value.code, said.out, said.err)

    return typed


def refused(answer: Answer, *words: str) -> None:
    assert answer.status == 2, (answer.out, answer.err)
    lines = answer.err.strip().splitlines()
    assert lines[-1].startswith("error: "), answer.err
    assert all(word in lines[-1] for word in words), lines[-1]


def texts(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def sweep(runs: Path, name: str, trials: list[dict]) -> None:
    folder = runs / ".sweeps" / name
    folder.mkdir(parents=True)
    (folder / "trials.jsonl").write_text("".join(json.dumps(t) + "\n" for t in trials))


def test_all_eleven(ask, tmp_path, monkeypatch):
    """All tasks, the rows of the server; what AX's model says is another test's."""
    runs, data = tmp_path / "runs", write_data(tmp_path / "data", {"ax": {"test": 1104}})
    made = [make_run(runs, f"run-{task}", task, compressed=task == "qqp") for task in TASKS]
    (runs / "run-mnli" / "model").mkdir()
    ax = Predictions("test", ("neutral",) * 1104, None, ("neutral", "entailment", "contradiction"))
    monkeypatch.setattr(glue_runs, "predict", lambda *_: ax)
    line = " ".join(run.run_id for run in made)
    answer = ask(f"{line} --data {data} --out all.zip")
    assert answer.status == 0 and "missing" not in answer.err, answer.err
    found = texts(tmp_path / "all.zip")
    assert list(found) == [file.name for file in FILES]
    for file in FILES:
        lines = found[file.name].split("\n")
        assert lines[0] == "index\tprediction" and lines[-1] == ""
        assert len(lines) == file.rows + 2
    assert found["CoLA.tsv"].startswith("index\tprediction\n0\t0\n1\t1\n2\t0\n")
    assert found["WNLI.tsv"].startswith("index\tprediction\n0\t0\n1\t1\n")
    assert found["RTE.tsv"].startswith("index\tprediction\n0\tentailment\n1\tnot_entailment\n")
    assert found["STS-B.tsv"].startswith("index\tprediction\n0\t0.000\n1\t0.500\n")
    assert found["AX.tsv"].endswith("\n1103\tneutral\n")
    before = (tmp_path / "all.zip").read_bytes()
    assert ask(f"{line} --data {data} --out all.zip --json").status == 0
    assert (tmp_path / "all.zip").read_bytes() == before  # the clock is not in it
    assert ask("--check all.zip").out == "all.zip: 11 files, nothing wrong\n"


def test_missing_files_are_named_and_partial_says_so(ask, tmp_path):
    make_run(tmp_path / "runs", "one", "cola")
    refused(ask("one"), "all eleven files", "SST-2.tsv: no run of sst2", "AX.tsv", "--partial")
    assert not (tmp_path / "submission.zip").exists()
    answer = ask("one --partial")
    assert answer.status == 0 and "matthews 0.5000 on validation" in answer.out
    assert "all eleven files, missing are SST-2.tsv, MRPC.tsv" in answer.err
    assert list(texts(tmp_path / "submission.zip")) == ["CoLA.tsv"]
    assert ask("--check submission.zip").status == 1
    assert ask("--check submission.zip --partial").status == 0


def test_another_file_is_not_overwritten(ask, tmp_path):
    make_run(tmp_path / "runs", "one", "cola")
    (tmp_path / "submission.zip").write_text("mine")
    refused(ask("one --partial"), "holds something else", "--force")
    assert (tmp_path / "submission.zip").read_text() == "mine"
    assert ask("one --partial --force").status == 0
    refused(ask("one --partial --out no/such/a.zip"), "cannot write no/such/a.zip")


def test_the_best_run_is_taken_and_said(ask, tmp_path):
    runs = tmp_path / "runs"
    for seed, score in ((1, 0.4), (2, 0.6), (3, None)):
        make_run(runs, f"cola-{seed}", "cola", score, seed)
    (runs / "cola-4").mkdir()
    trials = [{"number": i, "run_id": f"cola-{i}"} for i in (1, 2, 3, 4)]
    sweep(runs, "seeds", trials)
    answer = ask("seeds --partial")
    assert answer.status == 0, answer.err
    assert "cola: cola-2 of 3 runs: matthews 0.6000 on validation, the best\n" in answer.out
    assert "sweep seeds: 1 of 4 trials have not finished" in answer.err
    answer = ask("seeds cola-2 --seed 1 --partial --force --json")
    found = json.loads(answer.out)
    assert found["files"][0]["run"] == "cola-1" and found["complete"] is False
    assert found["files"][0] | {"seed": 1, "score": 0.4} == found["files"][0]
    refused(ask("seeds --seed 7 --partial"), "no run of cola has the seed 7", "1, 2, 3")


def test_scores_that_do_not_compare(ask, tmp_path):
    make_run(tmp_path / "runs", "one", "cola")
    other = make_run(tmp_path / "runs", "two", "cola")
    write_json(
        other.results,
        {"primary_metric": "accuracy", "primary_split": "validation", "primary_value": 0.9},
    )
    refused(ask("one two --partial"), "different rows or by different metrics", "name one run")


def test_rows_that_are_not_the_servers(ask, tmp_path):
    make_run(tmp_path / "runs", "one", "cola", rows=100)
    refused(ask("one --partial"), "CoLA.tsv: 100 rows", "has 1063", "run one", "--unofficial")
    answer = ask("one --partial --unofficial")
    assert answer.status == 0 and "the server refuses them: CoLA.tsv" in answer.err
    bad = ask("--check submission.zip --partial")
    assert bad.status == 1
    assert bad.out == "CoLA.tsv: 100 rows, the official test split has 1063\n"
    assert ask("--check submission.zip --partial --unofficial").status == 0


def test_the_rows_of_the_data_are_counted(ask, tmp_path):
    data = write_data(tmp_path / "data", {"cola": {"test": 9}})
    make_run(tmp_path / "runs", "one", "cola", rows=8)
    refused(ask(f"one --partial --unofficial --data {data}"), "8 rows, cola test in", "has 9")
    make_run(tmp_path / "runs", "two", "cola", rows=9)
    assert ask(f"two --partial --unofficial --data {data}").status == 0
    assert ask(f"--check submission.zip --partial --unofficial --data {data}").status == 0
    write_data(tmp_path / "data", {"cola": {"test": 10}})
    answer = ask(f"--check submission.zip --partial --unofficial --data {data}")
    assert answer.status == 1 and "CoLA.tsv: 9 rows, cola test in" in answer.out


def test_predictions_of_another_version_of_the_data(ask, tmp_path):
    data = write_data(tmp_path / "data", {"cola": {"train": 4, "validation": 4, "test": 9}})
    make_run(tmp_path / "runs", "one", "cola", rows=9, data=data)
    line = "one --partial --unofficial"
    assert ask(line).status == 0
    file = data / "glue" / "cola" / "test.csv"
    file.write_text(file.read_text().replace("cola test 3", "another text"))
    for more in ("", f" --data {data}"):
        refused(ask(line + more), "CoLA.tsv: run one predicted other rows than", "cola/test.csv")


def test_rows_in_another_order_than_their_numbers(ask, tmp_path):
    data = write_data(tmp_path / "data", {"cola": {"test": 3}})
    file = data / "glue" / "cola" / "test.csv"
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *reversed(rows)]) + "\n")
    make_run(tmp_path / "runs", "one", "cola", rows=3)
    answer = ask(f"one --partial --unofficial --data {data}")
    refused(answer, "row 0 has the number 2", "column idx")


def test_labels_of_the_run(ask, tmp_path):
    data = write_data(tmp_path / "data", {"cola": {"test": 4}})
    runs = tmp_path / "runs"
    make_run(runs, "other-order", "cola", rows=4, classes=("acceptable", "unacceptable"))
    assert ask(f"other-order --partial --unofficial --data {data}").status == 0
    lines = texts(tmp_path / "submission.zip")["CoLA.tsv"].splitlines()
    assert lines[1:] == ["0\t1", "1\t0", "2\t1", "3\t0"]
    make_run(runs, "others", "cola", rows=4, classes=("ham", "spam"))
    answer = ask(f"others --partial --unofficial --data {data}")
    refused(answer, "predicts ham, spam", "the data are unacceptable, acceptable")
    refused(ask("others --partial --unofficial"), "nothing says which is which")


def own_files(run: RunDir, train: list, test: list, **more) -> None:
    """Make a run one of own CSV files, with these labels in the train and the test file."""
    files = {}
    for split, labels in (("train", train), ("test", test)):
        path = run.path.with_name(f"{run.run_id}-{split}.csv")
        lines = [f"a text {i},another,{label}" for i, label in enumerate(labels)]
        path.write_text("\n".join(["sentence1,sentence2,label", *lines]) + "\n")
        files[split] = (str(path),)
    config = load_config(run.config)
    own = {"hub": None, "folder": None, "subset": None, "path": None, "text": TWO, "files": files}
    task = replace(config.task, **{**own, "validation": (), "holdout": 0.25, **more})  # type: ignore[arg-type]
    run.config.write_text(replace(config, task=task).dump())


TWO = ("sentence1", "sentence2")
NAMES = ["entailment", "not_entailment"]


@pytest.mark.parametrize("test", [["entailment"] * 4, ["-1"] * 4, [""] * 4, NAMES * 2])
def test_a_test_file_whose_labels_only_stand_there(ask, tmp_path, test):
    run = make_run(tmp_path / "runs", "one", "rte", rows=4)
    own_files(run, NAMES * 4, test)
    answer = ask("one --partial --unofficial")
    assert answer.status == 0, answer.err
    lines = texts(tmp_path / "submission.zip")["RTE.tsv"].splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == NAMES * 2


@pytest.mark.parametrize("test", [[0] * 4, [1] * 4, [-1] * 4])
def test_numbers_of_a_test_file_that_only_stand_there(ask, tmp_path, test):
    """With names from --labels the training rows say which number is whose."""
    run = make_run(tmp_path / "runs", "one", "cola", rows=4, classes=("good", "bad"))
    own_files(run, [0, 1] * 4, test, text=("sentence1",), labels=("good", "bad"))
    assert ask("one --partial --unofficial").status == 0
    lines = texts(tmp_path / "submission.zip")["CoLA.tsv"].splitlines()
    assert lines[1:] == ["0\t0", "1\t1", "2\t0", "3\t1"]
    # 1 and 2 are not the server's, though a test file of nothing but 1 looks as if they were.
    own_files(run, [1, 2] * 4, [1] * 4, text=("sentence1",), labels=("good", "bad"))
    refused(ask("one --partial --unofficial"), "nothing says which is which")


def test_a_folder_that_holds_nothing_but_a_test_split(ask, tmp_path):
    folder = tmp_path / "data" / "glue" / "rte"
    folder.mkdir(parents=True)
    make_run(tmp_path / "runs", "one", "rte", rows=3)
    line = "one --partial --unofficial --force --data data"
    for labels, status in (
        (["entailment"] * 3, 0),
        ([0] * 3, 0),
        ([0.0] * 3, 0),
        ([-1] * 3, 0),
        (["yes"] * 3, 2),
        ([*NAMES, "maybe"], 2),
    ):
        rows = [f"a,b,{label},{i}" for i, label in enumerate(labels)]
        text = "\n".join(["sentence1,sentence2,label,idx", *rows]) + "\n"
        (folder / "test.csv").write_text(text)
        answer = ask(line)
        assert answer.status == status, (labels, answer.err)
        if status:
            refused(answer, "trained on other labels")


def test_damaged_predictions(ask, tmp_path):
    run = make_run(tmp_path / "runs", "one", "cola")
    file = predictions_file(run, "test")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5] + lines[6:]))
    refused(ask("one --partial"), "run one on test are damaged in line 6")
    file.write_text("")
    refused(ask("one --partial"), "run one on test are damaged in line 1")
    file.with_name("test.tsv.gz").write_bytes(b"\x1f\x8bnothing")
    refused(ask("one --partial"), "the predictions of run one on test cannot be read")


def test_runs_that_cannot_be_used(ask, tmp_path):
    runs = tmp_path / "runs"
    run = make_run(runs, "one", "cola")
    run.results.unlink()
    refused(ask("one"), "run one has not finished")
    run.config.write_text(run.config.read_text().replace("subset: cola", "subset: sonnets"))
    write_json(run.results, {})
    refused(ask("one"), "run one is of task cola, GLUE's are cola, sst2")
    refused(ask("none"), "no run or sweep 'none'")
    refused(ask(""), "which runs?")
    refused(ask("one --data nowhere"), "--data nowhere: there is no such folder")
    refused(ask("one --check a.zip"), "leave runs, --out and --seed out")
    sweep(runs, "empty", [])
    refused(ask("empty"), "no finished run of a GLUE task in empty")


def test_a_run_without_a_model_cannot_predict_ax(ask, tmp_path):
    data = write_data(tmp_path / "data", {"ax": {"test": 1104}})
    make_run(tmp_path / "runs", "mnli", "mnli")
    answer = ask("mnli --partial --data data")
    assert answer.status == 0 and "AX.tsv is left out: this takes the model" in answer.err
    assert list(texts(tmp_path / "submission.zip")) == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    run = RunDir(tmp_path / "runs" / "mnli")
    taken = Candidate(run, load_config(run.config), "mnli", "accuracy", "x", 0.5)
    with pytest.raises(CannotMake) as missing:
        make_one(BY_NAME["AX.tsv"], taken, data, False)
    assert "kept none (train.keep=results" in str(missing.value)
    assert "train it again with glueline submit --task mnli" in str(missing.value)
    (run.path / "model").mkdir()
    with pytest.raises(CannotMake, match="takes the rows of ax test: use --data DIR"):
        make_one(BY_NAME["AX.tsv"], taken, None, False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"CoLA.tsv": "index\tprediction\n0\tyes\n"}, ["CoLA.tsv line 2: label 'yes'", "1 rows"]),
        ({"cola.tsv": ""}, ["cola.tsv: is none of the eleven files", "did you mean 'CoLA.tsv'"]),
        ({"x/CoLA.tsv": ""}, ["lies in a folder"]),
        ({"CoLA.tsv": b"\xff\xfe"}, ["CoLA.tsv: is not UTF-8 text"]),
        (
            {"CoLA.tsv": "index\tprediction\n" + "".join(f"{i}\t7\n" for i in range(1063))},
            ["line 6: label '7'", "CoLA.tsv: and 1058 more problems"],
        ),
    ],
)
def test_check(ask, tmp_path, content, words):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    answer = ask("--check a.zip --partial")
    assert answer.status == 1
    assert all(word in answer.out for word in words), answer.out
    found = json.loads(ask("--check a.zip --partial --json").out)["problems"]
    assert len(found) == len(answer.out.splitlines())


def test_check_what_is_no_zip(ask, tmp_path):
    refused(ask("--check none.zip"), "cannot read none.zip: No such file")
    (tmp_path / "a.zip").write_text("no")
    refused(ask("--check a.zip"), "a.zip is no whole zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("CoLA.tsv", predictions(BY_NAME["CoLA.tsv"], 1063))
    content = bytearray((tmp_path / "b.zip").read_bytes())
    content[60:200] = bytes(140)
    (tmp_path / "b.zip").write_bytes(bytes(content))
    answer = ask("--check b.zip --partial")
    assert answer.status == 1 and "CoLA.tsv: cannot be read from the zip" in answer.out


def test_check_a_zip_with_any_damaged_byte(ask, tmp_path):
    """The version that it takes, a name that is no UTF-8, a compression that nobody knows."""
    whole = pack({"CoLA.tsv": "index\tprediction\n0\t1\n", "été.tsv": "x"})
    place, path = whole.index(b"PK\x01\x02"), tmp_path / "a.zip"
    path.write_bytes(whole[: place + 6] + b"\xff" + whole[place + 7 :])
    refused(ask("--check a.zip"), "a.zip is no whole zip: zip file version 25.5")
    path.write_bytes(whole.replace("été".encode(), b"\xff" * 5))
    refused(ask("--check a.zip"), "a.zip is no whole zip", "can't decode")
    # The part before is data, in which a byte may be anything.
    for at in range(place, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            names = names_of(path)
        except UsageError as error:
            assert "\n" not in str(error) and "a.zip" in str(error)
            continue
        assert all("\n" not in read_text(path, name)[1] for name in names)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run of mnli whose model numbers its classes in another order than the data."""
    place = tmp_path_factory.mktemp("real")
    splits = {"train": 60, "validation_matched": 6, "validation_mismatched": 6}
    splits |= {"test_matched": 7, "test_mismatched": 5}
    data = write_data(place / "data", {"mnli": splits, "ax": {"test": 9}})
    task = {"name": "mnli", "hub": "nyu-mll/glue", "folder": "glue", "subset": "mnli"}
    task |= {"path": str(data / "glue"), "text": ["premise", "hypothesis"], "label": "label"}
    task |= {"labels": ["contradiction", "entailment", "neutral"], "metrics": ["accuracy"]}
    task |= {"validation": ["validation_matched", "validation_mismatched"]}
    task |= {"test": ["test_matched", "test_mismatched"]}
    run = make_real(place / "runs" / "nli", task, "train.max_steps=4", "train.eval_every=4")
    train(run, 1)
    return run, data


def test_ax_is_what_the_model_predicts(ask, tmp_path, real):
    """Also a split whose stored predictions are gone is predicted anew, and is the same."""
    run, data = real
    line = f"{run.path} --partial --unofficial --data {data}"
    answer = ask(f"{line} --out a.zip --json")
    assert answer.status == 0, answer.err
    found = {f["name"]: f for f in json.loads(answer.out)["files"]}
    assert {name: f["computed"] for name, f in found.items()} == {
        "MNLI-m.tsv": False,
        "MNLI-mm.tsv": False,
        "AX.tsv": True,
    }
    assert [f["rows"] for f in found.values()] == [7, 5, 9]
    before = texts(tmp_path / "a.zip")
    stored = predictions_file(run, "test_matched").read_text().splitlines()[1:]
    told = [line.split("\t") for line in before["MNLI-m.tsv"].splitlines()[1:]]
    assert [t[1] for t in told] == [row.split("\t")[1] for row in stored]
    kept = predictions_file(run, "test_matched").rename(tmp_path / "kept")
    try:
        assert ask(f"{line} --out b.zip").status == 0
    finally:
        kept.rename(predictions_file(run, "test_matched"))
    assert texts(tmp_path / "b.zip") == before
    assert ask(f"--check a.zip --partial --unofficial --data {data}").status == 0


class Echo:
    """Takes the place of a model: the label is whether the inputs were turned round."""

    regression, names = False, ["entailment", "neutral", "contradiction"]

    def __init__(self, *_):
        self.texts: list[tuple[str, ...]] = []

    def predict(self, texts):
        self.texts += texts
        turned = [text[0].endswith(" 1") for text in texts]
        return [SimpleNamespace(label=self.names[t], value=1.0) for t in turned]


@pytest.mark.parametrize("turned", [False, True])
def test_ax_is_read_as_the_run_reads_its_rows(ask, tmp_path, monkeypatch, turned):
    """Also where the columns of the rows are in another order, or have other names."""
    monkeypatch.setattr("training.predict.Predictor", Echo)
    data = write_data(tmp_path / "data", {"mnli": {"test_matched": 3}, "ax": {"test": 3}})
    run = make_run(tmp_path / "runs", "one", "mnli", rows=3, data=data)
    (run.path / "model").mkdir()
    predictions_file(run, "test_matched").unlink()
    config = load_config(run.config)
    columns = ("hypothesis", "premise") if turned else ("premise", "hypothesis")
    config = replace(config, task=replace(config.task, text=columns))
    run.config.write_text(config.dump())
    for more in ("", f" --data {data}"):
        assert ask(f"one --partial --unofficial --force{more}").status == 0
        made = texts(tmp_path / "submission.zip")
        for name in ("AX.tsv", "MNLI-m.tsv"):
            assert [line.split("\t")[1] for line in made[name].split("\n")[1:4]] == (
                [Echo.names[turned]] * 3
            )
    taken = Candidate(run, config, "mnli", "accuracy", "validation_matched", 0.5)
    for name in ("AX.tsv", "MNLI-m.tsv"):
        for folder in (data, None):
            rows = (
                rows_below(BY_NAME[name], folder, columns)
                if folder
                else own_rows(BY_NAME[name], taken)
            )
            assert rows is not None and rows.task.text == columns
            found = glue_runs.predict(BY_NAME[name], taken, rows)
            assert set(found.answers) == {Echo.names[turned]}
    # Columns that the rows do not have.
    other = replace(config, task=replace(config.task, text=("premise", "claim")))
    taken = replace(taken, config=other)
    rows = rows_below(BY_NAME["AX.tsv"], data, other.task.text)
    assert rows is not None and rows.count == 3
    with pytest.raises(UsageError) as error:
        glue_runs.predict(BY_NAME["AX.tsv"], taken, rows)
    assert str(error.value) == (
        f"AX.tsv: run one reads the text columns premise, claim, and ax test in {data} has "
        "premise, hypothesis, label, idx"
    )


def test_ax_lies_beside_the_rows_of_the_run(ask, tmp_path, real):
    answer = ask(f"{real[0].path} --partial --unofficial")
    assert answer.status == 0 and "AX.tsv" in texts(tmp_path / "submission.zip"), answer.err
    assert "predicting the 9 rows of ax test with run nli" in answer.err
