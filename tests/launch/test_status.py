import json
import socket
import subprocess
import sys

import pytest

from launch import jobs
from launch.jobs import last_jobs
from launch.slurm_site import JobInfo, SlurmSilent
from launch.status import job_state, look, watch_run
from tests.launch.commandline import ROOT, assert_refused, glueline
from tests.launch.reporting import folders
from training.rundir import RunDir, snapshot, write_json


def make(runs, name, executor="local", **job):
    run = RunDir(runs / name)
    run.logs(0).mkdir(parents=True)
    run.config.write_text("{}")
    entry = {"job_id": "1", "executor": executor, "first_attempt": 0}
    write_json(run.jobs, {"jobs": [entry | {"host": socket.gethostname()} | job]})
    return run


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "my runs"
    failed = make(folder, "mnli-a")
    cause = {
        "time": 1.0,
        "kind": "ValueError",
        "message": "no rows",
        "rank": 1,
        "log": "attempts/0/logs/0-1.log",
    }
    write_json(failed.node(0, 0), {"end": "failed", "ended": 2.0, "host": "node1", "cause": cause})
    finished = make(folder, "rte-b")
    finished.model.mkdir()
    write_json(
        finished.results,
        {"metrics": {}, "primary_metric": "accuracy", "primary_value": 0.71, "steps": 30},
    )
    stopped = make(folder, "cola-c")
    write_json(stopped.node(0, 0), {"end": "interrupted", "ended": 2.0})
    write_json(stopped.progress, {"step": 12, "total_steps": 30})
    return folder


def test_one_run(runs, tmp_path):
    done = glueline("status", "mnli-a", "--runs", str(runs), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "failed" in done.stdout
    assert "rank 1 on node1: ValueError: no rows" in done.stdout
    assert str(runs / "mnli-a" / "attempts" / "0" / "logs" / "0-1.log") in done.stdout
    assert "--resume mnli-a" in done.stdout


def test_one_run_by_path_as_json(runs, tmp_path):
    done = glueline("status", str(runs / "rte-b"), "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (told["state"], told["value"], told["step"]) == ("finished", 0.71, 30)
    assert told["results"] == str(runs / "rte-b" / "results.json")
    assert told["model"] == str(runs / "rte-b" / "model")


def test_all_runs(runs, tmp_path):
    (runs / ".cache").mkdir()
    done = glueline("status", "--runs", str(runs), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "failed" in lines["mnli-a"]
    assert "12/30" in lines["cola-c"]
    assert "accuracy 0.7100" in lines["rte-b"]
    told = json.loads(glueline("status", "--runs", str(runs), "--json", cwd=tmp_path).stdout)
    assert {v["run_id"]: v["state"] for v in told} == {
        "mnli-a": "failed",
        "rte-b": "finished",
        "cola-c": "interrupted",
    }


def test_no_runs(tmp_path):
    done = glueline("status", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip() == f"no runs in {tmp_path / 'runs'}"


def test_no_such_run(runs, tmp_path):
    assert_refused(
        glueline("status", "mnli-b", "--runs", str(runs), cwd=tmp_path), "mnli-b", "mnli-a"
    )


def test_slurm_is_asked_once_for_all(tmp_path, monkeypatch):
    for i in range(3):
        make(tmp_path, f"r{i}", "slurm", job_id=str(i), time=5.0)
    asked = []

    def job_states(ids, submitted):
        asked.append((sorted(ids), submitted))
        return {i: JobInfo(i, "running", "RUNNING") for i in ids}

    monkeypatch.setattr(jobs, "job_states", job_states)
    runs = [RunDir(tmp_path / f"r{i}") for i in range(3)]
    assert {v.state for v in look(runs)} == {"running"}
    assert asked == [(["0", "1", "2"], {"0": 5.0, "1": 5.0, "2": 5.0})]
    assert job_state(snapshot(runs[0])) == "running"


def test_without_slurm_the_files_decide(tmp_path, monkeypatch, capsys):
    run = make(tmp_path, "r", "slurm")
    write_json(run.node(0, 0), {"end": "failed", "cause": None})

    def job_states(ids, submitted):
        raise SlurmSilent("Slurm does not answer")

    monkeypatch.setattr(jobs, "job_states", job_states)
    assert look([run])[0].state == "failed"
    assert "does not answer" in capsys.readouterr().err
    with pytest.raises(SlurmSilent):
        job_state(snapshot(run))


def test_a_run_without_a_job(tmp_path):
    run = RunDir(tmp_path / "r")
    run.path.mkdir()
    run.config.write_text("{}")
    assert last_jobs([snapshot(run)]) == {}
    assert look([run])[0].state == "created"


def test_watching(runs, tmp_path):
    done = glueline("status", "rte-b", "--watch", "--runs", str(runs), cwd=tmp_path)
    assert done.returncode == 0 and "results" in done.stdout
    done = glueline("status", "cola-c", "--watch", "--runs", str(runs), cwd=tmp_path)
    assert done.returncode == 1 and "--resume cola-c" in done.stdout
    assert_refused(glueline("status", "--watch", "--runs", str(runs), cwd=tmp_path), "name it")
    args = ["rte-b", "--watch", "--json", "--runs", str(runs)]
    assert_refused(glueline("status", *args, cwd=tmp_path), "--watch prints no JSON")


def test_watching_follows_what_runs(tmp_path, monkeypatch):
    run = make(tmp_path, "r", "slurm")
    info = JobInfo("1", "running", "RUNNING")
    monkeypatch.setattr(jobs, "job_states", lambda ids, submitted: {"1": info})
    followed = []
    monkeypatch.setattr("launch.follow.follow", lambda run: followed.append(run.run_id) or 1)
    assert watch_run(run) == 1 and followed == ["r"]


def test_it_imports_nothing_heavy():
    code = (
        "import sys, launch.status, launch.view, launch.jobs; "
        "print([m for m in ('torch', 'numpy', 'transformers', 'submitit') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_sweep_with_a_trial_in_every_state(tmp_path):
    folders.states(tmp_path / "runs")
    done = glueline("status", "states", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = "2 finished, 1 running, 1 queued, 2 failed, 1 damaged, 1 missing"
    assert f"8 trials: {counts}" in done.stdout
    assert "best     accuracy 0." in done.stdout and "global_batch=64 seed=" in done.stdout
    assert "no memory for 2 GiB" in done.stdout, "the cause stands in the table of trials"
    told = json.loads(glueline("status", "states", "--json", cwd=tmp_path).stdout)
    assert told["states"]["failed"] == 2 and len(told["trials"]) == 8
    assert told["trials"][7]["state"] == "missing" and told["trials"][0]["state"] == "finished"


def test_in_the_table_of_all_a_sweep_is_a_line(tmp_path):
    sweep = folders.batches(tmp_path / "runs", sizes=(32, 64), seeds=(1,))
    make(tmp_path / "runs", "alone")
    done = glueline("status", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, first, second = done.stdout.splitlines()
    assert first.split()[:2] == ["batches", "finished"] and "4/4 trials" in first
    assert second.startswith("alone")
    assert len(glueline("status", "--trials", cwd=tmp_path).stdout.splitlines()) == 7
    watched = glueline("status", "batches", "--watch", cwd=tmp_path)
    assert watched.returncode == 0 and "4 trials: 4 finished" in watched.stdout
    assert str(sweep.path) in watched.stdout and "report.py batches" in watched.stdout
    assert_refused(glueline("status", "batchs", cwd=tmp_path), "no run or sweep", "'batches'")
    assert_refused(glueline("logs", "batches", cwd=tmp_path), "is a sweep, not a run")
