"""When a checkpoint is due, and what is said of one so that nothing can be lost unseen."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from .batching import epoch_order, step_ids, steps_in_epoch
from .config import RunConfig
from .progress import Requests
from .saver import Saver
from .schedule import learning_rate

SAVE_SECONDS = 300.0
"""How often `--save-every auto` writes a checkpoint, at most."""
SAVE_SHARE = 0.01
"""Which share of the time `--save-every auto` may stand still for it."""


class SaveTimes:
    """When to save: every so many steps, when it is time, or when a person asks for it."""

    def __init__(self, config: RunConfig, saver: Saver, requests: Requests) -> None:
        self._every = config.train.save_every
        self._saver, self._requests = saver, requests
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Return whether the configuration wants a checkpoint after this step."""
        return isinstance(self._every, int) and step % self._every == 0

    def wanted(self) -> bool:
        """Return whether it is time for one, or a person asks for one. For rank 0 to ask."""
        if self._saver.open:
            return False
        if self._requests.checkpoint():
            return True
        if self._every != "auto":
            return False
        interval = max(SAVE_SECONDS, self._saver.pause / SAVE_SHARE)
        return time.monotonic() - self._saved_at >= interval

    def saved(self) -> None:
        """Note that one was begun."""
        self._saved_at = time.monotonic()


def describe_place(config: RunConfig, rows: int, step: int, total: int) -> dict[str, Any]:
    """Return the next examples, as a checksum of their ids, and the next learning rate.

    Args:
        config: of the run.
        rows: training rows.
        step: optimizer steps done.
        total: optimizer steps in all.
    """
    batch = config.batch.global_batch
    epoch, place = divmod(step, steps_in_epoch(rows, batch))
    ids = step_ids(epoch_order(rows, config.train.seed, epoch), place, batch)
    return {
        "next_ids": hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16],
        "lr": learning_rate(config.optim, step, total),
    }
