"""Running our commands as a person does."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch import submit
from launch.main import run_command

ROOT = Path(__file__).resolve().parents[2]

TRAIN = "text,label\n" + "".join(
    f"a fine film {i},good\nan awful film {i},bad\n" for i in range(40)
)
"""The rows of `mine.yaml`."""
LINE = "--model tiny --task mine.yaml --global-batch 8 --tracker none"


class Answer:
    """What `glueline submit` printed in this process, and its exit status."""

    def __init__(self, line: str, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        try:
            run_command(submit.submit, shlex.split(line))
        except SystemExit as stop:
            self.status = stop.code
        self.out, self.err = capsys.readouterr()


def clean_environment(**more: str) -> dict[str, str]:
    """Return this environment without what would change a command's defaults."""
    mine = ("GLUELINE_", "SLURM_", "SBATCH_", "PYTHONPATH", "XDG_CONFIG_HOME")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(mine)}
    return kept | {"COLUMNS": "160"} | more


def glueline(
    name: str, *args: str, cwd: Path, env: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `python launch/NAME.py ARGS` in a folder."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{name}.py"), *args],
        cwd=cwd,
        env=clean_environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def tree(folder: Path) -> set[str]:
    """Return everything below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert one line on stderr that holds these words, and exit status 2."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    # A clone in /tmp has a note of its own.
    lines = [s for s in done.stderr.splitlines() if not s.startswith("note: the nodes may not")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
