"""What an element of a sweep's array runs: it takes trials from the queue and runs them.

One process per node. A worker of one node goes on to the next trial as long as there is time and
a free one; with several lanes it starts a process for each, with its share of cores and GPUs. A
worker of several nodes runs one trial: node 0 takes it and tells the others.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

from slurm import scontrol
from slurm.afterword import afterword
from slurm.agent import NodeAgent, NodeFailed
from slurm.allocation import LANE, Allocation, read_allocation
from slurm.begun import Begun, Past, read_past
from slurm.claims import (
    MOST_LOST,
    Worker,
    claim,
    claimed,
    give_back,
    jobs_of,
    lost_claims,
    read_claims,
    take_over,
)
from slurm.command import is_amd
from slurm.handover import is_left_to_us
from slurm.pruning import watched
from slurm.scontrol import Refused, Silent, say
from slurm.search import ask, is_search, last_runs, settle
from slurm.signals import STOPS
from slurm.trial import open_run, release, suits
from slurm.verdicts import asked_to_end
from training.config import UsageError
from training.rundir import RunDir, read_json, write_json
from training.sweepdir import SweepDir, Trial, read_trials

TELL_SECONDS = 300.0
"""How long the other nodes wait for node 0 to say which trial it is."""
MARGIN = 1.3
"""A trial is begun if this many times the longest one so far is left of the job's time."""
QUEUE_SECONDS = 30.0
"""How long Slurm may take to say who is still there."""

Outcome = Literal["empty", "stopped", "requeue"]
"""Why a worker takes no more trials: none is left (or no time), a signal, or its job must be
queued again for the trial that it has."""
EXITS: dict[Outcome, int] = {"empty": 0, "stopped": 3, "requeue": 4}
"""Exit status of a lane."""


class TrialWorker:
    """What submitit pickles and calls on every node: a path and a number, no secrets."""

    def __init__(self, sweep_dir: str, lanes: int = 1, bases: tuple[str, ...] = ()) -> None:
        """Name the sweep.

        Args:
            sweep_dir: its folder.
            lanes: trials at a time on this node.
            bases: digests of the bases whose trials these nodes are for, besides others that need
                the same nodes; empty: all.
        """
        self.sweep_dir, self.lanes, self.bases = sweep_dir, lanes, bases

    def __call__(self) -> str:
        """Run trials until there is none left; return why it ended.

        Raises:
            NodeFailed: a trial of several nodes failed; the end of the batch script decides.
            SystemExit: the job was queued again.
        """
        allocation = read_allocation()
        sweep = SweepDir(self.sweep_dir)
        if len(allocation.hosts) > 1:
            return self._one_trial(sweep, allocation)
        if self.lanes > 1:
            return self._lanes(allocation)
        return work(sweep, allocation, self.bases)

    def checkpoint(self) -> Any:
        """Return what submitit runs when the job is queued again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(TrialWorker(self.sweep_dir, self.lanes, self.bases))

    def _one_trial(self, sweep: SweepDir, allocation: Allocation) -> str:
        worker = Worker(allocation.job_id, 0, allocation.slurm)
        told = sweep.path / "elements" / f"{allocation.job_id}.json"
        if allocation.node > 0:
            trial = _hear(sweep, told, allocation)
            if trial is None:
                return "empty"
            run, first = _opened(sweep, trial, allocation)
            return NodeAgent(str(run.path), first)()
        taken = _take(sweep, worker, allocation, allocation.restarts > 0, self.bases)
        told.parent.mkdir(exist_ok=True)
        number = taken[0].number if taken else None
        write_json(told, {"restarts": allocation.restarts, "number": number})
        if taken is None:
            return "empty"
        trial, run, first = taken
        with watched(sweep, trial):
            end = NodeAgent(str(run.path), first)()
        settle(sweep)
        return end

    def _lanes(self, allocation: Allocation) -> str:
        processes = [
            subprocess.Popen(
                [sys.executable, "-u", "-m", "slurm.lane", self.sweep_dir, *self.bases],
                env=lane_environment(allocation, lane, self.lanes, os.environ),
                # A signal to the whole group comes to us, and we pass it on.
                start_new_session=True,
            )
            for lane in range(self.lanes)
        ]
        heard: list[int] = []
        previous = {number: signal.signal(number, lambda n, _: heard.append(n)) for number in STOPS}
        told = 0
        try:
            while any(process.poll() is None for process in processes):
                time.sleep(0.2)
                for number in heard[told:]:
                    say(f"{signal.Signals(number).name}: asking {len(processes)} lanes to stop")
                    for process in processes:
                        if process.poll() is None:
                            process.send_signal(number)
                told = len(heard)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        codes = [process.returncode for process in processes]
        for number, handler in previous.items():
            signal.signal(number, handler)
        if all(code == EXITS["empty"] for code in codes):
            return "empty"
        return _queued_again(allocation, heard, codes)


def _queued_again(allocation: Allocation, heard: list[int], codes: list[int | None]) -> str:
    """Have the whole element queued again after its lanes ended; return how it stands."""
    died = EXITS["requeue"] in codes or any(code not in EXITS.values() for code in codes)
    if not heard and not died:
        return "stopped"  # a person asked for the end of a trial
    ended = signal.SIGTERM in heard and signal.SIGUSR2 not in heard
    # Preempted is ours, cancelled is cancelled.
    if ended and not (allocation.slurm and is_left_to_us(allocation.job_id, allocation.restarts)):
        return "stopped"
    if not allocation.slurm:
        handler = signal.getsignal(signal.SIGUSR2)
        if callable(handler):
            handler(signal.SIGUSR2, None)  # submitit starts a local job again
        return "stopped"
    scontrol.requeue(allocation.job_id)
    return "stopped"


@dataclass
class _Pace:
    """How long trials take here, and until when there is time."""

    end: float | None = None
    longest: float = 0.0

    def has_time(self) -> bool:
        """Return whether another trial would be done before the job's end."""
        return self.end is None or time.time() + MARGIN * self.longest < self.end


