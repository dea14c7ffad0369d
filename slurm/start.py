"""What starts one node's ranks: torchrun's arguments, in a container where there is one, and the
environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slurm import container
from slurm.command import MODULE, Rendezvous, rank_environment, torchrun_argv

if TYPE_CHECKING:
    from training.config import RunConfig


def ranks_of_node(
    config: RunConfig,
    meet: Rendezvous,
    folder: Path,
    *,
    node: int,
    nodes: int,
    cores: int,
    attempt: int = 0,
    module: str = MODULE,
) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment of one node's torchrun.

    Args:
        config: the run.
        meet: where the nodes meet.
        folder: the run directory.
        node: number of the node.
        nodes: how many there are.
        cores: cores of the node that belong to the job.
        attempt: number of the attempt.
        module: what torchrun starts in every rank.
    """
    argv = torchrun_argv(
        python=sys.executable,
        nodes=nodes,
        procs=config.cluster.procs_per_node or 1,
        node=node,
        meet=meet,
        run_dir=str(folder),
        attempt=attempt,
        module=module,
    )
    environment = rank_environment(config, node=node, cores=cores, inherited=os.environ)
    return container.wrap(config, argv, str(folder), os.environ), environment
