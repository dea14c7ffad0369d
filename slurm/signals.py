"""What tells an agent to stop: the signals it gets, and the end of the job's time."""

from __future__ import annotations

import os
import signal
import threading
import time
import types
from typing import Any

from slurm import scontrol
from slurm.allocation import Allocation
from slurm.scontrol import Refused, Silent

END_SECONDS = 180.0
"""How often Slurm is asked for the end of the job, which a person may move."""

STOPS = (signal.SIGUSR2, signal.SIGTERM)
"""USR2: the time limit is near, or `scancel --signal`. TERM: preempted, cancelled, or killed."""


class Signals:
    """Notes the first USR2 or TERM; remembers submitit's own handlers.

    On leaving, both are ignored: what comes late must not end the process between the ranks'
    end and submitit's last write.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.seen: set[signal.Signals] = set()
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in STOPS:
            self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        ignore_stops()

    def pretend(self, number: signal.Signals) -> None:
        """Act as if a signal had come."""
        self._note(number, None)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.first = self.first or signal.Signals(number)
        self.seen.add(signal.Signals(number))


def ignore_stops() -> None:
    """Ignore both signals from now on."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


class EndOfJob:
    """When the job's time is up. A thread asks Slurm, so that a slow answer holds up nothing."""

    def __init__(self, allocation: Allocation) -> None:
        self.start = time.time()
        self.at: float | None = None
        """Epoch seconds; None where it is not known (yet), or there is no limit."""
        self._done = threading.Event()
        self._thread = None
        if allocation.node != 0:
            return  # one node tells the ranks; they tell each other
        if allocation.slurm:
            job = allocation.job_id
            self._thread = threading.Thread(target=self._ask, args=(job,), daemon=True)
        elif (limit := os.environ.get("SUBMITIT_LOCAL_TIMEOUT_S", "")).isdigit():
            self.at = self.start + int(limit)

    def __enter__(self) -> EndOfJob:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()

    @property
    def limit(self) -> float | None:
        """The whole time of the job in seconds."""
        return None if self.at is None else self.at - self.start

    def _ask(self, job: str) -> None:
        while not self._done.is_set():
            try:
                self.at = scontrol.end_of_job(job)
                pause = END_SECONDS
            except (Refused, Silent):
                pause = END_SECONDS / 6  # sbatch's --signal is there besides
            self._done.wait(pause)
