"""Ranks for tests, forked from one process that has imported what they need."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

Forks = Callable[..., list[int]]


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Return a function that runs a `forkserver.Job` and returns the exit codes of its ranks."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training.forkserver"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"

    def go(module: str, words: list[str], world_size: int, **more: Any) -> list[int]:
        job = {"module": module, "words": words, "world_size": world_size, **more}
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield go
    process.stdin.close()
    process.wait()
