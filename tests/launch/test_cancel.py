from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from launch.cancel import cancel
from training.config import RunConfig, TaskConfig
from training.rundir import RunDir, read_json, write_json

from . import fakes


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run with one job."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLUELINE_RUNS", raising=False)
    made = RunDir(tmp_path / "runs" / "r1")
    made.path.mkdir(parents=True)
    made.config.write_text(RunConfig(task=TaskConfig(name="t")).dump())
    submitted(made, "slurm", "77")
    return made


def submitted(run: RunDir, executor: str, job: str) -> None:
    write_json(
        run.jobs,
        {"jobs": [{"job_id": job, "executor": executor, "first_attempt": 0, "time": time.time()}]},
    )


def type_line(*args: str, answer: str = "") -> Result:
    return CliRunner().invoke(cancel, args, input=answer, catch_exceptions=False)


def scancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Put a program of that name on the path; return the file that it notes its arguments in."""
    tool = tmp_path / "bin" / "scancel"
    tool.parent.mkdir()
    noted = tmp_path / "noted"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {noted}\n{body}\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return noted


def test_it_asks_first(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.executor(monkeypatch)
    noted = scancel(tmp_path, monkeypatch, "exit 0")
    assert type_line("r1", answer="n\n").exit_code == 0
    assert not noted.exists() and not run.request.exists()
    assert type_line("r1", answer="y\n").exit_code == 0
    assert noted.read_text() == "77\n"
    assert read_json(run.request) == {"stop": True}


def test_slurms_refusal_is_told(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.config import UsageError

    fakes.executor(monkeypatch)
    scancel(tmp_path, monkeypatch, "echo 'Access denied' >&2; exit 1")
    with pytest.raises(UsageError, match="Access denied"):
        type_line("r1", "--yes")


def test_what_does_not_run_is_left_alone(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.executor(monkeypatch).job_state = "gone"
    done = type_line("r1", "--yes")
    assert done.exit_code == 0 and "not running" in done.output
    assert not run.request.exists()


def test_a_local_job_gets_a_signal(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.executor(monkeypatch)
    with subprocess.Popen(["sleep", "60"]) as process:
        submitted(run, "local", str(process.pid))
        assert type_line("r1", "--yes").exit_code == 0
        assert process.wait(10) == -signal.SIGTERM
