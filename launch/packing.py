"""How the trials of a sweep share nodes, and this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from training.config import ClusterConfig, RunConfig


@dataclass(frozen=True)
class Packing:
    """How trials share the nodes."""

    lanes: int = 1
    """Trials at a time on one node of a cluster."""
    parallel: int | None = None
    """Elements of the arrays that run at a time; None: as many as Slurm likes. On this machine:
    trials at a time; None: one."""
    hold: bool = False
    workers: int | None = None
    """Elements of all arrays together, at most; None: one for each trial that needs one."""
    of_task: Mapping[str, int] = field(default_factory=dict)
    """Lanes on a cluster of the tasks that have others than `lanes`, by the task's name."""

    def lanes_of(self, config: RunConfig) -> int:
        """Return how many trials like this one share a node, or this machine."""
        if config.cluster.executor == "local":
            return self.parallel or 1
        return self.of_task.get(config.task.name, self.lanes)

    def words(self, config: RunConfig) -> str:
        """Return the flag that says so."""
        flag = "--max-parallel" if config.cluster.executor == "local" else "--pack"
        return f"{flag} {self.lanes_of(config)}"

    def slowdown(self, config: RunConfig, cores_here: int) -> float:
        """Return how many times as long a trial takes as its plan says, since it shares cores.

        GPUs are shared out when a trial is planned.

        Args:
            config: of the trial.
            cores_here: cores of this machine.
        """
        cluster, lanes = config.cluster, self.lanes_of(config)
        if config.engine.device != "cpu":
            return 1.0
        if cluster.executor != "local":
            return float(lanes)
        planned = cluster.cpus_per_node or cores_here
        return max(1.0, planned * lanes / cores_here)

    def divided(self, counts: Sequence[int]) -> list[Packing]:
        """Return the packing of each of some arrays, so that together they hold to this one.

        Where there are more arrays than may run at a time, each has all: they wait for each other.

        Args:
            counts: of the trials in each.
        """
        total, workers = self.parallel, self.workers
        parallels: Sequence[int | None] = [total] * len(counts)
        if total is not None and total >= len(counts):
            parallels = shares(total, counts)
        both = shares(workers, counts) if workers is not None else [None] * len(counts)
        return [
            replace(self, parallel=parallel, workers=some)
            for parallel, some in zip(parallels, both, strict=True)
        ]

    def jobs(self, cluster: ClusterConfig) -> int | None:
        """Return how many jobs run at a time; None: as many as Slurm likes."""
        if cluster.executor == "local":
            return 1
        known = [n for n in (self.parallel, self.workers) if n is not None]
        return min(known, default=None)


ALONE = Packing()
"""Every trial has its nodes for itself."""


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Return whole numbers, at least 1 each, that are in proportion and add up to `total`.

    To more only where there are more weights than `total`.
    """
    whole = sum(weights) or 1
    found = [max(1, total * weight // whole) for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: found[i] * whole - total * weights[i])
    for index in order:
        if sum(found) < total:
            found[index] += 1
    for index in reversed(order):
        if sum(found) > total and found[index] > 1:
            found[index] -= min(found[index] - 1, sum(found) - total)
    return found
