"""From runs on the disk to verdicts, and what a receipt says of them."""

import json
import shutil
from dataclasses import replace

import pytest

from launch.reference_sets import set_of
from launch.replay import with_task_files
from launch.reproducing.again import compared, other_recipes, other_versions
from launch.reproducing.asked import continued, read_asked
from launch.reproducing.collect import decided_tasks, gather, judge_early
from launch.reproducing.inputs import fingerprint
from launch.reproducing.receipt import make_receipt, recipe_digest
from launch.reproducing.receipt_text import html, markdown
from launch.reproducing.show import show, write
from launch.reproducing.stored import read_receipt
from tests.launch.commandline import ROOT
from tests.launch.reporting import folders
from training.config import UsageError, load_config
from training.predictions import save_predictions
from training.rundir import list_runs, read_json, write_json

from .made import content, reproduction

NOW = 1795262000.0
NEAR = (0.901, 0.899, 0.9, 0.902, 0.898)


def receipt_of(sweep, asked):
    receipt = make_receipt(gather(sweep, asked), NOW)
    json.dumps(receipt, allow_nan=False)
    return receipt


def test_scores_near_the_number(tmp_path):
    receipt = receipt_of(*reproduction(tmp_path, NEAR))
    (verdict,) = receipt["verdicts"]
    (score,) = verdict["scores"]
    assert verdict["outcome"] == score["outcome"] == "reproduced"
    assert score["ours"]["mean"] == pytest.approx(0.9) and score["ours"]["count"] == 5
    assert score["difference"]["low"] < 0 < score["difference"]["high"]
    # 600 rows: a standard error is more than a point.
    assert score["margin"] == 0.012 and "standard error of 600" in score["margin_words"]
    assert receipt["cost"]["hours"] > 0 and receipt["average"] is None
    assert len({run["recipe"] for run in receipt["runs"]}) == 5  # the seed is part of it
    assert verdict["assumed"]["optim.clip"] == {"value": 1.0, "why": "default"}


@pytest.mark.parametrize(
    ("scores", "outcome", "said"),
    [
        ((0.80, 0.81, 0.80, 0.79, 0.80), "not reproduced", "points below the published"),
        ((0.91, 0.87, 0.93, 0.86, 0.92), "undecided", "runs in all would"),
        ((0.4, 0.4, 0.4, 0.4, 0.9), "not reproduced", "4 of 5 runs collapsed"),
        ((0.901, 0.899, 0.9, 0.902, 0.4), "reproduced", "1 of 5 runs collapsed"),
        ((0.9, None, None, 0.9, 0.9), "reproduced", "demo-tiny-b64-s2"),
        ((0.9, None, None, None, 0.9), "undecided", "the first decision is planned at 3"),
    ],
)
def test_other_scores(tmp_path, scores, outcome, said):
    receipt = receipt_of(*reproduction(tmp_path, scores))
    assert receipt["verdicts"][0]["outcome"] == outcome, receipt["verdicts"][0]["why"]
    assert said in markdown(receipt)


def test_an_early_look_sees_its_seeds_alone(tmp_path):
    sweep, asked = reproduction(tmp_path, (0.7, 0.7017, 0.6983, 0.9, 0.9))
    assert judge_early(sweep, asked, "demo", 3) == "not reproduced"
    stopped = receipt_of(sweep, asked.decided({"demo": 3}))
    assert stopped["verdicts"][0]["scores"][0]["ours"]["count"] == 3
    assert len(stopped["verdicts"][0]["not_counted"]) == 2
    assert "stopped after 3 seeds" in markdown(stopped)


def test_a_task_that_is_decided_stays_so_when_seeds_are_added(tmp_path):
    scores = (0.9, 0.901, 0.8995)
    sweep, asked = reproduction(tmp_path, scores, seeds=3)
    assert decided_tasks(sweep, asked) == {"demo": 3}
    there = asked.decided({"demo": 3})
    more = continued(there, replace(asked, seeds=12))
    assert more.looks == (12,)
    verdict = receipt_of(sweep, more)["verdicts"][0]
    assert (verdict["outcome"], verdict["stopped_after"]) == ("reproduced", 3), verdict["why"]


