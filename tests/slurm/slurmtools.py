"""What the tests on a real Slurm share."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Return a condition's first true value.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return value


def lingers(job: str) -> bool:
    """Return whether anything of a job's last start is left; all hosts share a process table."""
    old = ["pgrep", "-f", rf"slurmstepd: \[{job}\."]
    return subprocess.run(old, capture_output=True, check=False).returncode == 0


def start_now(job: str, environment: Mapping[str, str] | None = None) -> None:
    """Start a job that was queued again; Slurm would hold it for two minutes.

    Not before all of its last start is gone, and not within the same second: slurmd has revoked
    the job's credential as of that second, refuses the new start, and the job counts as failed.
    """
    wait_for("the last start lingers", lambda: not lingers(job))
    time.sleep(2.0)
    command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
    subprocess.run(command, env=environment, capture_output=True, check=False)
