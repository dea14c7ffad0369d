"""One torchrun from its start to its end: stops are passed on, what cannot end well is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from slurm import processes
from slurm.allocation import meeting_point
from slurm.attempt import Attempt, End
from slurm.lead import lead_seconds
from slurm.peers import Peers
from slurm.scontrol import say
from slurm.signals import EndOfJob, Signals, ignore_stops
from slurm.start import ranks_of_node
from training.rundir import read_json

POLL_SECONDS = 0.1
RESEND_SECONDS = 2.0
LOOK_SECONDS = 1.0
CLOSING = b"closing signal SIGTERM"
"""What torchrun logs when a rank died and it asks the others to end. It would wait 30 s for them
(fixed in torch), though they hang in a collective and the other nodes wait for this one."""
CLOSING_SECONDS = 10.0
CALM_LOOK_SECONDS = 15.0
"""How often the other nodes' records are looked at while nothing seems wrong."""
RESULTS_SECONDS = 300.0
"""How long torchrun may go on once results.json is there."""
SETTLE_SECONDS = 5.0
"""How long a node waits for results.json of a rank on another node (network file systems)."""


class Supervisor:
    """Runs the ranks of one attempt on this node."""

    def __init__(
        self, attempt: Attempt, peers: Peers, signals: Signals, end_of_job: EndOfJob
    ) -> None:
        self._attempt, self._peers = attempt, peers
        self._signals, self._end_of_job = signals, end_of_job
        self._overdue = False
        """The results are there, and the ranks had to be ended."""
        # In monotonic seconds; 0: not yet.
        self._next_look = self._results_at = 0.0

    def run(self, module: str) -> tuple[End, int | None]:
        """Start torchrun and wait for its end; return how it was, and its exit status.

        Args:
            module: what torchrun starts.
        """
        attempt, allocation = self._attempt, self._attempt.allocation
        mark = f"{allocation.raw_id}-{attempt.number}-{attempt.node}-{os.getpid()}"
        meet = meeting_point(allocation, attempt.number, attempt.nodes)
        argv, environment = ranks_of_node(
            attempt.config,
            meet,
            attempt.run_dir.path,
            node=attempt.node,
            nodes=attempt.nodes,
            cores=allocation.cores,
            attempt=attempt.number,
            module=module,
        )
        environment[processes.MARK] = mark
        if self._signals.first:
            return "interrupted", None  # asked to stop before there was anything to stop
        reaper = processes.start_reaper(mark)
        try:
            with self._log.open("ab") as log:
                torchrun = subprocess.Popen(
                    argv,
                    env=environment,
                    cwd=attempt.run_dir.path,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Between fork and exec. An ignored signal stays ignored across exec:
                    # proctrack/linuxproc sends USR2 to every process of the step, and a rank that
                    # is importing has no handler yet.
                    preexec_fn=ignore_stops,
                )
            try:
                code = self._wait(torchrun, mark)
            finally:
                # Its ranks are in sessions of their own and outlive it when it is killed.
                left = processes.kill_marked(mark)
                torchrun.wait()
                if left:
                    say(f"processes {left} did not die")
        finally:
            if reaper.stdin:
                reaper.stdin.close()
            reaper.wait()
        return self._judge(code), code

    def _ranks(self, torchrun: int, mark: str) -> list[int]:
        """Return the ranks here; with a container other processes are between them and us."""
        inside = self._attempt.config.cluster.container is not None
        return processes.ranks(mark) if inside else processes.children(torchrun)

    @property
    def _log(self) -> Path:
        return self._attempt.run_dir.torchrun_log(self._attempt.number, self._attempt.node)

    def _wait(self, torchrun: subprocess.Popen[bytes], mark: str) -> int:
        """Wait for torchrun; forward a stop to its ranks; give up what cannot end well."""
        resend = look = 0.0
        closing = float("inf")
        while (code := torchrun.poll()) is None:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            stop = self._signals.first
            if stop and now >= resend:
                if resend == 0.0:
                    # If Slurm kills us before the ranks are done, this much is known.
                    self._attempt.note(end="interrupted", signal=stop.name)
                    say(f"{stop.name}: asking the ranks to stop")
                # To the ranks, never to torchrun: it would kill them. Again and again, and only
                # to those that have a handler: a rank that starts ignores the signal still, and
                # one that ends has taken its handler down (Python restores the default) and
                # would be killed by it after it saved.
                for pid in self._ranks(torchrun.pid, mark):
                    if processes.catches(pid, signal.SIGUSR2):
                        processes.send(pid, signal.SIGUSR2)
                resend = now + RESEND_SECONDS
            if now < look:
                continue
            look = now + LOOK_SECONDS
            self._watch_the_time()
            if self._cannot_end(now):
                processes.kill_marked(mark)
            if closing == float("inf") and self._is_closing():
                closing = now + CLOSING_SECONDS
            if now >= closing:
                for pid in self._ranks(torchrun.pid, mark):
                    processes.send(pid, signal.SIGKILL)
        return code

    def _watch_the_time(self) -> None:
        """Have the ranks stop when what is left of the job is what they need to save."""
        end = self._end_of_job.at
        if end is None or self._signals.first:
            return
        number = self._attempt.number
        progress = read_json(self._attempt.run_dir.progress)
        if not isinstance(progress, dict) or progress.get("attempt", number) != number:
            progress = {}
        lead = lead_seconds(
            progress.get("step_seconds"), progress.get("save_seconds"), self._end_of_job.limit
        )
        left = end - time.time()
        if left <= lead:
            say(f"the job ends in {left:.0f} s; step and save need {lead:.0f} s")
            self._attempt.record["lead_seconds"] = lead
            self._signals.pretend(signal.SIGUSR2)

    def _cannot_end(self, now: float) -> bool:
        """Return whether the ranks here must be ended, because they will not end by themselves.

        Slurm ends this node with TERM after another one failed. That looks like a preemption,
        but the ranks here hang in a collective that will never end.
        """
        if self._overdue or self._peers.culprit is not None:
            return True
        if not self._signals.first and now < self._next_look:
            return False
        self._next_look = now + CALM_LOOK_SECONDS
        if self._attempt.run_dir.results.exists():
            self._results_at = self._results_at or now
            self._overdue = now > self._results_at + RESULTS_SECONDS
            if self._overdue:
                say("the results are there, but the ranks do not end")
            return self._overdue
        if self._attempt.nodes == 1:
            return False
        if self._peers.look(now):
            self._next_look = now + LOOK_SECONDS
        return self._peers.culprit is not None

    def _is_closing(self) -> bool:
        try:
            with self._log.open("rb") as log:
                return CLOSING in log.read()
        except OSError:
            return False

    def _judge(self, code: int) -> End:
        """Return how this node ended, from torchrun's exit status and the run's files."""
        run, number = self._attempt.run_dir, self._attempt.number
        if self._overdue:
            return "finished"
        if code != 0 or self._peers.culprit is not None:
            return "failed"
        if run.results.exists():
            return "finished"
        if self._signals.first:
            return "interrupted"
        # Stopped without a signal here: another node had one, or a person asked for it.
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            progress = read_json(run.progress) or {}
            if progress.get("interrupted") and progress.get("attempt", number) == number:
                return "interrupted"
            if run.results.exists():
                return "finished"
            time.sleep(POLL_SECONDS)
        # Rank 0 answers for the results; here all ranks ended well, and the file may be late.
        return "failed" if self._attempt.node == 0 else "finished"