def test_the_margin_is_of_the_rows_even_where_the_plan_did_not_know_them(tmp_path):
    sweep, asked = reproduction(tmp_path, NEAR)
    for run in list_runs(sweep.runs):
        plan = read_json(run.plan)
        assert isinstance(plan, dict)
        write_json(run.plan, plan | {"rows": None})
        lines = ["index\tlabel\tprediction\tp(a)\tp(b)"]
        lines += [f"{n}\t{'ab'[n % 2]}\ta\t1\t0" for n in range(277)]
        save_predictions(run, "validation", "\n".join(lines) + "\n")
    (score,) = receipt_of(sweep, asked)["verdicts"][0]["scores"]
    assert score["margin"] == 0.018 and "277" in score["margin_words"]


def test_a_published_score_that_is_a_constant_answers_own(tmp_path):
    # The demo's constant answer scores 0.4.
    level = (0.4, 0.4, 0.401, 0.4, 0.399)
    sweep, asked = reproduction(tmp_path, level, value=0.4)
    verdict = receipt_of(sweep, asked)["verdicts"][0]
    assert verdict["outcome"] == "reproduced" and not verdict["collapsed"]


def test_a_published_mean_that_has_its_collapsed_runs_in_it(tmp_path):
    sweep, asked = reproduction(tmp_path, (0.4, 0.9, 0.9, 0.9, 0.9))
    told = {**asked.reference, "collapsed": "included"}
    verdict = receipt_of(sweep, replace(asked, reference=told))["verdicts"][0]
    assert verdict["scores"][0]["ours"]["count"] == 5 and not verdict["collapsed"]
    assert verdict["scores"][0]["ours"]["mean"] == pytest.approx(0.8)
    assert receipt_of(sweep, asked)["verdicts"][0]["scores"][0]["ours"]["count"] == 4


def test_a_seed_that_is_quicker_waits_for_those_before_it(tmp_path):
    sweep, asked = reproduction(tmp_path, NEAR)
    slow = list_runs(sweep.runs)
    slow = next(r for r in slow if load_config(r.config).train.seed == 3)
    shutil.rmtree(slow.path)
    found = gather(sweep, asked).tasks[0]
    assert found.open and found.combined.outcome == "undecided"
    assert "2 seeds so far" in found.combined.why and "2 of 5 seeds" in found.combined.why
    assert decided_tasks(sweep, asked) == {}


def test_its_own_task_file_may_have_moved(tmp_path):
    task = tmp_path / "mine.yaml"
    task.write_text((ROOT / "configs" / "tasks" / "demo.yaml").read_text())
    told = content()
    told["tasks"] = {"mine": {"task": "mine.yaml", **told["tasks"]["demo"]}}
    found = set_of(told, "here", "set", tmp_path).content
    task.rename(tmp_path / "other.yaml")
    with pytest.raises(UsageError, match=r"mine\.yaml does not exist"):
        set_of(found, "here", "set")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "other.yaml").rename(tmp_path / "tasks" / "mine.yaml")
    assert set_of(found, "here", "set", copies=tmp_path / "tasks").references.keys() == {str(task)}
    asked = {"reference": found, "tasks": [str(task)]}
    with pytest.raises(UsageError, match="put it at"):
        with_task_files(asked, tmp_path / "elsewhere" / "receipt.json")
    moved = with_task_files(asked, tmp_path)
    assert moved["tasks"] == [str(tmp_path / "tasks" / "mine.yaml")]
    assert moved["reference"]["tasks"]["mine"]["task"] == moved["tasks"][0]


