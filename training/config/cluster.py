"""Where it runs: nodes, ranks, Slurm options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from .schema import UsageError, option

_TIME = re.compile(r"^(\d+-)?\d+(:\d+){0,2}$")


def option_name(key: str) -> str:
    """Return the name of an option of sbatch as its manual has it: `mem_per_cpu` is mem-per-cpu."""
    return key.replace("_", "-").lstrip("-")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The allocation. A site profile in `configs/clusters/` sets these keys."""

    profile: str | None = option(None, "--cluster", "PROFILE")
    """Site profile: a name in `configs/clusters/` or a YAML file; none: not the one of doctor."""
    executor: Literal["auto", "slurm", "local"] = option("auto", "--executor", "auto|slurm|local")
    """auto is Slurm where sbatch answers; local runs on this machine."""
    nodes: int = option(1, "--nodes", "N")
    """Nodes."""
    min_nodes: int | None = option(None, "--min-nodes", "N")
    """Fewest nodes to start on; a job that is queued again takes what there is, up to --nodes."""
    procs_per_node: int | None = option(None, "--procs-per-node", "P")
    """Ranks per node; none: the GPUs of a node, else 1."""
    gpus_per_node: int | None = option(None, "--gpus-per-node", "N")
    """GPUs of a node to ask for; none: as many as ranks, where the partition has GPUs."""
    cpus_per_node: int | None = option(None, "--cpus-per-node", "N")
    """Cores per node; none: all of a CPU node, of a GPU node the share of its GPUs asked for."""
    gpu_memory_gb: float | None = None
    """Memory of one GPU in GB; none: told by its name, or asked of nvidia-smi on this machine."""
    mem: str | None = option(None, "--mem", "SIZE")
    """Memory per node as Slurm writes it (32G); none: the partition's default."""
    partition: str | None = option(None, "--partition", "NAME")
    """Slurm partition; none: the default one."""
    account: str | None = option(None, "--account", "NAME")
    """Slurm account."""
    qos: str | None = option(None, "--qos", "NAME")
    """Slurm quality of service."""
    constraint: str | None = option(None, "--constraint", "EXPR")
    """Node features."""
    time: str = option("01:00:00", "--time", "[D-]HH:MM:SS")
    """Time limit: minutes, HH:MM:SS or D-HH:MM:SS."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Anything else for sbatch, by its long option: reservation, exclusive, licenses, …"""
    setup: tuple[str, ...] = ()
    """Shell lines at the start of the batch script: modules, environment."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of the job, such as NCCL_SOCKET_IFNAME. Never put secrets here."""
    interface: str | None = None
    """Network interface for gloo and NCCL; none lets them choose."""
    shared: tuple[str, ...] = ()
    """Folders that all nodes see although they look local (below /tmp, say)."""
    container: str | None = None
    """Image that the ranks run in: a file, or NAME:TAG with a registry (docker://…)."""
    container_runtime: Literal["apptainer", "pyxis"] = "apptainer"
    """apptainer (or singularity) starts the image itself; pyxis has srun do it (Enroot)."""
    container_mounts: tuple[str, ...] = ()
    """Further folders to see inside: /HOST[:/INSIDE[:ro]]. Code, run, data and weights are seen."""
    container_python: str = "python3"
    """Python of the image, which has torch and the other packages."""
    health_check: bool = True
    """Compare the nodes before training, and leave out one that is far slower than its peers."""
    max_requeues: int = 50
    """How often a job that was preempted, met its time limit or failed is queued again."""
    max_retries: int = 3
    """Failures in a row, without a newer checkpoint between them, that are tried again."""
    requeue: Literal["auto", "yes", "no"] = "auto"
    """Queue the job again after an interruption or a failure. no, for sites that forbid it: as
    many jobs as `successors` says wait behind it. auto: yes, where scontrol is on the PATH."""
    successors: int = 2
    """Jobs that are submitted behind the first one where it may not be queued again."""
    prepare: Literal["login", "job", "no"] = "login"
    """Where inputs are fetched, tokenised and tried before a run is submitted: on this machine,
    or (fetched here) in a job of one node before the run's. no: rank 0 tokenises at its start."""
    prepare_sbatch: dict[str, str] = field(default_factory=dict)
    """Options for sbatch of that job, over the run's own: partition, time, mem, …"""
    snapshot: bool = True
    """Run the code as it is at submission, from a copy in the runs folder's cache. false: the
    clone itself, as it is when the job starts."""
    private: bool = False
    """Only the owner may read run directories, and the cache where it is made for this run."""
    mail: str | None = None
    """Who gets Slurm's mail when the job ends, fails or comes near its time limit."""
    notify: str | None = None
    """Told when a run or sweep has finished or failed for good: https://… (a POST of JSON), a
    command for bash (JSON on stdin), or @FILE whose first line is either, for secret addresses."""

    @property
    def options(self) -> dict[str, str]:
        """`sbatch` by sbatch's own names, see `option_name`."""
        return {option_name(key): value for key, value in self.sbatch.items()}

    @property
    def time_minutes(self) -> int:
        """The time limit in whole minutes, rounded up."""
        days, _, clock = self.time.rpartition("-")
        parts = [int(p) for p in clock.split(":")]
        if days:
            hours, minutes, seconds = (*parts, 0, 0)[:3]
        elif len(parts) == 3:
            hours, minutes, seconds = parts
        else:
            hours, minutes, seconds = 0, *(*parts, 0)[:2]
        total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
        return -(-total // 60)

    def check(self) -> None:
        """Raise `UsageError` for values out of range."""
        if self.container_mounts and self.container is None:
            raise UsageError("cluster.container_mounts needs cluster.container: name the image")
        if self.container and self.container_runtime == "pyxis" and self.executor == "local":
            raise UsageError(
                "cluster.container_runtime pyxis needs Slurm: use apptainer with --executor local"
            )
        for mount in self.container_mounts:
            if not mount.startswith("/") or "," in mount:
                raise UsageError(
                    f"cluster.container_mounts '{mount}': write /HOST, /HOST:/INSIDE or "
                    "/HOST:/INSIDE:ro"
                )
        if self.nodes < 1:
            raise UsageError(f"--nodes must be at least 1, got {self.nodes}")
        if self.min_nodes is not None and not 1 <= self.min_nodes <= self.nodes:
            raise UsageError(
                f"--min-nodes must be between 1 and --nodes {self.nodes}, got {self.min_nodes}"
            )
        for key in ("procs_per_node", "cpus_per_node"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"--{key.replace('_', '-')} must be at least 1, got {value}")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise UsageError(f"--gpus-per-node must not be below 0, got {self.gpus_per_node}")
        if not _TIME.match(self.time) or self.time_minutes < 1:
            raise UsageError(
                f"--time '{self.time}' is not a time: write minutes, HH:MM:SS or D-HH:MM:SS"
            )
        if self.executor == "local" and self.nodes > 1:
            raise UsageError(
                f"--executor local has one node, {self.nodes} asked: use --procs-per-node "
                f"{self.nodes * (self.procs_per_node or 1)}"
            )
        if self.mail is not None and not re.fullmatch(r"[^\s,@]+(@[^\s,@]+)?", self.mail):
            raise UsageError(
                f"cluster.mail '{self.mail}' is no address: write name@host, or a user"
            )
        if self.notify is not None and (not self.notify.strip() or "\n" in self.notify):
            raise UsageError(
                "cluster.notify must be one line: https://…, a command, or @FILE that holds one"
            )
        for key in ("max_requeues", "max_retries", "successors"):
            if getattr(self, key) < 0:
                raise UsageError(f"cluster.{key} must not be below 0, got {getattr(self, key)}")
