"""After an interruption: who may have the job queued again, whichever node heard of it."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from slurm import handover, scontrol
from slurm.allocation import Allocation
from slurm.handover import hand_over
from slurm.peers import Peers
from slurm.signals import Signals
from training.config import RunConfig
from training.rundir import RunDir, write_json


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Return a function that ends an attempt of two nodes, and what Slurm was asked for."""
    calls: list[str] = []
    monkeypatch.setattr(scontrol, "requeue", lambda job: calls.append(job))
    monkeypatch.setattr(handover, "ignore_stops", lambda: None)
    run = RunDir(tmp_path)
    run.attempt(0).mkdir(parents=True)

    def go(
        own: signal.Signals | None,
        other: dict[str, Any],
        state: str = "RUNNING",
        slurm: bool = True,
    ) -> list[str]:
        monkeypatch.setattr(scontrol, "show_job", lambda job: {"JobState": state})
        write_json(run.node(0, 1), {"node": 1, "ended": 1.0, **other})
        signals = Signals()
        if own is not None:
            signals.pretend(own)
        allocation = Allocation("7", "7", ("a", "b"), node=0, cores=1, restarts=0, slurm=slurm)
        attempt: Any = SimpleNamespace(
            run_dir=run,
            number=0,
            node=0,
            nodes=2,
            restarts=0,
            config=RunConfig(),
            allocation=allocation,
        )
        signals.previous = {signal.SIGUSR2: lambda *_: calls.append("submitit")}
        hand_over(attempt, Peers(attempt, signals), signals)
        return calls

    return go


def test_a_signal_to_another_node_alone_counts(asked):
    # Slurm sent an old TERM to the new start of the job, on one node.
    assert asked(None, {"end": "interrupted", "signal": "SIGTERM"}) == ["7"]


def test_the_time_limit_signal_to_another_node_alone_counts(asked):
    # Not through submitit, whose pickle may not find room on a full disk.
    assert asked(None, {"end": "interrupted", "signal": "SIGUSR2"}) == ["7"]


def test_a_local_job_is_started_again_by_submitit(asked):
    assert asked(signal.SIGUSR2, {"end": "interrupted"}, slurm=False) == ["submitit"]


def test_a_preemption_whose_signal_is_still_on_its_way(asked):
    """Slurm says SIGNALING until all nodes have answered; a fast node asks before."""
    assert asked(signal.SIGTERM, {"end": "interrupted"}, "SIGNALING") == ["7"]


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "TIMEOUT"])
def test_a_job_that_was_ended_is_not_brought_back(asked, state):
    assert asked(None, {"end": "interrupted", "signal": "SIGTERM"}, state) == []
    assert asked(signal.SIGTERM, {"end": "interrupted"}, state) == []


def test_without_any_signal_nothing_is_queued(asked, capsys):
    assert asked(None, {"end": "interrupted"}) == []
    assert "no signal asked for it" in capsys.readouterr().err
