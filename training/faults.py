"""Faults on purpose: what `train.fault` asks for, to see that a run survives it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Literal, cast

import torch

from .config import RunConfig
from .distributed import World
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


class Rehearsal:
    """The fault of `train.fault`, where the run has one and has not met it yet."""

    def __init__(self, config: RunConfig, run: RunDir, attempt: int, world: World) -> None:
        self._run, self._attempt, self._world = run, attempt, world
        self._budget = int(config.batch.micro_tokens)
        self._fault = parse_fault(config.train.fault) if config.train.fault else None
        if self._fault is not None and self._fault.kind != "oom" and spent(run):
            self._fault = None

    def due(self, step: int) -> bool:
        """Return whether some rank meets a fault in this step; the same on every rank."""
        return self._fault is not None and self._fault.step == step

    def meets(self, step: int, kind: Kind) -> bool:
        """Return whether a fault of this kind meets this rank in this step."""
        fault = self._fault
        if fault is None or fault.kind != kind or fault.step != step:
            return False
        return fault.rank(self._world.size) == self._world.rank

    def strike(self, step: int) -> None:
        """Do what the fault says, if it meets this rank before this step.

        Raises:
            RuntimeError: of the kind `raise`.
        """
        fault = self._fault
        if fault is not None and fault.kind != "oom" and self.meets(step, fault.kind):
            strike(fault, self._run, self._attempt, self._world.rank)

    def run_out_of_memory(self, step: int, budget: int) -> None:
        """Raise `torch.OutOfMemoryError` if the fault says so of micro-batches of this budget."""
        fault = self._fault
        if fault is None or not self.meets(step, "oom"):
            return
        if budget >= (fault.number or self._budget):
            raise torch.OutOfMemoryError(f"pretended at step {step} (train.fault)")
