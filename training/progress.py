"""Where a run is: what rank 0 shows of it, and what a person asks of it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .distributed import World
from .rundir import FULL, RunDir, read_json, write_json

PROGRESS_SECONDS = 2.0
"""How often progress.json is written, and request.json read, at most."""


@dataclass
class Progress:
    """Where the run is, and what it found so far; the same on every rank."""

    step: int = 0
    total: int = 0
    epoch: float = 0.0
    examples: int = 0
    best_value: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Evaluations since the best one."""
    interrupted: bool = False
    stopped_early: bool = False
    unevaluated: bool = False
    """Whether the evaluation after this step is still to be made."""
    slots: int = 0
    """Micro-batches a rank, over all steps."""
    slots_most: int = 0
    """Most micro-batches a rank of a step."""


class ProgressFile:
    """Writes progress.json, on rank 0."""

    def __init__(
        self, run: RunDir, attempt: int, world: World, metric: str, tracker: dict[str, Any] | None
    ) -> None:
        self._run, self._world = run, world
        self._constant = {
            "attempt": attempt,
            "primary_metric": metric,
            "world_size": world.size,
            "tracker": tracker,
        }
        self._written = 0.0

    def write(
        self, phase: str, progress: Progress, more: Mapping[str, Any], force: bool = False
    ) -> None:
        """Write where the run is, unless it was written just now.

        Args:
            phase: what the run does: training, evaluating, …
            progress: where it is.
            more: what else is shown.
            force: write in any case, and wait until it is on the disk.
        """
        now = time.monotonic()
        if not self._world.is_main or (not force and now - self._written < PROGRESS_SECONDS):
            return
        self._written = now
        value = {
            "phase": phase,
            "step": progress.step,
            "total_steps": progress.total,
            "epoch": progress.epoch,
            "time": time.time(),
            "primary_value": progress.best_value,
            "interrupted": progress.interrupted,
            **self._constant,
            **more,
        }
        try:
            # Training does not wait for a disk every few seconds.
            write_json(self._run.progress, value, durable=force)
        except OSError as error:
            if error.errno not in FULL:
                raise  # of a full disk the log tells


class Requests:
    """What a person asks of the run by request.json; only rank 0 looks, every two seconds."""

    def __init__(self, run: RunDir, world: World) -> None:
        self._run, self._world = run, world
        self._looked = 0.0
        self._found: dict[str, Any] = {}
        self._answered: Any = None

    def stop(self) -> bool:
        """Return whether a person asked this run to stop."""
        return self._world.is_main and bool(self._look().get("stop"))

    def checkpoint(self) -> bool:
        """Return whether a person asks for a checkpoint now; once for each time it is asked."""
        asked = self._look().get("checkpoint") if self._world.is_main else None
        if asked is None or asked == self._answered:
            return False
        self._answered = asked
        return True

    def _look(self) -> dict[str, Any]:
        if time.monotonic() - self._looked >= PROGRESS_SECONDS:
            self._looked = time.monotonic()
            self._found = read_json(self._run.request) or {}
        return self._found