def work(sweep: SweepDir, allocation: Allocation, bases: tuple[str, ...] = ()) -> Outcome:
    """Run trials one after the other on this node; return why there is no next one.

    Raises:
        SystemExit: the job was queued again.
    """
    lane = allocation.lane
    worker = Worker(allocation.job_id, lane or 0, allocation.slurm)
    # A run's agent leaves the signals ignored; the next one needs submitit's handlers again.
    handlers = {number: signal.getsignal(number) for number in STOPS}
    pace = _Pace(_end_of_job(allocation))
    restarted = allocation.restarts > 0 or not allocation.slurm
    while pace.has_time():
        taken = _take(sweep, worker, allocation, restarted, bases)
        restarted = False
        if taken is None:
            _dismiss(sweep, allocation)
            return "empty"
        trial, run, first = taken
        for number, handler in handlers.items():
            signal.signal(number, handler)
        begun = time.time()
        say(f"trial {trial.number}: {run.run_id}")
        try:
            with watched(sweep, trial):
                end = NodeAgent(str(run.path), first)()
            # A trial that was cancelled alone has ended, and the next one's turn comes.
            if end == "interrupted" and (not asked_to_end(run) or _stopping(allocation)):
                return "stopped"
        except NodeFailed as error:
            say(f"trial {trial.number} failed: {error}")
            if _after(run) == "requeue":
                return "requeue"
        release(run, allocation.job_id)
        pace.longest = max(pace.longest, time.time() - begun)
    say("no time for another trial")
    return "empty"


def _take(
    sweep: SweepDir,
    worker: Worker,
    allocation: Allocation,
    restarted: bool,
    bases: tuple[str, ...],
) -> tuple[Trial, RunDir, int] | None:
    """Take a trial and open its run; return both and the first attempt, None if none is left.

    One that somebody else begins in the same moment is given back, and the next one's turn comes.

    Raises:
        NodeFailed: the run cannot be opened.
        UsageError, OSError: as `next_trial`.
    """
    while (trial := next_trial(sweep, worker, restarted, bases)) is not None:
        try:
            return trial, *_opened(sweep, trial, allocation)
        except Begun as error:
            say(f"trial {trial.number} is left out: {error}")
            give_back(sweep, trial.number, worker)
        restarted = False
    return None


