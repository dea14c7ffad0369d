import io
import json

import pytest
from rich.console import Console

from launch import follow as module
from launch.follow import Pace, follow, is_over, time_left
from launch.slurm_site import JobInfo, SlurmSilent
from launch.view import View, explain, headline, view
from training.rundir import RunDir, snapshot, write_json


@pytest.fixture
def run(tmp_path, monkeypatch):
    found = RunDir(tmp_path / "runs" / "demo-1")
    found.logs(0).mkdir(parents=True)
    found.config.write_text("{}")
    write_json(found.jobs, {"jobs": [{"job_id": "7", "executor": "slurm", "first_attempt": 0}]})
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    return found


QUEUED = JobInfo("7", "queued", "PENDING", reason="Resources")
RUNNING = JobInfo("7", "running", "RUNNING")
DONE = JobInfo("7", "gone", "COMPLETED")


def node(run, attempt=0, **values):
    run.attempt(attempt).mkdir(parents=True, exist_ok=True)
    write_json(run.node(attempt, 0), {"attempt": attempt, "host": "node1", "node": 0} | values)


def progress(run, step, **values):
    write_json(run.progress, {"step": step, "total_steps": 10, "phase": "training"} | values)


def play(run, monkeypatch, *acts):
    """Follow a run whose story goes on by one act a look; returns status and what was printed."""
    story = list(acts)

    def last_job(files):
        act = story.pop(0) if len(story) > 1 else story[0]
        if callable(act):
            act = act()
        if isinstance(act, BaseException):
            raise act
        return act

    monkeypatch.setattr(module, "last_job", last_job)
    console = Console(file=io.StringIO(), width=200, highlight=False)
    status = follow(run, interval=0.01, console=console)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def test_to_the_end(run, monkeypatch):
    def at_work():
        node(run)
        progress(run, 3, loss=0.5)
        return RUNNING

    def done():
        node(run, end="finished", ended=1.0)
        run.model.mkdir(exist_ok=True)
        write_json(
            run.results,
            {
                "metrics": {"validation": {"accuracy": 0.91, "f1": 0.9}, "test": {"f1": 0.8}},
                "primary_metric": "accuracy",
                "primary_value": 0.91,
                "steps": 10,
            },
        )
        return DONE

    status, text = play(run, monkeypatch, QUEUED, at_work, RUNNING, done)
    assert status == 0
    assert "queued (Resources)" in text
    assert "training  step 3/10  loss 0.5000" in text
    assert "accuracy" in text
    assert "0.9100" in text
    assert str(run.model) in text


def test_a_requeue_is_followed(run, monkeypatch):
    def interrupted():
        node(run, end="interrupted", ended=1.0)
        return QUEUED

    def again():
        node(run, attempt=1)
        progress(run, 1)
        return RUNNING

    def done():
        write_json(run.results, {"metrics": {}})
        return DONE

    status, text = play(run, monkeypatch, RUNNING, interrupted, again, done)
    assert status == 0
    assert "attempt 1" in text


def test_a_failure_names_the_first_cause(run, monkeypatch):
    cause = {
        "time": 2.0,
        "kind": "ValueError",
        "message": "the data\nran out",
        "rank": 3,
        "log": "attempts/0/logs/1-3.log",
        "secondary": False,
    }
    node(run, end="failed", ended=3.0, cause=cause)
    status, text = play(run, monkeypatch, JobInfo("7", "gone", "FAILED"))
    assert status == 1
    assert "rank 3 on node1: ValueError: the data ran out" in text
    assert str(run.logs(0) / "1-3.log") in text


def test_an_interruption_names_the_way_on(run, monkeypatch):
    node(run, end="interrupted", ended=3.0)
    status, text = play(run, monkeypatch, JobInfo("7", "gone", "COMPLETED"))
    assert status == 1
    assert "was interrupted" in text
    assert "--resume demo-1" in text


