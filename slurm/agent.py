"""The node agent: one process per node, which starts one torchrun and answers for it.

It runs under submitit, in a step of the job. What it sees it writes to `node-<k>.json`, so that
the login node can tell how a run ended without asking anybody. No torch here: the agent must
stand when torch does not import.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Mapping
from typing import Any, Literal

from slurm import processes, scontrol
from slurm.allocation import Allocation, meeting_point, read_allocation
from slurm.command import MODULE, rank_environment, torchrun_argv
from slurm.failure import Cause, find_cause
from slurm.lead import lead_seconds
from slurm.scontrol import Refused, Silent, say
from slurm.verdicts import (
    asked_to_end,
    attempt_number,
    judge,
    may_requeue,
    means_of,
    refused_to_go_on,
    resume_line,
    write_verdict,
)
from training.config import RunConfig, UsageError, load_config
from training.rundir import RunDir, read_json, write_json

POLL_SECONDS = 0.1
RESEND_SECONDS = 2.0
LOOK_SECONDS = 1.0
CLOSING = b"closing signal SIGTERM"
"""What torchrun logs when a rank died and it asks the others to end. It would wait 30 s for them
(fixed in torch), though they hang in a collective and the other nodes wait for this one."""
CLOSING_SECONDS = 10.0
CALM_LOOK_SECONDS = 15.0
"""How often the other nodes' records are looked at while nothing seems wrong."""
LOST_SECONDS = 8.0
"""All agents of a job get TERM together and note it at once: one that has not by then is gone.
Well within KillWait, which is 30 s unless a site says otherwise."""
LOST_FOR_SURE_SECONDS = 4.0
"""The same where Slurm says that the job goes on: then a step is ended because a task died."""
STORY_SECONDS = 15.0
"""How long a node that only knows that a peer is gone waits to hear why."""
PATIENCE_SECONDS = 60.0
"""How long torchrun may go on after another node failed."""
RESULTS_SECONDS = 300.0
"""How long torchrun may go on once results.json is there."""
END_SECONDS = 180.0
"""How often Slurm is asked for the end of the job, which a person may move."""
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
        with _Signals() as signals, _EndOfJob(allocation) as end_of_job:
            while True:
                watch = _Node(self, allocation, signals, end_of_job)
                nothing = watch.nothing_to_do()
                if nothing:
                    return nothing
                end = watch.run()
                if end == "failed" and watch.starts_again():
                    continue
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

    def pretend(self, number: signal.Signals) -> None:
        """Act as if a signal had come."""
        self._note(number, None)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.first = self.first or signal.Signals(number)
        self.seen.add(signal.Signals(number))


class _EndOfJob:
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

    def __enter__(self) -> _EndOfJob:
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


class _Clock:
    """When things were first seen, in monotonic seconds; 0: not yet."""

    def __init__(self) -> None:
        self.look_at_peers = 0.0
        self.peer_failed = 0.0
        self.results = 0.0
        self.term = 0.0
        self.job: str | None = None


