"""A question that needs torch, asked of a process of its own: launch never imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """How a process answered."""

    value: dict[str, Any] | None
    """The JSON object that its last line of output is; None without one."""
    code: int
    said: str
    """The last line of its errors."""


def ask_module(module: str, asked: Any, seconds: float) -> Answer:
    """Run one of our modules with a JSON value on its standard input.

    Raises:
        OSError: the process does not start.
        subprocess.TimeoutExpired: it took longer than `seconds`.
    """
    from slurm.command import project_root

    paths = [str(project_root()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(asked),
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    try:
        value = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        value = None
    said = " ".join((done.stderr.strip().splitlines() or ["it said nothing"])[-1].split())
    return Answer(value if isinstance(value, dict) else None, done.returncode, said)
