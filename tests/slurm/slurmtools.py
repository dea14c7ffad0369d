"""What the tests on a real Slurm share."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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


def lingers(job: str, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether anything of a job's last start is left.

    All hosts of all clusters of this machine share a process table, and job ids begin at 1 in each:
    what belongs to another cluster than the environment's does not count.
    """
    conf = (os.environ if environment is None else environment).get("SLURM_CONF")
    old = ["pgrep", "-f", rf"slurmstepd: \[{job}\."]
    pids = subprocess.run(old, capture_output=True, text=True, check=False).stdout.split()
    return any(conf is None or _slurm_conf(pid) in (conf, None) for pid in pids)


def _slurm_conf(pid: str) -> str | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""  # gone
    found = (v for v in variables if v.startswith(b"SLURM_CONF="))
    return next((v.partition(b"=")[2].decode() for v in found), None)


def start_now(job: str, environment: Mapping[str, str] | None = None) -> None:
    """Start a job that was queued again; Slurm would hold it for two minutes.

    Not before all of its last start is gone, and not within the same second: slurmd has revoked
    the job's credential as of that second, refuses the new start, and the job counts as failed.
    """
    wait_for("the last start lingers", lambda: not lingers(job, environment))
    time.sleep(2.0)
    command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
    subprocess.run(command, env=environment, capture_output=True, check=False)
