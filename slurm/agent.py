"""The node agent: one process per node, which starts one torchrun and answers for it.

It runs under submitit, in a step of the job. What it sees it writes to `node-<k>.json`, so that
the login node can tell how a run ended without asking anybody. No torch here: the agent must
stand when torch does not import.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, Literal

from slurm import processes
from slurm.allocation import Allocation, meeting_point, read_allocation
from slurm.command import MODULE, rank_environment, torchrun_argv
from slurm.failure import Cause, find_cause
from training.config import RunConfig, UsageError, load_config
from training.rundir import RunDir, read_json, write_json

POLL_SECONDS = 0.1
RESEND_SECONDS = 2.0
LOOK_SECONDS = 1.0
CLOSING = b"closing signal SIGTERM"
"""What torchrun logs when a rank died and it asks the others to end. It would wait 30 s for them
(fixed in torch), though they hang in a collective and the other nodes wait for this one."""
CLOSING_SECONDS = 10.0
HANDOVER_SECONDS = 30.0
"""How long node 0 waits for the other nodes before it has the job queued again."""
SETTLE_SECONDS = 5.0
"""How long a node waits for results.json of a rank on another node (network file systems)."""

STOPS = (signal.SIGUSR2, signal.SIGTERM)
"""USR2: the time limit is near, or `scancel --signal`. TERM: preempted, cancelled, or killed."""

End = Literal["finished", "failed", "interrupted"]


class NodeFailed(Exception):
    """This node's part of the job failed. The message is its first cause."""


class NodeAgent:
    """What submitit pickles and calls on every node: two numbers and a path, no secrets."""

    def __init__(
        self, run_dir: str, first_attempt: int = 0, *, requeued: int = 0, module: str = MODULE
    ) -> None:
        self.run_dir = run_dir
        self.first_attempt = first_attempt
        self.requeued = requeued
        """Restarts that Slurm does not count: those of a local job."""
        self.module = module
        """What torchrun starts; tests start smaller things."""

    def __call__(self) -> str:
        """Run this node's part of the job. Returns how it ended: finished or interrupted.

        Raises:
            NodeFailed: it failed, here or on another node.
            SystemExit: the job was queued again.
        """
        allocation = read_allocation()
        with _Signals() as signals:
            watch = _Node(self, allocation, signals)
            end = watch.run()
            if end == "failed":
                raise NodeFailed(watch.record["cause"]["message"])
            if end == "interrupted" and allocation.node == 0:
                watch.requeue()
            return end

    def checkpoint(self) -> Any:
        """Return what submitit runs when the job is queued again.

        Slurm counts restarts itself (SLURM_RESTART_COUNT); a local job's are counted here.
        """
        from submitit.helpers import DelayedSubmission

        local = not read_allocation().slurm
        return DelayedSubmission(
            NodeAgent(
                self.run_dir,
                self.first_attempt,
                requeued=self.requeued + int(local),
                module=self.module,
            )
        )


