"""One of several lanes of a worker: `python -m slurm.lane SWEEP`, with its share of the node."""

from __future__ import annotations

import os
import signal
import sys

from slurm.allocation import read_allocation
from slurm.signals import STOPS
from slurm.worker import EXITS, work
from training.sweepdir import SweepDir


def main() -> int:
    """Run trials until there is none left."""
    allocation = read_allocation()
    assert allocation.lane is not None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= allocation.lanes:
        os.sched_setaffinity(0, cores[allocation.lane :: allocation.lanes])
        allocation = read_allocation()  # with these cores
    # Before the first run has handlers of its own.
    for number in STOPS:
        signal.signal(number, lambda *_: sys.exit(EXITS["stopped"]))
    return EXITS[work(SweepDir(sys.argv[1]), allocation, tuple(sys.argv[2:]))]


if __name__ == "__main__":
    sys.exit(main())
