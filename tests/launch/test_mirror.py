from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch import mirror as module
from launch.mirror import (
    Busy,
    Claim,
    LiveMirror,
    Shown,
    Tail,
    Unreachable,
    as_in_job,
    open_online,
    send,
)
from launch.sync import sync
from tests.training.test_tracking import read_offline
from training.config import RunConfig, TaskConfig, TrackingConfig, UsageError
from training.rundir import RunDir, append_line, write_json
from training.tracking import WandbMirror, wandb_id


class Fake:
    """A tracker that keeps what it is shown; it may fail after so many lines."""

    run_id: str | None = "abc"
    mode: str | None = "online"

    def __init__(self, fails_after: int | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.finished: list[tuple[dict[str, Any], bool]] = []
        self.fails_after = fails_after

    def log(self, line: dict[str, Any]) -> None:
        if self.fails_after is not None and len(self.lines) >= self.fails_after:
            raise ConnectionError("the network\nis gone")
        self.lines.append(line)

    def finish(self, summary: dict[str, Any], ok: bool) -> None:
        self.finished.append((summary, ok))

    @property
    def shown(self) -> list[tuple[int, int]]:
        return [(line["attempt"], line["step"]) for line in self.lines]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose nodes could not reach W&B."""
    made = RunDir(tmp_path / "runs" / "a-run")
    made.path.mkdir(parents=True)
    made.config.write_text(RunConfig(task=TaskConfig(name="t")).dump())
    tracked(made, "offline")
    return made


def tracked(run: RunDir, mode: str, attempt: int = 0) -> None:
    tracker = {"name": "wandb", "mode": mode, "run_id": None}
    write_json(run.progress, {"attempt": attempt, "tracker": tracker})


def log(run: RunDir, attempt: int, *steps: int, kind: str = "train", **more: Any) -> None:
    for step in steps:
        line = {"kind": kind, "attempt": attempt, "step": step, "epoch": 0.0, "loss": float(step)}
        append_line(run.metrics, line | more)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_live_each_step_once(run: RunDir) -> None:
    fake = Fake()
    log(run, 0, 10, 20)
    log(run, 1, 20)  # made again: the highest attempt counts
    live = LiveMirror(run, lambda run, config: fake, seconds=0.01).start()
    until(lambda: len(fake.lines) == 2)
    log(run, 1, 30, 40)
    log(run, 1, 40, kind="eval", split="validation", accuracy=0.5)
    with run.metrics.open("a") as file:
        file.write('{"kind": "train", "attempt": 1, "st')  # a line that is being written
    until(lambda: len(fake.lines) == 5)
    with run.metrics.open("a") as file:
        file.write('ep": 45}\n')
    log(run, 2, 30, 40, 50)  # a new attempt from an older checkpoint: W&B has 30 to 45
    write_json(run.results, {"steps": 50, "metrics": {"test": {"accuracy": 0.9}}})
    told = live.leave(ok=True)
    assert told == "W&B      run abc, mirrored from here"
    assert fake.shown == [(0, 10), (1, 20), (1, 30), (1, 40), (1, 40), (1, 45), (2, 50)]
    assert fake.finished == [({"steps": 50, "final/test/accuracy": 0.9}, True)]


def test_nodes_that_reach_wandb_are_left_alone(run: RunDir) -> None:
    opened = []
    tracked(run, "online")
    log(run, 0, 10)
    live = LiveMirror(run, lambda run, config: opened.append(run) or Fake(), seconds=0.01).start()
    time.sleep(0.1)
    assert live.leave(ok=True) is None and not opened


def test_a_later_attempt_that_reaches_wandb_takes_over(run: RunDir) -> None:
    fake = Fake()
    log(run, 0, 10)
    live = LiveMirror(run, lambda run, config: fake, seconds=0.01).start()
    until(lambda: fake.lines)
    tracked(run, "online", attempt=1)
    until(lambda: fake.finished)
    log(run, 1, 20)
    live.leave(ok=True)
    assert fake.shown == [(0, 10)] and len(fake.finished) == 1


@pytest.mark.parametrize("fails_after", [0, 1])
def test_trouble_is_told_at_the_end_and_stops_nothing(run: RunDir, fails_after: int) -> None:
    log(run, 0, 10, 20)
    live = LiveMirror(run, lambda run, config: Fake(fails_after), seconds=0.01).start()
    until(lambda: live.trouble)
    told = live.leave(ok=True)
    assert told and "the network is gone" in told and "sync a-run" in told


def test_a_network_that_hangs_is_left(run: RunDir) -> None:
    class Hangs(Fake):
        def log(self, line: dict[str, Any]) -> None:
            time.sleep(30)

    log(run, 0, 10)
    live = LiveMirror(run, lambda run, config: Hangs(), seconds=0.01).start()
    time.sleep(0.1)
    began = time.monotonic()
    told = live.leave(ok=True, patience=0.2)
    assert time.monotonic() - began < 5 and told and "did not take everything" in told


def test_without_a_key_here_nothing_is_said(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(run, 0, 10)
    live = LiveMirror(run, seconds=0.01).start()
    assert live.leave(ok=True) is None
    with pytest.raises(Unreachable, match="WANDB_MODE"):
        open_online(run, RunConfig())


def test_one_process_at_a_time(run: RunDir) -> None:
    log(run, 0, 10)
    claim = Claim(run)
    with pytest.raises(Busy):
        Claim(run)
    fake = Fake()
    live = LiveMirror(run, lambda run, config: fake, seconds=0.01).start()
    assert live.leave(ok=True) is None and not fake.lines
    claim.close()
    Claim(run).close()


def test_afterwards(run: RunDir) -> None:
    fake = Fake()
    log(run, 0, 10, 20, 30)
    log(run, 1, 20)
    assert send(run, lambda run, config: fake) == ("abc", 3)
    assert fake.shown == [(0, 10), (1, 20), (0, 30)] and fake.finished == [({}, True)]


def test_a_login_node_that_cannot_even_begin_leaves_no_second_folder(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path / "wandb" / "offline-run-1").mkdir(parents=True)

    class FellBack(Fake):
        mode = "offline"
        why = "invalid key"

        def __init__(self, run: RunDir, config: RunConfig) -> None:
            super().__init__()
            (run.path / "wandb" / "offline-run-2").mkdir()

    monkeypatch.setattr(module, "wandb_mode", lambda environ: ("online", ""))
    monkeypatch.setattr("training.tracking.WandbMirror", FellBack)
    with pytest.raises(Unreachable, match="invalid key"):
        open_online(run, RunConfig())
    assert [p.name for p in (run.path / "wandb").iterdir()] == ["offline-run-1"]


def test_the_real_wandb_is_shown_one_run_with_each_step_once(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_json(run.manifest, {"time": 1.0})
    log(run, 0, 10, 20, 30)
    log(run, 1, 20, 30, 40)
    live = LiveMirror(run, WandbMirror, seconds=0.01).start()
    until(lambda: live.run_id)
    log(run, 1, 50)
    log(run, 1, 50, kind="eval", split="validation", accuracy=0.75)
    told = live.leave(ok=True)
    assert told == f"W&B      run {wandb_id(run)}, mirrored from here"
    history, ids, _ = read_offline(run)
    assert set(ids) == {wandb_id(run)}
    steps = [row["_step"] for row in history]
    assert steps == sorted(set(steps)) == [10, 20, 30, 40, 50]
    assert history[-1]["eval/validation/accuracy"] == 0.75


def test_a_run_is_known_by_the_path_that_the_job_knew(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.path.parent)
    linked = RunDir(tmp_path / "link" / "a-run")
    tracker = {"name": "wandb", "mode": "offline", "run_id": wandb_id(run)}
    write_json(run.progress, {"tracker": tracker})
    assert wandb_id(linked) != wandb_id(run)
    assert as_in_job(linked).path == run.path
    write_json(run.progress, {"tracker": tracker | {"run_id": "other-1"}})
    with pytest.raises(Unreachable, match="another path"):
        as_in_job(run)


def test_a_tail_of_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    assert tail.new() == []
    append_line(tail.path, {"kind": "train", "step": 1})
    assert tail.new() == [{"kind": "train", "step": 1}] and tail.new() == []


def test_two_events_of_one_step() -> None:
    shown = Shown(fake := Fake())
    for event in ("start", "resumed", "start"):
        shown.show({"kind": "event", "attempt": 0, "step": 0, "event": event})
    assert [line["event"] for line in fake.lines] == ["start", "resumed"]


def test_the_command(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(*args: str) -> Any:
        return CliRunner().invoke(sync, args, catch_exceptions=False, standalone_mode=False)

    runs = ["--runs", str(run.path.parent)]
    with pytest.raises(UsageError, match="which runs"):
        typed(*runs)
    with pytest.raises(UsageError, match="logged nothing"):
        typed("a-run", *runs)
    assert "no run in" in typed("--all", *runs).output
    log(run, 0, 10)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UsageError, match="cannot be reached from here: WANDB_MODE"):
        typed("a-run", *runs)
    sent = []
    monkeypatch.setattr(module, "send", lambda run: sent.append(run.run_id) or ("abc", 1))
    assert "run a-run: 1 lines, W&B run abc" in typed("--all", *runs).output
    tracked(run, "online")
    with pytest.raises(UsageError, match="nothing to send"):
        typed("a-run", *runs)
    config = RunConfig(task=TaskConfig(name="t"), tracking=TrackingConfig(tracker="none"))
    run.config.write_text(config.dump())
    with pytest.raises(UsageError, match="not tracked by W&B"):
        typed("a-run", *runs)
    assert sent == ["a-run"]
