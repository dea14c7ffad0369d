"""Where a job stands: its place in the queue and expected start, or the time it has left.

Two questions to Slurm for one job; not for tables of many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from launch.reporting.sacct import parse_clock
from slurm.scontrol import Refused, Silent, ask, parse_moment


@dataclass(frozen=True)
class Place:
    """Where a job stands."""

    partition: str = ""
    place: int | None = None
    """Of a queued job: 1 is next, by priority among the partition's queued jobs."""
    queued: int | None = None
    """How many jobs of the partition are queued, with this one."""
    expected_start: float | None = None
    """Of a queued job: epoch seconds, where Slurm has a plan for it."""
    left_seconds: float | None = None
    """Of a running job: until its time limit. None: it has none."""


def place_of(job: str) -> Place | None:
    """Return where a job stands; None where Slurm does not say, or the job has ended."""
    try:
        own = ask("squeue", "-h", "-r", "-j", job, "--format=%T|%Q|%P|%S|%L")
        state, priority, partition, start, left = own.splitlines()[0].split("|")
    except (Refused, Silent, IndexError, ValueError):
        return None
    if state in ("RUNNING", "SIGNALING"):
        return Place(partition, left_seconds=parse_clock(left))
    if state != "PENDING":
        return None
    found = Place(partition, expected_start=parse_moment(start))
    try:
        config = ask("scontrol", "show", "config")
        if re.search(r"^PrivateData\s*=.*\b(jobs|all)\b", config, re.M):
            return found  # the jobs of others are hidden: nobody can count them
        words = ("squeue", "-h", "-t", "PD", "-p", partition, "--format=%i|%Q")
        place, queued = rank_in(ask(*words).splitlines(), job, int(priority))
    except (Refused, Silent, ValueError):
        return found
    return Place(partition, place, queued, found.expected_start)


def rank_in(lines: Iterable[str], job: str, priority: int) -> tuple[int, int]:
    """Return a job's place in a queue, from 1, and the queue's length.

    Args:
        lines: `%i|%Q` of all queued jobs, an array in one line.
        job: the job's id, `12` or `12_3`.
        priority: of the job. Of equal ones the lower id comes first.
    """
    own = int(job.partition("_")[0])
    ahead = others = 0
    for line in lines:
        text, _, theirs = line.partition("|")
        match = re.match(r"\d+", text)
        if not match or not theirs.strip().isdigit() or int(match[0]) == own:
            continue
        others += 1
        ahead += (-int(theirs), int(match[0])) < (-priority, own)
    return ahead + 1, others + 1


def queue_words(place: Place, now: float) -> str | None:
    """Return the place of a queued job in words; None where nothing is known."""
    said = []
    if place.place is not None:
        where = f" of {place.queued}" if place.queued and place.queued > 1 else ""
        said.append(f"place {place.place}{where} in partition {place.partition}")
    if place.expected_start is not None:
        from launch.duration import words

        moment = datetime.fromtimestamp(place.expected_start)
        form = "%H:%M" if place.expected_start - now < 86_400 else "%d %b %H:%M"
        away = max(0.0, place.expected_start - now)
        said.append(f"expected to start at {moment:{form}}, in {words(away)}")
    return "; ".join(said) or None
