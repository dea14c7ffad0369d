"""A collective that never ends: who is missing, said before the whole allocation is wasted.

Every rank counts its own progress, and a thread of it tells the others by the store through
which the ranks met. A rank that stands still too long looks who is furthest behind, says so, and
ends; so do all.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from .distributed import World
from .rundir import RunDir, write_json

LOOKS = 8
"""How often the thread looks within the time that a rank may stand still."""
STORE_SECONDS = 5
"""How long the store may take to answer."""


@dataclass
class Beat:
    """How far a rank has come."""

    rank: int
    host: str
    count: int = 0
    """Places passed: the same on all ranks at the same place of the program."""
    place: str = "starting"
    age: float = 0.0
    """Seconds since it came there, as it said last."""


def missing(beats: list[Beat], world_size: int) -> tuple[int | None, str]:
    """Return the rank that the others wait for, None if that cannot be told, and a sentence.

    Args:
        beats: what ranks said last; a rank that never said anything is not among them.
        world_size: number of ranks.
    """
    silent = sorted(set(range(world_size)) - {b.rank for b in beats})
    if silent:
        return silent[0], f"rank {silent[0]} never reported"
    least = min(b.count for b in beats)
    behind = [b for b in beats if b.count == least]
    if len(behind) == len(beats):
        place = behind[0].place
        return None, f"all ranks wait in the same place: {place}"
    first = behind[0]
    more = f" (and {len(behind) - 1} more)" if len(behind) > 1 else ""
    ahead = max(beats, key=lambda b: b.count)
    return first.rank, (
        f"rank {first.rank} on {first.host}{more} is stuck at {first.place}, "
        f"the others wait at {ahead.place}"
    )


class Watchdog:
    """Watches this rank's progress from a thread."""

    def __init__(
        self,
        run: RunDir,
        attempt: int,
        world: World,
        seconds: float,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._run, self._attempt, self._world, self._seconds = run, attempt, world, seconds
        self._end = end
        self._beat = Beat(world.rank, socket.gethostname())
        self._since = time.monotonic()
        self._stop = threading.Event()
        met: Any = dist.distributed_c10d._get_default_store()
        # A connection of its own where torch has that: the ranks' may block for long.
        self._store = met.clone() if hasattr(met, "clone") else met
        self._store.set_timeout(timedelta(seconds=STORE_SECONDS))
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, place: str) -> None:
        """Note that this rank has come to a place."""
        self._beat.count += 1
        self._beat.place = place
        self._since = time.monotonic()

    def close(self) -> None:
        """Watch no longer."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds / LOOKS):
            age = time.monotonic() - self._since
            reached = self._tell(age)
            if age >= self._seconds:
                self._give_up(age, reached)
                return

    def _tell(self, age: float) -> bool:
        """Tell the others; return whether the store answered."""
        self._beat.age = age
        try:
            self._store.set(self._key(self._beat.rank), json.dumps(asdict(self._beat)))
        except Exception:  # whatever the store raises: the rank of the store is gone
            return False
        return True

    def _key(self, rank: int) -> str:
        return f"glueline/beat/{self._attempt}/{rank}"

    def _beats(self) -> list[Beat] | None:
        """Return what ranks said last; None if the store is gone meanwhile.

        The rank of the store gives up at about the same time, and is not to be taken for silent.
        """
        found = []
        try:
            for rank in range(self._world.size):
                if self._store.check([self._key(rank)]):
                    found.append(Beat(**json.loads(self._store.get(self._key(rank)))))
        except Exception:  # whatever the store raises
            return None
        return found

    def _give_up(self, age: float, reached: bool) -> None:
        rank: int | None = None
        said = "the node of rank 0 does not answer"
        beats = self._beats() if reached else None
        if beats is not None:
            rank, said = missing(beats, self._world.size)
        speaker = rank if rank == self._world.rank else (0 if rank != 0 else 1)
        message = f"no progress for {age:.0f} s: {said}"
        print(message, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        with contextlib.suppress(OSError):
            write_json(
                self._run.rank_error(self._attempt, self._world.node, self._world.rank),
                {
                    "time": time.time(),
                    "kind": "Hang",
                    "message": message,
                    "rank": rank,
                    "traceback": "",
                    # One rank speaks for all that wait, beside the one that is missing.
                    "secondary": beats is None or self._world.rank != speaker,
                },
            )
        self._end(1)
