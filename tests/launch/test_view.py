import sys
from types import ModuleType
from typing import Any

import pytest

from launch.slurm_site import JobInfo
from launch.status import describe
from launch.view import attempt_end, headline, verdict_text, view
from training.rundir import RunDir, snapshot, write_json

RUNNING = JobInfo("7", "running", "RUNNING")


@pytest.fixture
def run(tmp_path):
    made = RunDir(tmp_path / "runs" / "r")
    made.path.mkdir(parents=True)
    made.config.write_text("{}")
    write_json(made.jobs, {"jobs": [{"job_id": "7", "executor": "slurm", "first_attempt": 0}]})
    return made


def node(run, attempt, number=0, **values):
    run.attempt(attempt).mkdir(parents=True, exist_ok=True)
    write_json(run.node(attempt, number), {"attempt": attempt, "host": f"n{number}"} | values)


def test_how_earlier_attempts_ended(run):
    node(run, 0, end="interrupted", signal="SIGUSR2")
    cause = {"kind": "SIGKILL", "message": "rank 1 was killed (signal 9)", "rank": 1, "time": 1.0}
    node(run, 1, end="failed", cause={"kind": "PeerFailed", "message": "node n1", "rank": None})
    node(run, 1, number=1, end="failed", cause=cause)
    verdict = {
        "action": "requeue",
        "why": "a rank was killed",
        "exclude": ["n1"],
        "micro_tokens": 512,
        "checkpoint": 20,
        "time": 2.0,
    }
    write_json(run.verdict(1), verdict)
    node(run, 2)
    run.attempt(3).mkdir()
    node(run, 4)
    seen = view(run, RUNNING, history=True)
    assert seen.attempt == 4
    assert seen.earlier == (
        "attempt 0 was interrupted (SIGUSR2)",
        "attempt 1 failed: rank 1 was killed (signal 9) on n1; queued again: a rank was killed, "
        "last checkpoint at step 20, micro-batches of 512 tokens, without n1",
        "attempt 2 ended without a word on n0",
        "attempt 3 ended before the node agent wrote anything",
    )
    assert view(run, RUNNING).earlier == ()
    assert "earlier  attempt 0 was interrupted" in describe(seen)


def test_an_attempt_that_starts_is_not_what_the_last_one_was(run):
    node(run, 0, end="interrupted")
    write_json(run.progress, {"phase": "interrupted", "attempt": 0, "step": 9, "loss": 1.0})
    node(run, 1)
    # It begins where it saved, not where the one before ended.
    assert headline(view(run, RUNNING)) == "starting  attempt 1"
    (run.checkpoints / "step-8").mkdir(parents=True)
    write_json(run.checkpoints / "step-8" / "manifest.json", {"format": 1, "files": {}})
    assert headline(view(run, RUNNING)) == "starting  step 8  attempt 1"
    write_json(run.progress, {"phase": "training", "attempt": 1, "step": 9, "loss": 1.0})
    assert headline(view(run, RUNNING)) == "training  step 9  loss 1.0000  attempt 1"


def test_verdicts_in_words(run):
    assert verdict_text({"action": "stop", "why": "the loss\nis nan"}) == (
        "not tried again: the loss is nan"
    )
    assert verdict_text({"action": "restart", "why": ""}) == "started again"
    verdict = {"action": "restart", "why": "rank 1 was killed: memory?: retry 1 of 3"}
    assert verdict_text(verdict, "failed: rank 1 was killed: memory? on n1") == (
        "started again: retry 1 of 3"
    )
    node(run, 0, end="finished")
    assert attempt_end(run, snapshot(run), 0) == "finished"
    node(run, 1, end="failed")
    assert attempt_end(run, snapshot(run), 1) == "failed: it left no cause"


def test_checkpoint_and_lead_time(run, monkeypatch):
    lead: Any = ModuleType("slurm.lead")
    lead.lead_seconds = lambda step, save: 2 * (step + save) + 15
    monkeypatch.setitem(sys.modules, "slurm.lead", lead)
    node(run, 0)
    progress = {"step": 9, "checkpoint": 8, "step_seconds": 1.0, "save_seconds": 2.5}
    write_json(run.progress, progress)
    seen = view(run, RUNNING)
    assert (seen.checkpoint, seen.lead_seconds) == (8, 22.0)
    text = describe(seen)
    assert "saved    step 8" in text and "stops to save 22 s before the time limit" in text
    write_json(run.progress, {"step": 9})
    assert view(run, RUNNING).lead_seconds is None
    # Of a job that is gone the folder tells, not what was last written of it.
    node(run, 0, end="failed")
    (run.checkpoints / "step-9").mkdir(parents=True)
    write_json(run.checkpoints / "step-9" / "manifest.json", {"step": 9, "files": {}})
    assert view(run, JobInfo("7", "gone", "FAILED")).checkpoint == 9
