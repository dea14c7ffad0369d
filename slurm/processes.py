"""Processes of one agent: who they are, and how none is left behind.

Run as a script it is the reaper: a process in a session of its own, which waits for its standard
input to close, that is, for the agent to end in whatever way, and then kills what carries the
agent's mark. It is there for `proctrack/pgid`: Slurm kills the agent's process group, and the
ranks are in sessions of their own. Standard library only, Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "GLUELINE_MARK"
"""Environment variable that an agent gives to torchrun; all that torchrun starts inherits it."""


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # "pid (name) state ppid …": the name may hold spaces and brackets.
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue  # it ended while we looked
        if int(parent) == pid:
            found.append(int(folder.name))
    return found


def ranks(mark: str) -> list[int]:
    """Return the marked processes that torchrun started, wherever they are below the agent."""
    return marked(mark, b"LOCAL_RANK=")


def marked(mark: str, variable: bytes = b"") -> list[int]:
    """Return the processes whose environment carries the mark; zombies have none left.

    With `variable` (`NAME=`), those that have this one too.
    """
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            there = (folder / "environ").read_bytes().split(b"\0")
            if wanted in there and (not variable or any(v.startswith(variable) for v in there)):
                found.append(int(folder.name))
        except OSError:
            continue  # another user's, or gone
    return found


def catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1) if caught else False


def send(pid: int, number: int) -> bool:
    """Send a signal; False if the process is gone."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_marked(mark: str, patience: float = 5.0) -> list[int]:
    """Kill every process that carries the mark, also those that they start meanwhile.

    Returns:
        what is left after `patience` seconds: processes that wait for a dead disk, say.
    """
    deadline = time.monotonic() + patience
    while pids := marked(mark):
        for pid in pids:
            send(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return pids
        time.sleep(0.05)
    return []


def start_reaper(mark: str) -> subprocess.Popen[bytes]:
    """Start the reaper. It acts when its `stdin` is closed, or when this process ends."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


def _reap(mark: str) -> None:
    # proctrack/linuxproc sends a step's signals to every process of the step, this one too.
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    kill_marked(mark)


if __name__ == "__main__":
    _reap(sys.argv[1])
