"""Time spent on a device in something that happens within a step."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Adds up spans: of the clock on a CPU, of the stream on a GPU, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._begun: Any = None
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def begin(self) -> None:
        """Begin a span; one that was begun and not ended is forgotten."""
        self._begun = self._now()

    def end(self) -> None:
        """End the span, if one was begun."""
        if self._begun is None:
            return
        if self._cuda:
            self._events.append((self._begun, self._now()))
        else:
            self._seconds += time.perf_counter() - self._begun
        self._begun = None

    def take(self) -> float:
        """Return the seconds since the last call; on a GPU this waits for the device."""
        seconds, self._seconds = self._seconds, 0.0
        if self._events:
            self._events[-1][1].synchronize()
            seconds += sum(a.elapsed_time(b) for a, b in self._events) / 1000.0
            self._events = []
        return seconds
