from __future__ import annotations

import io
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch import rehearse as module
from launch.flags import Override, Request
from launch.rehearse import (
    Director,
    as_rehearsal,
    check_possible,
    conclude,
    judge,
    resumes,
    short,
)
from launch.slurm_site import JobInfo
from training.config import ClusterConfig, RunConfig, TaskConfig, UsageError
from training.rundir import RunDir, Snapshot, append_line, read_metrics, snapshot, write_json

from .commandline import assert_refused, glueline

RUNNING = JobInfo("7", "running", "RUNNING")
HELD = JobInfo("7", "queued", "PENDING", reason="BeginTime")
PLACE = {
    "next_ids": "aa",
    "lr": 1e-4,
    "optimizer": "0f",
    "weights": "1f",
    "world_size": 2,
    "micro_tokens": 1024,
}


def saved(step: int, attempt: int = 0, **values: Any) -> dict[str, Any]:
    line = {"kind": "event", "event": "saved", "attempt": attempt, "step": step}
    return line | PLACE | {"next_ids": f"ids{step}"} | values


def resumed(step: int, attempt: int = 1, **values: Any) -> dict[str, Any]:
    return saved(step, attempt, **values) | {"event": "resumed"}


def test_nothing_was_lost() -> None:
    (found,) = resumes([saved(10), saved(20), resumed(20, world_size=4)], {0: "w-1", 1: "w-1"})
    assert found.differs == [] and found.attempt == 1
    assert [row.what for row in found.rows] == [
        *("step", "next examples", "learning rate", "optimizer's state", "weights", "W&B run"),
        *("ranks", "micro-batch tokens"),
    ]
    assert judge("preempt", [found], [], finished=True) is None
    assert judge("preempt", [found], [], finished=False) == "the run did not finish"


@pytest.mark.parametrize(
    ("lines", "trackers", "differs"),
    [
        ([saved(10), saved(20), resumed(10)], {}, ["step"]),
        ([saved(20), resumed(20, lr=2e-4)], {}, ["learning rate"]),
        (
            [saved(20), resumed(20, optimizer="00", weights="00")],
            {},
            ["optimizer's state", "weights"],
        ),
        ([saved(20), resumed(20, next_ids="x")], {}, ["next examples"]),
        ([saved(20), resumed(20)], {0: "a", 1: "b"}, ["W&B run"]),
        ([saved(20), resumed(20)], {1: "b"}, []),
        # The step that it goes on from was never said to be saved.
        (
            [resumed(20)],
            {},
            ["step", "next examples", "learning rate", "optimizer's state", "weights"],
        ),
        # What a later attempt saves counts for the one after it alone.
        ([saved(20), resumed(20), saved(30, 1), resumed(30, 2)], {}, []),
    ],
)
def test_what_differs(lines: list[Any], trackers: dict[int, str], differs: list[str]) -> None:
    assert [name for found in resumes(lines, trackers) for name in found.differs] == differs


def test_verdicts() -> None:
    assert judge("kill", [], [], finished=True) == "the run did not resume"
    shrunk = [{"kind": "event", "event": "out_of_memory", "step": 5, "micro_tokens": 512}]
    assert judge("oom", [], shrunk, finished=True) is None
    assert judge("oom", [], [], finished=True) == "memory did not run out"
    found = resumes([saved(20), resumed(20, lr=2e-4)])
    assert judge("kill", found, [], finished=True) == (
        "attempt 1 went on with another learning rate"
    )


# How the run is made short.


def request(*sets: str, task: str = "demo", model: str = "tiny") -> Request:
    made = [Override(k, v, "--set") for k, _, v in (text.partition("=") for text in sets)]
    return Request(task=task, model=model, sets=tuple(made))


def values(asked: Request) -> dict[str, str]:
    return {o.key: o.value for o in asked.flags}


def test_a_run_of_about_a_minute() -> None:
    assert values(as_rehearsal(request(), "kill")) == {
        "train.max_steps": "600",
        "train.save_every": "100",
        "cluster.time": "00:20:00",
        "train.fault": "kill@250",
    }
    assert "train.fault" not in values(as_rehearsal(request(), "preempt"))
    typed = request("train.max_steps=12", "train.save_every=4", "cluster.time=5")
    assert values(as_rehearsal(typed, "oom")) == {"train.fault": "oom@10"}
    assert (short(None), short(110 << 20), short(22 << 20), short(1000)) == (60, 60, 120, 600)


