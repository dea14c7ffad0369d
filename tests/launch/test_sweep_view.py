"""What `status` says of a sweep: the line that goes on with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from launch.reproducing.asked import file_of
from launch.sweep_view import SweepView, describe_sweep
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