def test_what_was_changed_is_in_every_form(tmp_path, capsys):
    changed = {
        "demo": [{"key": "optim.lr", "published": 3e-4, "ours": 1e-3, "said": True}],
    }
    sweep, asked = reproduction(tmp_path, NEAR, changed=changed)
    receipt = receipt_of(sweep, asked)
    path = write(sweep.path, receipt)
    show(receipt, path)
    for text in (markdown(receipt), html(receipt), capsys.readouterr().out):
        assert "not the published recipe: optim.lr 0.0003 → 0.001" in text
        assert "https://example.org/table" in text and "checked 2026-11-21" in text
    assert read_receipt(path) == read_receipt(sweep.path) == json.loads(json.dumps(receipt))
    with pytest.raises(UsageError, match=r"give the receipt\.json"):
        read_receipt(sweep.path / "receipt.md")
    assert read_asked(sweep) == asked


def test_the_digest_of_a_recipe_is_the_same_elsewhere():
    one = folders.config()
    other = folders.config(procs=8, nodes=4, partition="gpu")
    other = other.with_values(
        {"task.path": "/data", "train.keep": "all", "engine.precision": "bf16"}
    )
    assert recipe_digest(one) == recipe_digest(other)
    for key, value in (("optim.lr", 1e-3), ("train.seed", 9), ("task.max_length", 32)):
        assert recipe_digest(one.with_values({key: value})) != recipe_digest(one)


def test_a_repetition_is_compared(tmp_path):
    old = receipt_of(*reproduction(tmp_path / "a", NEAR))
    same = receipt_of(*reproduction(tmp_path / "b", NEAR))
    assert compared(old, same)[0] == "5 of 5 runs have exactly the scores of the receipt"
    moved = receipt_of(*reproduction(tmp_path / "c", (0.901, 0.899, 0.9, 0.902, 0.8)))
    assert compared(old, moved)[0].startswith("4 of 5 runs")
    digests = {("demo", run["seed"]): run["recipe"] for run in old["runs"]}
    assert other_recipes(old, digests) == []
    assert other_recipes(old, digests | {("demo", 2): "another"}) == [("demo", 2)]
    old["versions"] = {"numpy": "1", "torch": "2", "python": "3"}
    assert other_versions(old, {"numpy": "2", "torch": "3"}) == ["torch 2 → 3", "numpy 1 → 2"]


def test_files_that_are_too_large_to_be_read_are_not_called_the_same(tmp_path):
    old = receipt_of(*reproduction(tmp_path / "a", NEAR))
    small = [{"path": "/a/model.safetensors", "bytes": 9, "sha256": "1"}]
    large = [{"path": "/b/model.safetensors", "bytes": 9, "sha256": None}]
    longer = [{**large[0], "bytes": 10}]

    def told(before, after):
        inputs = ({"demo": {"weights": fingerprint(files)}} for files in (before, after))
        one, two = ({**old, "inputs": part} for part in inputs)
        return compared(one, two)[0]

    assert told(small, small).startswith("5 of 5 runs")
    assert "weights are other ones" in told(small, [{**small[0], "sha256": "2"}])
    assert "whether they are the same is not known" in told(large, large)
    assert "other ones: 9 bytes → 10 bytes" in told(large, longer)
    assert "not hashed, 9 bytes" in markdown(
        {**old, "inputs": {"demo": {"weights": fingerprint(large)}}}
    )


def with_manifests(sweep, **own):
    """Write the runs' manifests; `own` is what the one of seed 3 has of its own."""
    for run in list_runs(sweep.runs):
        third = load_config(run.config).train.seed == 3
        rows = [{"path": "/a/train.parquet", "bytes": 9, "sha256": "1"}]
        manifest = {"data": rows, "versions": {"glueline": "1"}, "git": {"commit": "c" * 40}}
        write_json(run.manifest, manifest | (own if third else {}))


def every_form(sweep, receipt, capsys):
    """Return a receipt as Markdown, as a page and as the terminal has it."""
    capsys.readouterr()
    show(receipt, write(sweep.path, receipt))
    return markdown(receipt), html(receipt), capsys.readouterr().out


