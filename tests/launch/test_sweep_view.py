"""What `status` says of a sweep: the line that goes on with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from launch import sweep_view
from launch.reproducing.asked import file_of
from launch.sweep_view import SweepView, describe_sweep, view_sweeps, watch_sweep
from training.config import UsageError
from training.rundir import write_json
from training.sweepdir import SweepDir, Trial, TrialState

REPRODUCE = ["--reference", "demo.yaml", "--seeds", "5", "--executor", "local", "--set", "a.b=c"]
REPLAY = ["out/receipt.json", "--executor", "local", "--data", "rows", "--max-parallel", "2"]
TURNED = ["--executor", "local", "--data", "rows", "a folder"]


def rest(
    tmp_path: Path, words: list[str], reproduction: bool, state: TrialState = "created"
) -> str:
    """Return the line that goes on with a sweep that was asked for by these words."""
    sweep = SweepDir(tmp_path / "runs" / ".sweeps" / "one")
    sweep.path.mkdir(parents=True)
    sweep.spec.write_text(yaml.safe_dump({"asked": {"line": words}}))
    if reproduction:
        write_json(file_of(sweep), {"format": 1})
    trial = Trial(0, "one-0", {"seed": 1})
    text = describe_sweep(SweepView(sweep, (trial,), {0: state}, {}))
    (line,) = [line for line in text.splitlines() if line.startswith("rest ")]
    return line.removeprefix("rest").strip()


@pytest.mark.parametrize(
    ("words", "reproduction", "line"),
    [
        (["my.yaml", "--seeds", "3", "--yes"], False, "glueline sweep my.yaml --seeds 3"),
        (["--seeds", "3"], False, "glueline sweep --seeds 3"),
        (REPRODUCE, True, "glueline reproduce " + " ".join(REPRODUCE)),
        (["--model", "tiny", "--no-wait"], True, "glueline reproduce --model tiny --no-wait"),
        (["--all-seeds", "--yes", "--json"], True, "glueline reproduce --all-seeds"),
        (REPLAY, True, "glueline replay " + " ".join(REPLAY)),
        (TURNED, True, "glueline replay --executor local --data rows 'a folder'"),
        (["--", "-x"], True, "glueline replay -- -x"),
    ],
)
def test_the_rest_is_the_line_that_was_typed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    reproduction: bool,
    line: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["glueline status"])
    assert rest(tmp_path, words, reproduction) == line


def test_failed_runs_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["glueline status"])
    line = rest(tmp_path, ["--model", "tiny", "--retry-failed"], True, "failed")
    assert line == "glueline reproduce --model tiny --retry-failed"


def test_what_waits_is_unknown_while_slurm_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = SweepDir(tmp_path / "runs" / ".sweeps" / "one")
    sweep.path.mkdir(parents=True)
    trial = Trial(0, "one-0", {"seed": 1})
    sweep.trials.write_text(json.dumps(trial.plain()) + "\n")
    write_json(sweep.jobs, {"jobs": [{"job_id": "7", "trials": [0]}]})
    answers: list[str | UsageError] = ["queued", UsageError("no answer"), UsageError("no answer")]

    def alive(_: object) -> dict[str, str]:
        if isinstance(answer := answers.pop(0) if answers else "", UsageError):
            raise answer
        return {"7_0": answer} if answer else {}

    monkeypatch.setattr(sweep_view, "alive_jobs", alive)
    monkeypatch.setattr(sweep_view.time, "sleep", lambda _: None)
    assert watch_sweep(sweep) == 1  # its job is gone, as Slurm says in the end
    told = capsys.readouterr()
    assert told.out.count("no answer") == 1 and "waiting for an answer" in told.out
    assert "1 queued" in told.out and "no answer" not in told.err
    answers.append(UsageError("no answer"))
    (unknown,) = view_sweeps([sweep], {})
    assert unknown.silent == "no answer"
    assert "rest " not in describe_sweep(unknown)  # who knows whether it is gone
    assert not view_sweeps([sweep], {})[0].silent
