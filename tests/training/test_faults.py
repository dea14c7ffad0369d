"""Faults on purpose."""

import pytest

from training.config import UsageError
from training.config.recipe import TrainConfig
from training.faults import Fault, parse_fault, spent, strike
from training.rundir import RunDir, read_json


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill@3", Fault("kill", 3, None)),
        ("hang@12:0", Fault("hang", 12, 0)),
        ("oom@1:200", Fault("oom", 1, 200)),
    ],
)
def test_what_is_meant(text, fault):
    TrainConfig(fault=text).check()
    assert parse_fault(text) == fault


@pytest.mark.parametrize("text", ["kill", "kill@", "kill@x", "burn@3", "kill@3:", "kill@-1"])
def test_what_is_refused(text):
    with pytest.raises(UsageError, match=r"train\.fault must be"):
        TrainConfig(fault=text).check()


def test_whom_it_meets():
    assert Fault("kill", 3, None).rank(4) == 3
    assert Fault("kill", 3, 1).rank(4) == 1
    assert Fault("oom", 3, 200).rank(4) == 3


def test_once_a_run(tmp_path):
    run = RunDir(tmp_path)
    run.attempt(0).mkdir(parents=True)
    assert not spent(run)
    with pytest.raises(RuntimeError, match="pretended at step 3"):
        strike(Fault("raise", 3, None), run, 0, 1)
    run.attempt(1).mkdir()
    assert spent(run)
    assert (read_json(run.fault(0)) or {})["rank"] == 1
