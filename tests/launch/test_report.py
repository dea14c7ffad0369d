"""`glueline report` as a person types it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch import report as command
from launch.main import run_command
from training.noise import Estimate, NoiseTotals
from training.rundir import RunDir
from training.sweepdir import SweepDir, read_trials, sweeps_folder

from .commandline import ROOT, assert_refused, clean_environment, glueline
from .reporting import folders


def report(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Type `glueline report …` in this process; return what it printed."""
    with pytest.raises(SystemExit) as end:
        run_command(command.report, [str(w) for w in words])
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    return said.out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SweepDir:
    """Return a sweep of known critical batch 128 whose linear runs collapse at 512."""
    return folders.batches(tmp_path_factory.mktemp("report") / "runs", procs=(1, 2))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> SweepDir:
    """Return a sweep with a trial in every state."""
    return folders.states(tmp_path_factory.mktemp("states") / "runs")


def test_a_sweep_is_told_in_numbers(made, capsys):
    out = report(capsys, "batches", "--runs", made.runs, "--target", 0.8, "--json")
    found = json.loads(out)
    assert found == json.loads((made.path / "report.json").read_text())
    assert found["states"] == {"finished": 60}
    (task,) = found["tasks"]
    assert (task["metric"], task["baseline"], task["target"]) == ("accuracy", 0.4, 0.8)
    cells = {
        (c["axes"]["global_batch"], c["axes"]["lr_rule"], c["ranks"]): c for c in task["cells"]
    }
    assert len(cells) == 20
    fallen = cells[512, "linear", 2]
    assert fallen["collapsed"] == 3 and fallen["collapse_rate"]["value"] == 1.0
    assert fallen["reached_target"] == 0 and fallen["to_target"]["steps"] is None
    good = cells[64, "sqrt", 2]
    assert good["score"]["count"] == 3 and good["collapsed"] == 0
    assert good["score"]["low"] < good["score"]["value"] < good["score"]["high"]
    # Twice as many ranks: the same steps, less time.
    alone = cells[64, "sqrt", 1]
    assert alone["to_target"]["steps"] == good["to_target"]["steps"]
    assert alone["to_target"]["seconds"]["value"] > good["to_target"]["seconds"]["value"]
    fits = {c["runs"]: c for c in task["critical_batch"]}
    # The target is where the law puts it, so the fit finds the law's critical batch.
    sqrt = fits["lr_rule=sqrt"]
    assert sqrt["measured"]["low"] < 128 < sqrt["measured"]["high"] * 1.05
    assert sqrt["predicted"]["value"] == pytest.approx(140, rel=0.05)
    assert sqrt["measured"]["points"] == 15, "runs that differ in ranks alone count once"
    strong = [s for s in task["scaling"] if s["kind"] == "strong"]
    assert strong[0]["points"][1]["efficiency"]["value"] == pytest.approx(0.95)
    advice = task["recommended"]
    assert advice["global_batch"] == 512 and advice["axes"]["lr_rule"] == "sqrt"
    assert advice["axes"]["procs_per_node"] == 2, "of equals the cheaper one"


def test_tables_are_what_the_page_shows(made, capsys):
    out = report(capsys, made.path, "--target", 0.8)
    assert f"report  {made.path / 'report.html'}" in out
    assert "critical batch (lr_rule=sqrt)" in out and "Recommended: global batch 512" in out
    cells = rows(made.path / "cells.csv")
    assert len(cells) == 20 and cells[0]["axis.global_batch"] == "32"
    assert float(cells[0]["score_low"]) < float(cells[0]["score"]) < float(cells[0]["score_high"])
    assert len(rows(made.path / "trials.csv")) == 60
    assert {r["kind"] for r in rows(made.path / "scaling.csv")} == {"strong", "weak"}
    assert len(rows(made.path / "efficiency.csv")) == 60
    page = (made.path / "report.html").read_text()
    assert f"{float(cells[0]['score']):.4f}" in page and "Never reached by any run of" in page
    assert "http:" not in page and "https:" not in page and "<script" not in page


