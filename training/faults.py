"""Faults on purpose: what `train.fault` asks for, to see that a run survives it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Literal, cast

from .rundir import RunDir, write_json

Kind = Literal["raise", "kill", "hang", "nan", "stop", "oom", "slow"]


@dataclass(frozen=True)
class Fault:
    """What to do, and where."""

    kind: Kind
    step: int
    """Optimizer steps done before it."""
    number: int | None
    """Rank, or for `oom` the budget of tokens below which memory suffices."""

    def rank(self, world_size: int) -> int:
        """Return the rank that it meets: the last one unless said otherwise."""
        return world_size - 1 if self.number is None or self.kind == "oom" else self.number


def parse_fault(text: str) -> Fault:
    """Return the fault that a checked `KIND@STEP[:NUMBER]` means."""
    kind, _, place = text.partition("@")
    step, _, number = place.partition(":")
    return Fault(cast(Kind, kind), int(step), int(number) if number else None)


def spent(run: RunDir) -> bool:
    """Return whether the run has met its fault already, in this or an earlier attempt."""
    return any(run.fault(n).exists() for n in run.attempt_numbers())


def strike(fault: Fault, run: RunDir, attempt: int, rank: int) -> None:
    """Do what the fault says to this rank; `nan`, `oom` and `slow` are done where they happen.

    Raises:
        RuntimeError: of the kind `raise`.
    """
    told = {"kind": fault.kind, "step": fault.step, "rank": rank, "time": time.time()}
    write_json(run.fault(attempt), told)
    print(f"rehearsing a fault: {fault.kind} at step {fault.step}", flush=True)
    if fault.kind == "raise":
        raise RuntimeError(f"pretended at step {fault.step} (train.fault)")
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.kind == "stop":
        os.kill(os.getpid(), signal.SIGUSR2)
    if fault.kind == "hang":
        while True:
            time.sleep(60)