def test_a_job_that_vanished(run, monkeypatch):
    status, text = play(run, monkeypatch, JobInfo("7", "gone", "FAILED", reason="NonZeroExitCode"))
    assert status == 1
    assert "ended before the node agent wrote anything (Slurm says FAILED, NonZeroExitCode)" in text
    assert f"can the nodes see {run.path.parent}?" in text
    run.submitit.mkdir()
    output = run.submitit / "7_0_log.out"
    output.write_text("ModuleNotFoundError\n")
    assert str(output) in play(run, monkeypatch, DONE)[1]


def test_what_an_earlier_job_left_says_nothing_about_this_one(run):
    node(run, end="failed", cause={"message": "old", "rank": 0, "kind": "E"})
    jobs = [{"job_id": "7"}, {"job_id": "8", "first_attempt": 1}]
    write_json(run.jobs, {"jobs": jobs})
    assert "before the node agent" in explain(run, snapshot(run), JobInfo("8", "gone", "FAILED"))[0]
    assert view(run, None).state == "queued"


def test_slurm_knows_more(run):
    cause = {"message": "rank 1 was killed (signal 9)", "rank": 1, "kind": "SIGKILL", "time": 1.0}
    node(run, end="failed", cause=cause)
    text, _ = explain(run, snapshot(run), JobInfo("7", "gone", "OUT_OF_MEMORY"))
    assert text == "rank 1 was killed (signal 9) on node1 (Slurm says OUT_OF_MEMORY)"


def test_a_node_that_died(run):
    node(run)
    text, _ = explain(run, snapshot(run), JobInfo("7", "gone", "NODE_FAIL", reason="NodeDown"))
    assert text == "Slurm says NODE_FAIL, NodeDown"


def test_a_silent_controller_is_waited_for(run, monkeypatch):
    write_json(run.results, {"metrics": {}})
    status, _ = play(run, monkeypatch, RUNNING, SlurmSilent("Slurm does not answer"), DONE)
    assert status == 0


def test_leaving(run, monkeypatch):
    status, text = play(run, monkeypatch, RUNNING, KeyboardInterrupt())
    assert status == 130
    assert "the job goes on" in text
    assert "status demo-1" in text


def test_on_a_terminal(run, monkeypatch):
    write_json(run.results, {"metrics": {}})
    monkeypatch.setattr(module, "last_job", lambda files: DONE)
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    assert follow(run, interval=0.01, console=console) == 0


def test_a_run_of_another_machine_ends_with_its_files(run):
    node(run)
    assert not is_over(snapshot(run), None)
    node(run, ended=1.0, end="failed")
    assert is_over(snapshot(run), None)


def test_time_left():
    pace = Pace()
    seen = View("r", "/r", "running", step=0, total_steps=100)
    assert pace.left(seen, 0.0) is None
    for second in range(1, 11):
        left = pace.left(View("r", "/r", "running", step=second * 2, total_steps=100), second)
    assert left == pytest.approx(40)
    # Steps count from zero again in a new attempt.
    assert pace.left(View("r", "/r", "running", step=1, total_steps=100), 12.0) is None
    assert time_left(3725.4) == "  1:02:05 left"
    assert time_left(None) == ""


def test_headline():
    seen = View("r", "/r", "running", phase="evaluating", step=5, metric="f1", value=0.5, attempt=0)
    assert headline(seen) == "evaluating  step 5  f1 0.5000"
    assert json.dumps(seen.plain())


def test_a_run_that_was_cancelled_is_said_to_be(run, monkeypatch):
    node(run, end="interrupted", ended=3.0)
    write_json(run.request, {"stop": True})
    status, text = play(run, monkeypatch, JobInfo("7", "gone", "CANCELLED"))
    assert status == 130
    assert "was cancelled" in text and "--resume demo-1" in text


def test_a_run_that_stops_has_no_time_left(run, monkeypatch):
    def shows(phase, step):
        def change():
            progress(run, step, phase=phase)
            return RUNNING

        return change

    looks = [shows("training", 3), shows("training", 5), shows("interrupted", 6)]
    node(run)

    def ended():
        node(run, end="interrupted", ended=3.0)
        return JobInfo("7", "gone", "COMPLETED")

    _, text = play(run, monkeypatch, *looks, ended)
    lines = [line for line in text.splitlines() if line.startswith("interrupted")]
    assert lines and not any(" left" in line for line in lines), text
