"""What Slurm's accounting says that a job used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from slurm.scontrol import Refused, Silent, ask, parse_moment

SECONDS = 20.0
"""How long sacct may take."""
AT_ONCE = 500
"""Job ids of one question."""
FIELDS = (
    "JobID,State,Submit,ElapsedRaw,TimelimitRaw,TotalCPU,AllocCPUS,NNodes,ReqMem,MaxRSS,AllocTRES"
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


@dataclass(frozen=True)
class Used:
    """One job, over all its steps."""

    job: str
    state: str
    seconds: float
    """From its (last) start to its end."""
    limit_seconds: float | None
    cpu_seconds: float | None
    """Of all processes; None where the cluster does not gather it."""
    cores: int
    nodes: int
    requested_bytes: float | None
    """Memory of a node that was asked for."""
    peak_bytes: float | None
    """Most memory of one step on one node: None where the cluster does not gather it."""
    gpus: int


def ask_used(jobs: Iterable[str], since: float = 0.0) -> dict[str, Used]:
    """Return what accounting knows of jobs, by id; nothing where there is no accounting.

    Args:
        jobs: ids, `12` or `12_3`.
        since: epoch seconds: ids start again after a reset of the cluster, and what was submitted
            before is another job.
    """
    wanted = list(dict.fromkeys(jobs))
    found: dict[str, Used] = {}
    for i in range(0, len(wanted), AT_ONCE):
        some = ",".join(wanted[i : i + AT_ONCE])
        try:
            text = ask("sacct", "-n", "-P", "-D", "-j", some, "-o", FIELDS, seconds=SECONDS)
        except (Refused, Silent):
            break
        found |= parse(text, since)
    return {job: used for job, used in found.items() if job in wanted}


def parse(text: str, since: float = 0.0) -> dict[str, Used]:
    """Return the jobs in sacct's lines of `FIELDS`, steps added up.

    A job that was queued again stands there once a start; they are one job here: times add up,
    peaks do not. Steps belong to the start that stands above them.
    """
    starts: dict[str, list[list[str]]] = {}
    steps: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != len(FIELDS.split(",")):
            continue
        job, dot, _ = parts[0].partition(".")
        submitted = parse_moment(parts[2])
        if submitted is not None and submitted < since:
            continue
        (steps if dot else starts).setdefault(job, []).append(parts)
    return {job: _used(job, rows, steps.get(job, [])) for job, rows in starts.items()}


def _used(job: str, starts: list[list[str]], steps: list[list[str]]) -> Used:
    last = starts[-1]
    cores, nodes = _whole(last[6]) or 0, _whole(last[7]) or 1
    peaks = [p for row in steps if (p := parse_memory(row[9]))]
    cpu = sum(parse_clock(row[5]) or 0.0 for row in starts)
    if not cpu:
        cpu = sum(parse_clock(row[5]) or 0.0 for row in steps)
    limit = _whole(last[4])
    return Used(
        job=job,
        state=(last[1].split() or [""])[0].rstrip("+"),
        seconds=float(sum(_whole(row[3]) or 0 for row in starts)),
        limit_seconds=60.0 * limit if limit is not None else None,
        cpu_seconds=cpu or None,
        cores=cores,
        nodes=nodes,
        requested_bytes=_requested(last[8], last[10], cores, nodes),
        peak_bytes=max(peaks, default=None),
        gpus=_gpus(last[10]),
    )


def _requested(req: str, tres: str, cores: int, nodes: int) -> float | None:
    """Return the bytes of a node that were asked for.

    Up to Slurm 21.08 a request ends in `n` (a node) or `c` (a core); since then it is of the whole
    job, or `0` for all of a node's.
    """
    text, kind = (req[:-1], req[-1]) if req[-1:] in ("n", "c") else (req, "")
    asked = parse_memory(text)
    if asked and kind:
        return asked * (cores / nodes if kind == "c" else 1)
    if asked:
        return asked / nodes
    match = re.search(r"(?:^|,)mem=([\d.]+[KMGTP]?)", tres)
    given = parse_memory(match[1]) if match else None
    return given / nodes if given else None


def _gpus(tres: str) -> int:
    match = re.search(r"(?:^|,)gres/gpu=(\d+)", tres)
    return int(match[1]) if match else 0


def parse_memory(text: str) -> float | None:
    """Return the bytes of `1234K`, `1.5G`, `0`; None of nothing or of 0."""
    match = re.fullmatch(r"([\d.]+)([KMGTP]?)", text.strip())
    try:
        return float(match[1]) * _UNITS[match[2]] or None if match else None
    except ValueError:
        return None


def parse_clock(text: str) -> float | None:
    """Return the seconds of `[D-][HH:]MM:SS[.mmm]`; None of anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text.strip())
    if not match:
        return None
    days, hours, minutes, seconds = match.groups()
    return (
        86400.0 * int(days or 0) + 3600.0 * int(hours or 0) + 60.0 * int(minutes) + float(seconds)
    )


def _whole(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
