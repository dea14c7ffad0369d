"""Which worker has which trial: one file a trial, made by whoever comes first.

The files are the queue. A trial without one is free; one whose worker is gone, and that is not
finished, is taken over by renaming the old file, which only one worker can. What a person frees is
renamed too, to another name: only workers that vanish speak against a trial.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.rundir import read_json, write_atomic
from training.sweepdir import SweepDir, Trial

_LOST = re.compile(r"(\d+)\.lost-\d+-(.+)")

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
    return {number: _content(sweep.claim(number)) for number in claimed(sweep)}


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
    """Free a trial whose worker is gone; return whether it was we who did.

    Raises:
        OSError: the folder cannot be written.
    """
    place = sweep.claim(number)
    if (aside := _set_aside(place, old)) is None:
        return False  # somebody else has it by now
    count = len(lost_claims(sweep, number))
    aside.rename(place.with_name(f"{number}.lost-{count}-{old.get('job')}"))
    return True


def let_go(sweep: SweepDir, number: int, old: dict[str, Any] | None) -> None:
    """Free a trial that a person asks for again; who vanished over it before does not count now.

    Args:
        sweep: the sweep.
        number: the trial's.
        old: its claim when it was seen to be over, if it had one.

    Raises:
        OSError: the folder cannot be written.
    """
    place = sweep.claim(number)
    if old is not None and (aside := _set_aside(place, old)) is not None:
        aside.rename(place.with_name(f"{number}.freed-{time.time_ns()}"))
    for lost in lost_claims(sweep, number):
        lost.rename(place.with_name(f"{number}.freed-{time.time_ns()}"))


def give_back(sweep: SweepDir, number: int, worker: Worker) -> None:
    """Free a trial that a worker took and does not begin.

    Raises:
        OSError: the folder cannot be written.
    """
    place = sweep.claim(number)
    if worker.holds(held := _content(place)) and (aside := _set_aside(place, held)) is not None:
        aside.unlink(missing_ok=True)


def _set_aside(place: Path, old: dict[str, Any]) -> Path | None:
    """Move a claim out of the way; return where it is then, None if it is not the old one any more.

    Between the look and the move another worker may have taken the trial over: what was moved is
    looked at again, and put back unless a third one has it by then.
    """
    if _content(place) != old:
        return None
    aside = place.with_name(
        f".{place.stem}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    )
    try:
        place.rename(aside)
    except FileNotFoundError:
        return None
    if _content(aside) == old:
        return aside
    publish(place, aside.read_text(encoding="utf-8"))
    aside.unlink(missing_ok=True)
    return None


def _content(place: Path) -> dict[str, Any]:
    value = read_json(place)
    # Cut off by a crash of its machine: a claim of nobody who lives.
    return value if isinstance(value, dict) else {}


def lost_jobs(sweep: SweepDir) -> dict[int, set[str]]:
    """Return the jobs of workers that vanished, by the trials that they had."""
    try:
        names = os.listdir(sweep.claims)  # noqa: PTH208 (thousands of files on a shared disk)
    except OSError:
        return {}
    found: dict[int, set[str]] = {}
    for match in filter(None, map(_LOST.fullmatch, names)):
        found.setdefault(int(match[1]), set()).add(match[2])
    return found


def lost_claims(sweep: SweepDir, number: int) -> list[Path]:
    """Return the claims of workers that vanished over a trial."""
    return list(sweep.claims.glob(f"{number}.lost-*"))


def jobs_of(claims: Iterable[dict[str, Any]]) -> set[str]:
    """Return the jobs that hold claims."""
    return {str(value["job"]) for value in claims if value.get("job")}


def _text(worker: Worker) -> str:
    return json.dumps(worker.plain()) + "\n"
