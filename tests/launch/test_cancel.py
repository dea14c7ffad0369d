from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from launch import jobs
from launch.cancel import cancel
from launch.slurm_site import JobInfo
from training.config import RunConfig, TaskConfig, UsageError
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
    slurm_says(monkeypatch)
    return made


def submitted(run: RunDir, executor: str, *ids: str) -> None:
    """Note jobs, each after the one before."""
    entries: list[dict[str, object]] = [
        {"job_id": job, "executor": executor, "first_attempt": 0, "time": time.time()}
        for job in ids
    ]
    for before, entry in zip(ids, entries[1:], strict=False):
        entry["after"] = before
    write_json(run.jobs, {"jobs": entries})


def slurm_says(monkeypatch: pytest.MonkeyPatch, **states: str) -> None:
    """Pretend that Slurm says so of jobs `j77=PENDING`; of the others that they run."""

    def job_states(ids: list[str], times: dict[str, float]) -> dict[str, JobInfo]:
        words = {i: states.get(f"j{i}", "RUNNING") for i in ids}
        kinds: dict[str, Any] = {"RUNNING": "running", "PENDING": "queued"}
        return {i: JobInfo(i, kinds.get(w, "gone"), w) for i, w in words.items()}

    monkeypatch.setattr(jobs, "job_states", job_states)


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


def test_a_full_quota_does_not_keep_a_job_running(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.executor(monkeypatch)
    noted = scancel(tmp_path, monkeypatch, "exit 0")

    def full(path: Path, value: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("launch.cancel.write_json", full)
    done = type_line("r1", "--yes")
    assert (done.exit_code, noted.read_text()) == (0, "77\n")
    assert "cannot write" in done.output and "quota" in done.output


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
    slurm_says(monkeypatch, j77="COMPLETED")
    done = type_line("r1", "--yes")
    assert done.exit_code == 0 and "not running" in done.output
    assert not run.request.exists()


def test_all_that_follow_are_cancelled_the_last_one_first(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.executor(monkeypatch)
    noted = scancel(tmp_path, monkeypatch, "exit 0")
    submitted(run, "slurm", "76", "77", "78", "79")
    slurm_says(monkeypatch, j76="COMPLETED", j78="PENDING", j79="PENDING")
    done = type_line("r1", "--yes")
    assert "jobs 77, 78, 79 were told to stop" in done.output
    assert noted.read_text() == "79 78 77\n"


def test_jobs_of_a_finished_run_that_are_still_queued(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.executor(monkeypatch).job_state = "gone"
    noted = scancel(tmp_path, monkeypatch, "exit 0")
    submitted(run, "slurm", "77", "78")
    slurm_says(monkeypatch, j77="COMPLETED", j78="PENDING")
    write_json(run.results, {"run_id": "r1"})
    assert type_line("r1", "--yes").exit_code == 0
    assert noted.read_text() == "78\n"


def test_a_local_job_gets_a_signal(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.executor(monkeypatch)
    # Told by its command line, as submitit's controller is.
    words = ["submitit.local._local", f"{run.path}/submitit"]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words]) as process:
        submitted(run, "local", str(process.pid))
        assert type_line("r1", "--yes").exit_code == 0
        assert process.wait(10) == -signal.SIGTERM


def test_nobody_to_ask_is_said(run: RunDir) -> None:
    """At the end of standard input a question has no answer."""
    answer: Any = None
    try:
        CliRunner().invoke(cancel, ["r1"], input="", standalone_mode=False, catch_exceptions=False)
    except UsageError as error:
        answer = str(error)
    assert answer == "there is nobody to ask here: add --yes" and not run.request.exists()
