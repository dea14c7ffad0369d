"""What a virtual cluster is asked to be."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from slurm.cluster.errors import BadRequest

PROCTRACKS = ("linuxproc", "pgid", "cgroup")
MOST_NODES = 64


def default_state() -> Path:
    """The folder of the cluster when none is named: `$GLUELINE_CLUSTER`, or one in /var/tmp."""
    return Path(os.environ.get("GLUELINE_CLUSTER") or "/var/tmp/glueline-cluster")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """One virtual cluster. Raises BadRequest when a value cannot be."""

    state: Path = field(default_factory=default_state)
    """Folder that holds everything of the cluster; `down` removes it."""

    nodes: int = 4
    """Number of nodes: node1, node2, …"""

    cpus: int = 2
    """CPUs that each node declares, whatever the machine has."""

    gpus: int = 0
    """Pretended GPUs per node: they schedule, they do not compute."""

    memory: int = 8000
    """Memory that each node declares, in MB."""

    proctrack: str = "linuxproc"
    """How Slurm follows a step's processes: linuxproc, pgid or cgroup (version 1)."""

    preempt: bool = False
    """Add a partition `urgent` that takes nodes from `main` and requeues what ran there."""

    accounting: bool = True
    """Run slurmdbd on a private MariaDB, so that sacct and sacctmgr work."""

    share: tuple[Path, ...] = ()
    """Folders that must be at the same path on every node, even where they lie in /tmp."""

    max_array: int | None = None
    """Slurm's MaxArraySize (largest array index plus one); None leaves Slurm's own, 1001."""

    slurmd_timeout: int = 20
    """Seconds without a word from a node until it counts as down."""

    extra_conf: tuple[str, ...] = ()
    """Further lines for slurm.conf, as they are."""

    def __post_init__(self) -> None:
        def require(good: bool, message: str) -> None:
            if not good:
                raise BadRequest(message)

        require(1 <= self.nodes <= MOST_NODES, f"--nodes {self.nodes}: must be 1 to {MOST_NODES}")
        require(self.cpus >= 1, f"--cpus {self.cpus}: must be at least 1")
        require(self.gpus >= 0, f"--gpus {self.gpus}: must not be negative")
        require(self.memory >= 1, f"--memory {self.memory}: must be at least 1 MB")
        require(
            self.proctrack in PROCTRACKS,
            f"--proctrack {self.proctrack}: must be one of {', '.join(PROCTRACKS)}",
        )
        require(
            self.max_array is None or self.max_array >= 2,
            f"--max-array {self.max_array}: must be at least 2",
        )
        require(
            self.slurmd_timeout >= 5,
            f"--slurmd-timeout {self.slurmd_timeout}: must be at least 5 seconds",
        )
        for line in self.extra_conf:
            require("\n" not in line, "--conf: one line of slurm.conf at a time")

    @property
    def node_names(self) -> list[str]:
        """The nodes' names, in order."""
        return [f"node{i}" for i in range(1, self.nodes + 1)]
