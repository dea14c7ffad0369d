"""Running out of memory in the middle of a step, and how all ranks get out of it together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from .batching import CutCost
from .distributed import World

T = TypeVar("T")

_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
)
"""What allocators say that do not raise `torch.OutOfMemoryError`."""


class OutOfMemory(RuntimeError):
    """Memory ran out where ranks could not agree on smaller micro-batches any more."""


class StepAbandoned(Exception):
    """Memory ran out on some rank; every rank raises this at the same point."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


@dataclass
class Proven:
    """The largest micro-batch that has run on every rank: no larger one needs agreement."""

    tokens: int = 0
    square: int = 0

    def holds(self, cost: CutCost) -> bool:
        """Return whether a step has no larger micro-batch on any rank; the same on every rank."""
        return cost.most_tokens <= self.tokens and cost.most_square <= self.square

    def add(self, cost: CutCost) -> None:
        """Remember a step that ran."""
        self.tokens = max(self.tokens, cost.most_tokens)
        self.square = max(self.square, cost.most_square)


class MemoryGuard:
    """Keeps a rank that ran out of memory from leaving the others in a collective.

    What a rank does alone may fail; it then does nothing until the next point where all ranks
    agree, which is right before they would meet in a collective. There all abandon the step, or
    none. It costs one small all-reduce a meeting, so it is active only for steps with larger
    micro-batches than have run before.
    """

    def __init__(self, world: World, active: bool) -> None:
        self._world, self._active = world, active
        self._failed = False

    def alone(self, work: Callable[[], T]) -> T | None:
        """Return what this rank does alone; None if memory ran out, now or since the last meeting.

        Raises:
            OutOfMemory: memory ran out and the guard is not active.
        """
        if self._failed:
            return None
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not self._active:
                raise OutOfMemory(str(error)) from error
            self._failed = True
            return None

    def together(self, work: Callable[[], T]) -> T:
        """Return what all ranks do together, after they agreed that all of them can.

        Raises:
            StepAbandoned: some rank had run out of memory.
            OutOfMemory: memory ran out here, where others already wait for this rank.
        """
        if self._active and self._world.any(self._failed):
            raise StepAbandoned
        try:
            return work()
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(str(error)) from error
            raise
