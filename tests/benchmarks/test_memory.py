"""The plan's memory against two real ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.minilm
@pytest.mark.data
def test_the_estimate_is_within_its_error(data_dir: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "--data", str(data_dir)]
    command += ["--models", "minilm", "--engines", "2", "--steps", "3", "--global-batch", "64"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| minilm"))
    error = float(row.split("|")[-2].strip().rstrip("%"))
    assert abs(error) <= 15
