"""The run directory: atomic writes, the metrics rule, the state as a function of the files."""

import os
from pathlib import Path

import pytest

from training.rundir import (
    PARTS,
    RunDir,
    append_line,
    find_run,
    first_cause,
    list_runs,
    read_json,
    read_metrics,
    run_state,
    snapshot,
    write_json,
)


@pytest.fixture
def run(tmp_path):
    made = RunDir(tmp_path / "runs" / "a-run")
    made.path.mkdir(parents=True)
    made.config.write_text("task: {}\n")
    return made


def test_a_failed_write_leaves_the_old_file_and_nothing_else(run):
    write_json(run.progress, {"step": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(run.progress, {"step": float("nan")})
    with pytest.raises(OSError):
        write_json(run.path / "missing" / "x.json", {})
    assert read_json(run.progress) == {"step": 1}
    assert {p.name for p in run.path.iterdir()} == {"config.yaml", "progress.json"}


def test_of_a_step_the_highest_attempt_counts(run):
    for attempt, steps in ((0, (10, 20, 30)), (1, (20,))):
        for step in steps:
            append_line(run.metrics, {"kind": "train", "attempt": attempt, "step": step})
    append_line(run.metrics, {"kind": "eval", "attempt": 1, "step": 20, "split": "a"})
    append_line(run.metrics, {"kind": "eval", "attempt": 1, "step": 20, "split": "b"})
    with run.metrics.open("a") as file:
        file.write('{"kind": "train", "att')
    lines = read_metrics(run.metrics)
    assert [(e["kind"], e["step"], e["attempt"]) for e in lines] == [
        ("train", 10, 0),
        ("train", 20, 1),
        ("eval", 20, 1),
        ("eval", 20, 1),
        ("train", 30, 0),
    ]


def test_states(run):
    def state(job=None):
        return run_state(snapshot(run), job)

    assert state() == "created"
    write_json(run.jobs, {"jobs": [{"job_id": "1"}]})
    assert state("queued") == "queued"
    assert state() == "queued"
    run.logs(0).mkdir(parents=True)
    write_json(run.node(0, 0), {"host": "n1"})
    assert state() == "running"
    assert state("running") == "running"
    assert state("gone") == "failed"
    write_json(run.node(0, 0), {"host": "n1", "end": "interrupted"})
    assert state("gone") == "interrupted"
    write_json(run.results, {})
    assert state("gone") == "finished"
    run.config.unlink()
    assert state() == "damaged"


def test_the_first_cause_is_no_consequence(run):
    run.logs(0).mkdir(parents=True)
    causes = [
        {"time": 5.0, "message": "connection closed", "secondary": True},
        {"time": 6.0, "message": "killed", "secondary": False},
        {"time": 7.0, "message": "later", "secondary": False},
    ]
    for node, cause in enumerate(causes):
        write_json(run.node(0, node), {"host": f"n{node}", "end": "failed", "cause": cause})
    cause = first_cause(snapshot(run))
    assert cause is not None and (cause["message"], cause["host"]) == ("killed", "n1")


def test_find_and_list(run, tmp_path):
    runs = tmp_path / "runs"
    (runs / ".cache").mkdir()
    for folder, name in ((runs, "a-run"), (tmp_path, str(run.path))):
        found = find_run(folder, name)
        assert found is not None and found.path == run.path
    assert find_run(runs, "../../etc") is None
    assert [r.run_id for r in list_runs(runs)] == ["a-run"]
    assert list_runs(tmp_path / "none") == []


def test_a_folder_of_somebodys_own_is_no_run(tmp_path):
    for name, file in (("lost", None), ("half", "plan.json"), ("notes", "todo.txt")):
        (tmp_path / name).mkdir()
        if file:
            (tmp_path / name / file).write_text("{}")
    assert {r.run_id for r in list_runs(tmp_path)} == {"lost", "half"}


def test_every_part_of_a_run_tells_it(run):
    parts = {
        value.relative_to(run.path).parts[0]
        for name, prop in vars(RunDir).items()
        if isinstance(prop, property) and isinstance(value := getattr(run, name), Path)
        if value != run.path and value.is_relative_to(run.path)
    }
    assert parts <= PARTS, parts - PARTS


def test_unreadable_json_is_none(run):
    run.progress.write_text("{half")
    assert read_json(run.progress) is None


def test_the_private_runs_of_others_are_left_out(tmp_path, monkeypatch):
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    readable = os.access
    monkeypatch.setattr(
        "os.access", lambda path, how: "theirs" not in str(path) and readable(path, how)
    )
    assert [run.run_id for run in list_runs(tmp_path)] == ["mine"]
