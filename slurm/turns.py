"""One process at a time on a shared file system: a file that its holder makes, and removes.

Nothing depends on a lock being kept: what it guards is published whole, under names that are given
once. A holder that died costs a wait, never a record.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

LONGEST_WAIT = 0.25
"""Seconds between two looks at a lock that another one holds, at most."""


class Turn:
    """A lock by a file; what Optuna's journal wants of one."""

    def __init__(self, place: Path, stale: float = 60.0) -> None:
        """Name the lock.

        Args:
            place: its file; the folder is there.
            stale: seconds for which the same holder may have it, by the clock of who waits. One
                that died on this machine is seen at once.
        """
        self._place, self._stale = place, stale
        self._mine: tuple[int, int] | None = None

    def acquire(self) -> bool:
        """Wait for the turn; return True.

        Raises:
            OSError: the folder cannot be written.
        """
        seen, since, pause = None, time.monotonic(), 0.005
        while True:
            try:
                descriptor = os.open(self._place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                pass
            else:
                try:
                    os.write(descriptor, f"{socket.gethostname()} {os.getpid()}".encode())
                finally:
                    self._mine = _identity(os.fstat(descriptor))
                    os.close(descriptor)
                return True
            found = self._look()
            if found is None:
                time.sleep(0.001)
                continue  # given back just now
            if found != seen:
                seen, since = found, time.monotonic()
            if self._dead() or time.monotonic() - since > self._stale:
                self._break(found)
                continue
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_WAIT)

    def release(self) -> None:
        """Give the turn back; one that was taken away is another's."""
        if self._mine is not None and self._look() == self._mine:
            self._place.unlink(missing_ok=True)
        self._mine = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while the block runs."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _look(self) -> tuple[int, int] | None:
        try:
            return _identity(self._place.stat())
        except OSError:
            return None

    def _dead(self) -> bool:
        """Return whether the holder is a process of this machine that is gone."""
        try:
            host, _, pid = self._place.read_text().partition(" ")
        except OSError:
            return False
        return host == socket.gethostname() and pid.isdigit() and not Path(f"/proc/{pid}").exists()

    def _break(self, stale: tuple[int, int]) -> None:
        """Take a stale lock away; if it turns out to be a newer one, put it back."""
        aside = self._place.with_name(
            f".{self._place.name}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        )
        try:
            self._place.rename(aside)
        except OSError:
            return  # another one was first
        try:
            if _identity(aside.stat()) != stale:
                with contextlib.suppress(OSError):
                    os.link(aside, self._place)
        finally:
            aside.unlink(missing_ok=True)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_ino, stat.st_mtime_ns