def next_trial(
    sweep: SweepDir, worker: Worker, restarted: bool, bases: tuple[str, ...] = ()
) -> Trial | None:
    """Return the trial that a worker goes on with, or takes; None if there is none left.

    Args:
        sweep: the sweep.
        worker: who asks.
        restarted: it may have one from an earlier start of its job.
        bases: those whose trials its nodes are for; empty: all. See `suits`.

    Raises:
        UsageError: the file of a search is damaged.
        OSError: the sweep's folder cannot be written.
    """
    if (read_json(sweep.request) or {}).get("stop"):
        return None  # a person cancelled the sweep
    sweep.claims.mkdir(exist_ok=True)
    trials = [t for t in read_trials(sweep) if suits(sweep, t.base, bases)]
    if restarted:
        claims = read_claims(sweep)
        for trial in trials:
            mine = trial.number in claims and worker.holds(claims[trial.number])
            if mine and not ended(sweep.run(trial)):
                return trial
    taken, past = claimed(sweep), read_past(sweep)

    def is_ours(trial: Trial) -> bool:
        return _free(sweep, trial, worker, past) and claim(sweep, trial, worker)

    for trial in trials:
        if trial.number not in taken and is_ours(trial):
            return trial
    while is_search(sweep) and (trial := ask(sweep)) is not None:
        if is_ours(trial):
            return trial
    if is_search(sweep):
        trials = read_trials(sweep)  # also those that others asked for
    trial = _abandoned(sweep, trials, read_claims(sweep), worker)
    if trial is not None or not is_search(sweep):
        return trial
    return next((trial for trial in last_runs(sweep) if is_ours(trial)), None)


def ended(run: RunDir) -> bool:
    """Return whether a trial's run needs no worker: finished, failed for good, or cancelled."""
    if read_json(run.results) is not None or asked_to_end(run):
        return True
    last = max(run.attempt_numbers(), default=None)
    verdict = read_json(run.verdict(last)) if last is not None else None
    return isinstance(verdict, dict) and verdict.get("action") == "stop"


def _free(sweep: SweepDir, trial: Trial, worker: Worker, past: Past) -> bool:
    """Return whether a run is neither done nor begun already, for another sweep or by itself."""
    return read_json(sweep.run(trial).results) is None and past.free(sweep, trial, worker.job)


def _abandoned(
    sweep: SweepDir, trials: list[Trial], claims: dict[int, dict[str, Any]], worker: Worker
) -> Trial | None:
    """Take a trial over whose worker is gone; None if there is none, or Slurm does not say."""
    open_claims = {
        trial.number: trial
        for trial in trials
        if trial.number in claims and not ended(sweep.run(trial))
    }
    if not open_claims:
        return None
    alive = _alive(jobs_of(claims[n] for n in open_claims), worker.slurm)
    if alive is None:
        return None
    past = read_past(sweep)
    for number, trial in open_claims.items():
        held = claims[number]
        if held.get("job") in alive or len(lost_claims(sweep, number)) >= MOST_LOST:
            continue
        if not worker.slurm and held.get("host") not in (None, socket.gethostname()):
            continue  # its processes are not to be seen from here
        if not past.free(sweep, trial, worker.job, str(held.get("job"))):
            continue  # another sweep went on with it
        if take_over(sweep, number, held) and claim(sweep, trial, worker):
            say(f"trial {number}: its worker {held.get('job')} is gone")
            return trial
    return None


def _alive(jobs: set[str], slurm: bool) -> set[str] | None:
    """Return which jobs are queued or running; None where that is not known."""
    if not slurm:
        return {job for job in jobs if job.isdigit() and os.path.exists(f"/proc/{job}")}  # noqa: PTH110
    try:
        arrays = sorted({job.partition("_")[0] for job in jobs})
        text = scontrol.ask(
            "squeue", "-h", "-r", "-j", ",".join(arrays), "-o", "%i", seconds=QUEUE_SECONDS
        )
    except Refused as error:
        return set() if "Invalid job id" in str(error) else None
    except Silent:
        return None
    return set(text.split())


