"""One process at a time, on file systems whose own locks cannot be trusted.

A lock is a file that its holder makes anew and touches every few seconds. One whose holder is
dead, or that nobody touched for a while, is broken: what it guards is renamed into place when it
is complete, so two holders would lose time, never data.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.config import UsageError
from training.rundir import read_json

BEAT_SECONDS = 3.0
"""How often the holder touches its file."""
STALE_SECONDS = 30.0
"""How long a file may stand untouched, by the clock of who watches it: network file systems
show a change after some seconds."""
POLL_SECONDS = 0.5


def start_time(pid: int) -> str | None:
    """Return when a process of this machine started, None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
    """Hold a lock while the block runs; wait for another holder as long as it is alive.

    Args:
        path: of the lock's file; its folder is made.
        waiting: called once, with the holder in words, before waiting.

    Raises:
        UsageError: the folder cannot be written.
    """
    token = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _take(path, token, waiting)
    except OSError as error:
        raise UsageError(f"cannot write into {path.parent}: {error.strerror}") from None
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if (_holder(path) or {}).get("token") == token:
            path.unlink(missing_ok=True)


def _take(path: Path, token: str, waiting: Callable[[str], None]) -> None:
    me = {
        "token": token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
    }
    # Written elsewhere and linked: a lock is never seen without its holder's name.
    mine = path.with_name(f".{path.name}.{token}")
    mine.write_text(json.dumps(me))
    said, seen, since = False, None, time.monotonic()
    try:
        while True:
            try:
                os.link(mine, path)
                return
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                try:
                    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                    os.write(descriptor, json.dumps(me).encode())
                    os.close(descriptor)
                    return
                except FileExistsError:
                    pass
            holder = _holder(path)
            try:
                touched = path.stat().st_mtime_ns
            except OSError:
                continue  # given back just now
            if (touched, holder) != seen:
                seen, since = (touched, holder), time.monotonic()
            if _dead(holder) or time.monotonic() - since > STALE_SECONDS:
                _break(path, token, holder)
                continue
            if not said:
                said = True
                who = holder or {}
                waiting(f"process {who.get('pid', '?')} on {who.get('host', '?')}")
            time.sleep(POLL_SECONDS)
    finally:
        mine.unlink(missing_ok=True)


def _holder(path: Path) -> dict[str, Any] | None:
    value = read_json(path)
    return value if isinstance(value, dict) else None


def _dead(holder: dict[str, Any] | None) -> bool:
    """Return whether a holder of this machine is gone; of another machine it is not known."""
    if not holder or holder.get("host") != socket.gethostname():
        return False
    return start_time(int(holder.get("pid") or 0)) != holder.get("started")


def _break(path: Path, token: str, stale: dict[str, Any] | None) -> None:
    """Take a stale lock away; of several that try, one does. A newer one is put back."""
    if _holder(path) != stale:
        return
    aside = path.with_name(f".{path.name}.broken-{token}")
    with contextlib.suppress(OSError):
        path.rename(aside)
        # Between the look and the rename another one may have broken it and taken the lock.
        if _holder(aside) != stale:
            os.link(aside, path)
        aside.unlink(missing_ok=True)


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
