"""After an interruption: whether, and how, the job is queued again."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from slurm import scontrol
from slurm.attempt import Attempt, NodeFailed
from slurm.peers import Peers
from slurm.scontrol import Refused, Silent, say
from slurm.signals import Signals, ignore_stops
from slurm.verdicts import asked_to_end, may_requeue, resume_line

HANDOVER_SECONDS = 30.0
"""How long node 0 waits for the other nodes before it has the job queued again."""


def hand_over(attempt: Attempt, peers: Peers, signals: Signals) -> None:
    """On node 0, after an interruption: have the job queued again, where that is ours to do.

    Raises:
        NodeFailed: Slurm does not queue it again.
        SystemExit: by submitit, of a local job that it starts again.
    """
    heard = signals.seen | peers.signals()
    reason = _no_requeue(attempt, peers, heard)
    if reason:
        say(f"not queued again: {reason}")
        return
    # `scontrol requeue` ends what still runs on the other nodes, and submitit leaves with a
    # non-zero status, which ends them too: let them write their last line first.
    peers.await_end(HANDOVER_SECONDS)
    ignore_stops()  # the requeue's own TERM comes while scontrol runs
    if not attempt.allocation.slurm:
        handler = signals.previous.get(signal.SIGUSR2)
        if signal.SIGUSR2 in heard and callable(handler):
            handler(signal.SIGUSR2, None)
        return
    # Not by submitit's handler: it writes its pickle anew first, which a full disk forbids, and
    # gives up at once where the controller is away. The pickle has nothing that changes.
    # After a TERM with time to go, too: Slurm preempts, and queues the job again at the end of the
    # grace time only if it is still there. We are done earlier.
    _queue_again(attempt)


def _queue_again(attempt: Attempt) -> None:
    try:
        scontrol.requeue(attempt.allocation.job_id)
    except (Refused, Silent) as error:
        line = resume_line(attempt.run_dir)
        raise NodeFailed(
            f"Slurm does not queue the job again: {error}; the run stands as it was saved: "
            f"to go on, {line}"
        ) from None


def _no_requeue(attempt: Attempt, peers: Peers, heard: set[signal.Signals]) -> str | None:
    """Return why the job is not to be queued again by us; None if it is.

    `heard` are the signals that came to any node: one may come to a single one.
    """
    if attempt.allocation.lane is not None:
        return "the worker of all lanes decides"
    limit = attempt.config.cluster.max_requeues
    if attempt.restarts >= limit:
        return f"cluster.max_requeues={limit} is reached"
    if asked_to_end(attempt.run_dir):
        return "a person asked for the end"
    if not heard:
        return "no signal asked for it"
    if attempt.allocation.slurm and not may_requeue(attempt.config):
        return "cluster.requeue is no, the next job of the run goes on"
    if signal.SIGUSR2 not in heard and not _goes_on(attempt, peers):
        return "Slurm ended the job, or queues it again by itself"
    return None


def _goes_on(attempt: Attempt, peers: Peers) -> bool:
    """Return whether the job is still ours after a TERM: nobody ended it, no node failed.

    Slurm preempts it, with time to go or for good; or a TERM came that nobody stands behind, such
    as one to the last start of the job that a busy controller sent again.
    """
    if not attempt.allocation.slurm:
        return False
    peers.await_end(HANDOVER_SECONDS)
    ends = [value.get("end") for _, value in peers.records()]
    allocation = attempt.allocation
    unhurt = not {"failed", None} & set(ends)
    return unhurt and is_left_to_us(allocation.job_id, allocation.restarts)


def is_left_to_us(job_id: str, restarts: int) -> bool:
    """Return whether it is ours to queue a job again after a TERM.

    It still runs (be it in the grace time of a preemption), or Slurm preempts it for good. Not so
    when it was cancelled or met its time limit: queueing it again would bring back what somebody
    ended.
    """
    try:
        fields: Mapping[str, str] = scontrol.patiently(lambda: scontrol.show_job(job_id))
    except (Refused, Silent) as error:
        say(f"Slurm does not say how the job is: {error}")
        return False
    return scontrol.runs(fields) or scontrol.is_cancelled_by_preemption(fields, restarts)
