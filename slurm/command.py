"""The command of one node: torchrun's argument list, and the environment of the ranks.

Pure, and the same for the agent, for the `command.sh` that a person can read, and for a dry run.
"""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.config import RunConfig

FIRST_PORT = 20000
PORTS = 10000
"""Rendezvous ports: below the ephemeral range (32768 and up on Linux)."""

MODULE = "training.train"
"""What torchrun starts in every rank."""

INHERITED = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables that would make a rank believe it belongs to another job."""

INHERITED_PREFIXES = ("TORCHELASTIC_", "PET_")
"""`PET_NNODES` and its like are torchrun's flags as variables."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the nodes of one attempt meet."""

    host: str
    port: int
    id: str
    """Differs for every start of the job, so that a late process of the last one is refused."""


def rendezvous_port(job_id: str | int) -> int:
    """Return the port that all nodes of a job derive on their own.

    Job ids are unique among running jobs, array elements included, and are given out in sequence:
    two jobs on one node do not meet.
    """
    digits = "".join(c for c in str(job_id) if c.isdigit())
    return FIRST_PORT + int(digits or 0) % PORTS


def torchrun_argv(
    *,
    python: str,
    nodes: int | str,
    procs: int | str,
    node: int | str,
    meet: Rendezvous | Mapping[str, str],
    run_dir: str,
    attempt: int | str,
    module: str = MODULE,
) -> list[str]:
    """Return the argument list of one node's torchrun.

    The rendezvous is the static one: global ranks follow from the node's number. torchrun handles
    only SIGINT: its handlers for TERM end the ranks, and the agent forwards signals itself.
    """
    if isinstance(meet, Rendezvous):
        meet = {"host": meet.host, "port": str(meet.port), "id": meet.id}
    return [
        python,
        *("-m", "torch.distributed.run"),
        *("--nnodes", str(nodes)),
        *("--nproc-per-node", str(procs)),
        *("--node-rank", str(node)),
        *("--master-addr", meet["host"]),
        *("--master-port", meet["port"]),
        *("--rdzv-backend", "static"),
        *("--rdzv-id", meet["id"]),
        *("--max-restarts", "0"),
        *("--signals-to-handle", "SIGINT"),
        # Without the dashes torchrun takes --run for a short form of its own --run-path.
        *("-m", "--", module),
        *("--run", run_dir),
        *("--attempt", str(attempt)),
    ]


def project_root() -> Path:
    """Return the folder that holds our packages: the clone, or site-packages."""
    return Path(__file__).resolve().parents[1]


def python_path() -> str | None:
    """Return the folder that must be on PYTHONPATH, or None where Python finds us by itself."""
    root = project_root()
    known = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    known += [*site.getsitepackages(), site.getusersitepackages()]
    return None if root in [Path(p).resolve() for p in known] else str(root)


def is_amd() -> bool:
    """Return whether this node's GPUs are AMD's, by their device file."""
    return os.path.exists("/dev/kfd") and not os.path.exists("/dev/nvidiactl")  # noqa: PTH110


def on_cpu(config: RunConfig) -> bool:
    """Return whether the ranks compute on CPUs."""
    if config.engine.device == "auto":
        return not config.cluster.gpus_per_node
    return config.engine.device == "cpu"


def fixed_environment(config: RunConfig) -> dict[str, str]:
    """Return the variables that are the same on every node.

    `cluster.env` comes last: what a person or a site sets wins.
    """
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        # A module called `training` in the folder that a person submits from is not ours.
        "PYTHONSAFEPATH": "1",
    }
    if config.cluster.interface:
        environment["GLOO_SOCKET_IFNAME"] = config.cluster.interface
        environment["NCCL_SOCKET_IFNAME"] = config.cluster.interface
    if config.engine.zero is not None:
        environment["ACCELERATE_USE_DEEPSPEED"] = "true"
        if on_cpu(config):
            environment["DS_ACCELERATOR"] = "cpu"
    return environment | config.cluster.env


def rank_environment(
    config: RunConfig, *, node: int, cores: int, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the whole environment of one node's torchrun, which its ranks inherit.

    Args:
        config: the run.
        node: number of the node.
        cores: cores of the node that belong to the job.
        inherited: the agent's own environment.
    """
    kept = {
        key: value
        for key, value in inherited.items()
        if key not in INHERITED and not key.startswith(INHERITED_PREFIXES)
    }
    cluster = config.cluster
    procs = cluster.procs_per_node or 1
    if cluster.executor == "local" and cluster.cpus_per_node:
        # Nobody else holds a run of this machine to the cores that were asked for.
        cores = min(cores, cluster.cpus_per_node)
    ours = {"OMP_NUM_THREADS": str(max(1, cores // procs)), "GLUELINE_NODE": str(node)}
    root = python_path()
    if root:
        paths = [p for p in kept.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
        ours["PYTHONPATH"] = os.pathsep.join([root, *paths])
    return kept | ours | fixed_environment(config)
