"""One of several lanes of a worker: `python -m slurm.lane SWEEP`, with its share of the node."""

from __future__ import annotations

import os
import signal
import sys

from slurm.allocation import LANE, LANE_CORES, read_allocation
from slurm.signals import STOPS
from slurm.worker import EXITS, work
from training.sweepdir import SweepDir


def share_of(cores: list[int], lane: int, lanes: int) -> list[int]:
    """Return the cores of one lane; none of its own where there are fewer cores than lanes."""
    return cores[lane::lanes] if len(cores) >= lanes else []


def main() -> int:
    """Run trials until there is none left."""
    lane, lanes = map(int, os.environ[LANE].split("/"))
    share = share_of(sorted(os.sched_getaffinity(0)), lane, lanes)
    if share:
        os.sched_setaffinity(0, share)
    # Threads of two runs that both take all cores wait for each other, spinning.
    os.environ[LANE_CORES] = str(len(share) or 1)
    allocation = read_allocation()
    # Before the first run has handlers of its own.
    for number in STOPS:
        signal.signal(number, lambda *_: sys.exit(EXITS["stopped"]))
    return EXITS[work(SweepDir(sys.argv[1]), allocation, tuple(sys.argv[2:]))]


if __name__ == "__main__":
    sys.exit(main())