def _dismiss(sweep: SweepDir, allocation: Allocation) -> None:
    """Cancel the elements that wait for nothing: no trial is left for them."""
    if not allocation.slurm or allocation.lane:
        return
    array = allocation.job_id.partition("_")[0]
    try:
        words = ("squeue", "-h", "-r", "-t", "PD", "-j", array, "-o", "%i")
        waiting = set(scontrol.ask(*words, seconds=QUEUE_SECONDS).split())
        # Those that have a trial wait to go on with it.
        waiting -= jobs_of(read_claims(sweep).values())
        if waiting:
            scontrol.ask("scancel", *sorted(waiting), seconds=QUEUE_SECONDS)
    except (Refused, Silent):
        pass  # they will see for themselves


def _after(run: RunDir) -> Outcome:
    """Decide what follows a failed trial; the worker goes on unless its job is queued again."""
    try:
        say(afterword(run, os.environ))
    except (UsageError, Refused, Silent, OSError) as error:
        say(f"not tried again: {error}")
    last = max(run.attempt_numbers(), default=None)
    verdict = read_json(run.verdict(last)) if last is not None else None
    action = verdict.get("action") if isinstance(verdict, dict) else "stop"
    return "requeue" if action == "requeue" else "empty"


def _opened(sweep: SweepDir, trial: Trial, allocation: Allocation) -> tuple[RunDir, int]:
    try:
        return open_run(sweep, trial, allocation.job_id, allocation.slurm, allocation.lanes)
    except (UsageError, OSError) as error:
        raise NodeFailed(f"trial {trial.number} of {sweep.path}: {error}") from None


def _hear(sweep: SweepDir, told: Any, allocation: Allocation) -> Trial | None:
    """Return the trial that node 0 took.

    Raises:
        NodeFailed: it does not say.
    """
    deadline = time.monotonic() + TELL_SECONDS
    while time.monotonic() < deadline:
        value = read_json(told)
        if isinstance(value, dict) and value.get("restarts") == allocation.restarts:
            number = value["number"]
            return next((t for t in read_trials(sweep) if t.number == number), None)
        time.sleep(0.2)
    raise NodeFailed(f"node 0 of job {allocation.job_id} does not say which trial it took")


def _end_of_job(allocation: Allocation) -> float | None:
    if not allocation.slurm:
        return None
    try:
        return scontrol.end_of_job(allocation.job_id)
    except (Refused, Silent):
        return None


def _stopping(allocation: Allocation) -> bool:
    """Return whether the whole job is being ended, not one trial of it."""
    if not allocation.slurm:
        return False
    try:
        return not scontrol.runs(scontrol.show_job(allocation.job_id))
    except (Refused, Silent):
        return True


def lane_environment(
    allocation: Allocation, lane: int, lanes: int, inherited: Any, amd: bool | None = None
) -> dict[str, str]:
    """Return the environment of one lane: its share of the node's cores and GPUs.

    Args:
        allocation: of the worker.
        lane: which one, from 0.
        lanes: of how many.
        inherited: the worker's environment.
        amd: whether the GPUs are AMD's; None: look.
    """
    environment = dict(inherited)
    environment[LANE] = f"{lane}/{lanes}"
    amd = is_amd() if amd is None else amd
    name = "ROCR_VISIBLE_DEVICES" if amd else "CUDA_VISIBLE_DEVICES"
    gpus = [g for g in inherited.get(name, "").split(",") if g]
    if gpus:
        # Fewer GPUs than lanes: several share one.
        share = gpus[lane::lanes] or [gpus[lane % len(gpus)]]
        environment[name] = ",".join(share)
        if amd:  # these would count among what is left
            for other in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
                environment.pop(other, None)
    return environment
