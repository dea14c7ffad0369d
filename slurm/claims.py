"""Which worker has which trial: one file a trial, made by whoever comes first.

The files are the queue. A trial without one is free; one whose worker is gone, and that is not
finished, is taken over by renaming the old file, which only one worker can.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.rundir import read_json, write_atomic
from training.sweepdir import SweepDir, Trial

MOST_LOST = 3
"""Workers that may vanish over one trial before it is left alone: it may be the cause."""


@dataclass(frozen=True)
class Worker:
    """Who takes trials: a lane of an array element, or of a local job."""

    job: str
    """As a person types it: `12_3`."""
    lane: int = 0
    slurm: bool = True

    def plain(self) -> dict[str, Any]:
        """Return it as a claim holds it."""
        return {
            "job": self.job,
            "lane": self.lane,
            "slurm": self.slurm,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
        }

    def holds(self, claim: dict[str, Any]) -> bool:
        """Return whether a claim is this worker's, be it of an earlier start of the same job."""
        return (claim.get("job"), claim.get("lane", 0)) == (self.job, self.lane)


def claimed(sweep: SweepDir) -> set[int]:
    """Return the numbers of the trials that somebody took."""
    try:
        names = os.listdir(sweep.claims)  # noqa: PTH208 (thousands of files on a shared disk)
    except OSError:
        return set()
    parts = (name.split(".") for name in names)
    return {int(p[0]) for p in parts if len(p) == 2 and p[0].isdigit() and p[1] == "json"}


def read_claims(sweep: SweepDir) -> dict[int, dict[str, Any]]:
    """Return the claims by the trial's number."""
    found = {number: read_json(sweep.claim(number)) for number in claimed(sweep)}
    # Cut off by a crash of its machine: a claim of nobody who lives.
    return {n: value if isinstance(value, dict) else {} for n, value in found.items()}


def claim(sweep: SweepDir, trial: Trial, worker: Worker) -> bool:
    """Take a trial; return whether it is ours now.

    Raises:
        OSError: the folder cannot be written.
    """
    return publish(sweep.claim(trial.number), _text(worker), f"{worker.job}.{worker.lane}")


def publish(place: Path, text: str, who: str = "") -> bool:
    """Make a file with its content at once, unless it is there; return whether it was we who did.

    Args:
        place: the file.
        text: its content.
        who: tells the temporary names of several hosts apart.

    Raises:
        OSError: the folder cannot be written.
    """
    if place.exists():
        return False
    mine = place.with_name(f".{place.stem}.{who}.{socket.gethostname()}.{os.getpid()}")
    write_atomic(mine, text)
    try:
        # Complete at once, and only if there is none: also on network file systems.
        os.link(mine, place)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    finally:
        mine.unlink(missing_ok=True)
    return True


def take_over(sweep: SweepDir, number: int, old: dict[str, Any]) -> bool:
    """Free a trial whose worker is gone; return whether it was we who did."""
    place = sweep.claim(number)
    lost = place.with_name(f"{number}.lost-{len(lost_claims(sweep, number))}-{old.get('job')}")
    if read_json(place) != old and old:
        return False  # somebody else has it by now
    with contextlib.suppress(FileNotFoundError):
        place.rename(lost)
        return True
    return False


def lost_claims(sweep: SweepDir, number: int) -> list[Path]:
    """Return the claims of workers that vanished over a trial."""
    return list(sweep.claims.glob(f"{number}.lost-*"))


def jobs_of(claims: Iterable[dict[str, Any]]) -> set[str]:
    """Return the jobs that hold claims."""
    return {str(value["job"]) for value in claims if value.get("job")}


def _text(worker: Worker) -> str:
    return json.dumps(worker.plain()) + "\n"