class _Node:
    """One attempt on one node, from start to end."""

    def __init__(
        self,
        agent: NodeAgent,
        allocation: Allocation,
        signals: _Signals,
        end_of_job: _EndOfJob,
    ) -> None:
        self.agent = agent
        self.allocation = allocation
        self.signals = signals
        self.end_of_job = end_of_job
        self.run_dir = RunDir(agent.run_dir)
        self.restarts = allocation.restarts + agent.requeued
        self.attempt = attempt_number(
            self.run_dir, allocation.job_id, agent.first_attempt, self.restarts
        )
        self.node = allocation.node
        self.config = self._read_config()
        # What Slurm gave, which may be less than was asked for (cluster.min_nodes).
        self.nodes = len(allocation.hosts)
        self.procs = self.config.cluster.procs_per_node or 1
        self.peer: int | None = None
        """Another node that failed or is gone, because of which this one is ended."""
        self.lost = False
        """That node's agent ended without a word."""
        self.overdue = False
        self._clock = _Clock()
        self.record: dict[str, Any] = {
            "job_id": allocation.job_id,
            "host": socket.gethostname(),
            "attempt": self.attempt,
            "restarts": self.restarts,
            "node": self.node,
            "nodes": self.nodes,
            "start": time.time(),
            "pid": os.getpid(),
            "cores": allocation.cores,
        }

    def nothing_to_do(self) -> End | None:
        """Return how the run ended if there is no more to do for this job (of a chain, say).

        Raises:
            NodeFailed: the job before it failed in a way that would come again.
        """
        if read_json(self.run_dir.results) is not None:
            say("the run is finished: nothing to do")
            return "finished"
        request = read_json(self.run_dir.request)
        if isinstance(request, dict) and request.get("stop"):
            say("a person asked for the end: nothing to do")
            return "interrupted"
        why = refused_to_go_on(self.run_dir, self.allocation.job_id, self.agent.first_attempt)
        if why is not None:
            raise NodeFailed(f"the job before failed for good: {why}")
        return None

    def starts_again(self) -> bool:
        """After a failure: decide whether this job starts the next attempt by itself.

        Only a job of one node can: the others are judged when all agents have ended, at the end
        of the batch script.
        """
        if self.nodes > 1 or self.signals.first or asked_to_end(self.run_dir):
            return False
        slurm = self.allocation.slurm
        requeue = slurm and may_requeue(self.config)
        verdict = judge(
            self.run_dir,
            self.attempt,
            [self.record],
            means_of(
                self.run_dir,
                self.config,
                can_restart=True,
                can_requeue=requeue and self.restarts < self.config.cluster.max_requeues,
                can_exclude=requeue,
            ),
            procs=self.procs,
        )
        if verdict.action != "restart" and slurm:
            return False
        try:
            write_verdict(self.run_dir, self.attempt, verdict)
        except OSError as error:
            say(f"cannot write what follows: {error.strerror}")
            return False
        say(verdict.why)
        return verdict.action == "restart"

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
                self._make_patient(handler)
                handler(signal.SIGUSR2, None)
            return
        # TERM with time to go: Slurm preempts, and queues the job again at the end of the grace
        # time only if it is still there. We are done earlier.
        self._queue_again()

    def _make_patient(self, handler: Any) -> None:
        """Have submitit's handler wait for a controller that is away; it would give up at once."""
        environment = getattr(getattr(handler, "__self__", None), "env", None)
        if self.allocation.slurm and environment is not None:
            environment._requeue = lambda countdown: self._queue_again()

    def _queue_again(self) -> None:
        try:
            scontrol.requeue(self.allocation.job_id)
        except (Refused, Silent) as error:
            line = resume_line(self.run_dir)
            raise NodeFailed(
                f"Slurm does not queue the job again: {error}; the run stands as it was saved: "
                f"to go on, {line}"
            ) from None

    def _no_requeue(self) -> str | None:
        limit = self.config.cluster.max_requeues
        if self.restarts >= limit:
            return f"cluster.max_requeues={limit} is reached"
        if asked_to_end(self.run_dir):
            return "a person asked for the end"
        if self.signals.first is None:
            return "no signal asked for it"
        if self.allocation.slurm and not may_requeue(self.config):
            return "cluster.requeue is no, the next job of the run goes on"
        if signal.SIGUSR2 not in self.signals.seen and not self._goes_on():
            return "Slurm ended the job, or queues it again by itself"
        return None

    def _goes_on(self) -> bool:
        """Return whether the job is still ours after a TERM: nobody ended it, no node failed.

        Slurm preempts it, with time to go; or a TERM came that nobody stands behind, such as one
        to the last start of the job that a busy controller sent again.
        """
        if not self.allocation.slurm:
            return False
        self._await_peers(HANDOVER_SECONDS)
        ends = [value.get("end") for _, value in self._peers()]
        return not {"failed", None} & set(ends) and still_runs(self.allocation.job_id)

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
            self._watch_the_time()
            if self._cannot_end(now):
                processes.kill_marked(mark)
            if closing == float("inf") and self._is_closing():
                closing = now + CLOSING_SECONDS
            if now >= closing:
                for pid in processes.children(torchrun.pid):
                    processes.send(pid, signal.SIGKILL)
        return code

    def _watch_the_time(self) -> None:
        """Have the ranks stop when what is left of the job is what they need to save."""
        end = self.end_of_job.at
        if end is None or self.signals.first:
            return
        progress = read_json(self.run_dir.progress)
        if not isinstance(progress, dict) or progress.get("attempt", self.attempt) != self.attempt:
            progress = {}
        lead = lead_seconds(
            progress.get("step_seconds"), progress.get("save_seconds"), self.end_of_job.limit
        )
        left = end - time.time()
        if left <= lead:
            say(f"the job ends in {left:.0f} s; step and save need {lead:.0f} s")
            self.record["lead_seconds"] = lead
            self.signals.pretend(signal.SIGUSR2)

    def _cannot_end(self, now: float) -> bool:
        """Return whether the ranks here must be ended, because they will not end by themselves.

        Slurm ends this node with TERM after another one failed. That looks like a preemption,
        but the ranks here hang in a collective that will never end.
        """
        clock = self._clock
        if self.overdue or self.peer is not None:
            return True
        stop = self.signals.first is not None
        if not stop and now < clock.look_at_peers:
            return False
        clock.look_at_peers = now + CALM_LOOK_SECONDS
        if self.run_dir.results.exists():
            clock.results = clock.results or now
            self.overdue = now > clock.results + RESULTS_SECONDS
            if self.overdue:
                say("the results are there, but the ranks do not end")
            return self.overdue
        if self.nodes == 1:
            return False
        failed = self._failed_peer()
        if failed is not None:
            clock.peer_failed = clock.peer_failed or now
            if stop or now > clock.peer_failed + PATIENCE_SECONDS:
                self.peer = failed
                say(f"node {failed} failed: ending the ranks here")
            else:
                clock.look_at_peers = now + LOOK_SECONDS
        else:
            self._look_for_lost(now)
        return self.peer is not None

    def _look_for_lost(self, now: float) -> None:
        """After TERM: see whether an agent has ended without a word."""
        clock = self._clock
        if signal.SIGTERM not in self.signals.seen or self.nodes == 1:
            return
        clock.term = clock.term or now
        silent = [node for node, value in self._peers() if not value.get("end")]
        if not silent or now < clock.term + LOST_FOR_SURE_SECONDS:
            return
        if clock.job is None:
            clock.job = self._state_of_job()
        sure = clock.job == "RUNNING"
        if clock.job != "PREEMPTED" and (sure or now >= clock.term + LOST_SECONDS):
            self.peer, self.lost = silent[0], True
            say(f"node {self.peer} ({self.allocation.hosts[self.peer]}) is gone")

    def _state_of_job(self) -> str:
        """Return Slurm's word for the job, PREEMPTED in its grace time; empty where unknown."""
        if not self.allocation.slurm:
            return ""
        try:
            fields = scontrol.show_job(self.allocation.job_id, seconds=3.0)
        except (Refused, Silent):
            return ""
        return "PREEMPTED" if scontrol.is_preempted(fields) else fields.get("JobState", "")

    def _is_closing(self) -> bool:
        try:
            with self.run_dir.torchrun_log(self.attempt, self.node).open("rb") as log:
                return CLOSING in log.read()
        except OSError:
            return False

    def _judge(self, code: int) -> End:
        if self.overdue:
            return "finished"
        if code != 0 or self.peer is not None:
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
        if self.peer is not None:
            return self._peers_cause()
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
        cause = find_cause(self.run_dir, self.attempt, self.node, ranks, code, time.time())
        if self.nodes > 1 and (cause.secondary or cause.kind == "Torchrun"):
            # Known to the others that this node is not the one that is gone.
            self._note(end="failed")
            self._hear_the_story()
            if self.lost:
                return self._peers_cause()
        return cause

    def _peers_cause(self) -> Cause:
        assert self.peer is not None
        host = self.allocation.hosts[self.peer]
        if not self.lost:
            message = f"node {self.peer} failed"
            return Cause(time.time(), "PeerFailed", message, None, None, secondary=True)
        return Cause(
            time.time(),
            "PeerFailed",
            f"node {self.peer} ({host}) is gone: its agent was killed, or the host failed",
            None,
            None,
            blame=host,
        )

    def _hear_the_story(self) -> None:
        """Wait until a peer says why it failed, or turns out to be gone."""
        deadline = time.monotonic() + STORY_SECONDS
        while time.monotonic() < deadline and not self.lost:
            told = [value for _, value in self._peers()]
            if all(value.get("ended") for value in told):
                return
            causes = [value["cause"] for value in told if value.get("cause")]
            if any(not cause.get("secondary") for cause in causes):
                return
            self._look_for_lost(time.monotonic())
            time.sleep(5 * POLL_SECONDS)

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


def still_runs(job_id: str) -> bool:
    """Return whether Slurm counts a job as running, be it in the grace time of a preemption.

    Not so when it was cancelled or met its time limit: queueing it again would bring back what
    somebody ended.
    """
    try:
        fields: Mapping[str, str] = scontrol.patiently(lambda: scontrol.show_job(job_id))
    except (Refused, Silent) as error:
        say(f"Slurm does not say how the job is: {error}")
        return False
    return fields.get("JobState") == "RUNNING"


def _ignore_stops() -> None:
    # Between fork and exec. An ignored signal stays ignored across exec: proctrack/linuxproc
    # sends USR2 to every process of the step, and a rank that is importing has no handler yet.
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
