"""Where the tests of the commands work, and how they type a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from launch import machine

from . import fakes
from .commandline import TRAIN, Answer


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that counts as shared by all nodes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLUELINE_SHARED", str(tmp_path))
    monkeypatch.delenv("GLUELINE_RUNS", raising=False)
    return tmp_path


@pytest.fixture
def here(workplace: Path) -> Path:
    """A working directory with a small task of its own."""
    (workplace / "train.csv").write_text(TRAIN)
    (workplace / "mine.yaml").write_text(
        "task:\n  text: [text]\n  label: label\n  holdout: 0.1\n  files: {train: train.csv}\n"
    )
    return workplace


@pytest.fixture
def job(here: Path, monkeypatch: pytest.MonkeyPatch) -> fakes.Executor:
    """A pretended Slurm that takes every job."""
    fakes.slurm(monkeypatch)
    monkeypatch.setattr(machine, "local_gpus", lambda: 0)
    return fakes.executor(monkeypatch)


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Answer]:
    """Types a line after `glueline submit`."""
    return lambda line: Answer(line, capsys)
