"""The node agent: one process per node, which starts one torchrun and answers for it.

It runs under submitit, in a step of the job. What it sees it writes to `node-<k>.json`, so that
the login node can tell how a run ended without asking anybody. No torch here: the agent must
stand when torch does not import.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

from slurm.allocation import Allocation, read_allocation
from slurm.attempt import Attempt, End, NodeFailed
from slurm.command import MODULE
from slurm.failure import Cause, find_cause
from slurm.handover import hand_over
from slurm.peers import Peers
from slurm.scontrol import say
from slurm.signals import EndOfJob, Signals
from slurm.supervisor import Supervisor
from slurm.verdicts import (
    asked_to_end,
    judge,
    may_requeue,
    means_of,
    refused_to_go_on,
    write_verdict,
)
from training.rundir import read_json

__all__ = ["NodeAgent", "NodeFailed"]


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
        with Signals() as signals, EndOfJob(allocation) as end_of_job:
            while True:
                node = _Node(self, allocation, signals, end_of_job)
                nothing = node.nothing_to_do()
                if nothing:
                    return nothing
                end = node.run()
                if end == "failed" and node.starts_again():
                    continue
                if end == "failed":
                    raise NodeFailed(node.attempt.record["cause"]["message"])
                if end == "interrupted" and allocation.node == 0:
                    hand_over(node.attempt, node.peers, signals)
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


class _Node:
    """One attempt on one node, from start to end."""

    def __init__(
        self,
        agent: NodeAgent,
        allocation: Allocation,
        signals: Signals,
        end_of_job: EndOfJob,
    ) -> None:
        self.attempt = Attempt(agent.run_dir, allocation, agent.first_attempt, agent.requeued)
        self.peers = Peers(self.attempt, signals)
        self._module = agent.module
        self._signals = signals
        self._supervisor = Supervisor(self.attempt, self.peers, signals, end_of_job)

    def nothing_to_do(self) -> End | None:
        """Return how the run ended if there is no more to do for this job (of a chain, say).

        Raises:
            NodeFailed: the job before it failed in a way that would come again.
        """
        attempt = self.attempt
        if read_json(attempt.run_dir.results) is not None:
            say("the run is finished: nothing to do")
            return "finished"
        request = read_json(attempt.run_dir.request)
        if isinstance(request, dict) and request.get("stop"):
            say("a person asked for the end: nothing to do")
            return "interrupted"
        why = refused_to_go_on(attempt.run_dir, attempt.allocation.job_id, attempt.first_attempt)
        if why is not None:
            raise NodeFailed(f"the job before failed for good: {why}")
        return None

    def starts_again(self) -> bool:
        """After a failure: decide whether this job starts the next attempt by itself.

        Only a job of one node can: the others are judged when all agents have ended, at the end
        of the batch script.
        """
        attempt, run = self.attempt, self.attempt.run_dir
        if attempt.nodes > 1 or self._signals.first or asked_to_end(run):
            return False
        slurm = attempt.allocation.slurm
        requeue = slurm and may_requeue(attempt.config)
        verdict = judge(
            run,
            attempt.number,
            [attempt.record],
            means_of(
                run,
                attempt.config,
                can_restart=True,
                can_requeue=requeue and attempt.restarts < attempt.config.cluster.max_requeues,
                can_exclude=requeue,
            ),
            procs=attempt.procs,
        )
        if verdict.action != "restart" and slurm:
            return False
        try:
            write_verdict(run, attempt.number, verdict)
        except OSError as error:
            say(f"cannot write what follows: {error.strerror}")
            return False
        say(verdict.why)
        return verdict.action == "restart"

    def run(self) -> End:
        """Start torchrun, wait for its end, write down how it was.

        Raises:
            NodeFailed: the run directory cannot be written.
        """
        attempt = self.attempt
        attempt.make_folder()
        attempt.note()
        try:
            end, code = self._supervisor.run(self._module)
            cause = self._cause(code) if end == "failed" else None
        except KeyboardInterrupt:  # how submitit ends a local job
            attempt.note(end="interrupted", signal="SIGINT", ended=time.time())
            raise
        except Exception as error:
            say(traceback.format_exc())
            end, code = "failed", 1
            cause = Cause(time.time(), type(error).__name__, str(error), None, None)
        attempt.note(end=end, exit_code=code, cause=cause and cause.plain(), ended=time.time())
        say(f"node {attempt.node} {end}" + (f": {cause.message}" if cause else ""))
        return end

    def _cause(self, code: int | None) -> Cause:
        attempt, peers = self.attempt, self.peers
        if peers.culprit is not None:
            return peers.cause()
        if code == 0:
            log = attempt.run_dir.torchrun_log(attempt.number, attempt.node)
            return Cause(
                time.time(),
                "NoResults",
                "the ranks ended without an error and without results.json",
                None,
                str(log.relative_to(attempt.run_dir.path)),
            )
        first = attempt.node * attempt.procs
        ranks = range(first, first + attempt.procs)
        assert code is not None
        cause = find_cause(attempt.run_dir, attempt.number, attempt.node, ranks, code, time.time())
        if attempt.nodes > 1 and (cause.secondary or cause.kind == "Torchrun"):
            # Known to the others that this node is not the one that is gone.
            attempt.note(end="failed")
            peers.hear_the_story()
            if peers.lost:
                return peers.cause()
        return cause