@pytest.mark.parametrize("kind", ["kill", "timeout"])
def test_too_short_to_lose_anything(kind: str) -> None:
    with pytest.raises(UsageError, match="--max-steps 15 or more"):
        as_rehearsal(request("train.max_steps=5", "train.save_every=5"), kind)


def test_what_this_machine_cannot_do(tmp_path: Path) -> None:
    local = RunConfig(task=TaskConfig(name="t"), cluster=ClusterConfig(executor="local"))
    for kind in ("preempt", "nodefail"):
        with pytest.raises(UsageError, match="needs Slurm"):
            check_possible(kind, local)
    check_possible("kill", local)
    line = ["--executor", "local", "--task", "demo", "--model", "tiny"]
    assert_refused(glueline("rehearse", "preempt", *line, cwd=tmp_path), "needs Slurm")
    assert_refused(glueline("rehearse", "kil", *line, cwd=tmp_path), "'kil'", "'kill'")
    assert list(tmp_path.iterdir()) == []


# The fault itself.


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that trains, and has a checkpoint."""
    made = RunDir(tmp_path / "r")
    made.attempt(0).mkdir(parents=True)
    made.config.write_text("{}")
    write_json(made.jobs, {"jobs": [{"job_id": "7", "executor": "slurm", "first_attempt": 0}]})
    for node in (0, 1):
        write_json(made.node(0, node), {"node": node, "host": f"n{node}", "pid": 100 + node})
    return made


def checkpoint(run: RunDir) -> None:
    folder = run.checkpoints / "step-10"
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"step": 10})


def ended(run: RunDir) -> None:
    for node in (0, 1):
        write_json(run.node(0, node), {"node": node, "end": "interrupted", "ended": 1.0})


class Stage:
    """A director with tools that only note what they were told, and a clock of our own."""

    def __init__(self, run: RunDir, kind: str, executor: Any = "slurm", answer: str = "") -> None:
        self.now, self.told, self.said = 0.0, [], []
        config = RunConfig(cluster=ClusterConfig(executor=executor, nodes=1))

        def tool(*command: str) -> str:
            self.told.append(" ".join(command))
            return answer

        self.run = run
        self.director = Director(
            run, kind, config, say=self.said.append, tool=tool, clock=lambda: self.now
        )

    def look(self, job: JobInfo | None, seconds: float = 1.0, **changes: Any) -> list[str]:
        self.director(replace(snapshot(self.run), **changes), job)
        self.now += seconds
        return self.told


SRUN = "srun --jobid=7 --overlap --nodes=1 --ntasks=1 --nodelist=n1 --chdir=/ --quiet"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("preempt", "scontrol requeue 7"),
        ("timeout", "scancel --signal=USR2 7"),
        ("nodefail", f"{SRUN} /bin/sh -c kill -9 101"),
    ],
)
def test_it_comes_once_when_there_is_a_checkpoint(run: RunDir, kind: str, line: str) -> None:
    stage = Stage(run, kind)
    for job in (None, JobInfo("7", "queued", "PENDING", reason="Resources"), RUNNING):
        assert stage.look(job) == []
    checkpoint(run)
    assert stage.look(RUNNING, finished=True) == []
    assert stage.look(RUNNING) == stage.look(RUNNING) == [line]
    assert stage.director.done and len(stage.said) == 1


@pytest.mark.parametrize("kind", ["kill", "oom"])
def test_a_rank_hurts_itself(run: RunDir, kind: str) -> None:
    checkpoint(run)
    stage = Stage(run, kind)
    assert stage.look(RUNNING) == [] and stage.director.done


def test_a_local_agent_gets_a_signal(run: RunDir) -> None:
    checkpoint(run)
    with subprocess.Popen(["sleep", "60"]) as process:
        (run.node(0, 1)).unlink()
        write_json(run.node(0, 0), {"node": 0, "host": os.uname().nodename, "pid": process.pid})
        assert Stage(run, "timeout", executor="local").look(RUNNING) == []
        assert process.wait(10) == -signal.SIGUSR2


def test_the_hold_is_lifted_once_and_not_at_once(run: RunDir) -> None:
    checkpoint(run)
    ended(run)
    stage = Stage(run, "kill")
    line = "scontrol update JobId=7 StartTime=now"
    assert stage.look(JobInfo("7", "running", "COMPLETING")) == []
    assert stage.look(HELD, 3.0) == stage.look(HELD, 2.5) == []
    assert stage.look(HELD) == [line] and stage.look(HELD, 60.0) == [line]
    assert stage.said == ["it was queued again; Slurm's hold of two minutes is lifted"]
    # The next time it is another hold.
    stage.look(RUNNING)
    stage.look(HELD, 6.0)
    assert stage.look(HELD) == [line, line]


def test_a_lost_node_does_not_report(run: RunDir) -> None:
    stage = Stage(run, "nodefail")
    stage.look(HELD, 60.0)
    assert stage.look(HELD, 16.0) == []
    assert stage.look(HELD) == ["scontrol update JobId=7 StartTime=now"]


def test_a_hold_that_may_not_be_lifted(run: RunDir) -> None:
    ended(run)
    stage = Stage(run, "kill", answer="Access/permission denied")
    stage.look(HELD, 6.0)
    stage.look(HELD)
    assert stage.said == ["it was queued again; Slurm holds it for about two minutes"]


def test_a_job_that_waits_for_nodes_is_not_held(run: RunDir) -> None:
    stage = Stage(run, "kill")
    waiting = JobInfo("7", "queued", "PENDING", reason="Resources")
    stage.look(waiting, 60.0)
    assert stage.look(waiting) == []
    stage = Stage(run, "kill")
    first = Snapshot("r", [], {}, {}, finished=False, readable=True)
    for _ in range(3):  # a first start that somebody put off
        stage.director(first, HELD)
        stage.now += 60
    assert stage.told == []


# The whole.


@pytest.mark.parametrize(
    ("lines", "done", "finished", "status", "words"),
    [
        ([saved(20), resumed(20)], True, True, 0, ["as it was", "resumed as it should"]),
        ([saved(20), resumed(20, lr=0.5)], True, True, 1, ["differs", "another learning rate"]),
        ([saved(20)], True, False, 1, ["did not resume; the run did not finish"]),
        ([resumed(20)], True, True, 1, ["unknown", "differs"]),
        ([saved(20)], False, True, 1, ["ended before preempt came", "--max-steps"]),
    ],
)
def test_what_is_printed(
    run: RunDir, lines: list[Any], done: bool, finished: bool, status: int, words: list[str]
) -> None:
    for line in lines:
        append_line(run.metrics, line)
    stage = Stage(run, "preempt")
    stage.director.done = done
    printed = io.StringIO()
    console = Console(file=printed, width=120)
    assert conclude(run, "preempt", stage.director, finished, console) == status
    text = printed.getvalue()
    for word in words:
        assert word in text, text
    assert read_metrics(run.metrics)


def test_memory_that_ran_out_is_told(run: RunDir) -> None:
    event = {"kind": "event", "event": "out_of_memory", "attempt": 0, "step": 5}
    append_line(run.metrics, event | {"micro_tokens": 512})
    printed = io.StringIO()
    console = Console(file=printed, width=120)
    assert conclude(run, "oom", Stage(run, "oom").director, True, console) == 0
    text = printed.getvalue()
    assert "step 5" in text and "512 tokens" in text and "went on as it should" in text


def test_trackers_are_noted_by_attempt(run: RunDir) -> None:
    stage = Stage(run, "kill")
    for attempt, name in ((0, "w-1"), (1, "w-2")):
        tracker = {"name": "wandb", "mode": "offline", "run_id": name}
        write_json(run.progress, {"attempt": attempt, "tracker": tracker})
        stage.look(RUNNING)
    assert stage.director.trackers == {0: "w-1", 1: "w-2"}


def test_tools_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.slurm_tool("true") == ""
    assert module.slurm_tool("sh", "-c", "echo no >&2; exit 3") == "no"
    assert module.slurm_tool("false") == "it failed"
    with pytest.raises(UsageError, match="nothing-here"):
        module.slurm_tool("nothing-here")
