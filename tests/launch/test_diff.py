"""`glueline diff`: two runs of a runs folder side by side."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import diff
from launch.comparing.facts import read_facts
from launch.main import run_command
from tests.launch.commandline import assert_refused, glueline
from tests.launch.reporting import folders
from training.config import RunConfig
from training.rundir import RunDir, read_json, write_json

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "tokenizers": "0.23.1", "wandb": "0.31.0"}


def write(runs: Path, name: str, made: RunConfig, right: int, **more: Any) -> RunDir:
    """Write a finished run that has the first `right` of 600 rows right."""
    run = RunDir(runs / name)
    folders.finished(run, made)
    manifest = {
        "format": 1,
        "code": "0" * 12,
        "git": {"commit": "c" * 40, "diff_sha256": None},
        "versions": VERSIONS,
        "data": [{"path": f"{runs}/{name}-data/train.csv", "bytes": 9, "sha256": "aa"}],
        "weights": [{"path": f"{runs}/{name}-m/model.safetensors", "bytes": 9, "sha256": "bb"}],
    }
    write_json(run.manifest, manifest | more)
    ranks = [{"rank": 0, "host": name, "device": "cpu", "model": "EPYC"}] * made.world_size
    write_json(run.environment(0), {"ranks": ranks, "versions": VERSIONS})
    labels = [folders.LABELS[i % 3] for i in range(600)]
    lines = ["index\tlabel\tprediction\t" + "\t".join(f"p({n})" for n in folders.LABELS)]
    for i, label in enumerate(labels):
        other = folders.LABELS[(i + 1) % 3]
        lines.append(f"{i}\t{label}\t{label if i < right else other}\t0.4\t0.3\t0.3")
    (run.predictions / "validation.tsv").write_text("\n".join(lines) + "\n")
    results = read_json(run.results)
    assert isinstance(results, dict)
    results["metrics"] = {"validation": {"accuracy": right / 600}}
    write_json(run.results, results | {"primary_value": right / 600})
    return run


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    base = folders.config(64, 1, "fixed", 1)
    write(folder, "base", base, 540)
    write(folder, "seed", replace(base, train=replace(base.train, seed=2)), 538)
    hot = replace(base, optim=replace(base.optim, lr=9e-3))
    write(folder, "hot", hot, 400, versions=VERSIONS | {"wandb": "0.30.0"})
    folders.failed(RunDir(folder / "open"), base, "ValueError", "m")
    return folder


def asked(runs: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str]:
    """Return exit status and output of `glueline diff WORDS`, in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_command(diff.diff, [*words, "--runs", str(runs)])
    out, err = capsys.readouterr()
    return end.value.code, out + err


def test_nothing_but_the_seed(runs, capsys):
    code, said = asked(runs, capsys, "base", "seed")
    assert code == 0
    lines = said.splitlines()
    assert lines[0].startswith("no difference beyond chance on these 600 examples (accuracy 0.900")
    assert lines[0].endswith("; nothing differs but the seed")
    assert lines[2].split() == ["A", "base", "finished"]
    assert "McNemar p = 0.5 (only A right 2, only B 0 of 600)" in said
    assert "and 1 of cluster, paths, tracking: --all" in said  # the host
    _, everything = asked(runs, capsys, "base", "seed", "--all")
    assert "hosts" in everything and "--all" not in everything


def test_the_learning_rate_is_to_blame(runs, capsys):
    code, said = asked(runs, capsys, str(runs / "base"), str(runs / "hot"), "--json")
    found = json.loads(said)
    assert code == 0 and (found["kind"], found["a"]["run_id"]) == ("diff", "base")
    assert found["summary"].startswith("B scores 23.3 points lower (accuracy 0.900 → 0.667, 95%")
    assert found["summary"].endswith("most likely: learning rate 0.0003 → 0.009")
    assert [d["key"] for d in found["differences"]] == ["optim.lr", "hosts"]
    (paired,) = found["paired"]
    assert paired["high"] < 0 and paired["only_a"] == 140
    assert found["scores"][0]["difference"] == pytest.approx(-140 / 600)
    assert not found["notes"]


def test_a_run_that_is_not_finished(runs, capsys):
    code, said = asked(runs, capsys, "base", "open")
    assert code == 0 and said.startswith("nothing differs, as far as their files tell")
    assert "note: open is not finished: no scores yet" in said
    assert "note: open: manifest.json: missing" in said


def test_altered_results_and_other_rows_are_said(runs, capsys):
    run = RunDir(runs / "seed")
    results = read_json(run.results)
    assert isinstance(results, dict)
    write_json(run.results, results | {"metrics": {"validation": {"accuracy": 0.95}}})
    _, said = asked(runs, capsys, "base", "seed")
    assert "one of the files was altered" in said
    file = run.predictions / "validation.tsv"
    file.write_text(file.read_text().replace("0\tbird", "0\tfish", 1))
    _, said = asked(runs, capsys, "base", "seed")
    assert "not paired: other rows: the label of row 0 is bird in A and fish in B" in said