def test_every_state_is_shown_as_it_is(mixed, capsys):
    out = report(capsys, "states", "--runs", mixed.runs)
    assert "2 finished, 1 running, 1 queued, 2 failed, 1 damaged, 1 missing" in out
    found = json.loads((mixed.path / "report.json").read_text())
    (task,) = found["tasks"]
    trials = {t["axes"]["seed"]: t for t in task["trials"]}
    states = [trials[n]["state"] for n in range(1, 9)]
    assert states == "finished failed failed queued running damaged finished missing".split()
    assert "OutOfMemoryError" in trials[2]["cause"] and not trials[2]["diverged"]
    assert trials[3]["diverged"]
    # Two finished and one diverged: out of memory says nothing of the recipe.
    (cell,) = task["cells"]
    assert (cell["ended"], cell["collapsed"], cell["score"]["count"]) == (3, 1, 2)
    # A missing trial can be typed too: its configuration is the sweep's.
    assert "--seed 8" in trials[8]["command"]
    # The resumed run paid for both attempts.
    assert trials[7]["seconds"] > trials[1]["seconds"]


def test_the_line_of_a_trial_makes_that_trial(mixed, tmp_path, monkeypatch):
    from .reporting.test_repeat import typed

    found = json.loads(subprocess.run(
        [sys.executable, str(ROOT / "launch" / "report.py"), str(mixed.path), "--json"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=clean_environment(),
    ).stdout)  # fmt: skip
    import shlex

    from launch.resolve import resolve

    for trial in found["tasks"][0]["trials"]:
        program, name, *words = shlex.split(trial["command"])
        assert (program, Path(name).name) == ("python", "submit.py")
        assert resolve(typed(words)).config.run_id() == trial["run_id"]


def test_a_run_is_told(mixed, capsys, tmp_path):
    resumed = next(p.name for p in mixed.runs.glob("*-s7-*"))
    out = report(capsys, resumed, "--runs", mixed.runs, "--out", tmp_path / "new" / "folder")
    assert "in 2 attempts" in out and "next time ask for: --mem" in out
    folder = tmp_path / "new" / "folder"
    found = json.loads((folder / "report.json").read_text())
    assert [a["how"] for a in found["attempts"]] == ["interrupted", "finished"]
    assert found["state"] == "finished" and found["efficiency"]["source"] == "run directory"
    assert len(rows(folder / "attempts.csv")) == 2 and rows(folder / "training.csv")[0]["loss"]
    page = (folder / "report.html").read_text()
    for words in ("Training loss", "Gradient norm", "Learning rate", "Throughput", "SIGUSR2"):
        assert words in page
    failed = next(p.name for p in mixed.runs.glob("*-s2-*"))
    out = report(capsys, failed, "--runs", mixed.runs, "--out", folder)
    assert "first cause: rank 1 on n1: OutOfMemoryError: no memory for 2 GiB" in out


def test_a_sweep_where_nothing_finished(tmp_path, capsys):
    made = folders.config()
    sweep = folders.write_sweep(tmp_path / "runs", "new", [(made, {"global_batch": 64})])
    assert "no trial has finished yet" in report(capsys, sweep.path)
    page = (sweep.path / "report.html").read_text()
    assert "nothing to plot" in page and "missing" in page


def test_searched_axes_make_points(tmp_path, capsys):
    from dataclasses import replace

    runs, trials = tmp_path / "runs", []
    for n in range(12):
        made = folders.config(64 if n % 2 else 128, 1)
        made = replace(made, optim=replace(made.optim, lr=1e-4 * 1.3**n))
        folders.finished(RunDir(runs / made.run_id()), made)
        axes = {"global_batch": made.batch.global_batch, "lr": made.optim.lr}
        trials.append((made, axes))
    sweep = folders.write_sweep(runs, "search", trials)
    report(capsys, sweep.path)
    assert "accuracy against lr" in (sweep.path / "report.html").read_text()


def test_two_tasks_are_told_apart(tmp_path, capsys):
    from dataclasses import replace

    runs, trials = tmp_path / "runs", []
    for task in ("demo", "other"):
        made = folders.config()
        made = replace(made, task=replace(made.task, name=task))
        trials.append((made, {"task": task}))
        folders.finished(RunDir(runs / made.run_id()), made)
    results = RunDir(runs / trials[1][0].run_id()).results
    results.write_text(results.read_text().replace('"task": "demo"', '"task": "other"'))
    sweep = folders.write_sweep(runs, "two", trials)
    out = report(capsys, sweep.path)
    assert "task demo" in out and "task other" in out
    assert [r["task"] for r in rows(sweep.path / "cells.csv")] == ["demo", "other"]


ODD = (None, "x", {}, -1, [1, {"a": None}])


def test_results_of_any_form_leave_no_traceback(tmp_path, capsys):
    made = folders.config()
    run = RunDir(tmp_path / "runs" / made.run_id())
    folders.finished(run, made)
    sweep = folders.write_sweep(tmp_path / "runs", "odd", [(made, {"global_batch": 64, "seed": 1})])
    whole = json.loads(run.results.read_text())
    for key in whole:
        for value in ODD:
            run.results.write_text(json.dumps(whole | {key: value}))
            for what in (sweep.path, run.path):
                report(capsys, what, "--out", tmp_path / "out")
    for line in ('{"number": 0, "run_id": "x", "axes": [1]}', '{"number": 0, "run_id": "x"', "[1]"):
        lines = json.dumps({"number": 1, "run_id": made.run_id(), "axes": {"seed": {"a": [1]}}})
        sweep.trials.write_text(f"{line}\n{lines}\n")
        report(capsys, sweep.path, "--out", tmp_path / "out")


def test_wrong_requests_are_one_line(made, tmp_path):
    def typed(*words: object) -> subprocess.CompletedProcess[str]:
        return glueline("report", *map(str, words), cwd=tmp_path)

    where = ("--runs", made.runs)
    assert_refused(typed("batchs", *where), "no run or sweep 'batchs'", "did you mean 'batches'?")
    assert_refused(typed("x", "--runs", tmp_path / "none"), "there are none yet")
    assert_refused(typed("batches", *where, "--target", 85), "did you mean 0.85?")
    assert_refused(typed("batches", *where, "--target", -1), "between 0 and 1")
    assert_refused(typed("batches", *where, "--target", "nan"), "write a score")
    assert_refused(typed("batches", *where, "--target", "high"), "--target")
    run = next(made.runs.glob("demo-*")).name
    assert_refused(typed(run, *where, "--target", 0.8), "--target is for sweeps")
    empty = sweeps_folder(tmp_path / "runs") / "empty"
    empty.mkdir(parents=True)
    assert_refused(typed("empty"), "sweep empty has no trials yet", "not there")
    (empty / "trials.jsonl").write_text("")
    assert_refused(typed(empty), "is empty")
    (tmp_path / "file").write_text("")
    assert_refused(typed("batches", *where, "--out", tmp_path / "file"), "--out", "file")


def test_a_run_and_a_sweep_of_one_name(tmp_path, capsys):
    made = folders.config()
    runs = tmp_path / "runs"
    sweep = folders.write_sweep(runs, "same", [(made, {"global_batch": 64})])
    folders.finished(RunDir(runs / "same"), made)
    done = glueline("report", "same", cwd=tmp_path)
    assert_refused(done, "is a run and a sweep", str(sweep.path), str(runs / "same"))
    assert "sweep same" in report(capsys, sweep.path)
    assert "run same" in report(capsys, runs / "same")


def test_it_is_quick_and_imports_no_torch(made, tmp_path):
    code = (
        "import sys; from launch import report; from launch.main import run_command\n"
        "try: run_command(report.report, sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'scipy', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.path), "--out", str(tmp_path)],
        capture_output=True, text=True, env=clean_environment(PYTHONPATH=str(ROOT)), timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_noise_is_read_as_runs_write_it(made):
    totals = NoiseTotals()
    for square in (0.9, 1.1):
        totals.add(Estimate(square, 64.0))
    written = totals.summary()
    read = json.loads(made.run(read_trials(made)[0]).results.read_text())["noise"]
    assert written is not None and set(written) == set(read)
    page = (made.path / "report.html").read_text()
    assert "predicted by gradient noise" in page and "noise scale 1" in page
