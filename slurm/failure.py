"""Why a node failed: its ranks' own words, else what torchrun saw of them. Pure parsing."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from training.rundir import RunDir, read_json

_ENTRY = re.compile(
    r"time\s*: (?P<time>\S+)\s*"
    r"host\s*: \S*\s*"
    r"rank\s*: (?P<rank>\d+) \(local_rank: \d+\)\s*"
    r"exitcode\s*: (?P<exitcode>-?\d+) \(pid: (?P<pid>\d+)\)"
)

SAME_MOMENT_SECONDS = 2.0
"""torchrun's times are whole seconds; it gives peers more than this before it kills them."""


@dataclass(frozen=True)
class Cause:
    """One reason for a failure, as `node-<k>.json` holds it."""

    time: float
    """Epoch seconds."""
    kind: str
    """Class of the exception, or the signal's name."""
    message: str
    rank: int | None
    """Global rank; None where no rank is to blame."""
    log: str | None
    """Log to read, relative to the run directory."""
    secondary: bool = False
    """It only follows from the death of another rank."""
    blame: str | None = None
    """The host that is to blame, where that is another one than the reporter's."""

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Death:
    """The end of one rank as torchrun reports it."""

    time: float
    rank: int
    exitcode: int
    """Below 0: minus the number of the signal that ended it."""


def parse_torchrun(text: str) -> list[Death]:
    """Return the deaths in torchrun's closing block, the "Root Cause" and the other failures."""
    deaths = []
    for match in _ENTRY.finditer(re.sub(r"\x1b\[[0-9;]*m", "", text)):
        try:
            moment = datetime.strptime(match["time"], "%Y-%m-%d_%H:%M:%S").timestamp()
        except ValueError:
            moment = 0.0
        deaths.append(Death(moment, int(match["rank"]), int(match["exitcode"])))
    return deaths


def describe_death(death: Death) -> tuple[str, str]:
    """Return kind and message of a rank that ended without a word of its own."""
    if death.exitcode >= 0:
        return "Exit", f"rank {death.rank} ended with exit status {death.exitcode}"
    number = -death.exitcode
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"SIG{number}"
    if number == signal.SIGKILL:
        return name, f"rank {death.rank} was killed (signal 9): out of memory?"
    if number == signal.SIGXCPU:
        return name, f"rank {death.rank} met a limit of CPU time (ulimit -t)"
    return name, f"rank {death.rank} was killed (signal {number}, {name})"


_FULL = ("No space left on device", "Disk quota exceeded")
_TAIL_BYTES = 4096


def last_words(log: Path) -> str:
    """Return the last line of a log; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def find_cause(
    run: RunDir, attempt: int, node: int, ranks: Sequence[int], exit_code: int, now: float
) -> Cause:
    """Return the first cause of this node's failure.

    A rank's own report counts first, then a signal that torchrun saw end a rank, then a bare exit
    status, then reports that only follow from a peer's death. The order matters: when a rank is
    killed, its peers on the node raise too, and theirs are the only files.

    Args:
        run: the run.
        attempt: number of the attempt.
        node: number of this node.
        ranks: global ranks of this node.
        exit_code: torchrun's.
        now: epoch seconds, for causes that carry no time.
    """

    def shown(path: Path) -> str:
        return str(path.relative_to(run.path))

    def log_of(rank: int) -> str:
        path = run.rank_log(attempt, node, rank)
        return shown(path if path.exists() else run.torchrun_log(attempt, node))

    told = []
    for rank in ranks:
        error = read_json(run.rank_error(attempt, node, rank))
        if isinstance(error, dict):
            told.append(
                Cause(
                    time=float(error.get("time") or now),
                    kind=str(error.get("kind") or "Exception"),
                    message=str(error.get("message") or ""),
                    # Whoever reports a hang is not the one that hangs.
                    rank=error["rank"] if isinstance(error.get("rank"), int) else rank,
                    log=log_of(rank),
                    secondary=bool(error.get("secondary")),
                    blame=error["blame"] if isinstance(error.get("blame"), str) else None,
                )
            )
    try:
        text = run.torchrun_log(attempt, node).read_text(errors="replace")
    except OSError:
        text = ""
    spoke = {r for r in ranks if run.rank_error(attempt, node, r).exists()}
    deaths = parse_torchrun(text)
    first = min((d.time for d in deaths), default=0.0)
    seen = []
    for death in sorted(deaths, key=lambda d: (d.exitcode >= 0, d.time)):
        # Later deaths are the peers that torchrun itself ended, by TERM and then by KILL.
        ended = death.exitcode == -signal.SIGTERM or death.time > first + SAME_MOMENT_SECONDS
        if death.rank not in spoke and not ended:
            kind, message = describe_death(death)
            words = last_words(run.path / log_of(death.rank)) if kind == "Exit" else ""
            if any(full in words for full in _FULL):
                # Where the disk is full a rank cannot write its report.
                kind, message = "DiskFull", words
            seen.append(Cause(death.time or now, kind, message, death.rank, log_of(death.rank)))
    primary = sorted((c for c in told if not c.secondary), key=lambda c: c.time)
    secondary = sorted((c for c in told if c.secondary), key=lambda c: c.time)
    known = [*primary, *seen, *secondary]
    if known:
        return known[0]
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    ended = f"signal {-exit_code}" if exit_code < 0 else f"exit status {exit_code}"
    return Cause(
        time=now,
        kind="Torchrun",
        message=f"torchrun ended with {ended}" + (f": {last.strip()[:300]}" if last else ""),
        rank=None,
        log=shown(run.torchrun_log(attempt, node)),
    )