def test_runs_of_other_rows_decide_nothing(tmp_path, capsys):
    sweep, asked = reproduction(tmp_path, NEAR)
    with_manifests(sweep)
    assert receipt_of(sweep, asked)["verdicts"][0]["outcome"] == "reproduced"
    assert receipt_of(sweep, asked)["warnings"] == []
    with_manifests(sweep, data=[{"path": "/b/train.parquet", "bytes": 9, "sha256": "2"}])
    receipt = receipt_of(sweep, asked)
    (verdict,) = receipt["verdicts"]
    assert verdict["outcome"] == verdict["scores"][0]["outcome"] == "undecided"
    assert "the data are not the same for all seeds" in verdict["why"]
    assert judge_early(sweep, asked, "demo", 3) is None and decided_tasks(sweep, asked) == {}
    several = receipt["inputs"]["demo"]["several"]["data"]
    assert [p["seeds"] for p in several] == [[1, 2, 4, 5], [3]]
    for text in every_form(sweep, receipt, capsys):
        assert "Warning: demo: the data are not the same for all seeds: sha256" in text
    assert f"{several[1]['sha256']} over 1 files, seed 3" in markdown(receipt)
    same = compared(receipt, receipt)[0]
    assert same == "demo: the data were not the same for all runs of the receipt"


def test_runs_of_another_glueline_are_told(tmp_path, capsys):
    sweep, asked = reproduction(tmp_path, NEAR)
    with_manifests(sweep, git={"commit": "d" * 40, "dirty": True, "diff_sha256": "1"})
    write_json(sweep.manifest, {"git": {"commit": "e" * 40}})
    receipt = receipt_of(sweep, asked)
    # The code is the runs', whatever the sweep was submitted with last.
    assert receipt["glueline"]["git"]["commit"] == "c" * 40
    assert receipt["verdicts"][0]["outcome"] == "reproduced"
    for text in every_form(sweep, receipt, capsys):
        assert "not of the same glueline" in text and "cccccccccccc (4 runs)" in text
        assert "dddddddddddd with changes (1 runs)" in text


def test_rows_that_are_not_the_published_ones_are_told(tmp_path, capsys):
    sweep, asked = reproduction(tmp_path, NEAR)
    assert receipt_of(sweep, asked)["verdicts"][0]["rows"]["validation"] == 600
    for run in list_runs(sweep.runs):  # as if the demo were RTE with other rows
        text = run.config.read_text().replace("generated: demo", "generated: null")
        text = text.replace("  hub: null", "  hub: nyu-mll/glue", 1)
        run.config.write_text(text.replace("  subset: null", "  subset: rte", 1))
    receipt = receipt_of(sweep, asked)
    for text in every_form(sweep, receipt, capsys):
        assert "published number is of 277 validation rows, these runs were scored on 600" in text


def test_cost_and_speed_and_configurations_are_in_every_form(tmp_path, capsys):
    sweep, asked = reproduction(tmp_path, NEAR)
    receipt = receipt_of(sweep, asked)
    (verdict,) = receipt["verdicts"]
    assert verdict["examples_per_second"] and verdict["seconds_a_run"] and verdict["hours"]
    texts = every_form(sweep, receipt, capsys)
    for text in texts:
        assert f"{verdict['examples_per_second']:,.0f}" in text
        assert f"{verdict['seconds_a_run']:,.0f}" in text
        assert f"{verdict['hours']:.3g} core-hours" in text and "examples a second" in text
    for run in receipt["runs"]:
        assert run["config"] and run["config"] in texts[0] and run["config"] in texts[1]


def test_a_published_spread_counts(tmp_path):
    far = content(0.9)
    far["tasks"]["demo"]["scores"][0] |= {"sd": 0.05, "runs": 3}
    sweep, asked = reproduction(tmp_path, NEAR)
    wide = replace(asked, reference=far)
    assert receipt_of(sweep, wide)["verdicts"][0]["outcome"] == "undecided"