class _Signals:
    """Notes the first USR2 or TERM; remembers submitit's own handlers.

    On leaving, both are ignored: what comes late must not end the process between the ranks'
    end and submitit's last write.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.seen: set[signal.Signals] = set()
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in STOPS:
            self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        self.ignore()

    def ignore(self) -> None:
        """Ignore both from now on."""
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.first = self.first or signal.Signals(number)
        self.seen.add(signal.Signals(number))


class _Node:
    """One attempt on one node, from start to end."""

    def __init__(self, agent: NodeAgent, allocation: Allocation, signals: _Signals) -> None:
        self.agent = agent
        self.allocation = allocation
        self.signals = signals
        self.run_dir = RunDir(agent.run_dir)
        self.restarts = allocation.restarts + agent.requeued
        self.attempt = agent.first_attempt + self.restarts
        self.node = allocation.node
        self.config = self._read_config()
        self.nodes = self.config.cluster.nodes
        self.procs = self.config.cluster.procs_per_node or 1
        self.peer_failed: int | None = None
        self.record: dict[str, Any] = {
            "job_id": allocation.job_id,
            "host": socket.gethostname(),
            "attempt": self.attempt,
            "node": self.node,
            "start": time.time(),
            "pid": os.getpid(),
            "cores": allocation.cores,
        }

    def run(self) -> End:
        """Start torchrun, wait for its end, write down how it was."""
        try:
            self.run_dir.logs(self.attempt).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NodeFailed(self._unusable(f"cannot be written: {error.strerror}")) from None
        self._note()
        try:
            end, code = self._torchrun()
            cause = self._cause(code) if end == "failed" else None
        except KeyboardInterrupt:  # how submitit ends a local job
            self._note(end="interrupted", signal="SIGINT", ended=time.time())
            raise
        except Exception as error:
            say(traceback.format_exc())
            end, code = "failed", 1
            cause = Cause(time.time(), type(error).__name__, str(error), None, None)
        self._note(end=end, exit_code=code, cause=cause and cause.plain(), ended=time.time())
        say(f"node {self.node} {end}" + (f": {cause.message}" if cause else ""))
        return end

    def requeue(self) -> None:
        """On node 0, after an interruption: have the job queued again, where that is ours to do.

        Raises:
            SystemExit: by submitit, after the requeue.
        """
        reason = self._no_requeue()
        if reason:
            say(f"not queued again: {reason}")
            return
        # `scontrol requeue` ends what still runs on the other nodes, and submitit leaves with a
        # non-zero status, which ends them too: let them write their last line first.
        self._await_peers(HANDOVER_SECONDS)
        self.signals.ignore()  # the requeue's own TERM comes while scontrol runs
        if signal.SIGUSR2 in self.signals.seen:
            handler = self.signals.previous.get(signal.SIGUSR2)
            if callable(handler):
                handler(signal.SIGUSR2, None)
            return
        # TERM with time to go: Slurm preempts, and queues the job again at the end of the grace
        # time only if it is still there. We are done earlier.
        _scontrol("requeue", self.allocation.job_id)

    def _no_requeue(self) -> str | None:
        limit = self.config.cluster.max_requeues
        if self.restarts >= limit:
            return f"cluster.max_requeues={limit} is reached"
        request = read_json(self.run_dir.request)
        if isinstance(request, dict) and (request.get("stop") or request.get("requeue") is False):
            return "a person asked for the end"
        if self.signals.first is None:
            return "no signal asked for it"
        if signal.SIGUSR2 not in self.signals.seen and not (
            self.allocation.slurm and being_preempted(self.allocation.raw_id)
        ):
            return "Slurm ended the job, or queues it again by itself"
        return None

    def _read_config(self) -> RunConfig:
        # A file of a network file system may show up late on a node that looked before.
        for patience in (1.0, 4.0, 0.0):
            try:
                return load_config(self.run_dir.config)
            except UsageError as error:
                if patience == 0.0 or self.run_dir.config.exists():
                    raise NodeFailed(self._unusable(str(error))) from None
                time.sleep(patience)
        raise AssertionError("unreachable")

    def _unusable(self, reason: str) -> str:
        return (
            f"node {socket.gethostname()}: run directory {self.run_dir.path}: {reason}. "
            "It must be on a file system that all nodes see: --runs DIR"
        )

    def _note(self, **values: Any) -> None:
        self.record.update(values)
        try:
            write_json(self.run_dir.node(self.attempt, self.node), self.record)
        except OSError as error:
            # The ranks may still be well, and the job's own output says it too.
            say(f"cannot write {self.run_dir.node(self.attempt, self.node)}: {error.strerror}")

    def _torchrun(self) -> tuple[End, int | None]:
        mark = f"{self.allocation.raw_id}-{self.attempt}-{self.node}-{os.getpid()}"
        meet = meeting_point(self.allocation, self.attempt, self.nodes)
        argv = torchrun_argv(
            python=sys.executable,
            nodes=self.nodes,
            procs=self.procs,
            node=self.node,
            meet=meet,
            run_dir=str(self.run_dir.path),
            attempt=self.attempt,
            module=self.agent.module,
        )
        environment = rank_environment(
            self.config, node=self.node, cores=self.allocation.cores, inherited=os.environ
        )
        environment[processes.MARK] = mark
        if self.signals.first:
            return "interrupted", None  # asked to stop before there was anything to stop
        reaper = processes.start_reaper(mark)
        try:
            with self.run_dir.torchrun_log(self.attempt, self.node).open("ab") as log:
                torchrun = subprocess.Popen(
                    argv,
                    env=environment,
                    cwd=self.run_dir.path,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_ignore_stops,
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

    def _wait(self, torchrun: subprocess.Popen[bytes], mark: str) -> int:
        """Wait for torchrun; forward a stop to its ranks; give up what cannot end well."""
        resend = look = 0.0
        closing = float("inf")
        while (code := torchrun.poll()) is None:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            stop = self.signals.first
            if stop and now >= resend:
                if resend == 0.0:
                    # If Slurm kills us before the ranks are done, this much is known.
                    self._note(end="interrupted", signal=stop.name)
                    say(f"{stop.name}: asking the ranks to stop")
                # To the ranks, never to torchrun: it would kill them. Again and again, and only
                # to those that have a handler: a rank that starts ignores the signal still, and
                # one that ends has taken its handler down (Python restores the default) and
                # would be killed by it after it saved.
                for pid in processes.children(torchrun.pid):
                    if processes.catches(pid, signal.SIGUSR2):
                        processes.send(pid, signal.SIGUSR2)
                resend = now + RESEND_SECONDS
            if now < look:
                continue
            look = now + LOOK_SECONDS
            # Slurm ends this node with TERM after another one failed. That looks like a
            # preemption, but the ranks here hang in a collective that will never end.
            self.peer_failed = self._failed_peer() if stop else None
            if self.peer_failed is not None:
                say(f"node {self.peer_failed} failed: ending the ranks here")
                processes.kill_marked(mark)
            if closing == float("inf") and self._is_closing():
                closing = now + CLOSING_SECONDS
            if now >= closing:
                for pid in processes.children(torchrun.pid):
                    processes.send(pid, signal.SIGKILL)
        return code

    def _is_closing(self) -> bool:
        try:
            with self.run_dir.torchrun_log(self.attempt, self.node).open("rb") as log:
                return CLOSING in log.read()
        except OSError:
            return False

    def _judge(self, code: int) -> End:
        if code != 0 or self.peer_failed is not None:
            return "failed"
        if self.run_dir.results.exists():
            return "finished"
        if self.signals.first:
            return "interrupted"
        # Stopped without a signal here: another node had one, or a person asked for it.
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            progress = read_json(self.run_dir.progress) or {}
            if progress.get("interrupted") and progress.get("attempt", self.attempt) == (
                self.attempt
            ):
                return "interrupted"
            if self.run_dir.results.exists():
                return "finished"
            time.sleep(POLL_SECONDS)
        # Rank 0 answers for the results; here all ranks ended well, and the file may be late.
        return "failed" if self.node == 0 else "finished"

    def _cause(self, code: int | None) -> Cause:
        if self.peer_failed is not None:
            return Cause(
                time.time(),
                "PeerFailed",
                f"node {self.peer_failed} failed",
                None,
                None,
                secondary=True,
            )
        if code == 0:
            log = self.run_dir.torchrun_log(self.attempt, self.node)
            return Cause(
                time.time(),
                "NoResults",
                "the ranks ended without an error and without results.json",
                None,
                str(log.relative_to(self.run_dir.path)),
            )
        first = self.node * self.procs
        ranks = range(first, first + self.procs)
        assert code is not None
        return find_cause(self.run_dir, self.attempt, self.node, ranks, code, time.time())

    def _peers(self) -> list[tuple[int, dict[str, Any]]]:
        found = []
        for node in range(self.nodes):
            if node != self.node:
                value = read_json(self.run_dir.node(self.attempt, node))
                found.append((node, value if isinstance(value, dict) else {}))
        return found

    def _failed_peer(self) -> int | None:
        return next((n for n, v in self._peers() if v.get("end") == "failed"), None)

    def _await_peers(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(value.get("ended") for _, value in self._peers()):
                return
            time.sleep(5 * POLL_SECONDS)


def say(text: str) -> None:
    """Write a line to the job's own output."""
    print(f"glueline: {text}", file=sys.stderr, flush=True)


def being_preempted(job_id: str, ask: Callable[..., str] | None = None) -> bool:
    """Return whether Slurm is about to preempt a job that still runs (its grace time).

    Not so when it was cancelled, met its time limit, or when another node's failure ends the
    step: queueing it again would bring back what somebody ended, or what fails again.
    """
    text = (ask or _scontrol)("show", "job", "-o", job_id)
    state = re.search(r"\bJobState=(\w+)", text)
    moment = re.search(r"\bPreemptTime=(\S+)", text)
    return bool(
        state and state[1] == "RUNNING" and moment and moment[1] not in ("None", "Unknown", "N/A")
    )


def _scontrol(*words: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *words], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"scontrol {' '.join(words)}: {error}")
        return ""
    if done.returncode:
        say(f"scontrol {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _ignore_stops() -> None:
    # Between fork and exec. An ignored signal stays ignored across exec: proctrack/linuxproc
    # sends USR2 to every process of the step, and a rank that is importing has no handler yet.
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
