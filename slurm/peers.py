"""The other nodes of an attempt: which one failed, and which one is gone without a word."""

from __future__ import annotations

import signal
import time
from typing import Any

from slurm import scontrol
from slurm.attempt import Attempt
from slurm.failure import Cause
from slurm.scontrol import Refused, Silent, say
from slurm.signals import STOPS, Signals
from training.rundir import read_json

LOOK_SECONDS = 0.5
LOST_SECONDS = 8.0
"""All agents of a job get TERM together and note it at once: one that has not by then is gone.
Well within KillWait, which is 30 s unless a site says otherwise."""
LOST_FOR_SURE_SECONDS = 4.0
"""The same where Slurm says that the job goes on: then a step is ended because a task died."""
STORY_SECONDS = 15.0
"""How long a node that only knows that a peer is gone waits to hear why."""
PATIENCE_SECONDS = 60.0
"""How long torchrun may go on after another node failed."""


class Peers:
    """What this node makes of the other nodes' records."""

    def __init__(self, attempt: Attempt, signals: Signals) -> None:
        self.culprit: int | None = None
        """Another node that failed or is gone, because of which this one is ended."""
        self.lost = False
        """That node's agent ended without a word."""
        self._attempt, self._signals = attempt, signals
        # When things were first seen, in monotonic seconds; 0: not yet.
        self._failed_at = self._term_at = 0.0
        self._job: str | None = None

    def records(self) -> list[tuple[int, dict[str, Any]]]:
        """Return number and `node-<k>.json` of every other node; empty where it has none yet."""
        attempt, found = self._attempt, []
        for node in range(attempt.nodes):
            if node != attempt.node:
                value = read_json(attempt.run_dir.node(attempt.number, node))
                found.append((node, value if isinstance(value, dict) else {}))
        return found

    def signals(self) -> set[signal.Signals]:
        """Return the signals that made other nodes stop; this one may have had none."""
        names = {value.get("signal") for _, value in self.records()}
        return {number for number in STOPS if number.name in names}

    def await_end(self, seconds: float) -> None:
        """Wait until all other agents have written their last line, or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(value.get("ended") for _, value in self.records()):
                return
            time.sleep(LOOK_SECONDS)

    def look(self, now: float) -> bool:
        """Look for a culprit; return whether one failed to which this node gives time to tell."""
        failed = next((n for n, v in self.records() if v.get("end") == "failed"), None)
        if failed is None:
            self.look_for_lost(now)
            return False
        self._failed_at = self._failed_at or now
        if not self._signals.first and now <= self._failed_at + PATIENCE_SECONDS:
            return True
        self.culprit = failed
        say(f"node {failed} failed: ending the ranks here")
        return False

    def look_for_lost(self, now: float) -> None:
        """After TERM: see whether an agent has ended without a word."""
        if signal.SIGTERM not in self._signals.seen or self._attempt.nodes == 1:
            return
        self._term_at = self._term_at or now
        silent = [node for node, value in self.records() if not value.get("end")]
        if not silent or now < self._term_at + LOST_FOR_SURE_SECONDS:
            return
        if self._job is None:
            self._job = self._state_of_job()
        sure = self._job == "RUNNING"
        if self._job != "PREEMPTED" and (sure or now >= self._term_at + LOST_SECONDS):
            self.culprit, self.lost = silent[0], True
            say(f"node {self.culprit} ({self._attempt.allocation.hosts[self.culprit]}) is gone")

    def _state_of_job(self) -> str:
        """Return Slurm's word for the job, PREEMPTED in its grace time; empty where unknown."""
        allocation = self._attempt.allocation
        if not allocation.slurm:
            return ""
        try:
            fields = scontrol.show_job(allocation.job_id, seconds=3.0)
        except (Refused, Silent):
            return ""
        if scontrol.is_preempted(fields):
            return "PREEMPTED"
        return "RUNNING" if scontrol.runs(fields) else fields.get("JobState", "")

    def hear_the_story(self) -> None:
        """Wait until a peer says why it failed, or turns out to be gone."""
        deadline = time.monotonic() + STORY_SECONDS
        while time.monotonic() < deadline and not self.lost:
            told = [value for _, value in self.records()]
            if all(value.get("ended") for value in told):
                return
            causes = [value["cause"] for value in told if value.get("cause")]
            if any(not cause.get("secondary") for cause in causes):
                return
            self.look_for_lost(time.monotonic())
            time.sleep(LOOK_SECONDS)

    def cause(self) -> Cause:
        """Return why this node failed, where another one is the culprit."""
        assert self.culprit is not None
        host = self._attempt.allocation.hosts[self.culprit]
        if not self.lost:
            message = f"node {self.culprit} failed"
            return Cause(time.time(), "PeerFailed", message, None, None, secondary=True)
        return Cause(
            time.time(),
            "PeerFailed",
            f"node {self.culprit} ({host}) is gone: its agent was killed, or the host failed",
            None,
            None,
            blame=host,
        )
