"""What happens after srun failed in an element of a sweep's array: the trial that it had goes on.

`python -m slurm.sweep_afterword SWEEP`, at the end of the batch script. A run that failed is judged
as any other; an element whose worker died without a word is queued again.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from slurm import scontrol
from slurm.afterword import afterword
from slurm.allocation import Allocation, read_allocation
from slurm.claims import read_claims
from slurm.scontrol import Refused, Silent, say
from slurm.trial import trial_config
from slurm.verdicts import may_requeue
from slurm.worker import ended
from training.config import UsageError
from training.rundir import RunDir, node_records
from training.sweepdir import SweepDir, Trial, read_trials


def last_word(sweep: SweepDir, allocation: Allocation) -> str:
    """Decide what follows an element whose srun failed, do it, and return it in words.

    Raises:
        UsageError, OSError: the sweep's files cannot be read or written.
        Refused, Silent: Slurm does not queue it again.
    """
    claims = read_claims(sweep)
    mine = [
        trial
        for trial in read_trials(sweep)
        if claims.get(trial.number, {}).get("job") == allocation.job_id
        and not ended(sweep.run(trial))
    ]
    if not mine:
        return "it had no trial"
    if len(mine) == 1 and _has_record(sweep.run(mine[0]), allocation):
        return afterword(sweep.run(mine[0]), os.environ)
    return _again(sweep, mine, allocation)


def _again(sweep: SweepDir, mine: list[Trial], allocation: Allocation) -> str:
    config = trial_config(sweep, mine[0])
    if not may_requeue(config):
        return "its trials are free for other workers"
    if allocation.restarts >= config.cluster.max_requeues:
        return f"cluster.max_requeues={config.cluster.max_requeues} is reached"
    if not scontrol.runs(scontrol.patiently(lambda: scontrol.show_job(allocation.job_id))):
        return "Slurm, or a person, decided"
    scontrol.requeue(allocation.job_id)
    return f"queued again for trial {', '.join(str(t.number) for t in mine)}"


def _has_record(run: RunDir, allocation: Allocation) -> bool:
    """Return whether this start of the job left a record of an attempt."""
    return any(
        node.get("job_id") == allocation.job_id and node.get("restarts") == allocation.restarts
        for number in run.attempt_numbers()[-1:]
        for node in node_records(run, number)
    )


def main() -> int:
    """Run it. The exit status of the job is not ours to change: always 0."""
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        say(last_word(SweepDir(sys.argv[1]), read_allocation()))
    except (UsageError, Refused, Silent, OSError) as error:
        say(f"not queued again: {error}")
    except Exception:
        say(f"not queued again:\n{traceback.format_exc()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