def put_model(run, place):
    """Have a run's configuration say that its model lies there."""
    text = run.config.read_text()
    run.config.write_text(text.replace("  path: null\n  arch", f"  path: {place}\n  arch"))
    assert str(place) in run.config.read_text()


def test_weights_that_are_gone_are_not_to_blame(runs, capsys, tmp_path):
    """What a head was like is not known then, and the learning rate is."""
    model = tmp_path / "pretrained"
    model.mkdir()
    names = {str(i): name for i, name in enumerate(reversed(folders.LABELS))}
    described = {"architectures": ["BertForSequenceClassification"], "id2label": names}
    (model / "config.json").write_text(json.dumps(described))
    for name, place in (("base", model), ("hot", tmp_path / "gone")):
        put_model(RunDir(runs / name), place)
    assert read_facts(RunDir(runs / "base")).head == "reordered"
    assert read_facts(RunDir(runs / "hot")).head == ""
    for pair in (("base", "hot"), ("hot", "base")):
        _, said = asked(runs, capsys, *pair)
        assert "most likely: learning rate" in said.splitlines()[0], said
        assert "head of the pretrained model" not in said


def test_weights_too_large_to_be_read_are_not_called_the_same(runs, capsys):
    """Two checkpoints of one shape have one size."""
    for name in ("base", "seed"):
        run = RunDir(runs / name)
        manifest = read_json(run.manifest)
        assert isinstance(manifest, dict)
        weights = {"path": f"/m/{name}/model.safetensors", "bytes": 3 << 30, "sha256": None}
        write_json(run.manifest, manifest | {"weights": [weights]})
    path = runs / "seed" / "config.yaml"
    text = (runs / "base" / "config.yaml").read_text()
    path.write_text(text)
    _, said = asked(runs, capsys, "base", "seed")
    told = "; nothing differs that should matter, as far as their files tell"
    assert said.splitlines()[0].endswith(told)
    assert "note: weights: whether model.safetensors holds the same in both is not known" in said
    path.write_text(text.replace("  path: null\n  arch", "  path: /m/seed\n  arch"))
    first = runs / "base" / "config.yaml"
    first.write_text(text.replace("  path: null\n  arch", "  path: /m/base\n  arch"))
    _, said = asked(runs, capsys, "base", "seed")
    assert said.splitlines()[0].endswith("; most likely: model folder /m/base → /m/seed")
    first.write_text(text)
    path.write_text(re.sub(r"(model:\n  name: )\S+", r"\1other", text))
    _, said = asked(runs, capsys, "base", "seed")
    assert said.splitlines()[0].endswith("→ other"), said
    assert "the weights are the same" not in said


def test_a_label_order_that_is_wrong_in_both_is_said(runs, capsys, tmp_path):
    """No difference between them, and yet no run to trust."""
    model = tmp_path / "pretrained"
    model.mkdir()
    names = {str(i): name for i, name in enumerate(reversed(folders.LABELS))}
    described = {"architectures": ["BertForSequenceClassification"], "id2label": names}
    (model / "config.json").write_text(json.dumps(described))
    for name in ("base", "seed"):
        put_model(RunDir(runs / name), model)
    (runs / "seed" / "model").mkdir()
    write_json(runs / "seed" / "model" / "config.json", described)
    _, said = asked(runs, capsys, "base", "seed")
    for name in ("base", "seed"):
        assert f"note: {name}: its pretrained model has a trained head with the labels in" in said
    assert "label order" in said and "bird, fish, mammal" in said
    line = {"kind": "event", "event": "pretrained_head", "labels": "reordered", "step": 0}
    with (runs / "base" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    _, said = asked(runs, capsys, "base", "seed")
    assert "note: base: its" not in said and "left in another order" in said


@pytest.mark.parametrize("how", [None, "", "[1]", '{"a": [{', '{"ranks": 3, "versions": []}'])
@pytest.mark.parametrize(
    "name",
    "config.yaml plan.json manifest.json results.json metrics.jsonl jobs.json prepared.json "
    "attempts/0/environment.json predictions/validation.tsv model/config.json".split(),
)
def test_a_damaged_file_is_no_traceback(runs, capsys, name, how):
    path = runs / "seed" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if how is not None:
        path.write_text(how)
    code, said = asked(runs, capsys, "base", "seed")
    assert code == 0 or said.startswith("error: "), said
    if how in (None, "") and name not in (
        "metrics.jsonl",
        "jobs.json",
        "prepared.json",
        "model/config.json",
    ):
        assert "seed" in said and ("missing" in said or "damaged" in said or "no" in said)


def test_refusals(runs):
    assert_refused(glueline("diff", "base", "non", "--runs", str(runs), cwd=runs), "no run 'non'")
    run = RunDir(runs / "seed")
    write_json(run.manifest, {"format": 99})
    done = glueline("diff", "base", "seed", "--runs", str(runs), cwd=runs)
    assert_refused(done, "newer glueline", "format 99")
    write_json(run.manifest, {"format": 1})
    run.config.write_text(run.config.read_text() + "later:\n  key: 1\n")
    done = glueline("diff", "base", "seed", "--runs", str(runs), cwd=runs)
    assert_refused(done, "newer glueline", "later")
